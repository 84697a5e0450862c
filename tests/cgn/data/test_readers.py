"""An image set does the same whatever reads its pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
import torch
from imagenet_networks import tiny_cgn
from PIL import Image
from torch import Tensor

from cgn.counterfactuals.shards import SetConfig, generate, load_shards
from cgn.data.factors import Factors
from cgn.data.hub import hub_images
from cgn.data.image_files import image_folder
from cgn.data.image_set import ImageSet, InMemory
from cgn.data.preprocessing import Preprocessing

N, SIZE_PX = 6, 16


def folder_of_images(root: Path) -> Path:
    generator = torch.Generator().manual_seed(0)
    for i in range(N):
        path = root / "images" / "ab"[i // 3] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(256, (SIZE_PX, SIZE_PX, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(path)
    return root / "images"


def in_memory(root: Path) -> ImageSet:
    images = in_files(root)
    return ImageSet(images.pixels, images.factors, images.ids)


def in_files(root: Path) -> ImageSet:
    return image_folder(folder_of_images(root), Preprocessing(None, SIZE_PX))[0]


def in_shards(root: Path) -> ImageSet:
    config = SetConfig(n=N, shard_size=4, image_format="png")
    generate(tiny_cgn()[0].eval(), config, root / "set", dtype=torch.float32)
    return load_shards(root / "set", root / "cache")


def in_a_hub_table(root: Path) -> ImageSet:
    return hub_images(str(folder_of_images(root)), "train", Preprocessing(None, SIZE_PX))[0]


@pytest.fixture(params=[in_memory, in_files, in_shards, in_a_hub_table])
def images(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ImageSet:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    make: Callable[[Path], ImageSet] = request.param
    masks = torch.zeros(N, 1, SIZE_PX, SIZE_PX, dtype=torch.uint8)
    masks[..., :3] = 255
    return replace(make(tmp_path), masks=masks)


def test_the_size_is_that_of_the_pixels(images: ImageSet) -> None:
    assert images.pixels.shape == (N, 3, *images.size_px) == (N, 3, SIZE_PX, SIZE_PX)


def test_masks_are_shown_in_place_of_images(images: ImageSet) -> None:
    shown = images.as_masks()
    assert images.masks is not None
    assert torch.equal(shown.pixels, images.masks.expand(-1, 3, -1, -1))
    assert shown.factors is images.factors


def test_labels_are_replaced_and_pixels_stay(images: ImageSet) -> None:
    zeros = Factors.aligned(torch.zeros(N, dtype=torch.int64))
    changed = replace(images, factors=zeros)
    assert changed.factors.shape.sum() == 0
    assert torch.equal(changed.pixels, images.pixels)


@pytest.mark.parametrize("index", [slice(1, 4), torch.tensor([5, 0, 0]), torch.arange(N) > 2])
def test_images_are_selected_as_tensors_are(images: ImageSet, index: Tensor | slice) -> None:
    chosen = images.select(index)
    assert torch.equal(chosen.pixels, images.pixels[index])
    assert torch.equal(chosen.factors.shape, images.factors.shape[index])
    assert torch.equal(chosen.ids, images.ids[index])
    assert chosen.masks is not None
    assert len(chosen.masks) == len(chosen)


def test_images_in_files_are_prepared_otherwise_and_those_in_memory_stay(images: ImageSet) -> None:
    small = images.prepared(Preprocessing(None, 8))
    if isinstance(images.reader, InMemory):
        assert small is images
    else:
        assert small.masks is None  # they would no longer fit
        assert torch.equal(small.pixels, images.pixels[..., 4:12, 4:12])
        assert small.sha256() == replace(images, masks=None).sha256()
        assert small.fingerprint() != images.fingerprint()


def test_a_set_is_the_same_after_it_was_saved(images: ImageSet, tmp_path: Path) -> None:
    images.save(tmp_path / "set.safetensors")
    loaded = ImageSet.load(tmp_path / "set.safetensors")
    assert torch.equal(loaded.pixels, images.pixels)
    assert torch.equal(loaded.factors.background, images.factors.background)
