"""Classifiers that come with the package: their files, and what they answer."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.core.evaluate import evaluate
from benchmarks.core.suite import EMBEDDED
from benchmarks.records.compare import mcnemar
from benchmarks.suites import SUITES
from cgn.io.cache import weights_sha256
from cgn.io.weights import load_tensors, save_tensors
from classifiers import MODELS
from classifiers.checkpoints import (
    FOLDER,
    load_classifier,
    load_shipped,
    save_classifier,
    shipped_path,
)
from classifiers.networks.small import InvariantEnsemble

ABOUT = {"recipe": "cgn-ensemble", "n_classes": 3, "image_size_px": 16, "seed": 0}
FILES = sorted(FOLDER.glob("*.safetensors"))


@pytest.fixture
def module() -> nn.Module:
    torch.manual_seed(0)
    return InvariantEnsemble(3, 16).eval()


def test_a_classifier_comes_back_with_half_the_digits_and_its_header(
    tmp_path: Path, module: nn.Module
) -> None:
    path = tmp_path / "a.safetensors"
    save_classifier(path, module, ABOUT)
    again, sha256, about = load_classifier(path)
    images = torch.rand(20, 3, 16, 16)
    assert torch.allclose(again(images), module(images), atol=0.05)
    assert not again.training
    assert about == ABOUT
    assert sha256 == weights_sha256(again) != weights_sha256(module)
    assert {t.dtype for t in load_tensors(path)[0].values()} == {torch.float16, torch.int64}


def test_rounding_once_more_changes_nothing(tmp_path: Path, module: nn.Module) -> None:
    save_classifier(tmp_path / "a.safetensors", module, ABOUT)
    once = load_classifier(tmp_path / "a.safetensors")
    save_classifier(tmp_path / "b.safetensors", once.module, ABOUT)
    assert load_classifier(tmp_path / "b.safetensors").weights_sha256 == once.weights_sha256


@pytest.mark.parametrize(
    "about", [{}, ABOUT | {"recipe": "gone"}, ABOUT | {"n_classes": 4}, ABOUT | {"recipe": "erm"}]
)
def test_weights_that_fit_no_recipe_are_refused_with_what_to_do(
    about: dict[str, object], tmp_path: Path, module: nn.Module
) -> None:
    save_tensors(tmp_path / "a.safetensors", module.state_dict(), about)
    with pytest.raises(
        ValueError, match=r"no weights of a recipe as it is now .*train classifier|lacks recipe"
    ):
        load_classifier(tmp_path / "a.safetensors")


def test_a_classifier_that_is_not_there_is_an_error_that_lists_those_that_are(
    tmp_path: Path, module: nn.Module
) -> None:
    save_classifier(shipped_path("cgn-ensemble", "w", tmp_path), module, ABOUT)
    with pytest.raises(ValueError, match=r"shipped:erm of w is shipped, only: cgn-ensemble-w"):
        load_shipped("shipped:erm", "w", tmp_path)
    assert load_shipped("shipped:cgn-ensemble", "w", tmp_path).about == ABOUT


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_shipped_file_says_what_it_is_and_where_it_comes_from(path: Path) -> None:
    shipped = load_classifier(path)
    recipe, world = str(shipped.about["recipe"]), str(shipped.about["world"])
    assert path.name == shipped_path(recipe, world).name
    (classes,) = {s.world.classes for s in SUITES.values() if s.world.name == world}
    assert tuple(shipped.about["classes"]) == classes
    assert set(shipped.about["train_sha256"]) == set(MODELS[recipe].trains_on)
    assert shipped.about["command"].startswith("python bench.py train classifier")
    assert not shipped.about["commit"].endswith("-dirty")
    assert shipped.about["quality"]
    assert path.stat().st_size < 2_000_000


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_another_number_of_threads_answers_no_worse(path: Path) -> None:
    shipped = load_classifier(path)
    suite = next(s for s in SUITES.values() if s.world.name == shipped.about["world"])
    variant = suite.primary.removesuffix("_accuracy")
    images = suite.variants(EMBEDDED)[variant].select(slice(300))
    before = torch.get_num_threads()
    hits = []
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            table, _ = evaluate(shipped.module, {variant: images})
            hits.append(torch.tensor((table["prediction"] == table["shape"]).tolist()))
    finally:
        torch.set_num_threads(before)
    assert mcnemar(torch.stack(hits, dim=1).numpy(), alternative="greater") > 0.05
    assert hits[0].float().mean() > 2 / len(suite.world.classes)


@pytest.mark.parametrize("where", ["../outside", "{folder}/outside", "inside/../../outside", ""])
def test_no_name_of_a_shipped_classifier_leads_out_of_its_folder(
    where: str, tmp_path: Path, module: nn.Module
) -> None:
    save_classifier(tmp_path / "outside-tiny.safetensors", module, ABOUT)
    (tmp_path / "weights" / "inside").mkdir(parents=True)
    spec = f"shipped:{where.format(folder=tmp_path)}"
    with pytest.raises(ValueError, match="is shipped, only: none"):
        load_shipped(spec, "tiny", tmp_path / "weights")
