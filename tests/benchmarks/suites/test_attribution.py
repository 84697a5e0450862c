from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.core.evaluate import evaluate, score_suite
from benchmarks.core.statistics import Estimate
from benchmarks.core.suite import EMBEDDED, Suite
from benchmarks.records.compare import compare
from benchmarks.records.predictions import Run, load, save
from benchmarks.suites.attribution import ATTRIBUTIONS as ATTRIBUTION_SUITES
from benchmarks.suites.attribution import effect, flip_rate, shape_share, true_class_change
from benchmarks.worlds.mnists import DOUBLE_OBJECT, JITTERED
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet

ATTRIBUTIONS = {suite.name: suite for suite in ATTRIBUTION_SUITES}
every_world = pytest.mark.parametrize("name", ATTRIBUTIONS)


def varied(suite: Suite) -> list[str]:
    return [s.variant.removeprefix("do_") for s in suite.scores if s.metric == "effect"]


def answers(suite: Suite, module: nn.Module, sets: dict[str, ImageSet]) -> pd.DataFrame:
    """Evaluate as the command does."""
    found, _ = evaluate(
        module, sets, reference_variant=suite.reference_variant, columns=suite.columns
    )
    return found


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
        self.logits = 100 * nn.functional.one_hot(labels.clamp(min=0), n_classes).float()
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
        scores = score_suite(suite, answers(suite, module, drawn[name]))
        for score, estimate in scores.items():
            if score.metric == "true_class_change" and seen != "shape":
                # A surface of the true class, before or after, is what moves it.
                assert (estimate.value > 0) == (score.variant == f"do_{seen}")
                continue
            own = score.variant == f"do_{seen}"
            expected = float(seen == "shape" if score.metric == "shape_share" else own)
            assert estimate.value == expected, (seen, score.key)


class ReadsColour(nn.Module):
    """Sees an image as colours of a palette and how many pixels have them, never where they are."""

    def __init__(self, palette: NDArray[np.int64], *, on_black: bool) -> None:
        super().__init__()
        self.palette = torch.from_numpy(palette / 255).float()
        self.on_black = on_black

    def forward(self, images: Tensor) -> Tensor:
        if self.on_black:  # the brightest pixels have the digit's full colour
            return -torch.cdist(images.amax(dim=(2, 3)), self.palette)
        nearest = torch.cdist(images.flatten(2).mT, self.palette).argmin(dim=2)
        counts = nn.functional.one_hot(nearest, len(self.palette)).sum(dim=1).float()
        # The digit's colour is the second most common one; the background's is the first.
        return counts - 1_000 * nn.functional.one_hot(counts.argmax(dim=1), counts.shape[1])


class ReadsMask(nn.Module):
    """Names the class of the most similar true mask of the training images."""

    def __init__(self, images: ImageSet) -> None:
        super().__init__()
        masks = next(images.as_masks().batches(len(images)))[0]
        self.known, self.labels = masks[:, 0].flatten(1), images.factors.shape

    def forward(self, images: Tensor) -> Tensor:
        nearest = torch.cdist(images[:, 0].flatten(1), self.known).argmin(dim=1)
        return 20 * nn.functional.one_hot(self.labels[nearest], 10).float()


def scores_of(
    suite: Suite, module: nn.Module, sets: dict[str, ImageSet]
) -> Callable[[str, str], Estimate]:
    """Evaluate; returns what looks a score of a factor up."""
    predictions = answers(suite, module, sets)
    found = {(s.variant, s.metric): each for s, each in score_suite(suite, predictions).items()}
    return lambda factor, metric: found[f"do_{factor}", metric]


@pytest.mark.parametrize(
    ("name", "palette", "on_black"),
    [
        ("attribution-colored-mnist", JITTERED, True),
        ("attribution-double-colored-mnist", DOUBLE_OBJECT, False),
    ],
)
def test_a_model_that_sees_only_colour_flips_with_texture_and_not_with_shape(
    name: str, palette: NDArray[np.int64], on_black: bool, drawn: dict[str, dict[str, ImageSet]]
) -> None:
    module = ReadsColour(palette, on_black=on_black)
    found = scores_of(ATTRIBUTIONS[name], module, drawn[name])
    assert found("texture", "flip_rate").low > 0.9
    assert found("shape", "flip_rate").high < 0.1
    assert abs(found("shape", "effect").value) < 0.05
    if not on_black:  # jitter leaves the palette's distances, and so the probabilities, vague
        assert found("texture", "effect").low > 0.8
        assert found("texture", "true_class_change").low > found("shape", "true_class_change").high


@pytest.mark.parametrize("name", ["attribution-colored-mnist", "attribution-wildlife-mnist"])
def test_a_model_that_sees_only_masks_flips_with_shape_and_never_with_texture_or_background(
    name: str, drawn: dict[str, dict[str, ImageSet]]
) -> None:
    suite = ATTRIBUTIONS[name]
    sets = {variant: images.as_masks() for variant, images in drawn[name].items()}
    found = scores_of(suite, ReadsMask(suite.world.train(EMBEDDED)), sets)
    assert found("shape", "flip_rate").low > 0.95
    for metric in ("flip_rate", "effect", "true_class_change"):
        assert found("shape", metric).low > 0.85  # one digit in fifty is taken for another
        for factor in set(varied(suite)) - {"shape"}:
            assert found(factor, metric).value == 0


def test_colored_mnist_has_no_background_to_act_on(drawn: dict[str, dict[str, ImageSet]]) -> None:
    assert list(drawn["attribution-colored-mnist"]) == ["base", "do_shape", "do_texture"]


def table(
    base: list[int],
    changed: list[int],
    before: Sequence[float] = (0,),
    after: Sequence[float] = (0,),
) -> pd.DataFrame:
    """Predictions before and after the texture is changed from class 1 to class 2."""
    common = {"id": range(len(base)), "shape": 0, "background": 0, "p_shape": 0.1}
    one, two = (
        pd.DataFrame(
            common
            | {"variant": variant, "texture": label, "prediction": answers}
            | {"p_texture": np.resize(p, len(base))}
        )
        for variant, label, answers, p in (
            ("base", 1, base, before),
            ("do_texture", 2, changed, after),
        )
    )
    return pd.concat([one, two])


def test_flip_rate_and_effect_have_known_values() -> None:
    predictions = table([1, 1, 1, 0], [2, 1, 0, 0], [1, 0.5], [0.25, 0.75])
    assert flip_rate("texture").compute(predictions).value == 0.5
    assert effect("texture").compute(predictions).value == pytest.approx(0.75 - 0.5)
    assert true_class_change("texture").compute(predictions).value == 0


def test_the_change_of_the_true_class_counts_losses_and_gains_alike() -> None:
    predictions = table([1, 1], [2, 2])
    predictions["p_shape"] = [0.1, 0.9, 0.4, 0.5]
    assert true_class_change("texture").compute(predictions).value == pytest.approx(0.35)


def test_scores_are_the_same_before_and_after_probabilities_are_rounded_for_a_file(
    tmp_path: Path, drawn: dict[str, dict[str, ImageSet]]
) -> None:
    suite = ATTRIBUTIONS["attribution-colored-mnist"]
    sets = {variant: images.select(slice(200)) for variant, images in drawn[suite.name].items()}
    predictions = answers(suite, ReadsColour(JITTERED, on_black=True), sets)
    run = Run(
        suite=suite.name,
        protocol=suite.protocol,
        source="embedded",
        data_sha256="d",
        model="m",
        weights_sha256="w",
        seed=0,
    )
    save(predictions, tmp_path / "a.parquet", run)
    stored, _ = load(tmp_path / "a.parquet")
    assert score_suite(suite, stored) == score_suite(suite, predictions)
    with pytest.raises(ValueError, match="lack p_texture; run the model on the suite again"):
        effect("texture").compute(stored.drop(columns="p_texture"))


def test_an_effect_of_two_models_is_compared_pair_by_pair() -> None:
    generator = np.random.default_rng(0)
    ease = generator.random(300)
    one, other = (table([1] * 300, [2] * 300, list(0.5 + p / 2), [0]) for p in (ease, 0.9 * ease))
    found = compare(effect("texture"), [one], [other])
    assert found.value == pytest.approx(0.05 * ease.mean(), abs=1e-4)
    assert 0.024 < found.low < found.value < found.high < 0.03
    assert found.p_value < 0.001
    assert found.n == 300


def test_the_share_of_shape_is_undefined_where_nothing_has_an_effect() -> None:
    predictions = table([0, 0], [0, 0])
    both = pd.concat([predictions, predictions.assign(variant="do_shape").iloc[2:]])
    both.loc[both["variant"] == "do_shape", "shape"] = 1
    assert math.isnan(shape_share(["shape", "texture"]).compute(both).value)


def test_images_that_are_missing_after_the_change_are_an_error() -> None:
    predictions = table([1, 1], [2, 1]).iloc[:3]
    with pytest.raises(ValueError, match="not predictions on the same objects"):
        flip_rate("texture").compute(predictions)


def test_variants_in_another_order_than_the_unchanged_one_are_refused(
    drawn: dict[str, dict[str, ImageSet]],
) -> None:
    sets = dict(drawn["attribution-colored-mnist"])
    sets["do_shape"] = sets["do_shape"].select(torch.arange(999, -1, -1))
    with pytest.raises(ValueError, match="do_shape and base do not show the same objects"):
        evaluate(ReadsColour(JITTERED, on_black=True), sets, reference_variant="base")


def test_order_of_the_rows_does_not_count() -> None:
    predictions = table([1, 1, 1, 0], [2, 1, 0, 0], [1, 0.5], [0.25, 0.75])
    shuffled = predictions.sample(frac=1, random_state=np.random.RandomState(0))
    assert effect("texture").compute(shuffled) == effect("texture").compute(predictions)
