"""Fits the ensemble to images of the user's own."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import asdict, fields
from pathlib import Path

from torch import nn

from benchmarks.cli.progress import progress_bars
from benchmarks.cli.resolve import (
    resolve_device,
)
from benchmarks.cli.terminal import say
from benchmarks.core.environment import environment
from benchmarks.data.paths import (
    cache_dir,
    check_place,
)
from benchmarks.data.training import recombined_images
from benchmarks.data.user_images import (
    load_counterfactuals,
    load_images,
    load_masks,
)
from cgn.device.distributed import dist_info, team
from cgn.training.checkpoints import alone_at
from classifiers.checkpoints import save_ensemble
from classifiers.fit import fit
from classifiers.networks.backbones import Backbone
from classifiers.recipes import EnsembleConfig


def fit_ensemble(options: argparse.Namespace) -> None:
    """Fit the ensemble to images of the user's own, in one process or many; write its weights."""
    names = {field.name for field in fields(EnsembleConfig)}
    config = EnsembleConfig(**{n: value for n, value in vars(options).items() if n in names})
    out: Path = options.out
    for each in (out, out.with_suffix(".checkpoint")):
        check_place(each, "--out")
    device = resolve_device(options.device)
    Backbone(config.backbone).require_size(options.size)
    with team(device), progress_bars() as bars, alone_at(out):
        images, classes = load_images(options.images, options.split, options.size)
        sets = {"biased": images}
        n_classes, masks = len(classes), None
        if options.masks:
            folder = Path(options.images)
            masks = load_masks(images, folder, options.masks, options.size, n_classes)
        if masks is not None and dist_info().is_main_process:
            empty = int((~masks.flatten(1).any(dim=1)).sum())
            bars.note(f"masks: {empty:,} of {len(masks):,} are empty")
        if not options.real_only:
            with bars.task("counterfactuals") as update, dist_info().main_process_first():
                sets["recombined"] = (
                    load_counterfactuals(options.counterfactuals, options.size, n_classes)
                    if masks is None
                    else recombined_images(
                        images,
                        masks,
                        options.n_counterfactuals,
                        n_classes=n_classes,
                        seed=config.seed,
                        folder=cache_dir() / "counterfactuals",
                        progress=update,
                    )
                )
        command = shlex.join(["python", "bench.py", *options.given])
        origin = {"config": asdict(config), "command": command, **environment(device)}

        def keep(network: nn.Module) -> None:
            save_ensemble(network, classes, options.size, out, origin)

        with bars.task(f"{config.backbone}: fit") as update:
            fit(
                config.recipe(real_only=options.real_only),
                sets,
                n_classes=len(classes),
                seed=config.seed,
                device=device,
                progress=update,
                checkpoint=out.with_suffix(".checkpoint"),
                keep=keep,
            )
        if dist_info().is_main_process:
            say(f"wrote {out}; score it with --model ensemble:{out}")
