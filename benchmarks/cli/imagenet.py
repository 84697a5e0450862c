"""Trains the ImageNet CGN, and draws its counterfactuals."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import timedelta
from typing import Annotated, Literal

import torch
from cyclopts import Parameter

from benchmarks.cli.arguments import (
    CommandText,
    ConfigFile,
    Device,
    NewFolder,
    NewWeights,
    ReadFile,
    Settings,
    WeightsSource,
    resolve_device,
)
from benchmarks.cli.output import Output
from benchmarks.core.environment import environment
from benchmarks.data.paths import check_place, user_weights_dir
from cgn.counterfactuals.shards import SetConfig, generate
from cgn.counterfactuals.sheets import training_sheets
from cgn.device.distributed import own_device, team
from cgn.models.critic import VGG_WEIGHTS, VGGFeatures
from cgn.models.imagenet.pretrained import from_biggan, load_biggan, load_imagenet_cgn, load_u2net
from cgn.training.checkpoints import alone_at
from cgn.training.imagenet import ImageNetTraining, train_imagenet
from cgn.training.imagenet_config import IMAGENET_PRESETS, PARTS, ImageNetTrainConfig, without
from cgn.training.imagenet_plan import Plan, plan
from cgn.training.log import LossLog, combine_callbacks
from cgn.training.loop import seeded

Preset = Annotated[str, Parameter(choices=tuple(IMAGENET_PRESETS))]
Part = Annotated[str, Parameter(choices=tuple(PARTS))]
VGG = Annotated[str, Parameter(choices=(*VGG_WEIGHTS, "random"))]


def train_imagenet_cgn(
    *,
    u2net: WeightsSource,
    biggan: WeightsSource | None = None,
    vgg: VGG = VGG_WEIGHTS[0],
    preset: Preset = "paper",
    without_part: Annotated[Part | None, Parameter(name="--without")] = None,
    dry_run: bool = False,
    out: NewWeights | None = None,
    device: Device = "auto",
    suite: Annotated[Literal["in9"], Parameter(show=False)] = "in9",
    config: Annotated[ImageNetTrainConfig, Settings] = ImageNetTrainConfig(),
    config_file: ConfigFile = None,
    output: Output = Output(),
    command: CommandText,
) -> None:
    """Train the ImageNet CGN from published weights, alone or with other processes of `torchrun`.

    Args:
        u2net: Path, hub:OWNER/NAME/FILE or URL of u2net.pth, or random:WIDTH to try things out;
            docs/imagenet.md says where to get it.
        biggan: The same of biggan-deep-256, or random:PIXELS:WIDTH; without it its published
            place.
        vgg: torchvision's name of VGG16's weights, or random.
        preset: The settings of the paper, or of the authors' code.
        without_part: A part of the loss to leave out.
        dry_run: Only say what will be needed.
        out: Weights to write, *.safetensors; without it where the user's weights are kept.
        suite: The only suite that has such images.
    """
    if without_part:
        config = without(config, without_part)
    ablation = f"-without-{without_part}" if without_part else ""
    name = f"imagenet-{preset}{ablation}-seed{config.seed}.safetensors"
    path = out or user_weights_dir() / name
    checkpoint, losses = path.with_suffix(".checkpoint"), path.with_suffix(".csv")
    for each in (path, checkpoint, losses):
        check_place(each, "out")
    chosen = own_device(resolve_device(device))
    with team(chosen) as group, output.progress() as progress, alone_at(path):
        with progress.task("weights"), seeded(config.seed):
            real = load_biggan([biggan] if biggan else None)
            cgn = from_biggan(real, load_u2net(u2net))
            real = real.fused(config.dtype)
            features = VGGFeatures(None if vgg == "random" else vgg)
        if dry_run:
            training = ImageNetTraining(cgn, real, features, config, chosen, group)
            needs = plan(training, torch.Generator().manual_seed(config.seed))
            if group.is_main_process:
                output.lines("needs", describe(needs, config))
            return
        started = time.perf_counter()
        with progress.task("CGN of ImageNet") as update:
            log = LossLog(losses) if group.is_main_process else None
            cgn = train_imagenet(
                cgn,
                real,
                features,
                config,
                device=chosen,
                team=group,
                checkpoint=checkpoint,
                progress=combine_callbacks(update, log),
                at_checkpoint=training_sheets(path.with_suffix("")),
            )
        if group.is_main_process:
            seconds = round(time.perf_counter() - started, 1)
            origin = {"config": asdict(config), "command": command, "seconds": seconds}
            cgn.save(path, origin | environment(chosen))
            checkpoint.unlink(missing_ok=True)
            output.note(f"wrote {path}, its losses {losses} and sheets {path.with_suffix('')}")


def describe(needs: Plan, config: ImageNetTrainConfig) -> list[str]:
    """Say what a run will need."""
    lines = {
        "parameters": f"{needs.parameters:,}, of which {needs.learning:,} learn",
        "memory": f"{needs.fixed_bytes / 1e9:.2f} GB for weights, gradients, their means and the "
        f"optimiser; {needs.peak_bytes / 1e9:.2f} GB at most so far, in this process",
        "steps": f"{config.steps:,} of {config.images_per_step:,} images",
        "a pass": f"{needs.seconds_a_pass:.3f} s for {needs.at_once} images at once; an update "
        f"{needs.seconds_an_update:.3f} s",
        "time left": str(timedelta(seconds=round(needs.seconds_left))),
    }
    return [f"{name:12} {value}" for name, value in lines.items()]


def draw_counterfactuals(
    *,
    weights: ReadFile,
    out: NewFolder,
    batch_size: int | None = None,
    bfloat16: Annotated[bool, Parameter(negative=None)] = True,
    device: Device = "auto",
    config: Annotated[SetConfig, Settings],
    config_file: ConfigFile = None,
    output: Output = Output(),
) -> None:
    """Draw a set of counterfactuals in shards; under `torchrun` all processes share the work.

    Args:
        weights: Of this program, or the authors' cgn.pth.
        out: Folder of the set.
        batch_size: Images at once; without it 1, on a GPU 32.
        bfloat16: Compute in bfloat16.
    """
    chosen = own_device(resolve_device(device))
    cgn = load_imagenet_cgn(weights)
    with team(chosen) as group, output.progress() as progress, progress.task("shards") as update:
        generate(
            cgn,
            config,
            out,
            device=chosen,
            dtype=torch.bfloat16 if bfloat16 else torch.float32,
            batch_size=batch_size or (32 if chosen.type == "cuda" else 1),
            team=group,
            progress=update,
        )
    if group.is_main_process:
        output.note(f"wrote {config.n:,} counterfactuals in {config.n_shards} files to {out}")
