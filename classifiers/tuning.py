"""Candidate settings of every recipe: as many tries, of as many kinds, for each.

A grid has two learning rates and three values of one more setting: the method's own parameter, or
else the weight decay. The first candidate is the recipe as it stands.

Source:
    Gulrajani and Lopez-Paz, In Search of Lost Domain Generalization, ICLR 2021: methods compare
    only under one rule of selection and one number of tries. https://arxiv.org/abs/2007.01434
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

from classifiers.data import UPWEIGHT, upweighted_errors
from classifiers.objectives.debiasing import (
    GROUP_STEP_SIZE,
    IRM_PENALTY_WEIGHT,
    REVERSED_SHARE,
    group_dro,
    irm,
    unlearn,
)
from classifiers.recipes import Recipe

LEARNING_RATE_RATIOS = (1.0, 0.3)
WEIGHT_DECAY_RATIOS = (1.0, 0.1, 10.0)


class Candidate(NamedTuple):
    """One try.

    Attributes:
        settings: What is tried, in words, the same on every machine.
        recipe: The recipe with these settings.
    """

    settings: str
    recipe: Recipe


@dataclass(frozen=True)
class OwnSetting:
    """A parameter of a method, and the values that are tried.

    Attributes:
        name: In words.
        values: The one in use first.
        apply: From a recipe and a value to the recipe with that value.
    """

    name: str
    values: tuple[Any, ...]
    apply: Callable[[Recipe, Any], Recipe]


def _objective(function: Callable[..., Any], parameter: str) -> Callable[[Recipe, Any], Recipe]:
    """Set a parameter of an objective."""
    return lambda recipe, value: replace(recipe, objective=partial(function, **{parameter: value}))


# Sets of counterfactuals of real images, by the share of other images' surfaces in them.
BY_SWAP_SHARE = {0.5: "abducted", 0.0: "abducted:drawn", 1.0: "abducted:borrowed"}
OWN_SETTINGS = {
    "irm": OwnSetting(
        "penalty weight", (IRM_PENALTY_WEIGHT, 10.0, 100.0), _objective(irm, "penalty_weight")
    ),
    "group-dro": OwnSetting(
        "step size", (GROUP_STEP_SIZE, 0.1, 0.001), _objective(group_dro, "step_size")
    ),
    "lntl": OwnSetting(
        "reversed share", (REVERSED_SHARE, 1.0, 0.01), _objective(unlearn, "reversed_share")
    ),
    "jtt": OwnSetting(
        "upweight",
        (UPWEIGHT, 20, 500),
        lambda recipe, value: replace(recipe, sampling=partial(upweighted_errors, times=value)),
    ),
    "cgn-abduct": OwnSetting(
        "share of borrowed surfaces",
        (0.5, 0.0, 1.0),
        lambda recipe, value: replace(recipe, trains_on=(BY_SWAP_SHARE[value],)),
    ),
}
RATIO = OwnSetting(
    "counterfactuals per image", (1.0, 0.5, 2.0), lambda recipe, value: replace(recipe, ratio=value)
)


def own_setting(recipe: Recipe) -> OwnSetting:
    """Return what is tried of a recipe beside its learning rate.

    Example:
        >>> from classifiers.recipes import MODELS
        >>> own_setting(MODELS["irm"]).name, own_setting(MODELS["erm"]).name
        ('penalty weight', 'weight decay')
    """
    if recipe.name in OWN_SETTINGS:
        return OWN_SETTINGS[recipe.name]
    if "biased" in recipe.trains_on and len(recipe.trains_on) > 1:
        return RATIO
    decays = tuple(recipe.weight_decay * ratio for ratio in WEIGHT_DECAY_RATIOS)
    return OwnSetting("weight decay", decays, lambda r, value: replace(r, weight_decay=value))


def candidates(recipe: Recipe, n: int) -> list[Candidate]:
    """List settings to try, the recipe's own first.

    Args:
        recipe: The recipe.
        n: How many.

    Raises:
        ValueError: If the grid has fewer.

    Example:
        >>> from classifiers.recipes import MODELS
        >>> for candidate in candidates(MODELS["erm"], 3):
        ...     print(candidate.settings)
        learning rate 0.005, weight decay 0.05
        learning rate 0.005, weight decay 0.005
        learning rate 0.005, weight decay 0.5
    """
    own = own_setting(recipe)
    grid = [
        (recipe.learning_rate * ratio, value)
        for ratio in LEARNING_RATE_RATIOS
        for value in own.values
    ]
    if not 1 <= n <= len(grid):
        raise ValueError(f"a recipe has between 1 and {len(grid)} candidate settings, got {n}")
    return [
        Candidate(
            f"learning rate {rate:.3g}, {own.name} {value:.3g}",
            own.apply(replace(recipe, learning_rate=rate), value),
        )
        for rate, value in grid[:n]
    ]
