from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import chi2
from torch import Tensor, nn

from benchmarks.core.evaluate import evaluate, score_suite
from benchmarks.core.statistics import Estimate
from benchmarks.core.suite import EMBEDDED, Suite
from benchmarks.records.compare import compare
from benchmarks.records.predictions import Run, load, save
from benchmarks.suites.attribution import ATTRIBUTIONS as ATTRIBUTION_SUITES
from benchmarks.suites.factorial import (
    FLOOR,
    cell_name,
    cells,
    class_log_odds,
    class_probability,
    effect_weights,
    flip_rate,
    interaction,
    main_effect,
    shapley_value,
    shapley_weights,
    share,
    total_effect,
)
from benchmarks.worlds.mnists import DOUBLE_OBJECT, JITTERED, _digits_of
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet

ATTRIBUTIONS = {suite.name: suite for suite in ATTRIBUTION_SUITES}
every_world = pytest.mark.parametrize("name", ATTRIBUTIONS)


def varied(suite: Suite) -> list[str]:
    return [s.variant.removeprefix("do_") for s in suite.scores if s.metric == "main_effect"]


def answers(suite: Suite, module: nn.Module, sets: dict[str, ImageSet]) -> pd.DataFrame:
    """Evaluate as the command does."""
    found, _ = evaluate(
        module, sets, reference_variant=suite.reference_variant, columns=suite.columns
    )
    return found


@pytest.fixture(scope="module")
def drawn() -> dict[str, dict[str, ImageSet]]:
    return {name: suite.variants(EMBEDDED) for name, suite in ATTRIBUTIONS.items()}


def design(suite: Suite) -> dict[str, frozenset[str]]:
    """The factors that each variant changes."""
    return {cell_name(cell, varied(suite)): cell for cell in cells(varied(suite))}


@every_world
def test_each_combination_of_factors_is_changed_in_every_image_and_no_other_is(
    name: str, drawn: dict[str, dict[str, ImageSet]]
) -> None:
    base, changes = drawn[name]["base"], design(ATTRIBUTIONS[name])
    assert set(drawn[name]) == set(changes)
    for variant, changed in changes.items():
        images = drawn[name][variant]
        assert images.ids.equal(base.ids)
        for factor in Factors._fields:
            same = getattr(images.factors, factor) == getattr(base.factors, factor)
            assert not same.any() if factor in changed else same.all(), (variant, factor)


@every_world
def test_all_factors_are_of_one_class_before_anything_is_changed(
    name: str, drawn: dict[str, dict[str, ImageSet]]
) -> None:
    factors = drawn[name]["base"].factors
    for factor in varied(ATTRIBUTIONS[name]):
        assert getattr(factors, factor).equal(factors.shape)


@every_world
def test_what_a_factor_is_changed_to_is_uniform_over_the_other_classes(
    name: str, drawn: dict[str, dict[str, ImageSet]]
) -> None:
    n_classes = len(ATTRIBUTIONS[name].world.classes)
    before = drawn[name]["base"].factors.shape
    shifts = []
    for factor in varied(ATTRIBUTIONS[name]):
        after = getattr(drawn[name][f"do_{factor}"].factors, factor)
        shifts.append((after - before) % n_classes)
        counts = torch.bincount(before * n_classes + after, minlength=n_classes**2)
        expected = torch.bincount(before, minlength=n_classes).double() / (n_classes - 1)
        others = ~torch.eye(n_classes, dtype=torch.bool)
        observed = counts.view(n_classes, n_classes)
        squares = ((observed - expected[:, None]) ** 2 / expected[:, None])[others].sum()
        freedom = n_classes * (n_classes - 2)
        assert chi2.sf(squares.item(), freedom) > 0.001, (factor, squares)
    first, second = shifts[:2]
    assert abs((first == second).float().mean() - 1 / (n_classes - 1)) < 0.04  # independent


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
        for score, (value, *_) in scores.items():
            if score.metric.endswith("_share"):
                expected = float(score.metric.removeprefix("log_odds_") == f"{seen}_share")
            elif score.metric == "log_odds_shapley_value":
                expected = 0 if score.variant != f"do_{seen}" else value
            elif score.metric == "log_odds_total_effect":
                expected = value
            else:
                expected = float(score.variant == f"do_{seen}" or score.metric == "total_effect")
            assert value == pytest.approx(expected, abs=1e-9), (seen, score.key)


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
    """Evaluate; returns what looks a score of a variant up."""
    predictions = answers(suite, module, sets)
    found = {(s.variant, s.metric): each for s, each in score_suite(suite, predictions).items()}
    return lambda variant, metric: found[variant, metric]


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
    assert found("do_texture", "flip_rate").low > 0.9
    assert found("do_shape", "flip_rate").high < 0.1
    assert abs(found("do_shape", "shapley_value").value) < 0.05
    if not on_black:  # jitter leaves the palette's distances, and so the probabilities, vague
        assert found("do_texture", "main_effect").low > 0.8
        assert found("base", "texture_share").low > 0.9


@pytest.mark.parametrize("name", ["attribution-colored-mnist", "attribution-wildlife-mnist"])
def test_a_model_that_sees_only_masks_flips_with_shape_and_never_with_texture_or_background(
    name: str, drawn: dict[str, dict[str, ImageSet]]
) -> None:
    suite = ATTRIBUTIONS[name]
    sets = {variant: images.as_masks() for variant, images in drawn[name].items()}
    found = scores_of(suite, ReadsMask(suite.world.train(EMBEDDED)), sets)
    assert found("do_shape", "flip_rate").low > 0.95
    for metric in ("flip_rate", "main_effect", "shapley_value"):
        assert found("do_shape", metric).low > 0.85  # one digit in fifty is taken for another
        for factor in set(varied(suite)) - {"shape"}:
            assert found(f"do_{factor}", metric).value == 0
    assert found("base", "shape_share").value == 1


def test_colored_mnist_has_no_background_to_act_on(drawn: dict[str, dict[str, ImageSet]]) -> None:
    assert set(drawn["attribution-colored-mnist"]) == {
        *("base", "do_shape", "do_texture", "do_shape_texture")
    }


TWO = ["shape", "texture"]
THREE = ["shape", "texture", "background"]
Rule = Callable[[frozenset[str]], float]  # from the factors that are unchanged to a probability


def table(rule: Rule, factors: Sequence[str] = THREE, n: int = 4) -> pd.DataFrame:
    """Predictions of a model whose probability of the class depends on what is unchanged."""
    return pd.concat(
        pd.DataFrame(
            {
                "variant": cell_name(cell, factors),
                "id": range(n),
                "prediction": int(rule(frozenset(factors) - cell) > 0.5),
                "p_class": rule(frozenset(factors) - cell),
                "log_odds": 10 * rule(frozenset(factors) - cell),
            }
        )
        for cell in cells(factors)
    )


def additive(kept: frozenset[str]) -> float:
    return 0.1 + 0.5 * ("shape" in kept) + 0.2 * ("texture" in kept) + 0.1 * ("background" in kept)


def both_needed(kept: frozenset[str]) -> float:
    return float({"shape", "texture"} <= kept)


def either_is_enough(kept: frozenset[str]) -> float:
    return float(bool({"shape", "texture"} & kept))


@pytest.mark.parametrize(
    ("rule", "values", "main", "of_both"),
    [
        (additive, (0.5, 0.2, 0.1), (0.5, 0.2, 0.1), 0),
        (both_needed, (0.5, 0.5, 0), (0.5, 0.5, 0), 1),
        (either_is_enough, (0.5, 0.5, 0), (0.5, 0.5, 0), -1),
        (lambda kept: float(len(kept) == 3), (1 / 3,) * 3, (0.25,) * 3, 0.5),
    ],
)
def test_effects_and_interactions_of_known_rules(
    rule: Rule, values: tuple[float, ...], main: tuple[float, ...], of_both: float
) -> None:
    predictions = table(rule)
    total = total_effect(THREE).compute(predictions).value
    for factor, value, average in zip(THREE, values, main, strict=True):
        assert shapley_value(factor, THREE).compute(predictions).value == pytest.approx(value)
        assert main_effect(factor, THREE).compute(predictions).value == pytest.approx(average)
        found = share(factor, THREE).compute(predictions).value
        assert found == pytest.approx(value / total)
    found = interaction(TWO, THREE).compute(predictions).value
    assert found == pytest.approx(of_both)


def test_the_interaction_of_three_is_what_no_pair_explains() -> None:
    def rule(kept: frozenset[str]) -> float:
        return float(len(kept) == 3)

    assert interaction(THREE, THREE).compute(table(rule)).value == pytest.approx(1)
    assert interaction(THREE, THREE).compute(table(both_needed)).value == 0


@pytest.mark.parametrize("factors", [TWO, THREE])
def test_shapley_values_add_up_to_the_total_effect_of_any_model(factors: list[str]) -> None:
    weights = pd.DataFrame([shapley_weights(factor, factors) for factor in factors]).sum()
    total = {cell: float(not cell) - float(len(cell) == len(factors)) for cell in cells(factors)}
    assert weights.to_dict() == pytest.approx(total)


@pytest.mark.parametrize("factors", [TWO, THREE])
def test_effects_and_the_mean_give_every_cell_back(factors: list[str]) -> None:
    matrix = [list(effect_weights(list(of), factors).values()) for of in cells(factors)[1:]]
    assert np.linalg.matrix_rank(np.array(matrix)) == 2 ** len(factors) - 1


@pytest.mark.parametrize("column", ["p_class", "log_odds"])
def test_a_share_is_hidden_below_the_floor_of_the_total_effect(column: str) -> None:
    for total, is_hidden in ((FLOOR - 0.001, True), (FLOOR, False)):

        def rule(kept: frozenset[str], total: float = total) -> float:
            return 0.1 + total * ("shape" in kept)

        predictions = table(rule)
        assert math.isnan(share("shape", THREE, column).compute(predictions).value) == is_hidden
        assert total_effect(THREE).compute(predictions).value == pytest.approx(total)


def test_log_odds_do_not_saturate_where_probabilities_do() -> None:
    logits = torch.tensor([[40.0, 0.0], [80.0, 0.0]], dtype=torch.float64)
    labels = Factors.aligned(torch.zeros(2, dtype=torch.int64))
    assert class_probability(logits, labels).tolist() == [1, 1]
    assert class_log_odds(logits, labels).tolist() == pytest.approx([40, 80])


def test_digits_of_a_class_are_drawn_uniformly_and_a_class_without_any_is_named() -> None:
    labels = np.repeat(np.arange(10), 3)
    drawn = _digits_of(labels, np.full(3_000, 4), np.random.default_rng(0))
    assert (labels[drawn] == 4).all()
    assert np.bincount(drawn, minlength=30)[12:15].min() > 900
    with pytest.raises(ValueError, match="no digit 9 to change others to"):
        _digits_of(labels[:27], labels[:27], np.random.default_rng(0))


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
    with pytest.raises(ValueError, match="lack p_class; run the model on the suite again"):
        main_effect("texture", TWO).compute(stored.drop(columns="p_class"))


def test_an_effect_of_two_models_is_compared_image_by_image() -> None:
    generator = np.random.default_rng(0)
    ease = 0.4 + 0.5 * generator.random(300)
    tables = []
    for values in (ease, 0.9 * ease):
        blank = table(lambda kept: float("shape" in kept), n=300)
        tables.append([blank.assign(p_class=blank["p_class"] * np.tile(values, 8))])
    found = compare(main_effect("shape", THREE), *tables)
    assert found.value == pytest.approx(0.1 * ease.mean(), abs=1e-3)
    assert found.high - found.low < 0.01
    assert found.p_value < 0.001
    assert found.n == 300


def test_images_that_are_missing_in_a_cell_are_an_error() -> None:
    predictions = table(additive)
    lacking = predictions[(predictions["variant"] != "do_shape") | (predictions["id"] > 0)]
    for score in (flip_rate("shape"), main_effect("shape", THREE)):
        with pytest.raises(ValueError, match="base and do_shape are not predictions on the same"):
            score.compute(lacking)


def test_variants_in_another_order_than_the_unchanged_one_are_refused(
    drawn: dict[str, dict[str, ImageSet]],
) -> None:
    sets = dict(drawn["attribution-colored-mnist"])
    sets["do_shape"] = sets["do_shape"].select(torch.arange(999, -1, -1))
    with pytest.raises(ValueError, match="do_shape and base do not show the same objects"):
        evaluate(ReadsColour(JITTERED, on_black=True), sets, reference_variant="base")


def test_order_of_the_rows_does_not_count() -> None:
    predictions = table(additive)
    shuffled = predictions.sample(frac=1, random_state=np.random.RandomState(0))
    for score in (share("texture", THREE), flip_rate("shape")):
        assert score.compute(shuffled) == score.compute(predictions)
