"""Generators of real worlds: what they are fitted to, and that no test image gets in."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import SHARED

from benchmarks.core.context import RunContext
from benchmarks.core.suite import EMBEDDED, Suite, TrainingDomain
from benchmarks.data import generators
from benchmarks.data.download import verify
from benchmarks.data.generators import GENERATED_SETS, GENERATORS, Generation
from benchmarks.suites.data_sets import DATA_SETS
from benchmarks.suites.mnists import COLORED, DOUBLE_COLORED, WILDLIFE
from benchmarks.worlds.mnists import COLORED_MNIST
from cgn.data.image_set import ImageSet
from classifiers import MODELS

RELEASED = DATA_SETS["cgn-mnist-weights"]


def generation(world: TrainingDomain, images: ImageSet, folder: Path) -> Generation:
    return Generation(world, EMBEDDED, images, 0, RunContext(torch.device("cpu"), folder, folder))


def test_every_generated_set_that_a_recipe_names_has_a_generator() -> None:
    named = {kind for recipe in MODELS.values() for kind in recipe.trains_on}
    assert named - {"biased", "unbiased"} <= GENERATED_SETS.keys()
    assert set(GENERATED_SETS.values()) <= GENERATORS.keys()


@pytest.mark.parametrize("suite", [COLORED, DOUBLE_COLORED, WILDLIFE], ids=lambda suite: suite.name)
@pytest.mark.parametrize("name", ["paste", "paste:true-masks"])
def test_pasted_images_come_from_training_digits_and_keep_their_class(
    suite: Suite, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generators, "N_COUNTERFACTUALS", 100)
    biased = suite.world.train(EMBEDDED)
    some = biased.select(torch.arange(0, len(biased), 8))
    kind = {of: kind for kind, of in GENERATED_SETS.items()}[name]
    pasted = generation(suite.world, some, tmp_path).draw(kind)
    label_of = dict(zip(some.ids.tolist(), some.factors.shape.tolist(), strict=True))
    assert [label_of[i] for i in pasted.ids.tolist()] == pasted.factors.shape.tolist()
    for images in suite.variants(EMBEDDED).values():
        assert not set(images.ids.tolist()) & set(pasted.ids.tolist())
    assert pasted.factors.known == biased.factors.known


def test_true_masks_that_nobody_knows_are_refused(tmp_path: Path) -> None:
    images = replace(COLORED_MNIST.train(EMBEDDED).select(torch.arange(10)), masks=None)
    with pytest.raises(ValueError, match="true masks of the training images of colored-mnist"):
        generation(COLORED_MNIST, images, tmp_path).generator("paste:true-masks")


@pytest.mark.shared("released-weights")
def test_the_published_weights_are_found_checked_and_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CGN_BENCH_DATA", str(tmp_path))
    monkeypatch.setattr(generators, "N_COUNTERFACTUALS", 20)
    folder = tmp_path / RELEASED.name
    folder.mkdir()
    published = SHARED / "released-weights" / "cgn_colored_mnist.pth"
    images = COLORED_MNIST.train(EMBEDDED).select(torch.arange(10))
    here = generation(COLORED_MNIST, images, tmp_path)
    with pytest.raises(ValueError, match="`data cgn-mnist-weights` fetches"):
        here.generator_seed("cgn-released")
    for world in ("colored-mnist", "double-colored-mnist", "wildlife-mnist"):
        shutil.copyfile(published, folder / f"{world}.pth")
    assert verify(RELEASED, folder) == []
    assert here.generator_seed("cgn-released") is None
    assert len(here.draw("released")) == 20
    content = bytearray(published.read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "colored-mnist.pth").write_bytes(content)
    (problem,) = verify(RELEASED, folder)
    assert hashlib.sha256(content).hexdigest() in problem
    (folder / "wildlife-mnist.pth").write_bytes(bytes(2_661_744))  # of which no hash is known
    assert "wildlife-mnist.pth is no MNIST CGN of the original authors" in "".join(
        verify(RELEASED, folder)
    )
