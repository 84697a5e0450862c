"""The invariant ensemble on images of one's own, at any scale: its settings, and its file.

How it is fitted is not here: see `classifiers.fit`.

Source:
    Sauer and Geiger, Counterfactual Generative Networks, ICLR 2021. https://arxiv.org/abs/2101.06046
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from cgn.images import load_tensors, save_tensors
from classifiers.augmentation import Augmentation, as_they_are, flip_and_crop, flip_and_shift
from classifiers.backbones import Backbone
from classifiers.networks import HEAD_WEIGHTS, InvariantEnsemble
from classifiers.objectives import invariant
from classifiers.recipes import CGN_SOURCE, Recipe
from classifiers.schedules import Schedule, adamw_cosine, adamw_one_cycle, sgd_thirds

SCHEDULES: dict[str, Schedule] = {
    "sgd-thirds": sgd_thirds,
    "adamw-cosine": adamw_cosine,
    "adamw-one-cycle": adamw_one_cycle,
}
AUGMENTATIONS: dict[str, Augmentation] = {
    "none": as_they_are,
    "shift": flip_and_shift,
    "crop": flip_and_crop,
}


@dataclass(frozen=True, kw_only=True)
class EnsembleConfig:
    """Everything that fixes a fit of the ensemble, but for the images; defaults are the paper's."""

    backbone: str = "timm:resnet50.tv_in1k"  # timm:NAME.TAG, timm:NAME untrained, …
    schedule: str = "sgd-thirds"  # sgd-thirds, the paper's; adamw-cosine; adamw-one-cycle
    epochs: int = 45  # rounds through the real images; 0 where steps decide
    steps: int = 1  # optimiser steps, at least
    batch_size: int = 256  # real images in a step, over all processes
    ratio: float = 1.0  # counterfactual images for each real one
    learning_rate: float = 1e-3  # the highest
    weight_decay: float = 1e-4
    augment: str = "crop"  # crop, shift or none
    ema_decay: float = 0.0  # of the running mean of the weights; 0 keeps the last
    frozen_norms: bool = True  # batch norms keep their statistics
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("schedule", SCHEDULES), ("augment", AUGMENTATIONS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        if self.batch_size < 1 or self.ratio <= 0 or not 0 <= self.ema_decay < 1:
            raise ValueError(
                "batch_size and ratio must be positive, and ema_decay lie in [0, 1), got "
                f"{self.batch_size}, {self.ratio:g} and {self.ema_decay:g}"
            )

    def recipe(self) -> Recipe:
        """Return what `classifiers.fit` takes; its sets are "biased" and "recombined"."""
        return Recipe(
            name="ensemble",
            about="one backbone with a head a factor, on real and counterfactual images",
            source=CGN_SOURCE,
            trains_on=("biased", "recombined"),
            network=Backbone(self.backbone, heads=True),
            objective=invariant,
            schedule=SCHEDULES[self.schedule],
            steps=self.steps,
            epochs=self.epochs,
            counts_epochs_of="biased",
            batch_size=self.batch_size,
            ratio=self.ratio,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            augment=AUGMENTATIONS[self.augment],
            ema_decay=self.ema_decay,
            frozen_norms=self.frozen_norms,
        )


def save_ensemble(
    network: nn.Module, classes: Sequence[str], size_px: int, path: Path, origin: dict[str, Any]
) -> None:
    """Write an ensemble around a backbone of timm to one safetensors file, atomically.

    Args:
        network: From a fit of `EnsembleConfig.recipe`.
        classes: Names of the classes, in the order of their labels.
        size_px: Height and width of the images that it was fitted to.
        path: The file.
        origin: What else the file's header is to say, anything JSON can hold.

    Raises:
        ValueError: If the network is no such ensemble.
    """
    features = network.backbone if isinstance(network, InvariantEnsemble) else None
    config = getattr(getattr(features, "network", None), "pretrained_cfg", None)
    if not isinstance(network, InvariantEnsemble) or config is None:
        raise ValueError(f"a {type(network).__name__} is no ensemble around a backbone of timm")
    about = {
        "architecture": config["architecture"],
        "classes": list(classes),
        "size_px": size_px,
        "head_weights": list(network.head_weights),
    }
    save_tensors(path, network.state_dict(), {"ensemble": about} | origin)


def load_ensemble(path: Path) -> tuple[InvariantEnsemble, dict[str, Any]]:
    """Read an ensemble written by `save_ensemble`, in evaluation mode, and what it says of itself.

    Returns:
        The ensemble; architecture, classes, size_px and head_weights.

    Raises:
        ValueError: If the file holds none.
    """
    tensors, metadata = load_tensors(path)
    about: Any = metadata.get("ensemble")
    if about is None:
        raise ValueError(f"{path} holds no ensemble; `bench.py fit --help` makes one")
    weights = tuple(about.get("head_weights", HEAD_WEIGHTS))
    build = Backbone(f"timm:{about['architecture']}", heads=True, head_weights=weights)
    network = build(len(about["classes"]), about["size_px"])
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path}: weights and architecture differ: {error}") from None
    assert isinstance(network, InvariantEnsemble)
    return network.eval(), about
