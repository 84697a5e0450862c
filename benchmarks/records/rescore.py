"""Missing scores, computed from stored predictions: a new score needs no old model.

So is every score under each other protocol that the same predictions can be scored under.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.core.environment import commit, utc_now
from benchmarks.core.suite import Suite
from benchmarks.records.predictions import Run, load
from benchmarks.records.runs import Row, last_of_runs, newest, read_runs, run_of

_KEPT = ["images_per_second", "device", "torch", "python", "generator_seed", "selected_on"]
ScoreKeys = set[tuple[Run, str, str]]  # runs with variant and metric


def missing_rows(
    results: Path,
    suites: Mapping[str, Suite],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Row]:
    """Compute the rows of those scores of a suite that its runs do not have yet.

    Args:
        results: The folder of `runs.csv` and `predictions`.
        suites: The suites by name; rows of others, and of older protocols, are left alone.
        progress: Called after each run with runs done and runs in all.

    Returns:
        What is to be appended; empty if nothing is missing. Run, speed, device, versions,
        generator and selection rule are those of the run's other rows; commit and time are those
        of now, for it is this code that computed the score.

    Raises:
        ValueError: If predictions cannot be read, or are of another run than the rows.
    """
    rows = newest(read_runs(results, suites))
    variants, metrics = rows["variant"], rows["metric"]
    known = {*zip(map(run_of, rows.to_dict("records")), variants, metrics, strict=True)}
    last = {}
    for row in last_of_runs(rows).to_dict("records"):  # the newest under any protocol wins
        protocol = _kept_as(suites[row["suite"]]).get(row["protocol"])
        if protocol is not None:
            slot = (*(row[name] for name in ("suite", "source", "model", "seed")), protocol)
            last[slot] = row | {"protocol": protocol}
    now = {"commit": commit(), "time": utc_now()}
    missing: list[Row] = []
    for done, row in enumerate(last.values(), start=1):
        run = run_of(row)
        about = {name: row[name] for name in _KEPT} | now
        missing += _missing_of_run(results, suites[run.suite], run, known, about)
        progress(done, len(last))
    return missing


def _kept_as(suite: Suite) -> dict[str, str]:
    """Map each protocol that rows may be of to the one that their predictions are kept as."""
    kept = {name: suite.with_protocol(name).kept_as for name in suite.protocol_names}
    return kept | {name: name for name in kept.values()}


def _missing_of_run(
    results: Path, suite: Suite, run: Run, known: ScoreKeys, about: Mapping[str, Any]
) -> list[Row]:
    """Compute the missing rows of one run, under each protocol that its predictions allow."""
    todo = [
        (replace(run, protocol=scored.protocol), score)
        for scored in suite.compatible_protocols(run.protocol)
        for score in scored.all_scores
        if (replace(run, protocol=scored.protocol), score.variant, score.metric) not in known
    ]
    if not todo:
        return []
    path = run.path(results, suite.with_protocol(todo[0][0].protocol).view_name)
    predictions, stored = load(path)
    if stored != run:
        raise ValueError(
            f"{path} is not of the run in runs.csv; run {run.model} on {run.suite} again"
        )
    possible = suite.compatible_protocols(run.protocol, predictions.columns)
    names = {scored.protocol for scored in possible}
    return [
        Row(
            **asdict(of_protocol),
            variant=score.variant,
            metric=score.metric,
            **score.estimated(predictions)._asdict(),
            **about,
        )
        for of_protocol, score in todo
        if of_protocol.protocol in names
    ]
