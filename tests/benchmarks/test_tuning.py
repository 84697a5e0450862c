"""Settings are compared on objects of the training split that no fit has seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmarks.core.environment import environment
from benchmarks.core.suite import EMBEDDED
from benchmarks.tuning import Try, append_tries, compare_settings, held_out, read_tries
from benchmarks.worlds.digits import digits
from benchmarks.worlds.mnists import COLORED_MNIST
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet
from classifiers import MODELS
from classifiers.recipes import BIASED_VALIDATION, FREE_FACTORS, Recipe
from classifiers.tuning import candidates

every_model = pytest.mark.parametrize("recipe", MODELS.values(), ids=MODELS)
TRY = Try(
    suite="tiny",
    source="embedded",
    correlation=1.0,
    recipe="erm",
    settings="learning rate 0.005",
    rule=FREE_FACTORS,
    seed=0,
    value=0.5,
    n=40,
    **environment("cpu"),
)


def images_of(ids: torch.Tensor, labels: torch.Tensor) -> ImageSet:
    return ImageSet(torch.zeros(len(ids), 3, 2, 2, dtype=torch.uint8), Factors.aligned(labels), ids)


def test_eighty_embedded_digits_of_each_class_are_held_out_however_they_are_painted() -> None:
    biased, unbiased = COLORED_MNIST.train(EMBEDDED), COLORED_MNIST.unbiased(EMBEDDED)
    assert torch.equal(held_out(biased), held_out(unbiased))
    assert biased.factors.shape[held_out(biased)].bincount().tolist() == [80] * 10


def test_no_held_out_digit_is_one_of_the_test_images() -> None:
    biased = COLORED_MNIST.train(EMBEDDED)
    chosen = set(biased.ids[held_out(biased)].tolist())
    assert not chosen & set(digits(EMBEDDED, "test").ids.tolist())


def test_the_last_5_000_of_many_objects_are_held_out() -> None:
    ids = torch.arange(50_000)
    images = images_of(ids, ids % 10)
    assert torch.equal(held_out(images), ids >= 45_000)


def test_all_images_of_a_held_out_object_are_held_out() -> None:
    ids = torch.tensor([0, 0, 1, 2, 3, 4, 4, 4])
    images = images_of(ids, torch.zeros(8, dtype=torch.int64))
    assert held_out(images).tolist() == [False] * 5 + [True] * 3


@every_model
def test_every_recipe_has_six_candidates_of_which_its_own_settings_are_the_first(
    recipe: Recipe,
) -> None:
    tried = candidates(recipe, 6)
    assert len({candidate.settings for candidate in tried}) == 6
    first = tried[0].recipe
    same = ["learning_rate", "weight_decay", "ratio", "steps", "epochs", "batch_size", "trains_on"]
    assert [getattr(first, name) for name in same] == [getattr(recipe, name) for name in same]


@every_model
def test_no_candidate_has_another_budget_of_steps_than_its_recipe(recipe: Recipe) -> None:
    n_images = dict.fromkeys((*recipe.trains_on, "biased"), 50_000)
    steps = {each.recipe.steps_for(n_images) for each in candidates(recipe, 6)}
    assert steps == {recipe.steps_for(n_images)}


@pytest.mark.parametrize("n", [0, 7])
def test_a_number_of_tries_beyond_the_grid_is_refused(n: int) -> None:
    with pytest.raises(ValueError, match=f"between 1 and 6 candidate settings, got {n}"):
        candidates(MODELS["erm"], n)


def test_the_best_settings_are_those_of_the_highest_mean_over_suites(tmp_path: Path) -> None:
    values = {"a": {"one": 0.9, "two": 0.5}, "b": {"one": 0.8, "two": 0.7}, "c": {"one": 1.0}}
    append_tries(
        [
            replace(TRY, settings=settings, suite=suite, value=value)
            for settings, of_suites in values.items()
            for suite, value in of_suites.items()
        ],
        tmp_path,
    )
    append_tries([replace(TRY, settings="a", suite="one", rule=BIASED_VALIDATION)], tmp_path)
    table = compare_settings(read_tries(tmp_path))
    assert table["mean", FREE_FACTORS].tolist() == pytest.approx(
        [0.7, 0.75, float("nan")], nan_ok=True
    )
    assert table["best", FREE_FACTORS].tolist() == [False, True, False]


def test_a_try_that_is_repeated_takes_the_place_of_the_older_one(tmp_path: Path) -> None:
    append_tries([TRY], tmp_path)
    append_tries([replace(TRY, value=0.75), replace(TRY, seed=1)], tmp_path)
    assert read_tries(tmp_path)["value"].tolist() == [0.75, 0.5]
    assert len(pd.read_csv(tmp_path / "tuning.csv")) == 3


def test_a_foreign_file_of_tries_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tuning.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="restore it from git"):
        append_tries([TRY], tmp_path)
