"""Leaderboards as records of Every Eval Ever, one file a model, suite and data source.

Source:
    EvalEval Coalition, Every Eval Ever: a metadata format for evaluation results, schema 0.3.0.
    https://github.com/evaleval/every_eval_ever
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.core.scores import Score
from benchmarks.core.statistics import CONFIDENCE
from benchmarks.core.suite import Suite
from benchmarks.exports.boards import file_name, interval_of, newest_time
from cgn.io.writing import write_text

SCHEMA_VERSION = "0.3.0"
LIBRARY = "cgn-bench"
DEVELOPER = "cgn-bench"  # of models that are recipes of this package


def write_every_eval_ever(
    boards: Iterable[tuple[Suite, pd.DataFrame]], runs: pd.DataFrame, out: Path
) -> list[Path]:
    """Write leaderboards as records, in folders `<suite>/<developer>/<model>`.

    Args:
        boards: Suites with their leaderboards.
        runs: From `benchmarks.records.runs.read_runs`, for the time of the runs.
        out: The folder.

    Returns:
        The files. The same rows give the same files.
    """
    files = []
    for suite, board in boards:
        for row in board.to_dict("records"):
            record = evaluation_record(suite, row, newest_time(runs, suite, row))
            name = uuid.uuid5(uuid.NAMESPACE_URL, record["evaluation_id"])
            folder = out / suite.name / DEVELOPER / file_name(row["model"])
            files.append(folder / f"{name}.json")
            write_text(files[-1], json.dumps(record, indent=2) + "\n")
    return files


def evaluation_record(suite: Suite, row: Mapping[Any, Any], time: datetime) -> dict[str, Any]:
    """Write one line of a leaderboard as a record.

    Args:
        suite: Of the leaderboard.
        row: The line.
        time: When the newest of its runs was made.

    Returns:
        What `eval.schema.json` describes; scores are fractions, undefined ones are left out.
    """
    seconds = f"{time.timestamp():.0f}"
    model = f"{DEVELOPER}/{row['model']}"
    slot = "/".join((suite.protocol, row["source"], row["data_sha256"][:12]))
    scores = [score for score in suite.all_scores if np.isfinite(row[score.key])]
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": f"{slot}/{model}/{seconds}",
        "evaluation_timestamp": time.isoformat(),
        "retrieved_timestamp": seconds,
        "source_metadata": {
            "source_name": LIBRARY,
            "source_type": "evaluation_run",
            "source_organization_name": LIBRARY,
            "evaluator_relationship": "first_party",
        },
        "eval_library": {"name": LIBRARY, "version": _library_version()},
        "model_info": {
            "name": row["model"],
            "id": model,
            "developer": DEVELOPER,
            "additional_details": {
                "deployment_type": "self_deployed",
                "model_availability": "open_weights",
                "seeds": str(row["seeds"]),
                "generators": str(row["generators"]),
            },
        },
        "evaluation_results": [_result(suite, score, row) for score in scores],
    }


def _result(suite: Suite, score: Score, row: Mapping[Any, Any]) -> dict[str, Any]:
    """One score of a line."""
    low, high = interval_of(score, row)
    uncertainty: dict[str, Any] = {}
    if np.isfinite(low) and np.isfinite(high):
        ends = {"lower": low, "upper": high, "confidence_level": CONFIDENCE}
        covers = f"over {row['interval']}" if score.key == suite.primary else ""
        uncertainty = {"confidence_interval": ends | ({"method": covers} if covers else {})}
    return {
        "evaluation_result_id": f"{suite.protocol}#{score.key}",
        "evaluation_name": f"{suite.name}: {score.key.replace('_', ' ')}",
        "source_data": {
            "dataset_name": suite.name,
            "source_type": "other",
            "additional_details": {
                "source": row["source"],
                "data_sha256": row["data_sha256"],
                "protocol": suite.protocol,
            },
        },
        "metric_config": {
            "evaluation_description": suite.question,
            "metric_id": f"{LIBRARY}.{score.metric}",
            "metric_name": score.metric.replace("_", " "),
            "metric_unit": "proportion",
            "lower_is_better": not score.higher_is_better,
            "score_type": "continuous",
            "min_score": _bound(score.lowest),
            "max_score": _bound(score.highest),
        },
        "score_details": {"score": float(row[score.key])}
        | ({"uncertainty": uncertainty} if uncertainty else {}),
    }


def _bound(value: float) -> float | str:
    """An end of a score's range; the schema has words for infinite ones."""
    return value if np.isfinite(value) else "Infinity" if value > 0 else "-Infinity"


def _library_version() -> str:
    """Version of this package."""
    try:
        return version(LIBRARY)
    except PackageNotFoundError:
        return "unknown"
