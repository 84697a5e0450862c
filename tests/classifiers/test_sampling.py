from __future__ import annotations

import pytest
import torch

from cgn.data.factors import Factors
from classifiers import MODELS
from classifiers.data import (
    UPWEIGHT,
    balanced_environments,
    balanced_groups,
    uniform,
    upweighted_errors,
)
from classifiers.objectives.debiasing import agrees


@pytest.fixture
def factors() -> Factors:
    """Two hundred images, of which every twentieth has another texture, and some background too."""
    shape = torch.arange(200) % 4
    texture, background = shape.clone(), shape.clone()
    texture[::20] = (shape[::20] + 1) % 4
    background[3::40] = (shape[3::40] + 2) % 4
    return Factors(shape, texture, background)


def test_agreeing_images_have_both_labels_of_their_class_as_far_as_known() -> None:
    shape = torch.tensor([2, 2, 2, 2, 2])
    texture = torch.tensor([2, 1, 2, 1, -1])
    background = torch.tensor([2, 2, 1, 1, 2])
    expected = [True, False, False, False, True]
    assert agrees(Factors(shape, texture, background)).tolist() == expected


def test_environments_are_balanced_and_no_image_is_lost(factors: Factors) -> None:
    index = balanced_environments(factors, None)
    assert set(index.tolist()) == set(range(200))
    assert agrees(factors)[index].double().mean() == 0.5


def test_groups_are_balanced_and_no_image_is_lost(factors: Factors) -> None:
    index = balanced_groups(factors, None)
    assert set(index.tolist()) == set(range(200))
    groups = (2 * factors.shape + agrees(factors).long())[index]
    sizes = groups.bincount()
    assert sizes[sizes > 0].unique().numel() == 1


def test_images_of_a_group_are_repeated_alike(factors: Factors) -> None:
    times = balanced_groups(factors, None).bincount()
    groups = 2 * factors.shape + agrees(factors).long()
    for group in groups.unique():
        of_group = times[groups == group]
        assert of_group.max() - of_group.min() <= 1


@pytest.mark.parametrize("sampling", [balanced_environments, balanced_groups, uniform])
def test_at_correlation_1_with_equal_classes_each_image_is_taken_once(sampling: object) -> None:
    aligned = Factors.aligned(torch.arange(40) % 4)
    assert callable(sampling)
    assert sorted(sampling(aligned, None).tolist()) == list(range(40))


def test_exactly_the_errors_are_upweighted() -> None:
    shape = torch.arange(30) % 3
    predictions = shape.clone()
    predictions[[4, 17]] = (shape[[4, 17]] + 1) % 3
    times = upweighted_errors(Factors.aligned(shape), predictions).bincount()
    expected = torch.ones(30, dtype=torch.int64)
    expected[[4, 17]] = UPWEIGHT
    assert torch.equal(times, expected)


def test_errors_without_a_first_network_are_refused() -> None:
    with pytest.raises(ValueError, match="name one in the recipe"):
        upweighted_errors(Factors.aligned(torch.zeros(3, dtype=torch.int64)), None)


def test_only_recipes_with_a_first_network_upweight_its_errors() -> None:
    for recipe in MODELS.values():
        assert (recipe.identification_model is not None) == (recipe.sampling is upweighted_errors)
