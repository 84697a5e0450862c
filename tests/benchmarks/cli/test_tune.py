"""Settings are tried on the training split alone, by both rules, and kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import cli
from benchmarks.cli.tune import cgn_methods, try_settings, without_held_out
from benchmarks.core.context import RunContext
from benchmarks.core.suite import EMBEDDED, DataSource, Suite
from benchmarks.suites import get_suite
from benchmarks.tuning import read_tries
from cgn.data.image_set import ImageSet
from classifiers import MODELS
from classifiers.recipes import BIASED_VALIDATION, FREE_FACTORS
from classifiers.tuning import Candidate


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CGN_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CGN_BENCH_DATA", str(tmp_path / "data"))


def tried(suite: Suite, results: Path, *names: str) -> None:
    recipes = [MODELS[name] for name in names]
    short = {each.name: [Candidate("short", replace(each, steps=2, epochs=0))] for each in recipes}
    context = RunContext(torch.device("cpu"), results, results / "cache")
    try_settings(suite, EMBEDDED, recipes, short, [0], context)


def test_each_try_leaves_a_row_by_each_rule_on_the_held_out_digits(tmp_path: Path) -> None:
    tried(get_suite("colored-mnist"), tmp_path, "erm", "oracle", "oracle-mask")
    rows = read_tries(tmp_path)
    assert len(rows) == 3 * 2
    assert set(rows["rule"]) == {FREE_FACTORS, BIASED_VALIDATION}
    assert set(rows["n"]) == {800}
    assert rows["value"].between(0, 1).all()
    # True masks do not tell how an image is painted.
    assert rows[rows["recipe"] == "oracle-mask"]["value"].nunique() == 1


def test_no_test_image_is_drawn(tmp_path: Path) -> None:
    def refused(source: DataSource) -> dict[str, ImageSet]:
        raise AssertionError("test images are drawn")

    tried(replace(get_suite("colored-mnist"), variants=refused), tmp_path, "erm")
    assert len(read_tries(tmp_path)) == 2


def test_fits_see_all_training_digits_but_the_held_out_ones() -> None:
    biased = get_suite("colored-mnist").world.train(EMBEDDED)
    part = without_held_out(biased)
    assert part.factors.shape.bincount().tolist() == [320] * 10
    assert set(part.ids.tolist()) < set(biased.ids.tolist())


def test_the_cgns_of_every_recipe_that_sees_some_are_trained_without_the_held_out_digits() -> None:
    methods = {name: cgn_methods(recipe) for name, recipe in MODELS.items()}
    of_cgns = {name for name, own in methods.items() if own}
    assert of_cgns == {name for name in MODELS if name.startswith("cgn")} - {"cgn-released"}
    assert methods["cgn-abduct:drawn"] == [""]
    assert methods["cgn-end-to-end"] == ["end-to-end"]


def test_a_suite_of_photographs_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["tune", "--suite", "tiny-in9", "--model", "erm-resnet"]) == 2
    assert "tiny-in9 is of photographs" in capsys.readouterr().err


def test_a_number_of_tries_beyond_the_grid_is_refused_before_any_work(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["tune", "--suite", "colored-mnist", "--model", "erm", "--tries", "7"]) == 2
    assert "between 1 and 6" in capsys.readouterr().err


def test_what_was_tried_is_shown_without_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tried(get_suite("colored-mnist"), tmp_path, "erm")
    words = ["tune", "--suite", "colored-mnist", "--model", "erm,jtt", "--no-run", "--results"]
    assert cli.main([*words, str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "erm: held-out training objects" in said
    assert "holds no tries of jtt" in said
