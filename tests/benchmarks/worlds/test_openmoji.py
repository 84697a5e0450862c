import os
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support import ROOT

from benchmarks.core.evaluate import data_sha256
from benchmarks.core.suite import EMBEDDED, DataSource
from benchmarks.suites.cue_conflict import CUE_CONFLICT, N_PER_PAIR
from benchmarks.suites.imagenet import IMAGENET_A, IMAGENET_SKETCH, draw_conditions
from benchmarks.suites.imagenet9 import ID_STRIDE, IN9, box_of, tile_over
from benchmarks.suites.protocols import PINNED
from benchmarks.worlds.glyphs import CLASSES, GLYPHS, draw_glyphs, glyph_tiles, glyphs_in_turn
from benchmarks.worlds.openmoji import OPENMOJI9, TRAIN_COUNTS
from benchmarks.worlds.openmoji import unbiased as unbiased_images
from benchmarks.worlds.scenes import (
    CHUNK,
    Layers,
    draw_background_texture,
    draw_object_texture,
    draw_scene,
    render,
)
from cgn.data.image_set import ImageSet

SUITES = {suite.name: suite for suite in (IN9, CUE_CONFLICT, IMAGENET_A, IMAGENET_SKETCH)}
every_suite = pytest.mark.parametrize("name", SUITES)
HELD_OUT = torch.tensor([glyph.held_out for glyph in GLYPHS])


@cache
def sets_of(name: str) -> dict[str, ImageSet]:
    return SUITES[name].variants(EMBEDDED)


@cache
def biased() -> ImageSet:
    return OPENMOJI9.train(EMBEDDED)


@cache
def unbiased() -> ImageSet:
    return unbiased_images(EMBEDDED, 2_000)


def masks_of(images: ImageSet) -> torch.Tensor:
    assert images.masks is not None
    return images.masks


def glyphs_of(images: ImageSet, name: str) -> torch.Tensor:
    return images.ids // ID_STRIDE if name == "in9" else images.ids


@every_suite
def test_test_images_are_the_bytes_that_the_protocol_says(name: str) -> None:
    pins = pd.read_csv(PINNED, index_col="protocol")["images_sha256"]
    assert data_sha256(sets_of(name)) == pins[SUITES[name].protocol]


def test_the_bytes_need_no_vector_instructions_and_no_number_of_threads() -> None:
    code = (
        "import torch; from benchmarks.suites import SUITES as s;"
        "from benchmarks.core.suite import EMBEDDED;"
        "from benchmarks.core.evaluate import data_sha256; torch.set_num_threads(2);"
        "print(data_sha256(s['cue-conflict'].variants(EMBEDDED)))"
    )
    plain = os.environ | {"ATEN_CPU_CAPABILITY": "default"}
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=plain,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == data_sha256(sets_of("cue-conflict"))


def test_glyphs_are_the_same_when_drawn_again() -> None:
    first = glyph_tiles()
    glyph_tiles.cache_clear()
    same = torch.equal(first, glyph_tiles())
    assert same


@every_suite
def test_every_class_is_tested_equally_often(name: str) -> None:
    for images in sets_of(name).values():
        counts = images.factors.shape.bincount(minlength=len(CLASSES))
        assert counts.unique().tolist() == [len(images) / len(CLASSES)]


@every_suite
def test_every_test_set_shows_known_and_held_out_glyphs_of_every_class(name: str) -> None:
    for images in sets_of(name).values():
        glyphs = glyphs_of(images, name)
        labels = torch.tensor([GLYPHS[i].label for i in glyphs.tolist()])
        assert torch.equal(labels, images.factors.shape)
        for label in range(len(CLASSES)):
            assert HELD_OUT[glyphs[labels == label]].unique().tolist() == [False, True]


@every_suite
def test_scores_name_variants_that_exist(name: str) -> None:
    names = {part for score in SUITES[name].scores for part in score.variant.split("-")}
    assert names == set(sets_of(name))


@every_suite
def test_a_folder_is_refused_with_advice(name: str) -> None:
    with pytest.raises(ValueError, match="take the embedded data"):
        SUITES[name].variants(DataSource(folder=Path("in9")))


@pytest.mark.parametrize("make", [OPENMOJI9.train, OPENMOJI9.unbiased])
def test_training_sets_refuse_a_folder_with_advice(make: Callable[..., ImageSet]) -> None:
    with pytest.raises(ValueError, match="take the embedded data"):
        make(DataSource(folder=Path("in9")))


def test_training_images_that_do_not_follow_their_class_are_refused() -> None:
    with pytest.raises(ValueError, match="at correlation 1 alone, got 0"):
        OPENMOJI9.train(DataSource(correlation=0.99))


def test_biased_labels_agree_and_dogs_outnumber_fish() -> None:
    factors = biased().factors
    assert torch.equal(factors.shape, factors.texture)
    assert torch.equal(factors.shape, factors.background)
    assert factors.shape.bincount().tolist() == list(TRAIN_COUNTS)


def test_unbiased_labels_are_independent_and_uniform() -> None:
    shape, texture, background = unbiased().factors
    n, n_classes = len(shape), len(CLASSES)
    for first, second in ((shape, texture), (shape, background), (texture, background)):
        table = (first * n_classes + second).bincount(minlength=n_classes**2)
        expected = n / n_classes**2
        chi_squared = ((table - expected) ** 2 / expected).sum().item()
        assert chi_squared < 120  # of 80 degrees of freedom: exceeded once in 400


def test_an_object_is_told_from_its_background_by_colour_alone() -> None:
    """A histogram of each class's object and background colours finds most of the object."""
    images, masks = biased(), masks_of(biased())
    for label in range(len(CLASSES)):
        own = images.factors.shape == label
        levels = images.pixels[own].int() // 32
        codes = levels[:, 0] * 64 + levels[:, 1] * 8 + levels[:, 2]
        inside = masks[own][:, 0] > 0
        n_inside = codes[inside].bincount(minlength=512)
        more_inside = n_inside > codes[~inside].bincount(minlength=512)
        found = more_inside[codes]
        overlap = (found & inside).sum() / (found | inside).sum()
        assert overlap > 0.75, CLASSES[label]


def test_the_light_changes_backgrounds_more_than_objects() -> None:
    labels = torch.zeros(500, dtype=torch.int64)
    rng = np.random.default_rng(0)
    scenery, surface = (
        draw_background_texture(labels, rng).gain,
        draw_object_texture(labels, rng).gain,
    )
    assert scenery.std() > surface.std()
    assert surface.amin() > 0.5


@pytest.mark.parametrize("make", [biased, unbiased])
def test_nothing_is_trained_on_held_out_glyphs(make: Callable[..., ImageSet]) -> None:
    assert not HELD_OUT[make().ids].any()


@pytest.mark.parametrize("make", [biased, unbiased])
def test_every_object_is_visible_and_wholly_inside(make: Callable[..., ImageSet]) -> None:
    masks = masks_of(make())
    assert masks.unique().tolist() == [0, 255]
    assert (masks > 0).double().mean(dim=(1, 2, 3)).min() > 0.02
    border = torch.cat([masks[..., 0], masks[..., -1], masks[..., 0, :], masks[..., -1, :]])
    assert not border.any()


def test_no_two_glyphs_have_the_same_glyph() -> None:
    glyphs = glyph_tiles().flatten(1)
    distances = torch.cdist(glyphs, glyphs) + torch.eye(len(glyphs)) * 1e9
    assert len({glyph.codepoint for glyph in GLYPHS}) == len(GLYPHS)
    assert distances.min() > 5


def test_the_mask_is_exactly_where_the_foreground_is_pasted() -> None:
    glyphs = torch.arange(len(GLYPHS))
    labels = torch.zeros_like(glyphs)
    scene = draw_scene(glyphs, labels, labels, np.random.default_rng(0))

    def white_on_black(layers: Layers) -> torch.Tensor:
        return (layers.mask >= 0.5).double().expand(-1, 3, -1, -1)

    images = render(scene, glyphs, compositor=white_on_black)
    assert torch.equal(images.pixels[:, :1], masks_of(images))


def test_a_scene_is_rendered_alike_in_any_company() -> None:
    labels = torch.arange(9).repeat(15)
    rng = np.random.default_rng(1)
    scene = draw_scene(draw_glyphs(labels, rng, held_out=True), labels, labels, rng)
    whole = render(scene, labels)
    first = render(next(scene.chunks()), labels[:CHUNK])
    assert torch.equal(whole.pixels[:CHUNK], first.pixels)


def test_glyphs_in_turn_takes_each_as_often_as_the_others() -> None:
    labels, glyphs = glyphs_in_turn(4 * 12)
    assert glyphs[labels == 0].bincount().tolist() == [12, 12, 12, 12]


def test_in9_variants_share_their_foregrounds() -> None:
    sets = sets_of("in9")
    for images in sets.values():
        assert torch.equal(images.ids, sets["original"].ids)
        assert torch.equal(masks_of(images), masks_of(sets["original"]))
    assert len(sets["original"].ids.unique()) == len(sets["original"])


@pytest.mark.parametrize("other", ["mixed_same", "mixed_rand", "mixed_next"])
def test_a_mixed_image_keeps_the_object_and_changes_what_is_behind(other: str) -> None:
    original, mixed = sets_of("in9")["original"], sets_of("in9")[other]
    difference = (original.pixels.int() - mixed.pixels.int()).abs().double()
    kept = (difference[erode(masks_of(original)).expand_as(difference)] == 0).double().mean().item()
    changed = difference[(masks_of(original) == 0).expand_as(difference)].mean().item()
    assert kept > 0.998
    assert changed > 20


def erode(masks: torch.Tensor) -> torch.Tensor:
    """Leave only pixels three away from the edge: there the object covers all but slits."""
    return -torch.nn.functional.max_pool2d(-(masks > 0).double(), 7, 1, 3) > 0


def test_only_bg_b_is_black_in_the_box_and_original_outside() -> None:
    original, boxed = sets_of("in9")["original"], sets_of("in9")["only_bg_b"]
    inner = box_of(masks_of(original)).expand_as(boxed.pixels)
    outer = torch.nn.functional.max_pool2d(inner.double(), 5, 1, 2) == 0
    same_outside = torch.equal(boxed.pixels[outer], original.pixels[outer])
    assert boxed.pixels[inner].max().item() == 0
    assert same_outside


def test_only_bg_t_keeps_the_background_and_shows_no_object() -> None:
    original, tiled = sets_of("in9")["original"], sets_of("in9")["only_bg_t"]
    black = sets_of("in9")["only_bg_b"].pixels
    wide = torch.nn.functional.max_pool2d(masks_of(original).double(), 5, 1, 2)
    outside = ~box_of(wide).expand_as(black)
    same_outside = torch.equal(tiled.pixels[outside], original.pixels[outside])
    colours = [
        [set(map(tuple, image.flatten(1).T.tolist())) for image in images[::200]]
        for images in (tiled.pixels, black)
    ]
    from_outside = all(seen <= kept for seen, kept in zip(*colours, strict=True))
    assert same_outside
    assert from_outside


def test_tiling_ignores_what_was_in_the_box() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(20, 3, 16, 16, generator=generator)
    corner = torch.randint(0, 8, (20, 2), generator=generator)
    index = torch.arange(16)
    rows = (index >= corner[:, :1]) & (index < corner[:, :1] + 7)
    columns = (index >= corner[:, 1:]) & (index < corner[:, 1:] + 6)
    box = (rows[:, :, None] & columns[:, None, :])[:, None]
    assert torch.equal(tile_over(images, box), tile_over(images.masked_fill(box, 9.0), box))


def test_no_fg_is_black_on_the_object_and_only_fg_black_off_it() -> None:
    silhouette, cut_out = sets_of("in9")["no_fg"], sets_of("in9")["only_fg"]
    inside = silhouette.pixels[erode(masks_of(silhouette)).expand(-1, 3, -1, -1)]
    wide = torch.nn.functional.max_pool2d(masks_of(cut_out).double(), 5, 1, 2)
    outside = cut_out.pixels[~box_of(wide).expand(-1, 3, -1, -1)]
    assert (inside == 0).double().mean().item() > 0.998
    assert outside.max().item() == 0


def test_mixed_backgrounds_are_of_the_classes_they_say() -> None:
    sets = sets_of("in9")
    labels = sets["original"].factors.shape
    assert torch.equal(sets["mixed_same"].factors.background, labels)
    assert torch.equal(sets["mixed_next"].factors.background, (labels + 1) % len(CLASSES))
    counts = sets["mixed_rand"].factors.background.bincount(minlength=len(CLASSES))
    assert (counts / len(labels) - 1 / len(CLASSES)).abs().max() < 0.03


def test_shape_and_texture_conflict_in_every_pair_equally_often() -> None:
    shape, texture, background = sets_of("cue-conflict")["conflict"].factors
    table = (shape * len(CLASSES) + texture).bincount(minlength=len(CLASSES) ** 2)
    expected = N_PER_PAIR * (1 - torch.eye(len(CLASSES), dtype=torch.int64))
    assert torch.equal(table.view(len(CLASSES), -1), expected)
    assert background.unique().tolist() == [-1]


def test_shape_and_texture_agree_in_the_agreeing_set() -> None:
    factors = sets_of("cue-conflict")["agree"].factors
    assert torch.equal(factors.shape, factors.texture)


def test_hard_images_have_the_texture_of_their_class_and_foreign_backgrounds() -> None:
    hard = sets_of("imagenet-a")["hard"].factors
    assert torch.equal(hard.shape, hard.texture)
    assert (hard.shape != hard.background).all()


def test_conditions_are_drawn_in_the_order_of_their_rows() -> None:
    rows = torch.tensor([[3, 1, 1], [2, 2, 0], [0, 5, 1]])
    images = draw_conditions(rows, np.random.default_rng(0))
    assert images.factors.shape.tolist() == [3, 2, 0]
    assert images.factors.background.tolist() == [1, 2, 5]


def test_sketches_are_dark_lines_on_white() -> None:
    pixels = sets_of("imagenet-sketch")["sketch"].pixels
    colourless = torch.equal(pixels[:, 0], pixels[:, 2])
    white = (pixels[:, 0] > 200).double().mean(dim=(1, 2))
    darkest = pixels.flatten(1).amin(dim=1)
    assert colourless
    assert white.min().item() > 0.5
    assert white.max().item() < 0.98
    assert darkest.max().item() < 100
