"""Settings of the ensemble that a user fits to images of their own, and its recipe."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from cgn.io.schema import require_in_range
from classifiers.data import AUGMENTATIONS
from classifiers.networks.backbones import Backbone
from classifiers.objectives.basic import invariant
from classifiers.recipes import CGN_SOURCE, ERM, Recipe
from classifiers.schedules import SCHEDULES

NUISANCES: dict[str, tuple[str, ...]] = {
    "texture-background": ("texture", "background"),
    "background": ("background",),
    "none": (),
}


@dataclass(frozen=True, kw_only=True)
class EnsembleConfig:
    """Everything that fixes a fit of the ensemble on images of one's own; defaults: the paper's.

    Attributes:
        backbone: timm:NAME.TAG, timm:NAME untrained, efficientnet-lite0 or file:PATH#arch=NAME.
        schedule: sgd-thirds, the paper's; adamw-cosine or adamw-one-cycle.
        epochs: Rounds through the real images; 0 where steps decide.
        steps: Optimiser steps at least.
        batch_size: Real images in a step, over all processes.
        ratio: Counterfactual images for each real one.
        learning_rate: The highest of the schedule.
        weight_decay: Of the optimiser.
        augment: crop or none.
        ema_decay: Of the running mean of the weights; 0 keeps the last weights.
        frozen_norms: Whether batch norms keep their statistics.
        nuisances: What is taken to tell nothing of the class where the join of the heads is
            learned: texture-background or background; none answers with their mean, the paper's.
        seed: Of all random numbers.
    """

    backbone: str = "timm:resnet50.tv_in1k"
    schedule: str = "sgd-thirds"
    epochs: int = 45
    steps: int = 1
    batch_size: int = 256
    ratio: float = 1.0
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    augment: str = "crop"
    ema_decay: float = 0.0
    frozen_norms: bool = True
    nuisances: str = "texture-background"
    seed: int = 0

    def __post_init__(self) -> None:
        choices: dict[str, Collection[str]] = {
            "schedule": SCHEDULES,
            "augment": AUGMENTATIONS,
            "nuisances": NUISANCES,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}"
                )
        require_in_range(self)

    def recipe(self, *, real_only: bool = False) -> Recipe:
        """Return the recipe; its sets are "biased" and "recombined".

        Args:
            real_only: Return the ensemble's baseline instead: one plain head on "biased" alone,
                with as many optimiser steps.
        """
        learned = NUISANCES[self.nuisances]
        ensemble = Recipe(
            name="ensemble",
            about="one backbone with a head a factor, on real and counterfactual images",
            source=CGN_SOURCE,
            trains_on=("biased", "recombined"),
            network=Backbone(self.backbone, heads=True, join="alignment" if learned else "mean"),
            objective=invariant,
            nuisances=learned,
            schedule=SCHEDULES[self.schedule],
            steps=self.steps,
            epochs=self.epochs,
            least_images=1,
            batch_size=self.batch_size,
            ratio=self.ratio,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            augment=AUGMENTATIONS[self.augment],
            ema_decay=self.ema_decay,
            frozen_norms=self.frozen_norms,
        )
        if not real_only:
            return ensemble
        return replace(
            ensemble,
            name="plain",
            about="one backbone with one head, on real images",
            source=ERM.source,
            trains_on=("biased",),
            network=Backbone(self.backbone),
            objective=ERM.objective,
            nuisances=(),
        )
