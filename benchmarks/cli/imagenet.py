"""Trains the ImageNet CGN, and draws its counterfactuals."""

from __future__ import annotations

import argparse
import shlex
import time
from dataclasses import asdict, fields
from datetime import timedelta
from pathlib import Path

import torch

from benchmarks.cli.progress import progress_bars
from benchmarks.cli.resolve import (
    require_place_of,
    resolve_config,
    resolve_device,
)
from benchmarks.cli.terminal import say
from benchmarks.data.paths import (
    check_place,
    user_weights_dir,
)
from benchmarks.records.leaderboard import (
    environment,
)
from cgn.counterfactuals.pictures import draw_picture, sheets
from cgn.data.shards import SetConfig, generate
from cgn.device.distributed import own_device, team
from cgn.models.critic import VGGFeatures
from cgn.models.imagenet.cgn import ImageNetCGN
from cgn.models.imagenet.pretrained import from_biggan, load_biggan, load_imagenet_cgn, load_u2net
from cgn.training.checkpoints import alone_at
from cgn.training.imagenet import ImageNetTraining, train_imagenet
from cgn.training.imagenet_config import IMAGENET_PRESETS, ImageNetTrainConfig, without
from cgn.training.imagenet_plan import Plan, plan
from cgn.training.log import LossLog, combine_callbacks
from cgn.training.loop import seeded


def train_imagenet_cgn(options: argparse.Namespace) -> None:
    """Train the ImageNet CGN, alone or with the other processes of `torchrun`."""
    if options.suite != "in9" or options.u2net is None:
        raise ValueError(
            "--scale imagenet is for --suite in9 and starts from published weights: name U²-Net's "
            "u2net.pth with --u2net; docs/imagenet.md says where to get it"
        )
    config = resolve_config(IMAGENET_PRESETS[options.preset], vars(options))
    config = without(config, options.without) if options.without else config
    ablation = f"-without-{options.without}" if options.without else ""
    name = f"imagenet-{options.preset}{ablation}-seed{config.seed}.safetensors"
    out: Path = options.out or user_weights_dir() / name
    for each in (out, out.with_suffix(".checkpoint"), out.with_suffix(".csv")):
        check_place(each, "--out")
    device = own_device(resolve_device(options.device))
    with team(device) as of, progress_bars() as bars, alone_at(out):
        with bars.task("weights"), seeded(config.seed):
            real = load_biggan([options.biggan] if options.biggan else None)
            cgn = from_biggan(real, load_u2net(options.u2net))
            real = real.fused(config.dtype)
            features = VGGFeatures(None if options.vgg == "random" else options.vgg)
        if options.dry_run:
            run = ImageNetTraining(cgn, real, features, config, device, of)
            needs = plan(run, torch.Generator().manual_seed(config.seed))
            if of.is_main_process:
                show_plan(needs, config.steps, config.images_per_step)
            return
        started = time.perf_counter()
        with bars.task("CGN of ImageNet") as update:
            cgn = train_imagenet(
                cgn,
                real,
                features,
                config,
                device=device,
                team=of,
                checkpoint=out.with_suffix(".checkpoint"),
                progress=combine_callbacks(
                    update, LossLog(out.with_suffix(".csv")) if of.is_main_process else None
                ),
                at_checkpoint=sheets(out.with_suffix("")),
            )
        if of.is_main_process:
            keep_imagenet(cgn, config, out, options, time.perf_counter() - started, device)


def keep_imagenet(
    cgn: ImageNetCGN,
    config: ImageNetTrainConfig,
    out: Path,
    options: argparse.Namespace,
    seconds: float,
    device: torch.device,
) -> None:
    """Write the weights with their origin; the checkpoint is not needed any more."""
    origin = {
        "command": shlex.join(["python", "bench.py", *options.given]),
        "seconds": round(seconds, 1),
        **environment(device),
    }
    cgn.save(out, {"config": asdict(config)} | origin)
    out.with_suffix(".checkpoint").unlink(missing_ok=True)
    losses, folder = out.with_suffix(".csv"), out.with_suffix("")
    say(f"wrote {out}, its losses {losses} and sheets {folder}")


def show_plan(needs: Plan, steps: int, images_per_step: int) -> None:
    """Print what a run will need."""
    for name, value in {
        "parameters": f"{needs.parameters:,}, of which {needs.learning:,} learn",
        "memory": f"{needs.fixed_bytes / 1e9:.2f} GB for weights, gradients, their means and the "
        f"optimiser; {needs.peak_bytes / 1e9:.2f} GB at most so far, in this process",
        "steps": f"{steps:,} of {images_per_step:,} images",
        "a pass": f"{needs.seconds_a_pass:.3f} s for {needs.at_once} images at once; an update "
        f"{needs.seconds_an_update:.3f} s",
        "time left": str(timedelta(seconds=round(needs.seconds_left))),
    }.items():
        say(f"{name:12} {value}")


def draw_counterfactuals(options: argparse.Namespace) -> None:
    """Draw a set of counterfactuals from the ImageNet CGN, or a picture of some."""
    device = own_device(resolve_device(options.device))
    require_place_of(options)
    cgn = load_imagenet_cgn(options.weights)
    dtype = torch.bfloat16 if options.bfloat16 else torch.float32
    names = {field.name for field in fields(SetConfig)}
    given = {name: value for name, value in vars(options).items() if name in names}
    if options.combine or options.interpolate:
        config = SetConfig(**{"n": 1} | given)
        fast = cgn.for_sampling(dtype).to(device)
        way = {"interpolate": options.interpolate, "to": options.to}
        draw_picture(fast, config, options.out, combine=options.combine, **way)
        say(f"wrote {options.out}")
        return
    config = SetConfig(**given)
    batch_size = options.batch_size or (32 if device.type == "cuda" else 1)
    with team(device) as of, progress_bars() as bars, bars.task("shards") as update:
        generate(
            cgn,
            config,
            options.out,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            team=of,
            progress=update,
        )
        if of.is_main_process:
            say(f"wrote {config.n:,} counterfactuals in {config.n_shards} files to {options.out}")
