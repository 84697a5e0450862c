"""Recipes: network, training images and objective, each a row of the leaderboards."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from cgn.io.schema import require_in_range
from classifiers.data import (
    AUGMENTATIONS,
    Augmentation,
    Sampling,
    balanced_environments,
    balanced_groups,
    flip_and_crop,
    identity,
    uniform,
    upweighted_errors,
)
from classifiers.networks.backbones import Backbone
from classifiers.networks.input_transforms import GrayscaleCNN, TwoMeansCNN
from classifiers.networks.small import InvariantEnsemble, SmallCNN
from classifiers.objectives.basic import Objective, every_factor, invariant, shape_cross_entropy
from classifiers.objectives.debiasing import (
    GroupWeightedCNN,
    UnlearningCNN,
    group_dro,
    irm,
    unlearn,
)
from classifiers.schedules import SCHEDULES, Schedule, adamw_one_cycle

# On real objects cut out of 2,100 training images that were set apart for this choice, the shape
# head was the best before other backgrounds, and the background's head misled all the others.
NO_BACKGROUND = (2 / 3, 1 / 3, 0.0)
PHOTOGRAPH_STEPS = 400  # the one budget of all recipes for photographs
# For photographs of 64 pixels: the small CNN compares places, which only drawn objects keep to.
NARROW_RESNET = Backbone(
    "timm:resnet10t", (("channels", (32, 64, 128, 256)), ("stem_type", "deep"), ("stem_width", 16))
)


# What settings are chosen by: images of the training split that are held out of the fit, painted
# with free factors, as the test images are (oracle selection, in the terms of Gulrajani and
# Lopez-Paz, ICLR 2021), or as biased as the training images; or nothing.
FREE_FACTORS, BIASED_VALIDATION, NOTHING = "free factors", "biased validation", "nothing"
SELECTION_RULES = (FREE_FACTORS, BIASED_VALIDATION, NOTHING)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a classifier is fitted.

    Attributes:
        name: Its name on the command line and in results.
        about: One sentence for lists of models.
        source: Who proposed it, and where.
        extra_supervision: What it knows beyond the class of biased images, in words; empty for
            nothing.
        trains_on: Names of the sets it sees: "biased", "counterfactual", "abducted" (the
            counterfactuals of training images), "recombined" (parts of different training
            images), "generated" (by a GAN), "unbiased".
        input_kind: The images of these sets and of the tests, or their true masks, which the
            caller of `fit` passes in place of them.
        network: From number of classes and image size in pixels to a fresh network.
        objective: What it minimises.
        sampling: Which images of a set one round goes through, and how often.
        identification_model: A recipe that is fitted first; `sampling` gets its predictions.
        selected_on: What the settings were chosen by, one of `SELECTION_RULES`.
        steps: Optimiser steps, at least.
        epochs: Rounds through the world's biased images, at least, in batches of `batch_size`.
        least_images: As many images are in a round at least. Defaults are the one budget of all
            recipes for drawn images, whatever they train on: 625 steps where a world has up to
            20,000 biased images, 1,563 on full MNIST.
        batch_size: Images from each set in a step: a recipe that trains on two sets sees twice as
            many images in as many steps.
        ratio: Counterfactual images for each biased one in a step, where it trains on both.
        learning_rate: The highest of the schedule.
        weight_decay: Of the optimiser.
        schedule: The optimiser and its learning rate over time.
        augment: How the images of each batch are changed.
        ema_decay: Of the running mean of the weights, which is the result; 0 keeps the last.
        frozen_norms: Whether batch norms keep the statistics that the network came with.
        bfloat16: Whether to compute in bfloat16 where the device has instructions for it.
    """

    name: str
    about: str
    source: str
    extra_supervision: str = ""
    trains_on: tuple[str, ...]
    input_kind: Literal["images", "masks"] = "images"
    network: Callable[[int, int], nn.Module] = SmallCNN
    objective: Objective = shape_cross_entropy
    sampling: Sampling = uniform
    identification_model: Recipe | None = None
    selected_on: str = ""
    steps: int = 1
    epochs: float = 3
    least_images: int = 20_000
    batch_size: int = 96
    ratio: float = 1.0
    learning_rate: float = 5e-3
    weight_decay: float = 0.05
    schedule: Schedule = adamw_one_cycle
    augment: Augmentation = identity
    ema_decay: float = 0.0
    frozen_norms: bool = False
    bfloat16: bool = True

    def steps_for(self, n_images: Mapping[str, int]) -> int:
        """Return the optimiser steps for sets of so many images, by name.

        Without a set of biased images, the largest set counts in its place.

        Example:
            >>> ERM.steps_for({"biased": 4_000}), ERM.steps_for({"biased": 50_000})
            (625, 1563)
        """
        n_biased = n_images.get("biased", max(n_images.values()))
        n_in_round = max(self.least_images, n_biased)
        return max(self.steps, math.ceil(self.epochs * n_in_round / self.batch_size))

    def batch_size_of(self, name: str) -> int:
        """Return how many images of a set one step takes."""
        whole = name == "biased" or "biased" not in self.trains_on
        return self.batch_size if whole else max(1, round(self.ratio * self.batch_size))


CGN_SOURCE = "Sauer and Geiger, ICLR 2021, https://arxiv.org/abs/2101.06046"

ERM = Recipe(
    name="erm",
    about="plain training on the biased images",
    source="Vapnik, NeurIPS 1991 (empirical risk minimisation)",
    selected_on=NOTHING,
    trains_on=("biased",),
)

PHOTOGRAPHS = Recipe(
    name="erm-resnet",
    about="plain training of a narrow ResNet on the biased images, mirrored and cropped",
    source="Vapnik, NeurIPS 1991 (empirical risk minimisation)",
    selected_on=FREE_FACTORS,
    trains_on=("biased",),
    network=NARROW_RESNET,
    augment=flip_and_crop,
    steps=PHOTOGRAPH_STEPS,
    epochs=0,
    batch_size=64,
)

RECIPES = (
    ERM,
    Recipe(
        name="grayscale",
        about="plain training on the biased images, turned gray",
        source="a trivial baseline; Kim et al., CVPR 2019, list it, https://arxiv.org/abs/1812.10352",
        selected_on=NOTHING,
        extra_supervision="that colour misleads",
        trains_on=("biased",),
        network=GrayscaleCNN,
    ),
    Recipe(
        name="two-means",
        about="plain training on masks: each image's pixels clustered into two colours",
        source="a trivial baseline; Lloyd 1982 (k-means)",
        selected_on=NOTHING,
        extra_supervision="object and background have one colour each, the border is background",
        trains_on=("biased",),
        network=TwoMeansCNN,
    ),
    Recipe(
        name="irm",
        about="one scale of the logits must be best on agreeing and on other images",
        source="Arjovsky et al. 2019, https://arxiv.org/abs/1907.02893",
        selected_on=BIASED_VALIDATION,
        extra_supervision="which images have a texture or background of another class",
        trains_on=("biased",),
        objective=irm,
        sampling=balanced_environments,
    ),
    Recipe(
        name="group-dro",
        about="the group of images with the highest loss counts most",
        source="Sagawa et al., ICLR 2020, https://arxiv.org/abs/1911.08731",
        selected_on=NOTHING,
        extra_supervision="which images have a texture or background of another class",
        trains_on=("biased",),
        network=GroupWeightedCNN,
        objective=group_dro,
        sampling=balanced_groups,
    ),
    Recipe(
        name="lntl",
        about="features from which texture and background cannot be told",
        source="Kim et al., CVPR 2019, https://arxiv.org/abs/1812.10352",
        selected_on=NOTHING,
        extra_supervision="labels of texture and background",
        trains_on=("biased",),
        network=UnlearningCNN,
        objective=unlearn,
    ),
    Recipe(
        name="jtt",
        about="plain training twice; what the first network gets wrong counts a hundredfold",
        source="Liu et al., ICML 2021, https://arxiv.org/abs/2107.09044",
        selected_on=NOTHING,
        trains_on=("biased",),
        sampling=upweighted_errors,
        # The authors' identification model for Waterbirds is that of epoch 60 of 300; its steps
        # come on top of the budget, as theirs do.
        identification_model=replace(ERM, epochs=ERM.epochs / 5),
    ),
    Recipe(
        name="gan",
        about="plain training on biased images and those of a GAN without factors",
        source=f"{CGN_SOURCE}, a baseline there",
        selected_on=NOTHING,
        trains_on=("biased", "generated"),
    ),
    Recipe(
        name="cgn",
        about="one network trained on counterfactual images of the CGN and nothing else",
        source=f"{CGN_SOURCE}, as its code trains",
        selected_on=FREE_FACTORS,
        trains_on=("counterfactual",),
    ),
    Recipe(
        name="cgn+original",
        about="one network trained on biased and counterfactual images",
        source=CGN_SOURCE,
        selected_on=FREE_FACTORS,
        trains_on=("biased", "counterfactual"),
    ),
    Recipe(
        name="cgn-abduct",
        about="one network trained on counterfactuals of the biased images themselves",
        source=f"{CGN_SOURCE}, with abduction: Pearl, Causality, 2009",
        selected_on=FREE_FACTORS,
        trains_on=("abducted",),
    ),
    Recipe(
        name="cgn-ensemble",
        about="one backbone with a head a factor, on biased and counterfactual images",
        source=CGN_SOURCE,
        selected_on=FREE_FACTORS,
        trains_on=("biased", "counterfactual"),
        network=InvariantEnsemble,
        objective=invariant,
    ),
    PHOTOGRAPHS,
    replace(
        PHOTOGRAPHS,
        name="recombined-ensemble",
        about="the same ResNet with a head a factor, on biased images and their recombined parts",
        source=f"{CGN_SOURCE}, with masks and inpainting in place of its mechanisms",
        extra_supervision="where the objects are in the training images",
        trains_on=("biased", "recombined"),
        network=replace(NARROW_RESNET, heads=True, head_weights=NO_BACKGROUND),
        objective=invariant,
    ),
    Recipe(
        name="oracle",
        about="the ceiling: trained on true images with independent factors",
        source="a ceiling",
        selected_on=FREE_FACTORS,
        extra_supervision="true images with independent factors",
        trains_on=("unbiased",),
    ),
    Recipe(
        name="oracle-mask",
        about="the ceiling of shape: true object masks in place of all images",
        source="a ceiling",
        selected_on=NOTHING,
        extra_supervision="true object masks, in the tests too",
        trains_on=("biased",),
        input_kind="masks",
    ),
)

# Measures counterfactuals; it stands in no leaderboard.
FACTOR_CLASSIFIER = Recipe(
    name="factor-classifier",
    about="a head a factor, trained on true images with independent factors",
    source="Monteiro et al., ICLR 2023 (effectiveness), https://arxiv.org/abs/2303.01274",
    extra_supervision="true images with independent factors",
    trains_on=("unbiased",),
    network=InvariantEnsemble,
    objective=every_factor,
    selected_on=FREE_FACTORS,
    steps=400,
    least_images=1,
)

# Confirms counterfactuals; it stands in no leaderboard either.
CHECK = replace(
    FACTOR_CLASSIFIER,
    name="check",
    about="a head a factor, trained on counterfactuals of a CGN and parts of real images",
    source="Razavi et al., NeurIPS 2019, https://arxiv.org/abs/1906.00446",
    extra_supervision="",
    trains_on=("counterfactual",),
)

MODELS = {recipe.name: recipe for recipe in RECIPES}


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
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("schedule", SCHEDULES), ("augment", AUGMENTATIONS)):
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
        ensemble = Recipe(
            name="ensemble",
            about="one backbone with a head a factor, on real and counterfactual images",
            source=CGN_SOURCE,
            trains_on=("biased", "recombined"),
            network=Backbone(self.backbone, heads=True),
            objective=invariant,
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
        )
