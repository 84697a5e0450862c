"""What all exports read of leaderboards."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from benchmarks.core.scores import Score
from benchmarks.core.suite import Suite
from benchmarks.records.runs import newest
from cgn.io.locks import short_name


def interval_of(score: Score, row: Mapping[Any, Any]) -> tuple[float, float]:
    """Return the ends of a score's interval in a line of a leaderboard; fractions."""
    return float(row[f"{score.key}_low"]), float(row[f"{score.key}_high"])


def newest_time(runs: pd.DataFrame, suite: Suite, row: Mapping[Any, Any]) -> datetime:
    """Say when the newest run behind a line of a leaderboard was made, UTC.

    Raises:
        ValueError: If there is no such run.
    """
    rows = newest(runs[(runs["suite"] == suite.name) & (runs["protocol"] == suite.protocol)])
    for column in ("source", "data_sha256", "model"):
        rows = rows[rows[column] == row[column]]
    if rows.empty:
        raise ValueError(f"there are no rows of {row['model']} on {suite.name}")
    time = datetime.fromisoformat(rows["time"].max())
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def file_name(model: str) -> str:
    """Name a file or folder after a model, as every system allows.

    Example:
        >>> file_name("shipped:cgn-ensemble/shape")
        'shipped--cgn-ensemble__shape'
    """
    plain = model.replace("/", "__").replace(":", "--")
    return short_name(re.sub(r"[^\w.+@-]", "_", plain))
