"""Trains CGNs of small images, and classifiers that come with the package."""

from __future__ import annotations

import argparse
import shlex
import time
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.cli.imagenet import train_imagenet_cgn
from benchmarks.cli.models import BundledModel, RecipeModel
from benchmarks.cli.progress import progress_bars
from benchmarks.cli.quality import measured, show_quality
from benchmarks.cli.resolve import (
    known_suites,
    resolve_config,
    resolve_device,
    resolve_one,
    resolve_suites,
    source_for,
)
from benchmarks.cli.run import require_results
from benchmarks.cli.terminal import say
from benchmarks.core.context import Progress, RunContext
from benchmarks.core.environment import environment
from benchmarks.core.suite import EMBEDDED, DataSource, Suite, TrainingDomain
from benchmarks.data.paths import (
    cache_dir,
    check_place,
    image_cache_dir,
    user_weights_dir,
)
from benchmarks.data.rendered import training_cached
from benchmarks.data.training import training_preset
from benchmarks.runner import (
    load_test_set,
)
from benchmarks.runner import run as run_models
from benchmarks.suites import SUITES
from cgn.counterfactuals.sampling import (
    sheet,
)
from cgn.data.image_set import ImageSet
from cgn.training.checkpoints import alone_at
from cgn.training.small import TrainConfig, train
from classifiers import MODELS
from classifiers.checkpoints import (
    PREFIX,
    save_classifier,
    shipped_path,
)


def train_cgn(options: argparse.Namespace) -> None:
    """Train the CGN of a suite's world; write its weights and a sheet of samples."""
    if options.scale == "imagenet":
        return train_imagenet_cgn(options)
    suite = resolve_one(options.suite, SUITES, "suite")
    source, device = (
        source_for(suite, options),
        resolve_device(options.device),
    )
    world = suite.world
    config = resolve_config(training_preset(world), vars(options))
    with progress_bars() as bars:
        with bars.task(f"{world.name}: training images"):
            images = training_cached(world, "train", source, image_cache_dir())
            train_sha256 = images.sha256()
        # The name keeps weights for official and embedded data, and those of each seed, apart.
        name = f"{world.name}-{train_sha256[:8]}-seed{config.seed}.safetensors"
        out: Path = options.out or user_weights_dir() / name
        for each in (out, out.with_suffix(".checkpoint"), out.with_suffix(".png")):
            check_place(each, "--out")
        with alone_at(out):
            scores = train_and_keep(suite, source, images, config, out, device, options, bars)
    show_quality(scores)
    say(f"wrote {out} and its sample sheet {out.with_suffix('.png')}")


def train_and_keep(
    suite: Suite,
    source: DataSource,
    images: ImageSet,
    config: TrainConfig,
    out: Path,
    device: torch.device,
    options: argparse.Namespace,
    bars: Progress,
) -> dict[str, float]:
    """Train the CGN of a suite's world, write its weights and a sheet, and return its measures."""
    world, started = suite.world, time.perf_counter()
    checkpoint = out.with_suffix(".checkpoint")
    with bars.task(f"{world.name}: CGN") as update:
        n_classes = len(world.classes)
        cgn = train(
            images, n_classes, config, device=device, checkpoint=checkpoint, progress=update
        )
    seconds = round(time.perf_counter() - started, 1)
    scores = measured(cgn, world, source, images, config.seed, device, bars)
    origin = {
        "world": world.name,
        "classes": world.classes,
        "source": source.name,
        "correlation": source.correlation,
        "train_sha256": images.sha256(),
        "command": shlex.join(["python", "bench.py", *options.given]),
        "seconds": seconds,
        "quality": scores,
        **environment(device),
    }
    cgn.save(out, {"config": asdict(config)} | origin)
    sheet(cgn, out.with_suffix(".png"), seed=config.seed)
    checkpoint.unlink(missing_ok=True)
    return scores


def ship_classifiers(options: argparse.Namespace) -> None:
    """Fit a model on each world's embedded data, write its weights, and score these."""
    recipe = resolve_one(options.model, MODELS, "model")
    worlds = {suite.world.name: suite.world for suite in resolve_suites(options.suite)}
    device = resolve_device(options.device)
    for name in worlds:
        check_place(shipped_path(recipe.name, name, options.out), "--out")
    require_results(options.results)
    options.out.mkdir(parents=True, exist_ok=True)
    with progress_bars() as bars:
        context = RunContext(device, options.results, cache_dir(), bars)
        for world in worlds.values():
            path = ship_classifier(RecipeModel(recipe), world, options, context)
            bars.note(f"wrote {path}, and its scores to {options.results}")


def ship_classifier(
    model: RecipeModel, world: TrainingDomain, options: argparse.Namespace, context: RunContext
) -> Path:
    """Fit a model on one world's embedded data, write its weights, and score these."""
    fitted, sets = model.fit(world, EMBEDDED, 0, context)
    path = shipped_path(model.name, world.name, options.out)
    about = {
        "recipe": model.name,
        "world": world.name,
        "classes": world.classes,
        "n_classes": len(world.classes),
        "image_size_px": world.image_size_px,
        "seed": fitted.seed,
        "generator_seed": fitted.generator_seed,
        "train_sha256": {name: images.sha256() for name, images in sets.items()},
        "command": shlex.join(["python", "bench.py", *options.given]),
        **environment(context.device),
    }
    save_classifier(path, fitted.module, about)
    tests = [
        load_test_set(suite, EMBEDDED, context.progress, cache=image_cache_dir())
        for suite in known_suites().values()
        if suite.world.name == world.name and suite.embedded
    ]
    # The weights are scored as they are in the file, in half precision.
    bundled = BundledModel(f"{PREFIX}{model.name}", options.out)
    keys = {test.suite.name: test.suite.primary for test in tests}
    rows = [row for row in run_models(tests, [bundled], [0], context) if row.model == bundled.name]
    primary = [row for row in rows if f"{row.variant}_{row.metric}" == keys[row.suite]]
    quality = {row.suite: row.value for row in primary}
    save_classifier(path, fitted.module, about | {"quality": quality})
    return path
