"""Tables for the terminal: scores of models, what differs between two, and official data.

Nothing is printed here, and no number is computed: see `benchmarks.records.leaderboard` and
`benchmarks.records.compare`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from rich.table import Column, Table

from benchmarks.core.scores import Score
from benchmarks.core.suite import Suite
from benchmarks.data.download import DataSet
from benchmarks.records.compare import Difference, holm, verdict


def percent(value: float, low: float, high: float) -> str:
    """Write a score for people: in percent, with its 95 % interval.

    Example:
        >>> percent(0.5, 0.404, 0.596)
        '50.0 [40.4, 59.6]'
    """
    if pd.isna(value):
        return "undefined"
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def chance(score: Score) -> str:
    """Write what guessing gives, in percent."""
    return "-" if pd.isna(score.chance) else f"{100 * score.chance:.1f}"


def scores_table(suite: Suite, board: pd.DataFrame, caption: str) -> Table:
    """Lay out one suite's scores, a column a model.

    Args:
        suite: The suite.
        board: Rows of its leaderboard, from `benchmarks.records.leaderboard.leaderboard`.
        caption: What the numbers are and where they come from.
    """
    table = Table(
        *(Column(name, overflow="fold") for name in ("score", *board["model"])),
        "chance",
        title=f"{suite.name}: {suite.question}",
        caption=caption,
        min_width=80,
    )
    for score in suite.scores:
        ends = [score.key, f"{score.key}_low", f"{score.key}_high"]
        cells = [percent(*row) for row in board[ends].itertuples(index=False)]
        style = "bold" if score.key == suite.primary else None
        table.add_row(_label(score), *cells, chance(score), style=style)
    table.add_row("interval", *board["interval"], "")
    table.add_row("rank", *("" if pd.isna(rank) else str(rank) for rank in board["rank"]), "")
    return table


def sensitivity_table(suite: Suite, rows: pd.DataFrame) -> Table:
    """Lay out how far the protocol alone moves each network's scores.

    Args:
        suite: The suite.
        rows: From `benchmarks.records.sensitivity.sensitivity`.
    """
    names = [name for name in suite.protocol_names if (rows["protocol"] == name).any()]
    table = Table(
        "model",
        "score",
        *(name.partition("@")[2] for name in names),
        "spread",
        title=f"{suite.name}: the same network and images under other protocols",
        caption="percent; spread: from the lowest to the highest, in points",
        min_width=80,
    )
    kinds = ["source", "data_sha256", "model", "weights_sha256", "seed", "variant", "metric"]
    for kind, of_score in rows.groupby(kinds, sort=False):
        by_name = 100 * of_score.set_index("protocol")["value"]
        cells = [f"{by_name[name]:.1f}" if name in by_name else "-" for name in names]
        model, variant, metric = str(kind[2]), str(kind[5]), str(kind[6])
        table.add_row(
            model,
            f"{variant} {metric}",
            *cells,
            f"{by_name.max() - by_name.min():.1f}",
            style="bold" if f"{variant}_{metric}" == suite.primary else None,
        )
    return table


def robustness_table(rows: pd.DataFrame) -> Table:
    """Lay out networks beside what their clean accuracy lets expect of shifted images.

    Args:
        rows: From `benchmarks.records.effective_robustness.effective_robustness`.
    """
    table = Table(
        "suite",
        "model",
        "clean",
        "shifted",
        "expected",
        "effective robustness",
        "spread of the fit",
        "verdict",
        title="Effective robustness",
        caption="percent and points with 95 % interval over images; a network differs from "
        "standard ones if it does by more than twice the spread",
        min_width=80,
    )
    for row in rows.to_dict("records"):
        table.add_row(
            str(row["suite"]),
            str(row["model"]),
            *(f"{100 * row[name]:.1f}" for name in ("clean", "shifted", "expected")),
            percent(row["value"], row["low"], row["high"]),
            f"{100 * row['spread']:.1f}",
            str(row["verdict"]),
        )
    return table


def differences_table(
    first: str, second: str, found: Sequence[tuple[Suite, Score, Difference]]
) -> Table:
    """Lay out all differences between two models, p-values corrected for their number.

    Args:
        first: Name of the first model.
        second: Name of the second.
        found: Every comparison that was made: leaving some out would falsify the correction.
    """
    table = Table(
        "suite",
        "score",
        first,
        second,
        "difference",
        "p (Holm)",
        "detectable",
        "n",
        "verdict",
        title=f"{first} against {second}",
        caption="percent and points with 95 % interval over images and seeds; detectable: "
        "the smallest difference that would be found in 4 cases of 5",
        min_width=80,
    )
    corrected = holm([difference.p_value for *_, difference in found])
    for (suite, score, difference), p_value in zip(found, corrected, strict=True):
        table.add_row(
            suite.name,
            _label(score),
            f"{100 * difference.first:.1f}",
            f"{100 * difference.second:.1f}",
            percent(difference.value, difference.low, difference.high),
            "" if pd.isna(p_value) else f"{p_value:.2g}",
            f"{100 * difference.minimum_detectable_effect:.1f}",
            str(difference.n),
            verdict(score, first, second, difference, p_value),
            style="bold" if score.key == suite.primary else None,
        )
    return table


def published_table(suite: Suite, rows: pd.DataFrame) -> Table:
    """Lay out published scores beside ours.

    Args:
        suite: The suite.
        rows: From `benchmarks.records.published.compare_to_published`.
    """
    table = Table(
        "trained on, as published",
        "kind",
        "score",
        "published",
        "model here",
        "here",
        "seeds",
        "verdict",
        title=f"{suite.name}, beside what was published",
        caption="percent with 95 % interval, here over seeds; verdict: whether the mean here is "
        "inside the published value's interval over its images, else how far beyond",
        min_width=80,
    )
    for row in rows.to_dict("records"):
        values = [row["value"], row["low"], row["high"]]
        here = [row["here"], row["here_low"], row["here_high"]]
        cells = [
            str(row["model"]),
            str(row["kind"]),
            str(row["score"]).replace("_", " "),
            "" if pd.isna(row["value"]) else percent(*values),
            str(row["measured"]),
            "" if pd.isna(row["here"]) else percent(*here),
            str(row["seeds"] or ""),
            str(row["verdict"]),
        ]
        table.add_row(*(cell or "-" for cell in cells))
    return table


def data_table(data_sets: Iterable[DataSet], there: Mapping[str, Path], root: Path) -> Table:
    """Lay out official data: what there is, and what of it is on this machine.

    Args:
        data_sets: All of it.
        there: The folders that exist, by name.
        root: Where they are looked for.
    """
    table = Table(
        *("name", "what it is", "size", "licence", "source", "here"),
        title=f"Official data in {root}",
        caption="fetch with: bench.py data NAME",
    )
    for data in data_sets:
        sizes = [each.size_bytes for each in data.downloads]
        known = sum(size for size in sizes if size is not None)
        size = f"{known / 1e6:,.0f} MB" if known and None not in sizes else "unknown"
        here = "yes" if data.name in there else ("no" if data.downloads else data.by_hand)
        table.add_row(data.name, data.about, size, data.licence, data.source, here)
    return table


def _label(score: Score) -> str:
    """Name a score, and say so if lower is better."""
    return f"{score.variant} {score.metric}{'' if score.higher_is_better else ' (lower is better)'}"
