"""Recipes: network, training images and objective, each a row of the leaderboards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from classifiers.networks import InvariantEnsemble, SmallCNN
from classifiers.objectives import Objective, every_factor, invariant, shape_cross_entropy

N_COUNTERFACTUALS = 20_000  # images in a counterfactual training set


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a classifier comes about.

    Attributes:
        name: Its name on the command line and in results.
        about: One sentence for `bench.py list`.
        trains_on: Names of the sets it sees: "biased", "counterfactual", "unbiased".
        network: From number of classes and image size in pixels to a fresh network.
        objective: What it minimises.
        steps: Optimiser steps.
        batch_size: Images from each set in a step.
        learning_rate: The highest of the one-cycle schedule.
        weight_decay: Of AdamW.
    """

    name: str
    about: str
    trains_on: tuple[str, ...]
    network: Callable[[int, int], nn.Module] = SmallCNN
    objective: Objective = shape_cross_entropy
    steps: int = 400
    batch_size: int = 96
    learning_rate: float = 5e-3
    weight_decay: float = 0.05


RECIPES = (
    Recipe(
        name="erm",
        about="plain training on the biased images",
        trains_on=("biased",),
    ),
    Recipe(
        name="cgn",
        about="one network trained on counterfactual images of the CGN and nothing else",
        trains_on=("counterfactual",),
    ),
    Recipe(
        name="cgn-ensemble",
        about="one backbone with a head a factor, on biased and counterfactual images",
        trains_on=("biased", "counterfactual"),
        network=InvariantEnsemble,
        objective=invariant,
        steps=300,
    ),
    Recipe(
        name="oracle",
        about="the ceiling: trained on true images with independent factors",
        trains_on=("unbiased",),
    ),
)

# Measures counterfactuals; it stands in no leaderboard.
FACTOR_CLASSIFIER = Recipe(
    name="factor-classifier",
    about="a head a factor, trained on true images with independent factors",
    trains_on=("unbiased",),
    network=InvariantEnsemble,
    objective=every_factor,
)
