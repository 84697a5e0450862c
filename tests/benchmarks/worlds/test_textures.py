import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.worlds import textures
from benchmarks.worlds.textures import (
    background_textures,
    coats,
    gaussian_noise,
    landscapes,
    object_textures,
)

FAMILIES = {
    "coats": coats,
    "landscapes": landscapes,
    "object_textures": object_textures,
    "background_textures": background_textures,
}
every_family = pytest.mark.parametrize("name", FAMILIES)


def halves(family: Tensor) -> tuple[Tensor, Tensor]:
    """Describe the left and the right half of each texture: colour histogram and edges."""
    images = family.flatten(0, -4).double() / 255
    width = images.shape[-1] // 2
    return describe(images[..., :width]), describe(images[..., width:])


def describe(images: Tensor) -> Tensor:
    bins = (images * 5).long().clamp_max(4)
    code = (bins[:, 0] * 25 + bins[:, 1] * 5 + bins[:, 2]).flatten(1)
    histograms = torch.stack([torch.bincount(row, minlength=125) for row in code]).double()
    grey = images.mean(dim=1)
    edges = [grey.diff(dim=axis).abs().mean(dim=(1, 2)) for axis in (1, 2)]
    return torch.cat([histograms / code.shape[1], 5 * torch.stack(edges, dim=1)], dim=1)


@every_family
def test_textures_are_the_same_when_drawn_again(name: str) -> None:
    first = FAMILIES[name]()
    FAMILIES[name].cache_clear()
    assert torch.equal(first, FAMILIES[name]())


@pytest.mark.parametrize("name", ["coats", "landscapes"])
def test_wildlife_has_ten_textures_of_150_pixels(name: str) -> None:
    assert FAMILIES[name]().shape == (10, 3, 150, 150)
    assert FAMILIES[name]().dtype == torch.uint8


@every_family
def test_half_of_a_texture_tells_which_texture_it_is(name: str) -> None:
    family = FAMILIES[name]()
    left, right = halves(family)
    n_variants = len(left) // len(family)
    nearest = torch.cdist(left, right, p=1).argmin(dim=1) // n_variants
    assert torch.equal(nearest, torch.arange(len(left)) // n_variants)


@every_family
def test_no_texture_is_plain(name: str) -> None:
    family = FAMILIES[name]().double()
    assert family.std(dim=(-1, -2)).amax(dim=-1).min() > 5


@every_family
def test_textures_continue_across_their_borders(name: str) -> None:
    images = FAMILIES[name]().double().mean(dim=-3)
    inside = (images[..., 1:, :] - images[..., :-1, :]).abs().mean(dim=(-1, -2))
    across = (images[..., 0, :] - images[..., -1, :]).abs().mean(dim=-1)
    assert (across < 1.8 * inside).all()


def test_stretched_noise_varies_less_along_its_grain() -> None:
    noise = gaussian_noise(np.random.default_rng(0), 64, 8, stretch=4)
    assert np.abs(np.diff(noise, axis=1)).mean() < 0.5 * np.abs(np.diff(noise, axis=0)).mean()


def test_haze_mutes_a_texture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textures, "GRAIN", 0.0)
    monkeypatch.setattr(textures, "MIST", 0.4)
    black = textures.Texture(lambda rng, size, _: np.eye(size), "0 000000,1 ffffff", haze=0.5)
    image = black.draw(np.random.default_rng(0), 2)
    assert image[:, 0].tolist() == [[178, 51]] * 3


def test_a_palette_colours_its_ends_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textures, "GRAIN", 0.0)
    steps = textures.Texture(lambda rng, size, _: np.eye(size), "0 102030,1 ff8000")
    image = steps.draw(np.random.default_rng(0), 2)
    assert image[:, 0, 1].tolist() == [0x10, 0x20, 0x30]
    assert image[:, 0, 0].tolist() == [0xFF, 0x80, 0x00]
