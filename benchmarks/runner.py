"""Classifiers take suites as exams: images are read once, and answers become rows.

How a single module is evaluated is not here: see `benchmarks.core.evaluate`. Nor is where it comes
from: what it answers is an argument.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from benchmarks.cli.progress import Progress, bar
from benchmarks.cli.resolve import known_suites
from benchmarks.core.distributed import all_gather
from benchmarks.core.environment import environment
from benchmarks.core.evaluate import (
    Outputs,
    data_sha256,
    evaluate_outputs,
    probabilities,
    score_suite,
)
from benchmarks.core.partial_results import Keeper
from benchmarks.core.suite import DataSource, Suite, format_model_id
from benchmarks.data.paths import cache_dir, check_place, image_cache_dir, official_folder
from benchmarks.records.leaderboard import write_leaderboards
from benchmarks.records.predictions import Run, save
from benchmarks.records.published import PART
from benchmarks.records.runs import Row, append, exclusive
from benchmarks.records.sensitivity import write_sensitivity
from benchmarks.suites.backgrounds_challenge import (
    CHALLENGE,
    Outcome,
    attack,
    outcomes_kept,
    predictions_of,
)
from benchmarks.worlds.rendered import variants_cached
from cgn.data.image_files import DECODED_BY
from cgn.data.image_set import ImageSet
from cgn.device.distributed import dist_info
from cgn.device.precision import PRECISIONS
from cgn.io.cache import cache_key
from cgn.io.identity import LIBRARIES, architecture, sources, versions
from cgn.models.cgn import weights_sha256


@dataclass(frozen=True)
class RunContext:
    """Where a run happens: on what, into which folder, and who is told how far it is.

    Attributes:
        device: What networks run on.
        results: Folder of rows, predictions and leaderboards.
        bars: The display.
        precision: What networks run in, one of `cgn.device.precision.PRECISIONS`.
    """

    device: torch.device
    results: Path
    bars: Progress
    precision: str = "float32"

    @property
    def dtype(self) -> torch.dtype:
        """What networks run in."""
        return PRECISIONS[self.precision]

    def named(self, model: str) -> str:
        """Name a model so that none of its rows is taken for one of another precision."""
        return model if self.dtype == torch.float32 else f"{model}+{self.precision}"


@dataclass(frozen=True)
class TestSet:
    """A suite with its test images read and hashed, under one of its protocols.

    Attributes:
        suite: The suite.
        source: Where the images come from.
        variants: Image sets by name.
        data_sha256: Hash of all of them; empty where no rows are written.
        protocol: Name and version of the protocol.
    """

    suite: Suite
    source: DataSource
    variants: dict[str, ImageSet]
    data_sha256: str
    protocol: str

    @property
    def shown(self) -> Suite:
        """The suite as the protocol has it."""
        return self.suite.with_protocol(self.protocol)

    @property
    def source_name(self) -> str:
        """How its rows are marked; rows on a part of the official images are told from others."""
        counts = {name: len(images) for name, images in self.variants.items()}
        whole = not self.suite.n_images or counts == self.suite.n_images
        return self.source.name if whole else f"{self.source.name}{PART}"


@dataclass(frozen=True)
class FittedModel:
    """A classifier, and where it comes from; text is as `Row` has it.

    Attributes:
        name: Its name in the results, but for the correlation it was fitted at and its precision.
        module: From images (B, 3, H, W) in [0, 1] to logits.
        weights_sha256: Hash of its weights.
        seed: The seed it was fitted with; 0 if none is known.
        generator_seed: Seeds of the generators that drew its training images; may be empty.
    """

    name: str
    module: nn.Module
    weights_sha256: str
    seed: int
    generator_seed: str


def load_test_set(suite: Suite, source: DataSource, bars: Progress) -> TestSet:
    """Make or read a suite's test images.

    Args:
        suite: The suite; the exam is under its own protocol.
        source: Where the images come from.
        bars: The display.

    Raises:
        ValueError: If the source does not fit the suite.
    """
    with bar(bars, f"{suite.name}: test images"):
        variants = variants_cached(suite, source, image_cache_dir())
        # The hash is for rows, which the first of several processes writes.
        sha256 = data_sha256(variants) if dist_info().is_main_process else ""
        return TestSet(suite, source, variants, sha256, suite.protocol)


def evaluate_and_record(
    exam: TestSet, fit: FittedModel, outputs: Outputs, place: RunContext
) -> list[Row]:
    """Evaluate a module and its heads on a suite; keep predictions, rows and leaderboard.

    Args:
        exam: The suite and its images.
        fit: The module.
        outputs: What it answers, as for `evaluate_outputs`.
        place: Where it runs, and where all is kept.

    Returns:
        The rows that were added; none in other processes than the first.

    Raises:
        ValueError: If the module does not answer as the suite asks.
    """
    name = format_model_id(place.named(fit.name), exam.source.correlation)
    if dist_info().is_main_process:
        check_place(run_metadata(exam, fit, name).path(place.results, exam.shown.view_name))
    with Keeper(_kept_in(exam, fit, name, place)) as kept:
        tables, speed = predict(exam, fit.module, outputs, name, place, kept)
        rows = _record(exam, fit, name, tables, speed, place) if dist_info().is_main_process else []
        kept.remove()
    return rows


def _kept_in(exam: TestSet, fit: FittedModel, name: str, place: RunContext) -> Path | None:
    """Name the file of an evaluation under way by all that its answers depend on."""
    if exam.suite == CHALLENGE:  # which one process takes alone, and which keeps its outcomes
        return None
    parts = {
        "name": name,
        "network": architecture(fit.module),
        "weights": [fit.weights_sha256, weights_sha256(fit.module)],
        "data": exam.data_sha256,
        "protocol": exam.protocol,
        "prepared": [str(getattr(each, "preprocessing", "")) for each in exam.variants.values()],
        "decoded_by": DECODED_BY,
        "device": environment(place.device)["device"],
        "precision": str(place.dtype),
        "processes": dist_info().size,
    }
    # The first of several processes alone knows what the images are.
    key = all_gather([cache_key(parts, sources("benchmarks.suites", __name__))])[0]
    return cache_dir() / "under way" / f"{key}-{dist_info().rank}.jsonl"


def _record(
    exam: TestSet,
    fit: FittedModel,
    name: str,
    tables: Mapping[str, pd.DataFrame],
    speed: float,
    place: RunContext,
) -> list[Row]:
    """Keep predictions, rows and leaderboards, all together, and return the rows."""
    found: dict[str, Any] = {
        "images_per_second": round(speed, 1),
        **environment(place.device),
        "generator_seed": fit.generator_seed,
    }
    origins = {head: run_metadata(exam, fit, f"{name}/{head}" if head else name) for head in tables}
    rows = [
        Row(
            **asdict(replace(origins[head], protocol=suite.protocol)),
            variant=score.variant,
            metric=score.metric,
            **estimate._asdict(),
            **found,
        )
        for head, predictions in tables.items()
        for suite in exam.suite.compatible_protocols(origins[head].protocol, predictions.columns)
        for score, estimate in score_suite(suite, predictions).items()
    ]
    place.results.mkdir(parents=True, exist_ok=True)
    with exclusive(place.results):
        for head, origin in origins.items():
            save(tables[head], origin.path(place.results, exam.shown.view_name), origin)
        append(rows, place.results)
        write_leaderboards(place.results, [exam.suite])
        write_sensitivity(place.results, known_suites().values())
    return rows


def run_metadata(exam: TestSet, fit: FittedModel, model: str) -> Run:
    """Say what was run on what, under the protocol that its predictions are kept as.

    Args:
        exam: The suite and its images.
        fit: The module.
        model: Its name in the results.
    """
    return Run(
        suite=exam.suite.name,
        protocol=exam.shown.predictions_protocol or exam.protocol,
        source=exam.source_name,
        data_sha256=exam.data_sha256,
        model=model,
        weights_sha256=fit.weights_sha256,
        seed=fit.seed,
    )


def predict(
    exam: TestSet,
    module: nn.Module,
    outputs: Outputs,
    name: str,
    place: RunContext,
    kept: Keeper | None = None,
) -> tuple[dict[str, pd.DataFrame], float]:
    """Evaluate one module on one suite.

    Args:
        exam: The suite and its images.
        module: From images (B, 3, H, W) in [0, 1] to logits.
        outputs: What it answers, as for `evaluate_outputs`; the Backgrounds Challenge takes the
            module's own answer.
        name: Of the module, for the bar.
        place: Where it runs.
        kept: As for `evaluate_outputs`; the challenge keeps its outcomes itself.

    Returns:
        Predictions of each output, and images per second.

    Raises:
        ValueError: If the module does not answer as the suite asks.
    """
    if exam.suite == CHALLENGE:
        return run_challenge(exam, module, name, place)
    total = sum(map(len, exam.variants.values()))
    done = 0
    with bar(place.bars, f"{name} on {exam.suite.name}") as update:

        def count(n_images: int) -> None:
            nonlocal done
            done += n_images * dist_info().size
            update(min(done, total), total)

        return evaluate_outputs(
            module,
            exam.variants,
            outputs,
            device=place.device,
            n_classes=len(exam.suite.world.classes),
            decision_rule=exam.suite.decision_rule or probabilities,
            reference_variant=exam.suite.reference_variant,
            columns=exam.suite.columns,
            precision=place.dtype,
            progress=count,
            kept=kept,
        )


def run_challenge(
    exam: TestSet, module: nn.Module, name: str, place: RunContext
) -> tuple[dict[str, pd.DataFrame], float]:
    """Let a module take the Backgrounds Challenge; an interrupted one goes on where it was.

    Args:
        exam: The challenge and its images.
        module: From images (B, 3, H, W) in [0, 1] to logits.
        name: Of the module, for the bar.
        place: Where it runs.

    Returns:
        Predictions by output, of which there is one; and composites per second, 0 if all
        outcomes were known.
    """
    foregrounds, backgrounds = exam.variants["foregrounds"], exam.variants["backgrounds"]
    path = cache_dir() / "challenge" / f"{_challenge_key(exam, module, place)}.jsonl"
    if (earlier := path.with_name(f"{_earlier_key(exam, module)}.jsonl")).is_file():
        place.bars.console.print(
            f"{name}: the outcomes in {earlier} don't say by which network, and how, they were "
            "found; they are removed, and all objects of the challenge are searched anew"
        )
        earlier.unlink()
    started, outcomes, known = time.perf_counter(), list[Outcome](), 0
    module.to(place.device).eval()
    with bar(place.bars, f"{name} on {exam.suite.name}") as update:

        def go_on(earlier: Sequence[Outcome]) -> Iterator[Outcome]:
            nonlocal known
            known = len(earlier)
            return attack(
                module,
                foregrounds,
                backgrounds,
                decision_rule=exam.suite.decision_rule or probabilities,
                device=place.device,
                precision=place.dtype,
                earlier=earlier,
            )

        for outcome in outcomes_kept(path, go_on):
            outcomes.append(outcome)
            update(len(outcomes), len(foregrounds))
    seconds = time.perf_counter() - started
    tried = sum(outcome.tried for outcome in outcomes)
    tried_now = sum(outcome.tried for outcome in outcomes[known:])
    every = len(foregrounds) * len(backgrounds)
    place.bars.console.print(f"{name}: {tried:,} of {every:,} composites had to be looked at")
    return {"": predictions_of(outcomes, foregrounds, len(backgrounds))}, tried_now / seconds


def _challenge_key(exam: TestSet, module: nn.Module, place: RunContext) -> str:
    """Hash all that decides the outcomes of the challenge."""
    parts: dict[str, object] = {
        "weights": weights_sha256(module),
        "architecture": architecture(module),
        "data": exam.data_sha256,
        "protocol": exam.suite.protocol,
        "device": place.device.type,
        "precision": str(place.dtype),
        "decoders": DECODED_BY,
    }
    parts |= versions(*LIBRARIES)
    return cache_key(parts, sources("benchmarks.suites.backgrounds_challenge", __name__))


def _earlier_key(exam: TestSet, module: nn.Module) -> str:
    """The key of versions that took all networks of the same tensors for one."""
    return cache_key([weights_sha256(module), exam.data_sha256, exam.suite.protocol], [])


def caption(exam: TestSet) -> str:
    """Say what the numbers are, which data they come from, and how to get the other."""
    about = f"percent with 95 % interval; protocol {exam.protocol}; {exam.source_name} data"
    if exam.source.folder is not None:
        other = "; --data embedded takes the installed data" if exam.suite.embedded else ""
        return f"{about} from {exam.source.folder}{other}"
    if "mnist" not in exam.suite.name:
        return f"{about}, drawn with an installed font"
    return (
        f"{about}, installed with the packages; for the official data put MNIST's idx files "
        f"into {official_folder(exam.suite)}, or name their folder with --data"
    )
