"""Gray wildlife and cropped MNIST, and the silhouettes of photographs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from support import SHARED

from benchmarks.core.suite import EMBEDDED, DataSource
from benchmarks.suites import ALL_SUITES, GROUPS, SUITES
from benchmarks.worlds.digits import digits
from benchmarks.worlds.gray_textures import (
    COARSE,
    FINE,
    coarse_textures,
    fine_textures,
    gray_crops,
    gray_levels,
)
from benchmarks.worlds.mnists import double_colours
from benchmarks.worlds.painting import SHIFTS, Shapes, SurfacePainter, paint_shapes
from benchmarks.worlds.posed_digits import cropped, gray_shapes, gray_wildlife, posed, thick
from benchmarks.worlds.silhouettes import (
    CLASSES,
    Silhouettes,
    draw_shapes,
    picture_table,
    read_silhouettes,
    silhouettes,
)
from cgn.data.image_set import ImageSet

PHOTOGRAPHS = DataSource(folder=SHARED / "photographs")
EMBEDDED_PAINTERS = {"gray-wildlife-mnist": gray_wildlife, "cropped-mnist": cropped}
PAINTERS: dict[str, Callable[..., ImageSet]] = {
    name: partial(paint, EMBEDDED, "test") for name, paint in EMBEDDED_PAINTERS.items()
}
every_embedded = pytest.mark.parametrize("name", EMBEDDED_PAINTERS)


@cache
def painted(name: str, seed: int = 1, correlation: float | None = 1.0) -> ImageSet:
    return PAINTERS[name](seed=seed, correlation=correlation)


def mask_of(images: ImageSet) -> torch.Tensor:
    assert images.masks is not None
    return images.masks > 0


def invented_silhouettes() -> Silhouettes:
    """Two rectangles of each class, of different sides."""
    tiles = torch.zeros(20, 1, 128, 128, dtype=torch.float64)
    for i, tile in enumerate(tiles):
        tile[0, 40 - i : 88 + i] = 1
    return Silhouettes(tiles, np.arange(20) // 2, np.arange(100, 120))


def shapes_of(name: str) -> Shapes:
    test = digits(EMBEDDED, "test")
    if name == "silhouettes":
        return draw_shapes(invented_silhouettes(), 5, seed=1)
    return thick(test) if name == "gray-wildlife-mnist" else posed(test, seed=1)


SURFACES: dict[str, SurfacePainter] = {
    "gray-wildlife-mnist": partial(gray_crops, size_px=64),
    "cropped-mnist": double_colours,
    "silhouettes": double_colours,
}


def cut_share(masks: np.ndarray) -> float:
    """Share of the masks that reach the image's edge."""
    edges = (masks[:, 0], masks[:, -1], masks[:, :, 0], masks[:, :, -1])
    return float(np.any([edge.any(axis=1) for edge in edges], axis=0).mean())


def test_the_suites_are_a_group_of_their_own_and_not_among_the_seven() -> None:
    assert list(GROUPS["generators"]) == list(SURFACES)
    assert not set(GROUPS["generators"]) & set(SUITES)
    assert [ALL_SUITES[name].embedded for name in GROUPS["generators"]] == [True, True, False]
    assert {ALL_SUITES[name].protocol for name in SURFACES} == {f"{name}@v1" for name in SURFACES}


# Of the biased test digits: a machine on which they differ has other images than all others.
TEST_SHA256 = {
    "gray-wildlife-mnist": "25e265cb7ce3519c2404f319db57a0f7e90043468ae38ea802cac47dca253658",
    "cropped-mnist": "537a78706c9ea23eec15c72445b03b9ed61e8f5fbb7ca6a77d3b553a052f6ea0",
}


@every_embedded
def test_images_have_the_bytes_of_their_version(name: str) -> None:
    assert painted(name).sha256() == TEST_SHA256[name]
    assert painted(name, seed=2).sha256() != TEST_SHA256[name]


@every_embedded
def test_test_images_are_painted_from_digits_that_no_training_image_has(name: str) -> None:
    suite = ALL_SUITES[name]
    train = digits(EMBEDDED, "train")
    for variant, images in suite.variants(EMBEDDED).items():
        assert images.size_px == (suite.world.image_size_px,) * 2
        assert len(images) == 1_000
        assert not set(images.ids.tolist()) & set(train.ids.tolist())
        agrees = (images.factors.texture == images.factors.shape).double().mean()
        assert agrees == (1 if variant == "biased" else pytest.approx(0.1, abs=0.04))


def test_each_training_digit_is_painted_twice_in_gray_and_each_test_digit_once() -> None:
    train, test = (gray_shapes(EMBEDDED, split) for split in ("train", "test"))
    assert len(train.ids) == 8_000
    assert np.array_equal(train.ids[:4_000], train.ids[4_000:])
    assert np.array_equal(test.ids, digits(EMBEDDED, "test").ids)


@pytest.mark.parametrize("name", SURFACES)
@pytest.mark.parametrize("action", SHIFTS)
def test_an_intervention_changes_what_it_acts_on_and_nothing_else(name: str, action: str) -> None:
    shapes = shapes_of(name)
    images, other = (
        paint_shapes(shapes, SURFACES[name], seed=1, correlation=1.0, shift=shift)
        for shift in ((0, 0), SHIFTS[action])
    )
    factor = action.removeprefix("do_")
    assert getattr(other.factors, factor).equal((images.factors.shape + 1) % 10)
    changed = (images.pixels != other.pixels).any(dim=1, keepdim=True)
    allowed = mask_of(images) if factor == "texture" else ~mask_of(images)
    assert not (changed & ~allowed).any()
    assert changed.any(dim=(1, 2, 3)).float().mean() > 0.99
    assert mask_of(images).equal(mask_of(other))


def test_true_counterfactuals_are_those_of_the_training_images() -> None:
    world = ALL_SUITES["cropped-mnist"].world
    images = world.train(EMBEDDED)
    for action, truth in world.true_counterfactuals(EMBEDDED).items():
        changed = (images.pixels != truth.pixels).any(dim=1, keepdim=True)
        assert truth.ids.equal(images.ids)
        assert not (changed & (mask_of(images) != (action == "do_texture"))).any()


def test_gray_textures_have_one_distribution_of_values() -> None:
    levels = np.bincount(gray_levels(192**2), minlength=256)
    for family in (fine_textures(), coarse_textures()):
        for texture in family:
            assert np.array_equal(np.bincount(texture.ravel(), minlength=256), levels)


def test_no_two_gray_textures_are_alike() -> None:
    both = np.concatenate([fine_textures(), coarse_textures()])[:, 0].astype(float)
    assert len(FINE) == len(COARSE) == 10
    spectra = np.abs(np.fft.fft2(both - both.mean())).reshape(20, -1)
    smooth = spectra / np.linalg.norm(spectra, axis=1, keepdims=True)
    assert (smooth @ smooth.T - np.eye(20)).max() < 0.8


def test_a_reader_of_single_gray_values_does_not_tell_class_or_object() -> None:
    """The expected gray value has one distribution in objects and backgrounds of all classes."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 2_000)
    means = np.stack(
        [
            [
                (crops[labels == label, 0, 5, 7] < level).mean()
                for label in range(10)
                for level in (32, 96, 160, 224)
            ]
            for crops in gray_crops(labels, labels, rng, size_px=16)
        ]
    ).reshape(20, 4)
    # 2,000 pixels: 4.5 standard errors of a share are 0.05.
    assert np.abs(means - means.mean(axis=0)).max() < 0.05


def test_gray_images_are_gray_and_every_pixel_is_of_a_texture() -> None:
    images = painted("gray-wildlife-mnist")
    assert (images.pixels == images.pixels[:, :1]).all()
    assert set(images.pixels.unique().tolist()) <= set(gray_levels(192**2).tolist())


def test_masks_of_cropped_digits_tell_its_two_colours_apart() -> None:
    images = painted("cropped-mnist")
    for pixels, mask in zip(images.pixels[::50], mask_of(images)[::50], strict=True):
        for side in (mask[0], ~mask[0]):
            assert len(pixels[:, side].T.unique(dim=0)) == 1


def test_the_edge_cuts_most_of_the_cropped_digits_and_of_the_silhouettes() -> None:
    assert 0.85 < cut_share(posed(digits(EMBEDDED, "test"), seed=3).masks) < 0.97
    assert 0.7 < cut_share(draw_shapes(invented_silhouettes(), 50, seed=3).masks) < 1


def test_a_cropped_digit_lies_keeps_some_of_its_ink_and_has_a_binary_mask() -> None:
    shapes = posed(digits(EMBEDDED, "test"), seed=3)
    share = (shapes.masks > 0).mean(axis=(1, 2))
    assert share.min() > 0.04
    assert np.unique(shapes.masks).tolist() == [0, 255]


def test_the_table_of_silhouettes_has_ten_classes_with_some_of_each_held_out() -> None:
    table = picture_table()
    assert len(CLASSES) == 10
    assert table["file"].is_unique
    assert table["sha256_of_original"].is_unique
    counts = table.groupby(["class", "held_out"]).size().unstack()
    assert list(counts.columns) == ["no", "yes"]
    assert counts["yes"].min() >= 2
    assert counts["no"].min() >= 3
    for _, pictures in table.groupby("class"):
        ordered = pictures.sort_values("sha256_of_original")["held_out"].tolist()
        assert ordered == sorted(ordered, reverse=True)  # those with the lowest hashes


def look_alike(folder: Path, layout: str) -> pd.DataFrame:
    """Write a picture of each class; return its table."""
    rows = []
    for i, name in enumerate(CLASSES):
        file = f"things/{name}/{i}.png"
        path = folder / (f"cutouts/{file.replace('/', '__')}" if layout == "cutouts" else file)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.new("RGBA", (40, 20), (200, 0, 0, 0))
        # Pixels that are hardly opaque are cropped away from originals, and not from cut-outs.
        picture.paste((0, 200, 0, 255), (0 if layout == "cutouts" else 5, 0, 40 - i, 20))
        picture.save(path)
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        rows.append((file, name, "no", sha256, sha256))
    columns = ["file", "class", "held_out", "sha256_of_original", "sha256_of_cutout"]
    return pd.DataFrame(rows, columns=columns)


@pytest.mark.parametrize("layout", ["stamps", "cutouts"])
def test_silhouettes_are_what_is_opaque(layout: str, tmp_path: Path) -> None:
    every = read_silhouettes(tmp_path, look_alike(tmp_path, layout))
    assert every.tiles.shape == (10, 1, 128, 128)
    assert every.labels.tolist() == list(range(10))
    inside = (every.tiles > 0.5).double().mean(dim=(1, 2, 3)).numpy()
    width = 40.0 - np.arange(10) - (0 if layout == "cutouts" else 5)
    side = np.full(10, 40.0) if layout == "cutouts" else width
    assert inside == pytest.approx(width * 20 / side**2, abs=0.02)


def test_the_installed_package_is_found_below_the_folder_it_was_unpacked_to(tmp_path: Path) -> None:
    table = look_alike(tmp_path / "usr/share/tuxpaint/stamps", "stamps")
    assert len(read_silhouettes(tmp_path, table).labels) == 10


def test_a_missing_picture_is_named(tmp_path: Path) -> None:
    table = look_alike(tmp_path, "stamps")
    (tmp_path / table["file"][3]).unlink()
    with pytest.raises(ValueError, match=rf"{table['file'][3]}.* of the 10 pictures.*dpkg -x"):
        read_silhouettes(tmp_path, table)


def test_a_picture_with_other_bytes_is_refused(tmp_path: Path) -> None:
    table = look_alike(tmp_path, "stamps")
    (tmp_path / table["file"][2]).write_bytes(b"other")
    with pytest.raises(ValueError, match=r"2\.png is not the picture of tuxpaint-stamps-default"):
        read_silhouettes(tmp_path, table)


def test_silhouettes_without_a_folder_say_how_to_get_one() -> None:
    with pytest.raises(ValueError, match="silhouettes do not come with the packages: unpack"):
        silhouettes(EMBEDDED, "train")


def test_silhouettes_of_a_class_are_drawn_alike_often_in_poses_of_their_own() -> None:
    shapes = draw_shapes(invented_silhouettes(), 40, seed=0)
    assert np.bincount(shapes.labels).tolist() == [40] * 10
    assert np.bincount(shapes.ids - 100, minlength=20).min() > 8
    assert len(np.unique(shapes.masks.reshape(400, -1), axis=0)) > 395
    again = draw_shapes(invented_silhouettes(), 40, seed=0)
    assert np.array_equal(shapes.masks, again.masks)


@pytest.mark.shared("photographs")
def test_no_held_out_silhouette_is_in_a_training_image() -> None:
    train, test = (silhouettes(PHOTOGRAPHS, split) for split in ("train", "test"))
    assert not set(train.ids.tolist()) & set(test.ids.tolist())
    of_train = {tile.numpy().tobytes() for tile in torch.cat([train.tiles, train.tiles.flip(3)])}
    assert not of_train & {tile.numpy().tobytes() for tile in test.tiles}
    assert len(train.ids) + len(test.ids) == len(picture_table())


@pytest.mark.shared("photographs")
def test_silhouette_images_are_balanced_and_of_held_out_pictures() -> None:
    sets = ALL_SUITES["silhouettes"].variants(PHOTOGRAPHS)
    held_out = picture_table()["held_out"].eq("yes").to_numpy()
    for images in sets.values():
        assert images.factors.shape.bincount().tolist() == [100] * 10
        assert held_out[images.ids.numpy()].all()
        assert images.size_px == (64, 64)
    assert sets["biased"].factors.texture.equal(sets["biased"].factors.shape)
