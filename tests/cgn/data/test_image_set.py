from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import tiny_images

from cgn.data.factors import Factors
from cgn.data.image_set import (
    ImageSet,
    InMemory,
    concatenate,
    load_sets,
    save_sets,
    to_bytes,
    to_images,
)
from cgn.io.weights import load_tensors, save_tensors

N = 23  # images of `counted`, no multiple of any batch size below


@pytest.fixture
def counted() -> ImageSet:
    """Images whose every pixel, labels and id tell their own place."""
    place = torch.arange(N)
    pixels = place.to(torch.uint8).view(N, 1, 1, 1).expand(N, 3, 4, 4).contiguous()
    masks = pixels[:, :1] * 10
    return ImageSet(pixels, Factors(place, place + 100, place + 200), place + 300, masks)


def same(one: ImageSet, other: ImageSet) -> bool:
    pairs = [(one.pixels, other.pixels), (one.ids, other.ids)]
    pairs += zip(one.factors, other.factors, strict=True)
    if one.masks is not None and other.masks is not None:
        pairs.append((one.masks, other.masks))
    masked = (one.masks is None) == (other.masks is None)
    return masked and all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("masked", [True, False])
def test_a_saved_set_comes_back_byte_for_byte(
    counted: ImageSet, masked: bool, tmp_path: Path
) -> None:
    images = counted if masked else replace(counted, masks=None)
    images.save(tmp_path / "deep" / "set.safetensors")
    assert same(ImageSet.load(tmp_path / "deep" / "set.safetensors"), images)


def test_the_header_comes_back_as_it_was_saved(counted: ImageSet, tmp_path: Path) -> None:
    header: dict[str, object] = {"made by": "hand", "seed": 3, "sizes": [1, 2]}
    counted.save(tmp_path / "set.safetensors", header)
    assert load_tensors(tmp_path / "set.safetensors")[1] == header


def test_a_loaded_set_is_mapped_from_its_file(counted: ImageSet, tmp_path: Path) -> None:
    maps = Path("/proc/self/maps")
    if not maps.is_file():
        pytest.skip("this system does not list its memory maps in /proc")
    counted.save(tmp_path / "set.safetensors")
    loaded = ImageSet.load(tmp_path / "set.safetensors")
    assert str(tmp_path / "set.safetensors") in maps.read_text()
    assert len(loaded) == N


def test_changing_a_loaded_set_leaves_its_file_alone(counted: ImageSet, tmp_path: Path) -> None:
    counted.save(tmp_path / "set.safetensors")
    ImageSet.load(tmp_path / "set.safetensors").pixels.fill_(9)
    assert same(ImageSet.load(tmp_path / "set.safetensors"), counted)


def test_nothing_but_the_set_is_left_in_its_folder(counted: ImageSet, tmp_path: Path) -> None:
    counted.save(tmp_path / "set.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["set.safetensors"]


def test_a_failed_save_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        save_tensors(tmp_path / "set.safetensors", {}, {"not json": object()})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_an_error_that_says_what_to_do(
    counted: ImageSet, kept: float, tmp_path: Path
) -> None:
    path = tmp_path / "set.safetensors"
    counted.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ValueError, match=r"not a whole safetensors file .*; delete it"):
        ImageSet.load(path)


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no file .*nowhere"):
        ImageSet.load(tmp_path / "nowhere.safetensors")


def test_a_file_of_something_else_is_an_error_that_says_what_it_lacks(tmp_path: Path) -> None:
    save_tensors(tmp_path / "x.safetensors", {"weight": torch.ones(2)}, {})
    with pytest.raises(ValueError, match="holds no image set: it lacks 'shape'"):
        ImageSet.load(tmp_path / "x.safetensors")


def test_sets_in_one_file_come_back_byte_for_byte_in_their_order(
    counted: ImageSet, tmp_path: Path
) -> None:
    sets = {"z": counted, "a": tiny_images(0), "z2": replace(counted, masks=None)}
    save_sets(tmp_path / "sets.safetensors", sets)
    loaded = load_sets(tmp_path / "sets.safetensors")
    assert list(loaded) == list(sets)
    assert all(same(loaded[name], sets[name]) for name in sets)


@pytest.mark.parametrize(
    ("header", "message"),
    [({}, "the header of .*x.safetensors lacks sets"), ({"sets": ["a"]}, "it lacks 'shape'")],
)
def test_a_file_without_the_sets_is_an_error_that_says_so(
    header: dict[str, object], message: str, tmp_path: Path
) -> None:
    save_tensors(tmp_path / "x.safetensors", {"weight": torch.ones(2)}, header)
    with pytest.raises(ValueError, match=message):
        load_sets(tmp_path / "x.safetensors")


@pytest.mark.parametrize("shuffled", [True, False])
@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_batches_show_every_image_once_with_its_own_labels(
    counted: ImageSet, batch_size: int, shuffled: bool
) -> None:
    generator = torch.Generator().manual_seed(1) if shuffled else None
    seen = []
    for images, factors in counted.batches(batch_size, generator=generator):
        assert len(images) <= batch_size
        place = (images[:, 0, 0, 0] * 255).round().long()
        assert torch.equal(factors.shape, place)
        assert torch.equal(factors.texture, place + 100)
        assert torch.equal(factors.background, place + 200)
        seen += place.tolist()
    assert sorted(seen) == list(range(N))
    assert (seen == list(range(N))) is not shuffled


def test_the_generator_decides_the_order(counted: ImageSet) -> None:
    orders = [
        torch.cat(
            [f.shape for _, f in counted.batches(5, generator=torch.Generator().manual_seed(seed))]
        ).tolist()
        for seed in (0, 0, 1)
    ]
    assert orders[0] == orders[1] != orders[2]


def test_the_hash_ignores_ids_and_masks(counted: ImageSet) -> None:
    other = replace(counted, ids=counted.ids + 1, masks=None)
    assert other.sha256() == counted.sha256()


def brighter(images: ImageSet) -> ImageSet:
    pixels = images.pixels.clone()
    pixels[-1, -1, -1, -1] += 1
    return replace(images, reader=InMemory(pixels))


def swapped(images: ImageSet) -> ImageSet:
    shape, texture, background = images.factors
    return replace(images, factors=Factors(shape, background, texture))


def reshaped(images: ImageSet) -> ImageSet:
    return replace(images, reader=InMemory(images.pixels.reshape(N, 3, 2, 8)))


@pytest.mark.parametrize("change", [brighter, swapped, reshaped])
def test_the_hash_counts_pixels_labels_and_size(
    counted: ImageSet, change: Callable[[ImageSet], ImageSet]
) -> None:
    assert change(counted).sha256() != counted.sha256()


def test_the_hash_does_not_depend_on_the_layout_in_memory(counted: ImageSet) -> None:
    striped = counted.pixels.to(memory_format=torch.channels_last)
    assert replace(counted, reader=InMemory(striped)).sha256() == counted.sha256()


@pytest.mark.parametrize("index", [slice(3, 9), torch.tensor([8, 0, 8])])
def test_a_selection_keeps_pixels_labels_ids_and_masks_together(
    counted: ImageSet, index: slice | torch.Tensor
) -> None:
    chosen = counted.select(index)
    place = torch.arange(N)[index]
    assert torch.equal(chosen.pixels[:, 0, 0, 0].long(), place)
    assert torch.equal(chosen.factors.background, place + 200)
    assert torch.equal(chosen.ids, place + 300)
    assert chosen.masks is not None
    assert torch.equal(chosen.masks[:, 0, 0, 0].long(), place * 10)
    assert torch.equal(chosen.images(), counted.images(index))


def test_masks_take_the_place_of_images_and_all_else_stays(counted: ImageSet) -> None:
    shown = counted.as_masks()
    assert counted.masks is not None
    for channel in range(3):
        assert torch.equal(shown.pixels[:, channel : channel + 1], counted.masks)
    assert same(replace(shown, reader=InMemory(counted.pixels)), counted)
    assert shown.sha256() != counted.sha256()
    assert shown.select(slice(3)).images().shape == (3, 3, 4, 4)


def test_images_without_masks_cannot_be_shown_as_masks(counted: ImageSet) -> None:
    with pytest.raises(ValueError, match="the true masks of these images are not known"):
        replace(counted, masks=None).as_masks()


def test_joined_sets_follow_each_other_and_drop_masks(counted: ImageSet) -> None:
    joined = concatenate([counted.select(slice(0, 9)), counted.select(slice(9, N))])
    assert same(joined, replace(counted, masks=None))


def test_bytes_survive_the_way_to_floats_and_back() -> None:
    every = torch.arange(256).to(torch.uint8)
    assert torch.equal(to_bytes(to_images(every)), every)


@pytest.mark.parametrize("odd", [-0.01, 1.01, 255.0, float("nan"), float("inf")])
def test_values_outside_of_0_to_1_do_not_become_bytes(odd: float) -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got .*; divide uint8"):
        to_bytes(torch.tensor([0.5, odd]))


def test_float_pixels_are_refused_with_the_remedy() -> None:
    images = tiny_images(0)
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\) uint8, got .* see `to_bytes`"):
        replace(images, reader=InMemory(images.images()))


def test_images_and_labels_must_be_equally_many() -> None:
    images = tiny_images(0)
    with pytest.raises(ValueError, match=r"differ in number: \[39, 40\]"):
        replace(images, ids=images.ids[1:])


def test_masks_must_be_as_many_as_the_images(counted: ImageSet) -> None:
    assert counted.masks is not None
    with pytest.raises(ValueError, match=r"differ in number: \[22, 23\]"):
        replace(counted, masks=counted.masks[1:])


def test_independent_factors_take_every_class_and_no_other() -> None:
    factors = Factors.independent(500, 7, torch.Generator().manual_seed(0))
    assert all(set(labels.tolist()) == set(range(7)) for labels in factors)
    assert not torch.equal(factors.shape, factors.texture)
