from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet
from cgn.io.cache import weights_sha256
from cgn.training.gan import GAN, gan_store, sample_gan, train_gan
from cgn.training.small import TrainConfig

N_CLASSES = 3
CONFIG = TrainConfig(steps=3, batch_size=8, width=8)


def coloured(n: int = 30) -> ImageSet:
    """Plain images: red, green or blue, by the label."""
    labels = torch.arange(n) % N_CLASSES
    pixels = torch.full((n, 3, 16, 16), 30, dtype=torch.uint8)
    pixels[torch.arange(n), labels] = 220
    return ImageSet(pixels, Factors.aligned(labels), torch.arange(n))


def trained(images: ImageSet, config: TrainConfig = CONFIG) -> str:
    return weights_sha256(train_gan(images, N_CLASSES, config))


@pytest.fixture
def gan() -> GAN:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GAN(N_CLASSES, 16, width=8).eval()


def test_one_seed_gives_one_gan_bit_for_bit() -> None:
    hashes = [trained(coloured(), replace(CONFIG, seed=seed)) for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_training_leaves_the_callers_random_state_alone() -> None:
    before = torch.get_rng_state()
    trained(coloured())
    assert torch.equal(torch.get_rng_state(), before)


def test_training_reads_no_label_but_the_class() -> None:
    images = coloured()
    unknown = images.factors.shape * 0 - 1
    blind = replace(images, factors=Factors(images.factors.shape, unknown, unknown))
    assert trained(blind) == trained(images)


def test_progress_tells_every_step() -> None:
    told: list[tuple[int, int]] = []
    train_gan(
        coloured(), N_CLASSES, CONFIG, progress=lambda done, steps: told.append((done, steps))
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    config = replace(CONFIG, checkpoint_steps=2)

    def stop(done: int, steps: int) -> None:
        if done == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train_gan(coloured(), N_CLASSES, config, checkpoint=tmp_path / "run", progress=stop)
    done: list[int] = []
    resumed = train_gan(
        coloured(),
        N_CLASSES,
        config,
        checkpoint=tmp_path / "run",
        progress=lambda step, _: done.append(step),
    )
    assert done == [3]
    assert weights_sha256(resumed) == trained(coloured(), config)


def test_it_learns_to_draw_the_colour_of_each_class() -> None:
    gan = train_gan(coloured(), N_CLASSES, replace(CONFIG, steps=150, batch_size=16))
    drawn = sample_gan(gan, 60, seed=0)
    found = drawn.images().mean(dim=(2, 3)).argmax(dim=1)
    assert (found == drawn.factors.shape).double().mean() > 0.9


def test_drawn_labels_are_tied_and_every_class_is_drawn(gan: GAN) -> None:
    drawn = sample_gan(gan, 700, seed=0)
    shape, texture, background = drawn.factors
    assert torch.equal(shape, texture)
    assert torch.equal(shape, background)
    assert shape.bincount(minlength=N_CLASSES).min() > 190
    assert drawn.masks is None


def test_drawn_images_depend_on_the_seed_and_not_on_the_callers_state(gan: GAN) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        hashes = [sample_gan(gan, 20, seed=seed).sha256() for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_gan_is_kept_whole(tmp_path: Path) -> None:
    gan = train_gan(coloured(), N_CLASSES, CONFIG)
    store = gan_store(N_CLASSES, gan.size_px, CONFIG.width)
    store.save(gan, tmp_path / "gan.safetensors")
    loaded = store.load(tmp_path / "gan.safetensors")
    assert sample_gan(loaded, 5, seed=0).sha256() == sample_gan(gan, 5, seed=0).sha256()
    with pytest.raises(ValueError, match="weights and config differ"):
        gan_store(N_CLASSES + 1, gan.size_px, CONFIG.width).load(tmp_path / "gan.safetensors")
