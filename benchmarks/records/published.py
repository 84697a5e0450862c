"""What others published, beside what was measured here, and what is still to be measured.

The facts are in `published.csv`, one row a score: as printed, with how many images it stands on,
the protocol in words, and where it is printed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.core.statistics import CONFIDENCE
from benchmarks.core.suite import PART, Suite

FACTS = Path(__file__).with_name("published.csv")
OFFICIAL = "official"  # sources on which others' scores can be met begin so
# Measured with what was published, though nobody has published them on these suites.
EXTRA_MODELS = ("paste", "cgn-abduct", "cgn-ensemble", "oracle")
NAN = float("nan")


def published(suite: Suite) -> pd.DataFrame:
    """Read what was published of a suite.

    Returns:
        Columns suite, score (its key here), model (in words), measured (the model here that is to
        be held against it; empty if there is none), value, n, kind ("published" or
        "reproduction"), protocol and source.
    """
    facts = pd.read_csv(FACTS, keep_default_na=False)
    return facts[facts["suite"] == suite.name].reset_index(drop=True)


def models_to_run(suite: Suite, known: Collection[str]) -> list[str]:
    """Name the models that are to be held against what was published of a suite.

    Args:
        suite: A suite of which scores were published.
        known: Names of the models that can be run; others are left out.

    Example:
        >>> from benchmarks.suites.mnists import COLORED
        >>> models_to_run(COLORED, ["oracle", "cgn", "mine", "erm"])
        ['erm', 'cgn', 'oracle']
    """
    names = dict.fromkeys([*published(suite)["measured"], *EXTRA_MODELS])
    return [name for name in names if name in known]


def missing_runs(
    runs: pd.DataFrame,
    suite: Suite,
    source: str,
    data_sha256: str,
    models: Sequence[str],
    n_seeds: int,
) -> dict[int, list[str]]:
    """Find the runs that have no rows yet, so that an interrupted command continues.

    Args:
        runs: From `benchmarks.records.runs.read_runs`.
        suite: Rows of its protocol count.
        source: Where its data comes from, as `DataSource.name`.
        data_sha256: Hash of its test images: rows on others do not count.
        models: Names of the models to run.
        n_seeds: Each with seeds 0 to n_seeds - 1.

    Returns:
        For each seed for which any is missing, the names of the missing models, in their order.
    """
    values = {
        "suite": suite.name,
        "protocol": suite.protocol,
        "source": source,
        "data_sha256": data_sha256,
    }
    rows = runs[(runs[list(values)] == list(values.values())).all(axis=1)]
    known = set(zip(rows["model"], rows["seed"], strict=True))
    missing = {seed: [m for m in models if (m, seed) not in known] for seed in range(n_seeds)}
    return {seed: names for seed, names in missing.items() if names}


def compare_to_published(
    suite: Suite, board: pd.DataFrame, also: Sequence[str] = ()
) -> pd.DataFrame:
    """Hold published scores against our rows on official data.

    Args:
        suite: A suite of official data.
        board: Its leaderboard, from `benchmarks.records.leaderboard.leaderboard`. Of a model with
            rows on several official sources, those with textures go before those without.
        also: Models that are listed though nothing was published of them.

    Returns:
        The columns of `published`, and: low and high, the published value's 95 % interval over
        its images (Wilson's); here, here_low and here_high, our mean over seeds with its
        interval, NaN if there is none; seeds, how many these are; and verdict, in words: "inside"
        if our mean is inside the published value's interval, how many points it is above or below
        otherwise, or why there is nothing to compare.

    Example:
        >>> from benchmarks.suites.mnists import COLORED
        >>> table = compare_to_published(COLORED, pd.DataFrame(columns=["source", "model"]))
        >>> table[["measured", "value", "verdict"]].values.tolist()[0]
        ['erm', 0.359, 'not run: erm on official data']
    """
    ours = {str(row["model"]): row for row in official_rows(board).to_dict("records")}
    words = dict.fromkeys(("model", "kind", "protocol", "source"), "")
    nothing = {"suite": suite.name, "score": suite.primary, **words, "value": NAN, "n": 0}
    facts: list[dict[Any, Any]] = published(suite).to_dict("records")
    facts += [nothing | {"measured": model} for model in also]
    rows = []
    for fact in facts:
        key, model = str(fact["score"]), str(fact["measured"])
        low, high = _interval(float(fact["value"]), int(fact["n"]))
        row = ours.get(model, {"seeds": 0})
        rows.append(
            fact
            | {"low": low, "high": high}
            | {f"here{end}": row.get(f"{key}{end}", NAN) for end in ("", "_low", "_high")}
            | {"seeds": row["seeds"], "verdict": _verdict(model, row.get(key, NAN), low, high)}
        )
    return pd.DataFrame(rows)


def official_rows(board: pd.DataFrame) -> pd.DataFrame:
    """Choose a leaderboard's rows on all official images, one a model, with textures if it can."""
    sources = board["source"].str
    whole = sources.startswith(OFFICIAL) & ~sources.endswith(PART)
    return board[whole].sort_values("source").drop_duplicates("model", keep="last")


def _interval(value: float, n: int) -> tuple[float, float]:
    """Wilson's interval of a share of images; NaN without any."""
    from scipy.stats import binomtest  # seconds to import

    if n == 0:
        return NAN, NAN
    interval = binomtest(round(value * n), n).proportion_ci(CONFIDENCE, method="wilson")
    return interval.low, interval.high


def _verdict(model: str, here: float, low: float, high: float) -> str:
    """Say in words how our mean stands to a published interval."""
    if not model:
        return "not run: no such model here"
    if pd.isna(here):
        return f"not run: {model} on official data"
    if pd.isna(low):
        return "nothing published"
    if low <= here <= high:
        return "inside"
    by, side = (here - high, "above") if here > high else (low - here, "below")
    return f"{100 * by:.1f} points {side}" if by >= 0.0005 else f"less than 0.1 points {side}"
