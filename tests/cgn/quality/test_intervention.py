from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_effectiveness import CONFIG, N_CLASSES, Plain, painted, read, rectangles
from torch import Tensor

from cgn.counterfactuals.generators import Paste, SegmentingCGN, Workspace
from cgn.counterfactuals.recombination import decompose
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet, InMemory
from cgn.models.cgn import CGN
from cgn.quality.effectiveness import sample_quality
from cgn.quality.intervention import (
    Reference,
    act,
    free_counterfactuals,
    intervention_quality,
    minimality,
)
from cgn.segmentation.by_colour import segment_by_colour

WORK = Workspace(torch.device("cpu"), Path("never-written"))
ACTIONS = ("do_texture", "do_background")


def given(cgn: CGN, images: ImageSet, masks: Tensor) -> SegmentingCGN:
    """Has the masks of the images that it is given first, and finds those of others by colour."""

    def segmentation(others: ImageSet) -> Tensor:
        if others.pixels.equal(images.pixels):
            return masks
        return segment_by_colour(others.pixels, others.factors.shape)

    return SegmentingCGN(cgn, WORK, segmentation)


class Careless:
    """Paints every pixel a little brighter, whatever it is asked for."""

    def intervene(self, images: ImageSet, factors: Factors, *, seed: int) -> ImageSet:
        return replace(images, reader=InMemory(images.pixels + 1))


@pytest.fixture
def images() -> ImageSet:
    return painted(Factors.aligned(torch.arange(40) % N_CLASSES))


def exact(images: ImageSet) -> dict[str, ImageSet]:
    """The true counterfactuals: the next class's surface, or background."""
    other = (images.factors.shape + 1) % N_CLASSES
    return {
        f"do_{factor}": painted(images.factors._replace(**{factor: other}))
        for factor in ("texture", "background")
    }


def features(images: Tensor) -> Tensor:
    """Gray levels of the object and of what is behind it."""
    return images[:, 0, 7, [0, 4]]


REFERENCE = Reference(
    painted(Factors.independent(200, N_CLASSES, torch.Generator().manual_seed(1))), features
)


def measured(
    generator: SegmentingCGN | Careless | Paste,
    images: ImageSet,
    truth: Callable[[ImageSet], dict[str, ImageSet]] = exact,
) -> dict[str, float]:
    masks = rectangles(images.factors.shape)
    return intervention_quality(
        generator, images, truth(images), REFERENCE, true_masks=masks, n_classes=N_CLASSES
    )


def plain(images: ImageSet, masks: Tensor | None = None) -> SegmentingCGN:
    return given(
        Plain(CONFIG), images, rectangles(images.factors.shape) if masks is None else masks
    )


def test_perfect_abduction_has_no_error_at_all(images: ImageSet) -> None:
    scores = measured(plain(images), images)
    assert scores["mask_iou"] == scores["mask_iou_worst_class"] == 1
    assert scores["composition"] == scores["composition_10"] == 0
    for action in ACTIONS:
        assert scores[f"{action}_error"] == 0
        assert scores[f"{action}_untouched"] > 0


def test_a_mask_that_was_found_too_small_costs_overlap_and_adds_error(images: ImageSet) -> None:
    masks = rectangles(images.factors.shape)
    half = masks.clone()
    half[:, :, 8:] = False
    half[images.factors.shape != 0] = masks[images.factors.shape != 0]
    scores = measured(plain(images, half), images)
    assert scores["mask_iou_worst_class"] == pytest.approx(0.5)
    assert scores["mask_iou"] == pytest.approx(0.9)
    assert scores["composition"] == 0
    assert 0 < scores["do_texture_error"] < scores["do_texture_untouched"]


def test_an_action_and_its_reverse_give_the_image_back_where_the_object_is_found_again(
    images: ImageSet,
) -> None:
    scores = measured(plain(images), images)
    for action in ACTIONS:
        assert scores[f"{action}_reversibility"] < 0.1 * scores[f"{action}_untouched"]


def test_without_a_known_truth_there_is_no_error_but_all_the_rest(images: ImageSet) -> None:
    scores = measured(plain(images), images, lambda images: {})
    assert not [name for name in scores if name.endswith(("_error", "_untouched"))]
    assert {f"{action}_minimality" for action in ACTIONS} <= scores.keys()


def test_ten_null_interventions_add_up_what_each_of_them_changes(images: ImageSet) -> None:
    scores = measured(Careless(), images)
    assert scores["composition"] == pytest.approx(1 / 255, abs=1e-4)
    assert scores["composition_10"] == pytest.approx(10 / 255, abs=1e-4)
    assert "mask_iou" not in scores  # it segments nothing


def test_minimality_of_the_truth_and_of_no_change_at_all() -> None:
    # Real images of the old label lie at 0 to 3 from the image, those of the new one at 4 to 7.
    old, new = torch.arange(4.0)[None], torch.arange(4.0, 8.0)[None]
    truth, nothing, far = (
        minimality(torch.tensor([distance]), new, old).exp().item() for distance in (3.5, 0.0, 9.0)
    )
    e = torch.e
    assert truth == pytest.approx(1)
    assert nothing == pytest.approx(0.8 + 0.2 * e)  # all of the old label are as far
    assert far == pytest.approx(0.8 * e + 0.2)  # all of the new label are nearer
    assert minimality(torch.tensor([5.0]), new, old).exp().item() == pytest.approx(
        0.8 * e**0.5 + 0.2
    )


def test_counterfactuals_with_free_labels_have_them(images: ImageSet) -> None:
    free = free_counterfactuals(plain(images), images, 100, n_classes=N_CLASSES, seed=3)
    assert free.factors.shape.equal(images.factors.shape[torch.arange(100) % 40])
    scores = sample_quality(free.select(slice(40)), read, n_classes=N_CLASSES)
    for factor in Factors._fields:
        assert scores[f"{factor}_effectiveness"] == 1


def test_a_factor_without_labels_stays_without(images: ImageSet) -> None:
    black = replace(images, factors=images.factors.only(("shape", "texture")))
    free = free_counterfactuals(plain(black), black, 50, n_classes=N_CLASSES, seed=3)
    assert free.factors.known == ("shape", "texture")
    assert not [name for name in measured(plain(black), black) if "background" in name]


def test_an_intervention_that_loses_images_is_refused(images: ImageSet) -> None:
    class Loses:
        def intervene(self, images: ImageSet, factors: Factors, *, seed: int) -> ImageSet:
            return images.select(slice(3))

    with pytest.raises(ValueError, match=r"on 40 images of \(16, 16\) pixels returned 3"):
        act(Loses(), images, images.factors, seed=0)


def test_copy_and_paste_with_true_masks_makes_exact_counterfactuals_of_plain_colours(
    images: ImageSet,
) -> None:
    assert images.masks is not None
    large = images.select(images.factors.shape >= 2)  # others have no square to give
    assert large.masks is not None
    paste = Paste(decompose(large, large.masks > 0), N_CLASSES, WORK, true_masks=True)
    swapped = torch.where(large.factors.shape == 4, 2, large.factors.shape + 1)
    for factor in ("texture", "background"):
        factors = large.factors._replace(**{factor: swapped})
        changed = act(paste, large, factors, seed=0)
        assert changed.pixels.equal(painted(factors).pixels)
