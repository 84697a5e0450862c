from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from benchmarks.attribution import ATTRIBUTIONS, effect, flip_rate, shape_share
from benchmarks.evaluate import evaluate, score_suite
from benchmarks.suite import EMBEDDED, Suite
from cgn.images import Factors, ImageSet

every_world = pytest.mark.parametrize("name", ATTRIBUTIONS)


def varied(suite: Suite) -> list[str]:
    return [s.variant.removeprefix("do_") for s in suite.scores if s.metric == "effect"]


@pytest.fixture(scope="module")
def drawn() -> dict[str, dict[str, ImageSet]]:
    return {name: suite.variants(EMBEDDED) for name, suite in ATTRIBUTIONS.items()}


@every_world
def test_an_intervention_changes_its_own_label_in_every_image_and_no_other(
    name: str, drawn: dict[str, dict[str, ImageSet]]
) -> None:
    base = drawn[name]["base"]
    for factor in varied(ATTRIBUTIONS[name]):
        changed = drawn[name][f"do_{factor}"]
        assert changed.ids.equal(base.ids)
        for other in Factors._fields:
            same = getattr(changed.factors, other) == getattr(base.factors, other)
            assert not same.any() if other == factor else same.all(), (factor, other)


@every_world
def test_factors_are_independent_before_anything_is_changed(
    name: str, drawn: dict[str, dict[str, ImageSet]]
) -> None:
    factors = drawn[name]["base"].factors
    n_classes = len(ATTRIBUTIONS[name].world.classes)
    assert (factors.shape == factors.texture).float().mean() < 2 / n_classes


@every_world
def test_what_is_not_intervened_on_keeps_its_pixels(
    name: str, drawn: dict[str, dict[str, ImageSet]]
) -> None:
    sets = drawn[name]
    masks = sets["base"].masks
    assert masks is not None
    assert torch.equal(masks, sets["do_texture"].masks)  # type: ignore[arg-type]
    # A pixel that the object covers in part is of neither half.
    inside, outside = (
        (nn.functional.max_pool2d(part.float(), 5, 1, 2) == 0).expand(-1, 3, -1, -1)
        for part in (255 - masks, masks)
    )

    def moved(factor: str, where: Tensor) -> float:
        before, after = (sets[each].pixels[where].float() for each in ("base", f"do_{factor}"))
        return (before - after).abs().mean().item()

    assert moved("texture", outside) == 0
    assert moved("texture", inside) > 20
    if "background" in varied(ATTRIBUTIONS[name]):
        assert moved("background", inside) < 0.5  # some glyphs are a little transparent
        assert moved("background", outside) > 20


class Looks(nn.Module):
    """Answers with one factor's label, which it is told through the images' order."""

    def __init__(self, sets: dict[str, ImageSet], factor: str, n_classes: int) -> None:
        super().__init__()
        labels = torch.cat([getattr(images.factors, factor) for images in sets.values()])
        self.logits = nn.functional.one_hot(labels, n_classes).float()
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return self.logits[self.seen - len(images) : self.seen]


@every_world
def test_a_model_that_sees_one_factor_alone_is_moved_by_it_alone(
    name: str, drawn: dict[str, dict[str, ImageSet]]
) -> None:
    suite = ATTRIBUTIONS[name]
    for seen in varied(suite):
        module = Looks(drawn[name], seen, len(suite.world.classes))
        scores = score_suite(suite, evaluate(module, drawn[name])[0])
        for score, estimate in scores.items():
            own = score.variant == f"do_{seen}"
            expected = float(seen == "shape" if score.metric == "shape_share" else own)
            assert estimate.value == expected, (seen, score.key)


def test_a_model_that_sees_only_colour_flips_with_texture_and_not_with_shape(
    drawn: dict[str, dict[str, ImageSet]],
) -> None:
    class Brightest(nn.Module):
        """Tells red, green and blue apart by the brightest pixels, wherever they are."""

        def forward(self, images: Tensor) -> Tensor:
            colour = images.amax(dim=(2, 3))
            return nn.functional.pad(colour, (0, 7))

    sets = drawn["attribution-colored-mnist"]
    predictions, _ = evaluate(Brightest(), sets)
    shape, texture = (flip_rate(f).compute(predictions).value for f in ("shape", "texture"))
    assert shape < 0.1
    assert texture > 5 * shape


def table(base: list[int], changed: list[int]) -> pd.DataFrame:
    """Predictions before and after the texture is changed from class 1 to class 2."""
    common = {"id": range(len(base)), "shape": 0, "background": 0}
    before = pd.DataFrame(common | {"variant": "base", "texture": 1, "prediction": base})
    after = pd.DataFrame(common | {"variant": "do_texture", "texture": 2, "prediction": changed})
    return pd.concat([before, after])


def test_flip_rate_and_effect_have_known_values() -> None:
    predictions = table([1, 1, 1, 0], [2, 1, 0, 0])
    assert flip_rate("texture").compute(predictions).value == 0.5
    assert effect("texture").compute(predictions).value == 0.75 - 0.25


def test_the_share_of_shape_is_undefined_where_nothing_has_an_effect() -> None:
    predictions = table([0, 0], [0, 0])
    both = pd.concat([predictions, predictions.assign(variant="do_shape").iloc[2:]])
    both.loc[both["variant"] == "do_shape", "shape"] = 1
    assert math.isnan(shape_share(["shape", "texture"]).compute(both).value)


def test_images_that_are_missing_after_the_change_are_an_error() -> None:
    predictions = table([1, 1], [2, 1]).iloc[:3]
    with pytest.raises(ValueError, match="not predictions on the same objects"):
        flip_rate("texture").compute(predictions)


def test_order_of_the_rows_does_not_count() -> None:
    predictions = table([1, 1, 1, 0], [2, 1, 0, 0])
    shuffled = predictions.sample(frac=1, random_state=np.random.RandomState(0))
    assert effect("texture").compute(shuffled) == effect("texture").compute(predictions)
