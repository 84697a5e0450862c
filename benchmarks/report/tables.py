"""The tables of the command line and the report, from leaderboards, comparisons and facts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from benchmarks.core.scores import Score
from benchmarks.core.suite import Suite
from benchmarks.records.compare import Difference, holm, verdict
from benchmarks.records.sensitivity import SCORE
from benchmarks.report.table import Cell, Table, fraction, interval

PUBLISHED_COLUMNS = (
    *("as published", "kind", "score", "published", "model here", "here", "seeds"),
    *("verdict", "source"),
)


def scores_table(suite: Suite, board: pd.DataFrame, caption: str) -> Table:
    """Lay out one suite's scores, a column a model.

    Args:
        suite: Gives the order of the scores.
        board: Rows of its leaderboard, from `benchmarks.records.leaderboard.leaderboard`.
        caption: What the numbers are and where they come from.
    """
    title = f"{suite.name}: {suite.question}"
    table = Table(["score", *board["model"], "chance"], title, caption)
    for score in suite.all_scores:
        cells = score_cells(board, score)
        is_primary = score.key == suite.primary
        table.add(_label(score), *cells, fraction(score.chance), is_bold=is_primary)
    blank = Cell("", None)
    table.add("interval", *board["interval"], blank)
    return table.add("rank", *rank_cells(board), blank)


def leaderboard_table(suite: Suite, board: pd.DataFrame) -> Table:
    """Lay out a leaderboard of one source, a row a model, the primary score first.

    Args:
        suite: Gives the scores.
        board: Rows of one source and one set of test images.
    """
    scores = sorted(suite.scores, key=lambda score: score.key != suite.primary)
    notes = ["" if score.higher_is_better else " (lower is better)" for score in scores]
    names = [score.key.replace("_", " ") + note for score, note in zip(scores, notes, strict=True)]
    intervals = ", ".join(sorted(set(board["interval"])))
    caption = (
        f"{board['source'].iloc[0]} data, protocol {suite.protocol}, n = {board['n'].iloc[0]}; "
        f"intervals: {intervals}"
    )
    about = ["rank", "seeds", "selected_on"]
    table = Table(["model", *(name.replace("_", " ") for name in about), *names], caption=caption)
    columns = [score_cells(board, score) for score in scores]
    firsts = zip(
        board["model"], rank_cells(board), board["seeds"], board["selected_on"], strict=True
    )
    for (model, *facts), *cells in zip(firsts, *columns, strict=True):
        table.add(model, *facts, *cells, key=model)
    blanks = [Cell("", None)] * len(about)
    table.footer = [Cell("chance", "chance"), *blanks, *(fraction(s.chance) for s in scores)]
    return table


def primary_scores_table(boards: Iterable[tuple[Suite, pd.DataFrame]], source: str) -> Table:
    """Lay out the primary scores of several suites, a column a suite.

    Args:
        boards: Suites with their leaderboards, one column each.
        source: Which data's rows are shown.

    Returns:
        One row a model, ordered by the middle of its ranks, the mean over the suites. Models
        trained at another correlation are left out, for not every suite has them.
    """
    cells: dict[str, dict[str, Cell]] = {}
    middles: dict[str, pd.Series] = {}
    for suite, board in boards:
        usual = board["rank_low"].notna() & ~board["model"].str.contains("@", regex=False)
        board = board[(board["source"] == source) & usual]
        label = f"{suite.name}<br>{suite.primary.replace('_', ' ')}"
        (primary,) = (score for score in suite.scores if score.key == suite.primary)
        cells[label] = dict(zip(board["model"], score_cells(board, primary), strict=True))
        middles[label] = board.set_index("model")[["rank_low", "rank_high"]].mean(axis=1)
    table = Table(["model", *cells])
    ranks = pd.DataFrame(middles).astype(float).mean(axis=1)
    for model in ranks.sort_index().sort_values(kind="stable").index:
        table.add(model, *(of_suite.get(model) for of_suite in cells.values()))
    return table


def sensitivity_table(suite: Suite, rows: pd.DataFrame) -> Table:
    """Lay out how far the protocol alone moves each network's scores.

    Args:
        suite: Of which the rows are.
        rows: From `benchmarks.records.sensitivity.sensitivity`.
    """
    names = [name for name in suite.protocol_names if (rows["protocol"] == name).any()]
    table = Table(
        ["model", "score", *(name.partition("@")[2] for name in names), "spread"],
        f"{suite.name}: the same network and images under other protocols",
        "percent; spread: from the lowest to the highest, in points",
    )
    for _, of_score in rows.groupby(SCORE, sort=False):
        first = of_score.iloc[0]
        by_name = of_score.set_index("protocol")["value"]
        table.add(
            first["model"],
            f"{first['variant']} {first['metric']}",
            *(fraction(by_name[name]) if name in by_name else None for name in names),
            fraction(by_name.max() - by_name.min()),
            is_bold=f"{first['variant']}_{first['metric']}" == suite.primary,
        )
    return table


def robustness_table(rows: pd.DataFrame) -> Table:
    """Lay out networks beside what their clean accuracy lets expect of shifted images.

    Args:
        rows: From `benchmarks.records.effective_robustness.effective_robustness`.
    """
    fractions = ["clean", "shifted", "expected"]
    table = Table(
        ["suite", "model", *fractions, "effective robustness", "spread of the fit", "verdict"],
        "Effective robustness",
        "percent and points with 95 % interval over images; a network differs from "
        "standard ones if it does by more than twice the spread",
    )
    for row in rows.to_dict("records"):
        table.add(
            row["suite"],
            row["model"],
            *(fraction(row[name]) for name in fractions),
            interval(row["value"], row["low"], row["high"]),
            fraction(row["spread"]),
            row["verdict"],
        )
    return table


def differences_table(
    first: str,
    second: str,
    differences: Sequence[tuple[Suite, Score, Difference]],
    margin: float | None = None,
) -> Table:
    """Lay out all differences between two models, p-values corrected for their number.

    Args:
        first: Name of the first model.
        second: Name of the second.
        differences: Every comparison that was made: leaving some out would falsify the correction.
        margin: How many points worse would not matter; None asks for no such verdict.
    """
    table = Table(
        ["suite", "score", first, second, "difference", "p (Holm)", "detectable", "n", "verdict"],
        f"{first} against {second}",
        "percent and points with 95 % interval over images, seeds and generators; detectable: "
        "the smallest difference that would be found in 4 cases of 5",
    )
    corrected = holm([difference.p_value for *_, difference in differences])
    for (suite, score, difference), p_value in zip(differences, corrected, strict=True):
        table.add(
            suite.name,
            _label(score),
            fraction(difference.first),
            fraction(difference.second),
            interval(difference.value, difference.low, difference.high),
            Cell("" if pd.isna(p_value) else f"{p_value:.2g}", p_value),
            fraction(difference.minimum_detectable_effect),
            difference.n,
            verdict(score, first, second, difference, p_value, margin and margin / 100),
            is_bold=score.key == suite.primary,
        )
    return table


def published_table(
    suite: Suite, rows: pd.DataFrame, columns: Sequence[str] = PUBLISHED_COLUMNS[:-1]
) -> Table:
    """Lay out published scores beside ours.

    Args:
        suite: Of which the rows are.
        rows: From `benchmarks.records.published.compare_to_published`.
        columns: Some of `PUBLISHED_COLUMNS`.
    """
    table = Table(
        PUBLISHED_COLUMNS,
        f"{suite.name}, beside what was published",
        "percent with 95 % interval, here over seeds; verdict: whether the mean here is "
        "inside the published value's interval over its images, else how far beyond",
    )
    for row in rows.to_dict("records"):
        table.add(
            row["model"],
            row["kind"],
            str(row["score"]).replace("_", " "),
            interval(row["value"], row["low"], row["high"], undefined="-"),
            row["measured"],
            interval(row["here"], row["here_low"], row["here_high"], undefined="-"),
            row["seeds"] or None,
            row["verdict"],
            row["source"],
        )
    return table.select(columns)


def speeds_table(speeds: pd.DataFrame, title: str = "") -> Table:
    """Lay out measured speeds.

    Args:
        speeds: Rows of `throughput.csv`.
        title: Stands above.
    """
    columns = ["benchmark", "batch", "form", "ms", "IQR", "images/s", "of peak", "GB", "error"]
    table = Table(columns, title)
    for row in speeds.to_dict("records"):
        share, error = row["share_of_peak"], row["agreement"]
        table.add(
            row["benchmark"],
            Cell(str(row["batch"] or "own"), row["batch"]),
            row["form"],
            Cell(f"{row['median_ms']:,.2f}", row["median_ms"]),
            Cell(f"{row['iqr_ms']:,.2f}", row["iqr_ms"]),
            Cell(f"{row['images_per_second']:,.1f}", row["images_per_second"]),
            Cell("" if pd.isna(share) else f"{100 * share:.1f} %", share),
            Cell(f"{row['peak_allocated_gb']:.1f}", row["peak_allocated_gb"]),
            Cell("" if pd.isna(error) else f"{error:.1g}", error),
        )
    return table


def tuning_table(recipe: str, comparison: pd.DataFrame, rules: Sequence[str]) -> Table:
    """Lay out the tries of one recipe, a row a candidate.

    Args:
        recipe: Its name.
        comparison: From `benchmarks.tuning.compare_settings`.
        rules: Of selection, in the order of the columns.
    """
    groups = [group for group in comparison.columns.unique(level=0) if group != "best"]
    heads = [(group, rule) for group in groups for rule in rules]
    table = Table(
        ["settings", *(f"{group}, {rule}" for group, rule in heads), "best by"],
        f"{recipe}: held-out training objects",
        "percent right, means over seeds; no test image takes part",
    )
    for settings, row in comparison.iterrows():
        best = [rule for rule in rules if row["best", rule]]
        table.add(
            str(settings),
            *(fraction(row[head]) for head in heads),
            ", ".join(best) or None,
            is_bold=bool(best),
        )
    return table


def rank_cells(board: pd.DataFrame) -> list[Cell]:
    """Return the cells of the ranks that the data allow, one a row of a leaderboard.

    Example:
        >>> board = pd.DataFrame({"rank_low": [1, 1, pd.NA], "rank_high": [1, 3, pd.NA]})
        >>> [cell.text for cell in rank_cells(board)]
        ['1', '1 to 3', '']
    """
    cells = []
    for low, high in board[["rank_low", "rank_high"]].itertuples(index=False):
        known = not pd.isna(low)
        text = f"{low}" if known and low == high else f"{low} to {high}"
        cells.append(Cell(text, low) if known else Cell("", None))
    return cells


def score_cells(board: pd.DataFrame, score: Score) -> list[Cell]:
    """Return the cells of one score, one a row of a leaderboard."""
    ends = board[[score.key, f"{score.key}_low", f"{score.key}_high"]]
    return [interval(*row) for row in ends.itertuples(index=False)]


def _label(score: Score) -> str:
    """Name a score, and say so if lower is better."""
    return f"{score.variant} {score.metric}{'' if score.higher_is_better else ' (lower is better)'}"
