"""The one loop that scores models on suites, and what becomes of the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.core.context import Progress, RunContext
from benchmarks.core.environment import environment
from benchmarks.core.evaluate import data_sha256, evaluate_outputs, probabilities, score_suite
from benchmarks.core.models import FittedModel, Model
from benchmarks.core.partial_results import Keeper
from benchmarks.core.suite import DataSource, Suite, TestSet, format_model_id
from benchmarks.data.paths import check_place
from benchmarks.data.rendered import variants_cached
from benchmarks.records.leaderboard import write_leaderboards
from benchmarks.records.predictions import Run, save
from benchmarks.records.runs import Row, append, exclusive
from cgn.data.preprocessing import DECODED_BY
from cgn.device.distributed import all_gather, dist_info
from cgn.io.cache import architecture, cache_key, sources, weights_sha256


def run(
    tests: Sequence[TestSet], models: Sequence[Model], seeds: Sequence[int], context: RunContext
) -> list[Row]:
    """Score models on test sets, and keep predictions, rows and leaderboards.

    Args:
        tests: From `load_test_set`.
        models: Each is fitted, or loaded, before it is scored.
        seeds: Of the fits; a model with fixed weights is scored once.
        context: Where it runs, and where all is kept.

    Returns:
        The rows; none in other processes than the first.

    Raises:
        ValueError: If a model is not for one of the test sets. Nothing has been done then.
    """
    for model in models:
        model.require(tests, context)
    rows = []
    try:
        for model in models:
            for fitted, test in model.evaluations(tests, seeds, context):
                rows += evaluate_and_record(test, fitted, context)
    finally:
        if dist_info().is_main_process:
            write_leaderboards(context.results, [test.suite for test in tests])
    return rows


def load_test_set(
    suite: Suite,
    source: DataSource,
    progress: Progress,
    protocol: str | None = None,
    *,
    cache: Path | None = None,
) -> TestSet:
    """Make or read a suite's test images.

    Args:
        suite: The suite under its own protocol.
        source: Where the images come from.
        progress: Shows it.
        protocol: Another of the suite's protocols.
        cache: Folder where images of this package's suites are kept; None keeps nothing.

    Raises:
        ValueError: If the source does not fit the suite, or it has no such protocol.
    """
    protocol = suite.with_protocol(protocol or suite.protocol).protocol
    with progress.task(f"{suite.name}: test images"):
        variants = variants_cached(suite, source, cache) if cache else suite.variants(source)
        # The hash is for rows, which the first of several processes writes.
        sha256 = data_sha256(variants) if dist_info().is_main_process else ""
        return TestSet(suite, source, variants, sha256, protocol)


def evaluate_and_record(test: TestSet, fitted: FittedModel, context: RunContext) -> list[Row]:
    """Evaluate a model and its heads on a test set; keep predictions and rows.

    Returns:
        The rows; none in other processes than the first.

    Raises:
        ValueError: If the module does not answer as the suite asks.
    """
    if test.suite.evaluation and not dist_info().is_main_process:
        return []
    model = format_model_id(context.model_id(fitted.name), test.source.correlation)
    if dist_info().is_main_process:
        path = run_metadata(test, fitted, model).path(context.results, test.shown.view_name)
        check_place(path)
    with Keeper(_partial_results(test, fitted, model, context)) as kept:
        tables, speed = predict(test, fitted, model, context, kept)
        rows = []
        if dist_info().is_main_process:
            rows = _record(test, fitted, model, tables, speed, context)
        kept.remove()
    return rows


def predict(
    test: TestSet, fitted: FittedModel, model: str, context: RunContext, kept: Keeper | None = None
) -> tuple[dict[str, pd.DataFrame], float]:
    """Evaluate a model on a test set.

    Args:
        test: The test set.
        fitted: The model.
        model: Its name in the results.
        context: Where it runs.
        kept: As for `evaluate_outputs`.

    Returns:
        Predictions of each output, and images per second.
    """
    suite = test.suite
    if suite.evaluation:
        predictions, speed = suite.evaluation(test, fitted.module, model, context)
        return {"": predictions}, speed
    total, done = sum(map(len, test.variants.values())), 0
    with context.progress.task(f"{model} on {suite.name}") as update:

        def count(n_images: int) -> None:
            nonlocal done
            done += n_images * dist_info().size
            update(min(done, total), total)

        return evaluate_outputs(
            fitted.module,
            test.variants,
            fitted.outputs,
            device=context.device,
            n_classes=len(suite.world.classes),
            decision_rule=suite.decision_rule or probabilities,
            reference_variant=suite.reference_variant,
            columns=suite.columns,
            precision=context.dtype,
            progress=count,
            kept=kept,
        )


def run_metadata(test: TestSet, fitted: FittedModel, model: str) -> Run:
    """Name what was run on what, under the protocol that its predictions are kept as.

    Args:
        test: The test set.
        fitted: The model.
        model: Its name in the results.
    """
    return Run(
        suite=test.suite.name,
        protocol=test.shown.kept_as,
        source=test.source_name,
        data_sha256=test.data_sha256,
        model=model,
        weights_sha256=fitted.weights_sha256,
        seed=fitted.seed,
    )


def _partial_results(
    test: TestSet, fitted: FittedModel, model: str, context: RunContext
) -> Path | None:
    """Name the file of an evaluation under way by all that its answers depend on."""
    if test.suite.evaluation:
        return None
    parts = {
        "name": model,
        "network": architecture(fitted.module),
        "weights": [fitted.weights_sha256, weights_sha256(fitted.module)],
        "data": test.data_sha256,
        "protocol": test.protocol,
        "prepared": [str(each.reader.preprocessing) for each in test.variants.values()],
        "decoded_by": DECODED_BY,
        "device": environment(context.device)["device"],
        "precision": str(context.dtype),
        "processes": dist_info().size,
    }
    # The first of several processes alone knows what the images are.
    key = all_gather([cache_key(parts, sources("benchmarks.suites", __name__))])[0]
    return context.cache / "under way" / f"{key}-{dist_info().rank}.jsonl"


def _record(
    test: TestSet,
    fitted: FittedModel,
    model: str,
    tables: Mapping[str, pd.DataFrame],
    speed: float,
    context: RunContext,
) -> list[Row]:
    """Keep predictions and rows, all together, and return the rows."""
    provenance: dict[str, Any] = {
        "images_per_second": round(speed, 1),
        **environment(context.device),
        "generator_seed": fitted.generator_seed,
        "selected_on": fitted.selected_on,
    }
    runs = {
        head: run_metadata(test, fitted, f"{model}/{head}" if head else model) for head in tables
    }
    rows = [
        Row(
            **asdict(replace(runs[head], protocol=suite.protocol)),
            variant=score.variant,
            metric=score.metric,
            **estimate._asdict(),
            **provenance,
        )
        for head, predictions in tables.items()
        for suite in test.suite.compatible_protocols(runs[head].protocol, predictions.columns)
        for score, estimate in score_suite(suite, predictions).items()
    ]
    context.results.mkdir(parents=True, exist_ok=True)
    with exclusive(context.results):
        for head, origin in runs.items():
            save(tables[head], origin.path(context.results, test.shown.view_name), origin)
        append(rows, context.results)
    return rows
