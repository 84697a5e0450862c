from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import ROOT, patch_commands, patch_suites, tiny_suite
from torch import nn

from benchmarks import cli
from benchmarks.core.suite import DataSource, Suite
from benchmarks.generator_track import read_track
from benchmarks.records.runs import read_runs
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet
from classifiers.networks.small import InvariantEnsemble, SmallCNN
from classifiers.recipes import Recipe

N_CLASSES = 3


def figures(n: int, seed: int, *, aligned: bool) -> ImageSet:
    """Plain squares, wider by class, on plain ground."""
    generator = torch.Generator().manual_seed(seed)
    factors = Factors.independent(n, N_CLASSES, generator)
    if aligned:
        factors = Factors.aligned(torch.arange(n) % N_CLASSES)
    pixels = (20 * factors.background).to(torch.uint8).view(n, 1, 1, 1).repeat(1, 3, 32, 32)
    masks = torch.zeros(n, 1, 32, 32, dtype=torch.uint8)
    labels = zip(pixels, masks, factors.shape.tolist(), factors.texture.tolist(), strict=True)
    for image, mask, shape, texture in labels:
        mask[:, 10:20, 8 : 18 + 3 * shape] = 255
        image[:, 10:20, 8 : 18 + 3 * shape] = 150 + 30 * texture
    return ImageSet(pixels, factors, torch.arange(n), masks)


def squares_suite() -> Suite:
    suite = tiny_suite()
    sets = {name: figures(30, seed, aligned=False) for seed, name in enumerate(("easy", "hard"))}

    def train(source: DataSource) -> ImageSet:
        return figures(120, 2, aligned=True)

    world = replace(
        suite.world,
        image_size_px=32,
        train=train,
        unbiased=lambda source: figures(120, 3, aligned=False),
    )
    return replace(suite, world=world, variants=lambda source: sets)


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, int, int]]:
    """Put untrained networks in place of fits; name, seed and number of images of each fit."""
    asked: list[tuple[str, int, int]] = []

    def fit_cached(
        recipe: Recipe, sets: Mapping[str, ImageSet], *, n_classes: int, seed: int, **_: Any
    ) -> tuple[nn.Module, str]:
        asked.append((recipe.name, seed, len(sets[recipe.trains_on[0]])))
        kind = InvariantEnsemble if recipe.network is InvariantEnsemble else SmallCNN
        torch.manual_seed(seed)
        return kind(n_classes, 32).eval(), f"{recipe.name} {seed}"

    monkeypatch.setenv("CGN_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CGN_BENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("benchmarks.data.generators.N_COUNTERFACTUALS", 60)
    patch_commands(monkeypatch, "fit_cached", fit_cached)
    patch_commands(monkeypatch, "N_MEASURED", 40)
    patch_suites(monkeypatch, {"tiny": squares_suite()})
    return asked


def track(results: Path, *words: str) -> int:
    command = ["generators", "--world", "tiny-world", "--device", "cpu", "--results", str(results)]
    return cli.main([*command, *words])


def documented_generator(folder: Path) -> Path:
    """Write the generator that the documentation shows into a file."""
    text = (ROOT / "docs/cgn.md").read_text(encoding="utf-8")
    path = folder / "blend.py"
    path.write_text(text.split("```python\n")[1].split("```")[0], encoding="utf-8")
    return path


def test_the_documented_generator_takes_the_track_beside_paste(
    fitted: list[tuple[str, int, int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = f"{documented_generator(tmp_path)}:Blend"
    assert track(tmp_path, "--generator", f"paste,{own}", "--seeds", "1") == 0
    assert "blend.py:Blend" in capsys.readouterr().out
    rows = read_track(tmp_path)
    assert set(rows["generator"]) == {"paste", "blend.py:Blend"}
    assert set(rows["seed"]) == {0}
    measures = {name: set(group["measure"]) for name, group in rows.groupby("generator")}
    accuracy = "tiny hard_accuracy"
    assert {"shape_effectiveness", "coverage", accuracy} <= measures["blend.py:Blend"]
    more = measures["paste"] - measures["blend.py:Blend"]
    assert {"mask_area", "abducted_composition_10", "abducted_do_texture_minimality"} <= more
    assert [fit for fit in fitted if fit[0] != "factor-classifier"] == [
        (name, 0, 60) for name in ("paste", "blend.py:Blend")
    ]
    runs = read_runs(tmp_path)
    same = runs[(runs["variant"] == "hard") & (runs["metric"] == "accuracy")]
    assert list(same["value"]) == list(rows[rows["measure"] == accuracy]["value"])


@pytest.mark.usefixtures("fitted")
def test_paste_with_true_masks_sees_them_and_nobody_else_does(tmp_path: Path) -> None:
    (tmp_path / "spy.py").write_text(
        "from pathlib import Path\n"
        "class Spy:\n"
        "    def __init__(self, images, n_classes, *, seed, device):\n"
        "        assert images.masks is None\n"
        "        self.images = images\n"
        "    def sample(self, n, *, seed):\n"
        "        import torch\n"
        "        return self.images.select(torch.arange(n) % len(self.images))\n"
        "    def intervene(self, images, factors, *, seed):\n"
        "        assert images.masks is None\n"
        "        return images\n"
    )
    names = f"paste:true-masks,{tmp_path / 'spy.py'}:Spy"
    assert track(tmp_path, "--generator", names, "--seeds", "1") == 0
    rows = read_track(tmp_path).set_index(["generator", "measure"])["value"]
    assert rows["paste:true-masks", "abducted_mask_iou"] == 1
    assert rows["spy.py:Spy", "abducted_composition_10"] == 0


@pytest.mark.usefixtures("fitted")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--generator", "past"), "unknown generator 'past'"),
        (("--generator", "no/such.py:VAE"), "unknown generator"),
        (("--generator", "cgn"), "train one first, by `train cgn`"),
        (("--generator", "cgn-end-to-end"), "train one first, by `train cgn-end-to-end`"),
        (("--generator", "cgn-released"), "`data cgn-mnist-weights` fetches"),
    ],
)
def test_what_there_is_not_is_refused_in_words(
    words: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert track(tmp_path, *words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("fitted")
def test_a_generator_that_draws_too_few_images_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = documented_generator(tmp_path)
    path.write_text(path.read_text().replace("independent(n,", "independent(n - 1,"))
    path.write_text(path.read_text().replace("torch.arange(n))", "torch.arange(n - 1))"))
    assert track(tmp_path, "--generator", f"{path}:Blend", "--seeds", "1") == 2
    assert "drew 59 images of 32 x 32 pixels, expected 60" in capsys.readouterr().err


@pytest.mark.usefixtures("fitted")
def test_an_unknown_world_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["generators", "--world", "tiny-wrld", "--results", str(tmp_path)]) == 2
    assert "did you mean 'tiny-world'?" in capsys.readouterr().err
