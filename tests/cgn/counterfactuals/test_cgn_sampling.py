from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chi2_contingency, chisquare
from torch import Tensor

from cgn.counterfactuals import sampling as counterfactuals
from cgn.counterfactuals.sampling import find_weights, sample
from cgn.counterfactuals.sheets import sheet, write_png
from cgn.data.factors import Factors
from cgn.models.cgn import CGN, CGNConfig, MechanismOutputs, Noise

CONFIG = CGNConfig(n_classes=4, image_size_px=16, width=8, noise_size=4, tile_px=16)


class Flat(CGN):
    """Draws its labels: foreground and background in plain gray, the mask on the left side."""

    def draw(
        self, noise: Noise, factors: Factors, probability: Tensor | None = None
    ) -> MechanismOutputs:
        n, size = len(factors.shape), self.config.image_size_px
        mask = torch.zeros(n, 1, size, size)
        mask[..., : size // 2] = 1
        foreground, background = (
            (labels / 255).view(n, 1, 1, 1).expand(n, 3, size, size)
            for labels in (10 * factors.shape + factors.texture, 100 + factors.background)
        )
        return MechanismOutputs(mask, foreground, background, mask)


@pytest.fixture
def cgn() -> CGN:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CGN(CONFIG).eval()


@pytest.fixture
def flat() -> CGN:
    return Flat(CONFIG)


def contingency(one: torch.Tensor, other: torch.Tensor) -> np.ndarray[Any, np.dtype[np.int64]]:
    n = CONFIG.n_classes
    return (one * n + other).bincount(minlength=n * n).view(n, n).numpy()


def test_the_labels_of_counterfactuals_are_uniform(flat: CGN) -> None:
    for labels in sample(flat, 4_000, seed=0).factors:
        assert chisquare(labels.bincount().numpy()).pvalue > 0.01


def test_the_labels_of_counterfactuals_are_independent(flat: CGN) -> None:
    factors = sample(flat, 4_000, seed=0).factors
    for one, other in combinations(factors, 2):
        assert chi2_contingency(contingency(one, other)).pvalue > 0.01


def test_one_in_n_counterfactuals_keeps_its_own_texture(flat: CGN) -> None:
    shape, texture, _ = sample(flat, 4_000, seed=0).factors
    assert (shape == texture).double().mean() == pytest.approx(1 / 4, abs=0.03)


def test_tied_samples_have_one_label(flat: CGN) -> None:
    shape, texture, background = sample(flat, 50, seed=0, aligned=True).factors
    assert torch.equal(shape, texture)
    assert torch.equal(shape, background)


@pytest.mark.parametrize("n", [1, 499, 500, 1_001])
def test_every_image_is_drawn_from_its_own_labels(flat: CGN, n: int) -> None:
    images = sample(flat, n, seed=0)
    shape, texture, background = images.factors
    assert len(images) == n
    assert torch.equal(images.pixels[:, 0, 0, 0].long(), 10 * shape + texture)
    assert torch.equal(images.pixels[:, 0, 0, -1].long(), 100 + background)
    assert images.masks is not None
    assert images.masks[:, :, :, :8].min() == 255
    assert images.masks[:, :, :, 8:].max() == 0
    assert torch.equal(images.ids, torch.arange(n))


def test_the_seed_decides_labels_and_images(cgn: CGN) -> None:
    hashes = [sample(cgn, 20, seed=seed).sha256() for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_sampling_leaves_the_callers_random_state_alone(cgn: CGN) -> None:
    before = torch.get_rng_state()
    sample(cgn, 5, seed=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_progress_counts_the_images(flat: CGN) -> None:
    told: list[tuple[int, int]] = []
    sample(flat, 220, seed=0, progress=lambda done, n: told.append((done, n)))
    assert told == [(100, 220), (200, 220), (220, 220)]


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty folder in place of the weights that are shipped."""
    monkeypatch.setattr(counterfactuals, "SHIPPED", tmp_path / "shipped")
    return tmp_path / "shipped"


def test_weights_trained_on_the_same_data_are_found(
    cgn: CGN, shipped: Path, tmp_path: Path
) -> None:
    cgn.save(shipped / "farm.safetensors", {"train_sha256": "a"})
    cgn.save(shipped / "farm-official.safetensors", {"train_sha256": "b"})
    own = tmp_path / "own"
    assert find_weights("farm", "a", own).path.name == "farm.safetensors"
    assert find_weights("farm", "b", own).path.name == "farm-official.safetensors"


def test_the_users_own_weights_go_before_the_shipped_ones(
    cgn: CGN, shipped: Path, tmp_path: Path
) -> None:
    for folder in (shipped, tmp_path / "own"):
        cgn.save(folder / "farm.safetensors", {"train_sha256": "a"})
    assert find_weights("farm", "a", tmp_path / "own").path.parent == tmp_path / "own"


def test_several_cgns_are_taken_in_turn_in_the_order_of_their_seeds(
    cgn: CGN, shipped: Path, tmp_path: Path
) -> None:
    for seed in (10, 2, 4):
        about = {"train_sha256": "a", "config": {"seed": seed}}
        cgn.save(tmp_path / f"farm-{seed}.safetensors", about)
    cgn.save(tmp_path / "farm-other.safetensors", {"train_sha256": "b", "config": {"seed": 3}})
    found = [find_weights("farm", "a", tmp_path, seed=seed) for seed in range(4)]
    assert [each.seed for each in found] == [2, 4, 10, 2]
    assert [each.path.stem for each in found] == ["farm-2", "farm-4", "farm-10", "farm-2"]


def test_weights_are_found_by_the_method_that_trained_them(
    cgn: CGN, shipped: Path, tmp_path: Path
) -> None:
    about = {"train_sha256": "a", "config": {"seed": 1}}
    cgn.save(tmp_path / "farm-1.safetensors", about)
    with pytest.raises(ValueError, match="train one first, by `train cgn-end-to-end`"):
        find_weights("farm", "a", tmp_path, method="end-to-end")
    cgn.save(tmp_path / "farm-end-to-end-1.safetensors", about | {"method": "end-to-end"})
    names = [
        find_weights("farm", "a", tmp_path, method=each).path.stem for each in ("", "end-to-end")
    ]
    assert names == ["farm-1", "farm-end-to-end-1"]


def test_weights_trained_on_other_data_are_refused_with_the_command_that_trains(
    cgn: CGN, shipped: Path, tmp_path: Path
) -> None:
    cgn.save(shipped / "farm.safetensors", {"train_sha256": "a"})
    cgn.save(shipped / "sea.safetensors", {"train_sha256": "b"})
    message = r"no CGN has been trained on this data of farm; train one first, by `train cgn`"
    with pytest.raises(ValueError, match=message):
        find_weights("farm", "b", tmp_path / "own")


def test_a_sheet_has_a_row_for_each_class_and_five_blocks(cgn: CGN, tmp_path: Path) -> None:
    sheet(cgn, tmp_path / "deep" / "sheet.png", n_per_class=3)
    with Image.open(tmp_path / "deep" / "sheet.png") as picture:
        assert picture.mode == "RGB"
        # One pixel between the images and around each block.
        assert picture.size == (5 * (3 * 17 + 1), CONFIG.n_classes * 17 + 1)


def test_one_seed_draws_one_sheet(cgn: CGN, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        sheet(cgn, tmp_path / f"{name}.png", seed=seed)
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c


def test_a_sheets_images_have_the_shape_of_their_row(flat: CGN, tmp_path: Path) -> None:
    sheet(flat, tmp_path / "sheet.png", n_per_class=2)
    with Image.open(tmp_path / "sheet.png") as picture:
        pixels = np.asarray(picture)
    width = 2 * 17 + 1
    for row in range(CONFIG.n_classes):
        foreground, aligned, free = (pixels[row * 17 + 1, i * width + 1, 0] for i in (1, 3, 4))
        assert foreground == aligned == 11 * row
        assert free // 10 == row


def test_a_png_holds_the_nearest_bytes(tmp_path: Path) -> None:
    image = torch.rand(3, 2, 4, generator=torch.Generator().manual_seed(0))
    write_png(image, tmp_path / "image.png")
    with Image.open(tmp_path / "image.png") as picture:
        read = torch.from_numpy(np.array(picture)).movedim(-1, 0)
    assert torch.equal(read, (255 * image).round().to(torch.uint8))


def test_shipped_weights_serve_embedded_data_of_other_bytes_and_no_official_data(
    tmp_path: Path,
) -> None:
    assert find_weights("openmoji-9", "other", tmp_path, "embedded").path.parent.name == "weights"
    with pytest.raises(ValueError, match="no CGN has been trained"):
        find_weights("openmoji-9", "other", tmp_path, "official")


def test_shipped_weights_serve_no_data_that_follows_its_class_less_closely(tmp_path: Path) -> None:
    message = "`train cgn` with the same `data` and `textures`, and a `correlation` of 0.99"
    with pytest.raises(ValueError, match=message):
        find_weights("colored-mnist", "other", tmp_path, "embedded", 0.99)


def test_a_cgn_trained_at_another_correlation_is_found_by_its_own_data(
    cgn: CGN, shipped: Path, tmp_path: Path
) -> None:
    for sha256 in ("a", "b"):
        cgn.save(shipped / f"farm-{sha256}.safetensors", {"train_sha256": sha256})
    found = find_weights("farm", "b", tmp_path / "own", "embedded", 0.99)
    assert found.path.name == "farm-b.safetensors"
