"""What others published, beside what was measured here.

The facts are in `published.csv`, one row a score: as printed, with how many images it stands on,
the protocol in words, and where it is printed.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from scipy.stats import binomtest

from benchmarks.scores import CONFIDENCE
from benchmarks.suite import Suite

FACTS = Path(__file__).with_name("published.csv")
OFFICIAL = "official"  # sources on which others' scores can be met begin so


def published(suite: Suite) -> pd.DataFrame:
    """Read what was published of a suite.

    Args:
        suite: The suite.

    Returns:
        Columns suite, score (its key here), model (in words), measured (the model here that is to
        be held against it; empty if there is none), value, n, kind ("published" or
        "reproduction"), protocol and source.
    """
    facts = pd.read_csv(FACTS, keep_default_na=False)
    return facts[facts["suite"] == suite.name].reset_index(drop=True)


def beside(suite: Suite, board: pd.DataFrame) -> pd.DataFrame:
    """Hold published scores against our rows on official data.

    Args:
        suite: The suite.
        board: Its leaderboard, from `benchmarks.leaderboard.leaderboard`.

    Returns:
        The columns of `published`, and: low and high, the published value's 95 % interval over
        its images (Wilson's); here, here_low and here_high, our mean over seeds with its
        interval, NaN if there is none; and verdict, in words: "inside" if our mean is inside the
        published value's interval, how many points it is above or below otherwise, or why there
        is nothing to compare.

    Example:
        >>> from benchmarks.mnists import COLORED
        >>> table = beside(COLORED, pd.DataFrame(columns=["source", "model"]))
        >>> table[["measured", "value", "verdict"]].values.tolist()[0]
        ['erm', 0.359, 'not run: erm on official data']
    """
    official = board[board["source"].str.startswith(OFFICIAL)].set_index("model")
    rows = []
    for fact in published(suite).to_dict("records"):
        n, value, key = int(fact["n"]), float(fact["value"]), str(fact["score"])
        interval = binomtest(round(value * n), n).proportion_ci(CONFIDENCE, method="wilson")
        ends = [key, f"{key}_low", f"{key}_high"]
        is_here = fact["measured"] in official.index
        here = official.loc[fact["measured"], ends].tolist() if is_here else [float("nan")] * 3
        rows.append(
            fact
            | {"low": interval.low, "high": interval.high}
            | dict(zip(("here", "here_low", "here_high"), here, strict=True))
            | {"verdict": _verdict(str(fact["measured"]), here[0], interval.low, interval.high)}
        )
    return pd.DataFrame(rows)


def _verdict(model: str, here: float, low: float, high: float) -> str:
    """Say in words how our mean stands to a published interval."""
    if not model:
        return "not run: no such model here"
    if pd.isna(here):
        return f"not run: {model} on official data"
    if low <= here <= high:
        return "inside"
    by, side = (here - high, "above") if here > high else (low - here, "below")
    return f"{100 * by:.1f} points {side}" if by >= 0.0005 else f"less than 0.1 points {side}"
