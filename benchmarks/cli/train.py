"""Trains CGNs of small images, classifiers of the package, and ensembles on photographs."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import nn

from benchmarks.cli.arguments import (
    RESULTS,
    WEIGHTS,
    CommandText,
    ConfigFile,
    Device,
    Images,
    ModelName,
    NewFolder,
    NewWeights,
    OneSuite,
    ReadFile,
    ReadFolder,
    Results,
    Settings,
    Suites,
    TrainingData,
    resolve_device,
)
from benchmarks.cli.models import BundledModel, RecipeModel
from benchmarks.cli.output import Output
from benchmarks.cli.quality import measure
from benchmarks.cli.run import require_results
from benchmarks.core.context import RunContext
from benchmarks.core.environment import environment
from benchmarks.core.suite import EMBEDDED, Suite, TrainingDomain
from benchmarks.data.generators import OWN_TEXTURE, paste_parts
from benchmarks.data.paths import cache_dir, check_place, image_cache_dir, user_weights_dir
from benchmarks.data.rendered import training_cached
from benchmarks.data.user_images import load_counterfactuals, load_images, load_masks
from benchmarks.runner import load_test_set
from benchmarks.runner import run as run_models
from benchmarks.suites import ALL_SUITES
from cgn.counterfactuals.generators import Workspace
from cgn.counterfactuals.sheets import sheet
from cgn.data.image_set import ImageSet
from cgn.device.distributed import dist_info, team
from cgn.models.cgn import CGN
from cgn.training.adversarial import AdversarialConfig
from cgn.training.checkpoints import alone_at
from cgn.training.end_to_end import END_TO_END, EndToEndConfig, train_end_to_end
from cgn.training.small import TrainConfig, train
from classifiers import MODELS
from classifiers.checkpoints import (
    PREFIX,
    describe_join,
    save_classifier,
    save_ensemble,
    shipped_path,
)
from classifiers.ensemble_config import EnsembleConfig
from classifiers.fit import fit
from classifiers.networks.backbones import Backbone


def train_cgn(
    *,
    suite: OneSuite,
    out: NewWeights | None = None,
    data: TrainingData = TrainingData(),
    no_quality: bool = False,
    device: Device = "auto",
    config: Annotated[TrainConfig, Settings] = TrainConfig(),
    config_file: ConfigFile = None,
    output: Output = Output(),
    command: CommandText,
) -> None:
    """Train the CGN of a suite's world; write its weights and a sheet of samples.

    Args:
        suite: The suite whose training images are learned.
        out: Weights to write, *.safetensors; without it where `run` finds them.
        no_quality: Leave out measuring the counterfactuals, which takes longer than the training.
    """
    train_world(train, config, "", suite, out, data, no_quality, device, output, command)


def train_cgn_end_to_end(
    *,
    suite: OneSuite,
    out: NewWeights | None = None,
    data: TrainingData = TrainingData(),
    no_quality: bool = False,
    device: Device = "auto",
    config: Annotated[EndToEndConfig, Settings] = EndToEndConfig(),
    config_file: ConfigFile = None,
    output: Output = Output(),
    command: CommandText,
) -> None:
    """Train a CGN that learns its masks from the critic, without segmenting any image.

    Args:
        suite: The suite whose training images are learned.
        out: Weights to write, *.safetensors; without it where `run` finds them.
        no_quality: Leave out measuring the counterfactuals, which takes longer than the training.
    """
    train_world(
        train_end_to_end, config, END_TO_END, suite, out, data, no_quality, device, output, command
    )


def train_world(
    train_one: Callable[..., CGN],
    config: AdversarialConfig,
    method: str,
    suite: Suite,
    out: Path | None,
    data: TrainingData,
    no_quality: bool,
    device: str,
    output: Output,
    command: str,
) -> None:
    """Train a CGN of a suite's world by a method; write its weights and a sheet of samples."""
    chosen, source, world = resolve_device(device), data.source(suite), suite.world
    with output.progress() as progress:
        with progress.task(f"{world.name}: training images"):
            images = training_cached(world, "train", source, image_cache_dir())
            train_sha256 = images.sha256()
        path = out or weights_path(world, train_sha256, config.seed, method)
        checkpoint, picture = path.with_suffix(".checkpoint"), path.with_suffix(".png")
        for each in (path, checkpoint, picture):
            check_place(each, "out")
        with alone_at(path):
            started, n_classes = time.perf_counter(), len(world.classes)
            with progress.task(f"{world.name}: CGN") as update:
                cgn = train_one(
                    images, n_classes, config, device=chosen, checkpoint=checkpoint, progress=update
                )
            seconds = round(time.perf_counter() - started, 1)
            scores: dict[str, float] = {}
            if not no_quality:
                scores = measure(cgn, world, source, images, method, config.seed, chosen, progress)
            origin = {
                "config": asdict(config),
                "method": method,
                "world": world.name,
                "classes": world.classes,
                "source": source.name,
                "correlation": source.correlation,
                "train_sha256": train_sha256,
                "command": command,
                "seconds": seconds,
                "quality": scores,
            }
            cgn.save(path, origin | environment(chosen))
            sheet(cgn, picture, seed=config.seed)
            checkpoint.unlink(missing_ok=True)
    output.numbers(scores)
    output.note(f"wrote {path} and its sample sheet {picture}")


def weights_path(world: TrainingDomain, train_sha256: str, seed: int, method: str = "") -> Path:
    """Name the file of a CGN; it keeps those of other data, and of each seed, apart."""
    kind = [method] if method else []
    name = "-".join([world.name, *kind, train_sha256[:8], f"seed{seed}.safetensors"])
    return user_weights_dir() / name


def train_classifiers(
    *,
    suite: Suites,
    model: ModelName,
    out: NewFolder = WEIGHTS,
    results: Results = RESULTS,
    device: Device = "auto",
    output: Output = Output(),
    command: CommandText,
) -> None:
    """Fit a model on each world's embedded images, write its weights, and score these.

    Args:
        suite: Suites or groups of suites, whose worlds are meant.
        model: The model.
        out: Folder of weights; `--model shipped:NAME` finds those in classifiers/weights.
    """
    worlds = {each.world.name: each.world for each in suite}
    for name in worlds:
        check_place(shipped_path(model, name, out), "out")
    require_results(results)
    with output.progress() as progress:
        context = RunContext(resolve_device(device), results, cache_dir(), progress)
        out.mkdir(parents=True, exist_ok=True)
        for world in worlds.values():
            path = train_classifier(RecipeModel(MODELS[model]), world, out, command, context)
            progress.note(f"wrote {path}, and its scores to {results}")


def train_classifier(
    model: RecipeModel, world: TrainingDomain, out: Path, command: str, context: RunContext
) -> Path:
    """Fit a model on one world's embedded images, write its weights, and score these."""
    fitted, sets = model.fit(world, EMBEDDED, 0, context)
    path = shipped_path(model.name, world.name, out)
    about: dict[str, Any] = {
        "recipe": model.name,
        "world": world.name,
        "classes": world.classes,
        "n_classes": len(world.classes),
        "image_size_px": world.image_size_px,
        "seed": fitted.seed,
        "generator_seed": fitted.generator_seed,
        "selected_on": fitted.selected_on,
        "train_sha256": {name: images.sha256() for name, images in sets.items()},
        "join": describe_join(fitted.module),
        "command": command,
        **environment(context.device),
    }
    save_classifier(path, fitted.module, about)
    tests = [
        load_test_set(suite, EMBEDDED, context.progress, cache=image_cache_dir())
        for suite in ALL_SUITES.values()
        if suite.world.name == world.name and suite.embedded
    ]
    # The weights are scored as they are in the file, in half precision.
    bundled = BundledModel(f"{PREFIX}{model.name}", out)
    keys = {test.suite.name: test.suite.primary for test in tests}
    rows = [row for row in run_models(tests, [bundled], [0], context) if row.model == bundled.name]
    primary = [row for row in rows if f"{row.variant}_{row.metric}" == keys[row.suite]]
    quality = {row.suite: row.value for row in primary}
    save_classifier(path, fitted.module, about | {"quality": quality})
    return path


def fit_ensemble(
    *,
    images: Images,
    split: str = "train",
    counterfactuals: ReadFile | None = None,
    masks: ReadFolder | None = None,
    real_only: bool = False,
    n_counterfactuals: int = 20_000,
    size: int = 224,
    out: NewWeights,
    device: Device = "auto",
    config: Annotated[EnsembleConfig, Settings] = EnsembleConfig(),
    config_file: ConfigFile = None,
    output: Output = Output(),
    command: CommandText,
) -> None:
    """Fit one backbone with a head a factor to photographs; write its weights.

    Under `torchrun` all processes share the work.

    Args:
        images: Folder with a folder a class, or hub:NAME, a set of the Hugging Face hub.
        split: Part of a set of the hub.
        counterfactuals: Image set of counterfactuals.
        masks: Folder of masks named as the images, from which counterfactuals are recombined:
            .npy or pictures, where what is not 0 is object.
        real_only: Fit the baseline: one head, real images alone, as many steps.
        n_counterfactuals: Images to recombine.
        size: Height and width of the images in pixels.
        out: Weights to write, *.safetensors.
    """
    if sum((counterfactuals is not None, masks is not None, real_only)) != 1:
        raise ValueError("name one of `counterfactuals`, `masks` and `real_only`")
    checkpoint, chosen = out.with_suffix(".checkpoint"), resolve_device(device)
    for each in (out, checkpoint):
        check_place(each, "out")
    Backbone(config.backbone).require_size(size)
    with team(chosen), output.progress() as progress, alone_at(out):
        real, classes = load_images(images, split, size)
        sets: dict[str, ImageSet] = {"biased": real}
        n_classes, objects = len(classes), None
        if masks is not None:
            objects = load_masks(real, Path(images), masks, size, n_classes)
            if dist_info().is_main_process:
                n_empty = int((~objects.flatten(1).any(dim=1)).sum())
                progress.note(f"masks: {n_empty:,} of {len(objects):,} are empty")
        with progress.task("counterfactuals") as update, dist_info().main_process_first():
            if counterfactuals is not None:
                sets["recombined"] = load_counterfactuals(counterfactuals, size, n_classes)
            elif objects is not None:
                work = Workspace(
                    torch.device("cpu"),
                    cache_dir() / "counterfactuals",
                    lambda: nullcontext(update),
                )
                paste = replace(
                    paste_parts(real, objects, n_classes, work),
                    own_texture=OWN_TEXTURE,
                    only_usable=True,
                )
                sets["recombined"] = paste.sample(n_counterfactuals, seed=config.seed)
        origin = {"config": asdict(config), "command": command, **environment(chosen)}
        recipe = config.recipe(real_only=real_only)

        def keep(network: nn.Module) -> None:
            save_ensemble(network, classes, size, out, origin, recipe.nuisances)

        with progress.task(f"{config.backbone}: fit") as update:
            fit(
                recipe,
                sets,
                n_classes=n_classes,
                seed=config.seed,
                device=chosen,
                progress=update,
                checkpoint=checkpoint,
                keep=keep,
            )
    if dist_info().is_main_process:
        output.note(f"wrote {out}; score it with --model ensemble:{out}")
