"""Recipes: network, training images and objective, each a row of the leaderboards."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from torch import nn

from classifiers.data import (
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
from classifiers.schedules import Schedule, adamw_one_cycle

PHOTOGRAPH_STEPS = 400  # the one budget of all recipes for photographs
# For photographs of 64 pixels: the small CNN compares places, which only drawn objects keep to.
NARROW_RESNET = Backbone(
    "timm:resnet10t", (("channels", (32, 64, 128, 256)), ("stem_type", "deep"), ("stem_width", 16))
)


# What settings are chosen by: images of the training split that are held out of the fit, painted
# with free factors, as the test images are (oracle selection, in the terms of Gulrajani and
# Lopez-Paz, ICLR 2021), or as biased as the training images; or nothing.
FREE_FACTORS, BIASED_VALIDATION, NOTHING = "free factors", "biased validation", "nothing"
TRUE_MASKS = "true masks"  # of training images: what the settings of the segmentation were held to
SELECTION_RULES = (FREE_FACTORS, BIASED_VALIDATION, TRUE_MASKS, NOTHING)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a classifier is fitted.

    Attributes:
        name: Its name on the command line and in results.
        about: One sentence for lists of models.
        source: Who proposed it, and where.
        extra_supervision: What it knows beyond the class of biased images, in words; empty for
            nothing.
        trains_on: Names of the sets it sees: "biased", "unbiased" (true images with independent
            factors), and sets of generators: "counterfactual", "abducted" (counterfactuals of
            training images), "pasted" and "recombined" (parts of different training images),
            "generated" (by a GAN) and their variants.
        input_kind: The images of these sets and of the tests, or their true masks, which the
            caller of `fit` passes in place of them.
        network: From number of classes and image size in pixels to a fresh network.
        objective: What it minimises.
        nuisances: Of "texture" and "background", those that are taken to tell nothing of the class
            where the join of an ensemble's heads is learned; empty for other networks, and for a
            join that is not learned.
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
    nuisances: tuple[str, ...] = ()
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


def with_nuisances(
    ensemble: Recipe, with_mean: Callable[[int, int], nn.Module]
) -> tuple[Recipe, Recipe, Recipe]:
    """Return an ensemble under three assumptions on what tells nothing of the class.

    Returns:
        The ensemble itself, to which texture and background are nuisances; `NAME:background`, to
        which only the background is; and `NAME:paper`, of networks whose heads are averaged.
    """
    learned = replace(
        ensemble,
        about=f"{ensemble.about}; texture and background are nuisances",
        nuisances=("texture", "background"),
    )
    background = replace(
        learned,
        name=f"{ensemble.name}:background",
        about=f"{ensemble.about}; only the background is a nuisance",
        nuisances=("background",),
    )
    paper = replace(
        ensemble,
        name=f"{ensemble.name}:paper",
        about=f"{ensemble.about}; the mean of the heads answers",
        network=with_mean,
    )
    return learned, background, paper


PASTE_SOURCE = "Xiao et al., ICLR 2021, https://arxiv.org/abs/2006.09994 (mixed backgrounds)"
CGN_SOURCE = "Sauer and Geiger, ICLR 2021, https://arxiv.org/abs/2101.06046"

ERM = Recipe(
    name="erm",
    about="plain training on the biased images",
    source="Vapnik, NeurIPS 1991 (empirical risk minimisation)",
    selected_on=NOTHING,
    trains_on=("biased",),
)

CGN = Recipe(
    name="cgn",
    about="one network trained on counterfactual images of the CGN and nothing else",
    source=f"{CGN_SOURCE}, as its code trains",
    selected_on=FREE_FACTORS,
    trains_on=("counterfactual",),
)

ABDUCT = Recipe(
    name="cgn-abduct",
    about="one network trained on counterfactuals of the biased images themselves",
    source=f"{CGN_SOURCE}, with abduction: Pearl, Causality, 2009",
    selected_on=FREE_FACTORS,
    trains_on=("abducted",),
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
    CGN,
    Recipe(
        name="cgn+original",
        about="one network trained on biased and counterfactual images",
        source=CGN_SOURCE,
        selected_on=FREE_FACTORS,
        trains_on=("biased", "counterfactual"),
    ),
    ABDUCT,
    replace(
        ABDUCT,
        name="cgn-abduct:drawn",
        about="the same, with all textures and backgrounds drawn by the CGN",
        trains_on=("abducted:drawn",),
    ),
    replace(
        ABDUCT,
        name="cgn-abduct:borrowed",
        about="the same, with textures and backgrounds of other biased images where they show them",
        trains_on=("abducted:borrowed",),
    ),
    replace(
        CGN,
        name="cgn-end-to-end",
        about="one network trained on images of a CGN that was trained without segmentation",
        trains_on=("end-to-end",),
    ),
    replace(
        ABDUCT,
        name="cgn-end-to-end-abduct",
        about="the same with counterfactuals of biased images, in masks that this CGN taught",
        trains_on=("abducted:end-to-end",),
    ),
    replace(
        CGN,
        name="cgn-released",
        about="one network trained on images of the original authors' published CGN",
        source=f"{CGN_SOURCE}, with their weights",
        extra_supervision="full MNIST, in the training of the published weights",
        trains_on=("released",),
    ),
    replace(
        CGN,
        name="paste",
        about="one network trained on parts of biased images, copied and pasted without a network",
        source=PASTE_SOURCE,
        selected_on=TRUE_MASKS,
        trains_on=("pasted",),
    ),
    replace(
        CGN,
        name="paste:true-masks",
        about="the ceiling of copy and paste: the same with the objects' true masks",
        source=PASTE_SOURCE,
        selected_on=NOTHING,
        extra_supervision="true object masks of the training images",
        trains_on=("pasted:true-masks",),
    ),
    *with_nuisances(
        Recipe(
            name="cgn-ensemble",
            about="one head for each factor, on biased images, samples and their counterfactuals",
            source=CGN_SOURCE,
            selected_on=FREE_FACTORS,
            trains_on=("biased", "counterfactual", "abducted"),
            network=InvariantEnsemble,
            objective=invariant,
        ),
        partial(InvariantEnsemble, join="mean"),
    ),
    PHOTOGRAPHS,
    *with_nuisances(
        replace(
            PHOTOGRAPHS,
            name="recombined-ensemble",
            about="the same ResNet, one head for each factor, on biased images and recombined ones",
            source=f"{CGN_SOURCE}, with masks and inpainting in place of its mechanisms",
            extra_supervision="where the objects are in the training images",
            trains_on=("biased", "recombined"),
            network=replace(NARROW_RESNET, heads=True),
            objective=invariant,
        ),
        replace(NARROW_RESNET, heads=True, join="mean"),
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
