"""Leaderboards as `.eval_results` of model repositories on the Hugging Face Hub.

Source:
    https://huggingface.co/docs/hub/eval-results
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.core.suite import Suite
from benchmarks.exports.boards import file_name, interval_of, newest_time
from benchmarks.report.table import percent
from cgn.io.writing import write_text

FOLDER = ".eval_results"


def write_eval_results(
    boards: Iterable[tuple[Suite, pd.DataFrame]], runs: pd.DataFrame, dataset: str, out: Path
) -> list[Path]:
    """Write leaderboards as `<model>/.eval_results/<suite>-<source>.yaml`.

    A model's folder is what belongs into its repository on the Hub.

    Args:
        boards: Suites with their leaderboards.
        runs: From `benchmarks.records.runs.read_runs`, for the time of the runs.
        dataset: The benchmark's data set on the Hub, OWNER/NAME; a score is a task of it.
        out: The folder.

    Returns:
        The files. Values are in percent; the interval, the protocol and the data are in the notes.

    Raises:
        ValueError: If the data set is not named OWNER/NAME.
    """
    import yaml  # comes with the library of the Hub
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    if dataset.count("/") != 1 or not all(dataset.split("/")):
        raise ValueError(f"`dataset` must be OWNER/NAME on the Hub, got {dataset!r}")
    files = []
    for suite, board in boards:
        for row in board.to_dict("records"):
            time = newest_time(runs, suite, row).isoformat()
            about = f"protocol {suite.protocol}, {row['source']} data, {row['seeds']} seeds"
            entries = [
                EvalResultEntry(
                    dataset_id=dataset,
                    task_id=f"{suite.name}-{score.key}",
                    value=round(100 * float(row[score.key]), 2),
                    date=time,
                    notes=f"{percent(row[score.key], *interval_of(score, row))} %, {about}",
                )
                for score in suite.scores
                if np.isfinite(row[score.key])
            ]
            folder = out / file_name(row["model"]) / FOLDER
            files.append(folder / f"{suite.name}-{row['source']}.yaml")
            text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False)
            write_text(files[-1], text)
    return files
