"""Results are computed once, and anew when anything that decides them is another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pretended_cuda import pretended_cuda
from torch import Tensor

from cgn.counterfactuals.abduction import real_image_counterfactuals
from cgn.counterfactuals.recombination import decompose, segmented_store
from cgn.counterfactuals.sampling import sample
from cgn.data.factors import Factors
from cgn.data.image_set import IMAGES, ImageSet
from cgn.io.cache import TENSOR, memo
from cgn.models.cgn import CGN, CGNConfig
from cgn.segmentation.by_colour import segment_by_colour

CONFIG = CGNConfig(n_classes=3, image_size_px=32, width=8, noise_size=4, tile_px=16, n_exemplars=2)


def small_cgn(seed: int = 0, **settings: Any) -> CGN:
    torch.manual_seed(seed)
    return CGN(replace(CONFIG, **settings))


def squares(n: int = 6) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(90, (n, 3, 32, 32), generator=generator, dtype=torch.uint8)
    pixels[:, :, 8:24, 8:20] = 220
    return ImageSet(pixels, Factors.aligned(torch.arange(n) % 3), torch.arange(n))


def sampled(folder: Path, cgn: CGN, n: int = 4, seed: int = 0, **settings: Any) -> ImageSet:
    return memo(sample, cgn, n, seed=seed, folder=folder, store=IMAGES, **settings)


def objects(folder: Path, images: ImageSet, **settings: Any) -> Tensor:
    arguments = images.pixels, images.factors.shape
    return memo(segment_by_colour, *arguments, folder=folder, store=TENSOR, **settings)


def n_files(folder: Path) -> int:
    return len([*folder.glob("*.safetensors")])


def test_the_result_is_that_of_the_function(tmp_path: Path) -> None:
    expected = sample(small_cgn(), 4, seed=0)
    for _ in range(2):
        assert sampled(tmp_path, small_cgn()).sha256() == expected.sha256()
    assert n_files(tmp_path) == 1


def test_the_second_call_opens_the_file_of_the_first(tmp_path: Path) -> None:
    sampled(tmp_path, small_cgn())
    (path,) = tmp_path.glob("*.safetensors")
    squares().save(path)
    assert sampled(tmp_path, small_cgn()).sha256() == squares().sha256()


def test_a_damaged_file_is_made_anew(tmp_path: Path) -> None:
    sampled(tmp_path, small_cgn())
    (path,) = tmp_path.glob("*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    sampled(tmp_path, small_cgn())
    assert path.read_bytes() == whole


def test_other_weights_configs_numbers_and_seeds_are_drawn_anew(tmp_path: Path) -> None:
    others = small_cgn(), small_cgn(1), small_cgn(image_size_px=64), small_cgn(canvas_px=16)
    for cgn in others:
        sampled(tmp_path, cgn)
    sampled(tmp_path, small_cgn(), n=5)
    sampled(tmp_path, small_cgn(), seed=1)
    sampled(tmp_path, small_cgn(), aligned=True)
    assert n_files(tmp_path) == len(others) + 3


def test_other_images_masks_and_settings_are_changed_anew(tmp_path: Path) -> None:
    images = squares()
    masks = images.pixels[:, :1] == 220

    def counterfactuals(images: ImageSet, masks: Tensor, **settings: Any) -> ImageSet:
        return memo(
            real_image_counterfactuals,
            small_cgn(),
            images,
            masks,
            4,
            seed=0,
            folder=tmp_path,
            store=IMAGES,
            **settings,
        )

    counterfactuals(images, masks)
    counterfactuals(images, masks.roll(1, dims=-1))
    counterfactuals(replace(images, factors=images.factors.map(lambda y: 2 - y)), masks)
    counterfactuals(images, masks, swap_fraction=0.5)
    assert n_files(tmp_path) == 4
    counterfactuals(images, masks)
    assert n_files(tmp_path) == 4


def test_what_two_kinds_of_device_compute_is_kept_apart(tmp_path: Path) -> None:
    counts = []
    with pretended_cuda():
        for device in ("cpu", "cuda", torch.device("cuda", 1), "cpu"):
            objects(tmp_path, squares(), device=device)
            counts.append(n_files(tmp_path))
    assert counts == [1, 2, 2, 2]


def test_progress_is_told_and_decides_nothing(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    sampled(tmp_path, small_cgn(), progress=lambda done, n: calls.append((done, n)))
    assert calls == [(4, 4)]
    sampled(tmp_path, small_cgn())
    assert n_files(tmp_path) == 1


def test_images_taken_apart_are_kept_without_what_they_were(tmp_path: Path) -> None:
    images = squares()
    masks = images.pixels[:, :1] == 220
    store = segmented_store(images, masks)
    parts = [memo(decompose, images, masks, folder=tmp_path, store=store) for _ in range(2)]
    assert torch.equal(parts[0].backgrounds, parts[1].backgrounds)
    assert parts[1].images is images


def test_more_than_the_disk_holds_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has room for .* GB, and 4096000.0 are needed"):
        sampled(tmp_path, small_cgn(), n_bytes=4096 * 10**12)
    assert n_files(tmp_path) == 0


@dataclass
class Pair:
    """Two settings in one argument."""

    first: object
    second: object


@pytest.mark.parametrize("argument", [Path("a"), object(), Pair(1, Path("a")), [len]])
def test_what_has_no_nameable_content_is_refused(argument: object, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot be named in the key of a cache"):
        memo(torch.ones, argument, folder=tmp_path, store=TENSOR)
