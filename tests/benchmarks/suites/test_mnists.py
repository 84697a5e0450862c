from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import chi2_contingency
from support import SHARED

from benchmarks.core.suite import EMBEDDED, DataSource, Suite, format_model_id, parse_model_id
from benchmarks.suites import ALL_SUITES, GROUPS, MNISTS
from benchmarks.worlds import mnists
from benchmarks.worlds.digits import Digits, Split, digits
from benchmarks.worlds.mnists import (
    DOUBLE_BACKGROUND,
    DOUBLE_OBJECT,
    JITTERED,
    colored,
    double_colored,
    enlarge,
    wildlife,
)
from cgn.data.image_set import ImageSet

SUITES = {suite.name: suite for suite in MNISTS}
T10K = {name: ALL_SUITES[name] for name in GROUPS["t10k"]}
PAINTERS: dict[str, Callable[..., ImageSet]] = {
    "colored-mnist": colored,
    "double-colored-mnist": double_colored,
    "wildlife-mnist": wildlife,
}
every_suite = pytest.mark.parametrize("name", SUITES)


@cache
def sets_of(name: str) -> dict[str, ImageSet]:
    return SUITES[name].variants(EMBEDDED)


def chosen(every: Digits, index: NDArray[np.int64]) -> Digits:
    return Digits(every.pixels[index], every.labels[index], every.ids[index])


def some_digits(n: int = 300) -> Digits:
    every = digits(EMBEDDED, "train")
    index = np.random.default_rng(0).permutation(len(every.labels))[:n]
    return chosen(every, index)


@cache
def painted(name: str, biased: bool) -> ImageSet:
    return PAINTERS[name](some_digits(), correlation=1.0 if biased else None, seed=5)


def mask_of(images: ImageSet) -> torch.Tensor:
    assert images.masks is not None
    return images.masks > 0


@every_suite
def test_the_same_seed_gives_the_same_bytes(name: str) -> None:
    hashes = [
        PAINTERS[name](some_digits(50), correlation=None, seed=seed).sha256() for seed in (1, 1, 2)
    ]
    assert hashes[0] == hashes[1] != hashes[2]


@every_suite
def test_in_biased_images_every_factor_follows_the_digit(name: str) -> None:
    for images in (painted(name, True), sets_of(name)["biased"]):
        shape, texture, background = images.factors
        assert torch.equal(texture, shape)
        assert name == "colored-mnist" or torch.equal(background, shape)


@every_suite
def test_in_unbiased_images_no_factor_tells_another(name: str) -> None:
    factors = sets_of(name)["unbiased"].factors
    known = factors[:2] if name == "colored-mnist" else factors
    for one, other in combinations(known, 2):
        table = (10 * one + other).bincount(minlength=100).view(10, 10).numpy()
        assert chi2_contingency(table).pvalue > 0.001
    for labels in known:
        assert labels.bincount(minlength=10).min() > 60


# Of the training images as they were before they could follow their class less closely.
TRAIN_SHA256 = {
    "colored-mnist": "a0135a23bfdf599095ccc1840cbfb8530ea8df818c68d1b45975a7f4be7dab61",
    "double-colored-mnist": "9791f1d9fab2da583ac32d34d428a8ffe9ab54480346ddd78df4623fa4a106f8",
    "wildlife-mnist": "17efe1f9e68c8555905c865539cfab0314a7435ecbcbd98e0c9ba833aa8a0e6a",
}


@every_suite
def test_at_a_correlation_of_one_the_training_images_are_what_they_always_were(name: str) -> None:
    assert SUITES[name].world.train(EMBEDDED).sha256() == TRAIN_SHA256[name]
    assert SUITES[name].world.train(DataSource(correlation=1)).sha256() == TRAIN_SHA256[name]


@every_suite
def test_texture_and_background_leave_the_digit_as_often_as_asked(name: str) -> None:
    shape, *others = SUITES[name].world.train(DataSource(correlation=0.9)).factors
    known = others[:1] if name == "colored-mnist" else others
    for labels in known:
        # 4,000 images: 4 standard errors are 1.9 points.
        assert (labels == shape).double().mean() == pytest.approx(0.9, abs=0.019)
        away = ((labels - shape) % 10).bincount(minlength=10)[1:]
        assert chi2_contingency([away.tolist(), [1_000] * 9]).pvalue > 0.001
    if len(known) == 2:
        both = ((known[0] == shape) & (known[1] == shape)).double().mean()
        assert both == pytest.approx(0.81, abs=0.025)  # each on its own


@every_suite
def test_images_that_follow_their_digit_are_the_same_at_every_correlation(name: str) -> None:
    images = {rho: SUITES[name].world.train(DataSource(correlation=rho)) for rho in (1, 0.95, 0.9)}
    same = {
        rho: (images[rho].pixels == images[1].pixels).flatten(1).all(dim=1) for rho in (0.95, 0.9)
    }
    for rho, reference_variant in same.items():
        shape, texture, background = images[rho].factors
        follows = (texture == shape) & ((background == shape) | (background == -1))
        assert torch.equal(reference_variant, follows)
    assert (same[0.95] | ~same[0.9]).all()  # what has left at 0.95 has left at 0.9
    assert 0 < (~same[0.95]).sum() < (~same[0.9]).sum()


@every_suite
def test_neither_test_images_nor_unbiased_ones_depend_on_the_correlation(name: str) -> None:
    source = DataSource(correlation=0.5)
    for variant, images in SUITES[name].variants(source).items():
        assert images.sha256() == sets_of(name)[variant].sha256()
    world = SUITES[name].world
    assert world.unbiased(source).sha256() == world.unbiased(EMBEDDED).sha256()


@pytest.mark.parametrize("correlation", [0.1, 0.0, -1.0, 1.01, float("nan")])
def test_a_correlation_out_of_range_is_refused(correlation: float) -> None:
    with pytest.raises(ValueError, match=r"must lie in \(0.1, 1\], got "):
        DataSource(correlation=correlation)


@pytest.mark.parametrize("correlation", [1.0, 0.995, 0.99, 0.98, 0.95, 0.9, 1 / 3])
@pytest.mark.parametrize("model", ["erm", "cgn+original", "cgn-ensemble"])
def test_a_name_in_results_tells_model_and_correlation(model: str, correlation: float) -> None:
    name = format_model_id(model, correlation)
    assert parse_model_id(name) == (model, correlation)
    assert parse_model_id(f"{name}/shape") == (f"{model}/shape", correlation)


def test_colored_images_have_no_background_label() -> None:
    for biased in (True, False):
        assert set(painted("colored-mnist", biased).factors.background.tolist()) == {-1}


@every_suite
def test_no_test_digit_is_trained_on(name: str) -> None:
    train = set(digits(EMBEDDED, "train").ids.tolist())
    for images in sets_of(name).values():
        assert len(images) == 1_000
        assert train.isdisjoint(images.ids.tolist())


def test_every_class_has_400_embedded_digits_for_training_and_100_for_testing() -> None:
    assert np.bincount(digits(EMBEDDED, "train").labels).tolist() == [400] * 10
    assert np.bincount(digits(EMBEDDED, "test").labels).tolist() == [100] * 10


@every_suite
def test_a_suites_test_sets_show_the_same_digits_in_other_paint(name: str) -> None:
    biased, unbiased = sets_of(name)["biased"], sets_of(name)["unbiased"]
    assert torch.equal(biased.factors.shape, unbiased.factors.shape)
    assert torch.equal(mask_of(biased), mask_of(unbiased))
    assert not torch.equal(biased.pixels, unbiased.pixels)


@every_suite
def test_masks_are_the_digits(name: str) -> None:
    bright = enlarge(some_digits().pixels) > 25.5
    assert np.array_equal(mask_of(painted(name, False))[:, 0].numpy(), bright)


def test_digits_are_enlarged_by_repeating_rows_and_columns() -> None:
    gray = np.arange(28 * 28).reshape(1, 28, 28).astype(np.uint8)
    expected = torch.nn.functional.interpolate(torch.from_numpy(gray)[None].float(), size=32)
    assert np.array_equal(enlarge(gray)[0], expected[0, 0].numpy().astype(np.uint8))


def test_colored_digits_lie_on_black() -> None:
    images = painted("colored-mnist", False)
    assert images.pixels[~mask_of(images).expand(-1, 3, -1, -1)].max() <= 25
    corners = images.pixels[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.max() == 0


def test_a_colored_digit_is_its_gray_digit_times_one_colour() -> None:
    images, gray = painted("colored-mnist", True), enlarge(some_digits().pixels)
    full = torch.from_numpy(gray).double() / 255
    for pixels, ink in zip(images.pixels[:50].double(), full, strict=False):
        colour = pixels.flatten(1)[:, ink.argmax()] / ink.max()
        assert (pixels - colour[:, None, None] * ink).abs().max() <= 1.5


def test_colored_digits_jitter_around_their_colour_by_the_published_variance() -> None:
    many = chosen(some_digits(1), np.zeros(3_000, np.int64))
    many = many._replace(pixels=np.full_like(many.pixels, 255), labels=many.labels * 0 + 5)
    colours = colored(many, correlation=1.0, seed=0).pixels[:, :, 16, 16].double()
    # Green, 30, and the others are clipped: only medians are left in place by clipping.
    assert (colours.median(dim=0).values - torch.from_numpy(JITTERED[5])).abs().max() < 6
    within = (colours[:, 0] - JITTERED[5][0]).abs() < 255 * 0.02**0.5
    assert within.double().mean() == pytest.approx(0.683, abs=0.04)


def test_double_colored_images_have_two_colours() -> None:
    images = painted("double-colored-mnist", False)
    for pixels, mask in zip(images.pixels, mask_of(images), strict=True):
        for region in (pixels[:, mask[0]], pixels[:, ~mask[0]]):
            assert torch.equal(region, region[:, :1].expand_as(region))


def test_the_object_colours_are_the_background_colours_shifted_by_six() -> None:
    for i in range(10):
        assert DOUBLE_OBJECT[i].tolist() == DOUBLE_BACKGROUND[(i - 6) % 10].tolist()


def test_no_biased_double_colored_digit_has_the_colour_of_its_background() -> None:
    assert (DOUBLE_OBJECT != DOUBLE_BACKGROUND).any(axis=1).all()


def test_double_colours_vary_by_one_hundredth() -> None:
    images = sets_of("double-colored-mnist")["unbiased"]
    mask = mask_of(images)
    pixels = images.pixels.double()
    texture, background = images.factors[1:]
    places = mask.flatten(1).int().argmax(dim=1)
    ink = pixels.flatten(2)[torch.arange(len(images)), :, places]
    behind = pixels[:, :, 0, 0]
    for colours, palette, labels in (
        (ink, DOUBLE_OBJECT, texture),
        (behind, DOUBLE_BACKGROUND, background),
    ):
        meant = torch.from_numpy(palette)[labels]
        inside = (meant > 15) & (meant < 240)  # where nothing is clipped
        noise = (colours - meant)[inside] / 255
        assert noise.mean().abs() < 0.002
        assert noise.std() == pytest.approx(0.01, rel=0.1)


@cache
def colours_of_wildlife() -> tuple[list[set[int]], list[set[int]]]:
    """The colours, as one number each, of every coat and landscape."""
    families = mnists._wildlife_textures(None)
    return tuple(  # type: ignore[return-value]
        [set(code(torch.from_numpy(texture.copy())).tolist()) for texture in family]
        for family in families
    )


def code(pixels: torch.Tensor) -> torch.Tensor:
    red, green, blue = pixels.long().flatten(1)
    colours: torch.Tensor = (red * 256 + green) * 256 + blue
    return colours


def test_wildlife_pixels_come_from_the_textures_of_their_labels() -> None:
    coats, landscapes = colours_of_wildlife()
    images = painted("wildlife-mnist", False)
    for i in range(60):
        pixels, mask = images.pixels[i], mask_of(images)[i, 0]
        inside, outside = (set(code(pixels[:, part]).tolist()) for part in (mask, ~mask))
        assert inside <= coats[int(images.factors.texture[i])]
        assert outside <= landscapes[int(images.factors.background[i])]


def test_wildlife_textures_are_150_pixels_and_a_reflected_border() -> None:
    for family in mnists._wildlife_textures(None):
        assert family.shape == (10, 3, 156, 156)
        assert np.array_equal(family[:, :, 2], family[:, :, 4])


@pytest.mark.parametrize("suite", T10K.values(), ids=list(T10K))
def test_mnists_own_test_digits_cannot_be_had_without_a_folder(suite: Suite) -> None:
    assert not suite.embedded
    message = "t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte"
    with pytest.raises(ValueError, match=message):
        suite.variants(EMBEDDED)


@every_suite
def test_a_twin_shares_the_world_and_the_scores_but_not_the_protocol(name: str) -> None:
    twin = T10K[f"{name}-t10k"]
    assert twin.world is SUITES[name].world
    assert twin.protocol == f"{name}-t10k@v1"
    assert [s.key for s in twin.scores] == [s.key for s in SUITES[name].scores]


@pytest.fixture
def folder() -> Path:
    """The real MNIST."""
    return SHARED / "mnist"


@pytest.mark.shared("mnist")
@every_suite
def test_the_images_of_a_twin_are_of_mnists_own_test_files(name: str, folder: Path) -> None:
    twin = T10K[f"{name}-t10k"]
    test_digits = digits(DataSource(folder=folder), "t10k")
    biased, unbiased = twin.variants(DataSource(folder=folder)).values()
    assert len(biased) == len(unbiased) == 10_000
    assert np.bincount(test_digits.labels).tolist()[:2] == [980, 1135]  # as is well known
    assert biased.factors.shape.tolist() == test_digits.labels.tolist()
    assert torch.equal(biased.factors.texture, biased.factors.shape)
    assert (unbiased.factors.texture == unbiased.factors.shape).double().mean() < 0.12


def write_textures(folder: Path, n: int = 10) -> Path:
    """Write plain pictures, brighter from class to class; backgrounds are brighter still."""
    for kind, base in (("object", 0), ("background", 100)):
        (folder / kind).mkdir()
        for i in range(n):
            picture = Image.new("RGB", (40, 60), (base + 10 * i,) * 3)
            picture.save(folder / kind / f"{i}.jpg", quality=100)
    return folder


def test_textures_of_a_folder_go_to_the_classes_in_the_order_of_their_names(tmp_path: Path) -> None:
    images = wildlife(some_digits(40), correlation=None, seed=0, textures=write_textures(tmp_path))
    mask = mask_of(images).expand(-1, 3, -1, -1)
    meant = torch.where(
        mask,
        10 * images.factors.texture.view(-1, 1, 1, 1),
        100 + 10 * images.factors.background.view(-1, 1, 1, 1),
    )
    assert (images.pixels.long() - meant).abs().max() <= 2
    mnists._wildlife_textures.cache_clear()


def test_a_wrong_number_of_textures_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    folder = write_textures(tmp_path, n=9)
    with pytest.raises(ValueError, match=r"object holds 9 images, expected 10, one a class"):
        wildlife(some_digits(5), correlation=None, seed=0, textures=folder)


@pytest.mark.parametrize("data", [b"no picture", b""])
def test_a_texture_that_is_no_picture_is_an_error_that_names_its_folder(
    data: bytes, tmp_path: Path
) -> None:
    folder = write_textures(tmp_path)
    (folder / "background" / "3.jpg").write_bytes(data)
    with pytest.raises(ValueError, match=r"background/3\.jpg cannot be read as an image"):
        wildlife(some_digits(5), correlation=None, seed=0, textures=folder)


@pytest.mark.shared("mnist")
@pytest.mark.parametrize("split", ["train", "test"])
@every_suite
def test_painting_official_digits_uses_places_in_the_official_files(
    name: str, split: Split, folder: Path
) -> None:
    every = digits(DataSource(folder=folder), split)
    assert len(every.labels) == {"train": 50_000, "test": 10_000}[split]
    few = chosen(every, np.arange(20))
    images = PAINTERS[name](few, correlation=1.0, seed=0)
    first = {"train": 0, "test": 50_000}[split]
    assert images.ids.tolist() == list(range(first, first + 20))
    assert images.factors.shape.tolist() == few.labels.tolist()


@pytest.mark.shared("wildlife-textures")
def test_real_wildlife_textures_can_be_read() -> None:
    folder = SHARED / "wildlife-textures"
    images = wildlife(some_digits(20), correlation=1.0, seed=0, textures=folder)
    procedural = wildlife(some_digits(20), correlation=1.0, seed=0)
    assert torch.equal(mask_of(images), mask_of(procedural))
    assert images.sha256() != procedural.sha256()


@every_suite
def test_sources_are_told_apart_by_name(name: str) -> None:
    source = replace(EMBEDDED, textures=Path("x"))
    assert EMBEDDED.name == "embedded"
    assert source.name == "embedded+textures"
    assert SUITES[name].world.image_size_px == 32


@every_suite
def test_a_true_counterfactual_differs_only_in_the_factor_that_was_acted_on(name: str) -> None:
    world = SUITES[name].world
    images, true_counterfactuals = world.train(EMBEDDED), world.true_counterfactuals(EMBEDDED)
    assert images.masks is not None
    is_object = images.masks > 0
    if name == "colored-mnist":  # its digits have gray edges, which the masks leave out
        is_object = torch.from_numpy(enlarge(digits(EMBEDDED, "train").pixels))[:, None] > 0
    assert (
        list(true_counterfactuals)
        == ["do_texture", "do_background"][: 1 if name == "colored-mnist" else 2]
    )
    for action, truth in true_counterfactuals.items():
        factor = action.removeprefix("do_")
        assert getattr(truth.factors, factor).equal((images.factors.shape + 1) % 10)
        assert truth.ids.equal(images.ids)
        changed = (truth.pixels != images.pixels).any(dim=1, keepdim=True)
        assert not (changed & (~is_object if factor == "texture" else is_object)).any()
        assert changed.any(dim=(1, 2, 3)).float().mean() > 0.99
