from __future__ import annotations

import pytest

from cgn.models.imagenet.cgn import ImageNetConfig
from cgn.training.imagenet_memory import BYTES_PER_IMAGE, at_once

LEARNING, FULL = 168_000_000, ImageNetConfig()


def test_more_memory_never_takes_fewer_images() -> None:
    sizes = [at_once(0, 2_048, free * 10**9, LEARNING, FULL).images for free in range(1, 200)]
    assert sizes == sorted(sizes)
    assert set(sizes) == {1, 2, 4, 8, 16, 32, 64, 128}


@pytest.mark.parametrize("free_gb", [8, 16, 24, 40, 80])
def test_what_is_taken_fits(free_gb: int) -> None:
    images, _ = at_once(0, 2_048, free_gb * 10**9, LEARNING, FULL)
    assert 4e9 + images * BYTES_PER_IMAGE < free_gb * 1e9
    assert 4e9 + 3 * images * BYTES_PER_IMAGE > free_gb * 1e9


def test_a_share_is_never_exceeded_and_what_is_asked_for_is_taken() -> None:
    assert at_once(0, 5, 80 * 10**9, LEARNING, FULL).images == 4
    assert at_once(64, 5, 80 * 10**9, LEARNING, FULL).images == 5
    assert at_once(3, 100, None, LEARNING, FULL).images == 3


def test_maps_are_kept_where_there_is_room() -> None:
    small, large = (at_once(8, 64, free * 10**9, LEARNING, FULL) for free in (12, 80))
    assert small.checkpointed
    assert not large.checkpointed


def test_smaller_networks_take_more_images() -> None:
    half = ImageNetConfig(image_size_px=128)
    pair = [at_once(0, 2_048, 24 * 10**9, LEARNING, config).images for config in (FULL, half)]
    assert pair == [16, 64]
