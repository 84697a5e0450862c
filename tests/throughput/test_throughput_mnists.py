"""How long a drawn world takes from its images to a classifier, beside the original's schedule.

    python -m pytest tests/throughput/test_throughput_mnists.py --benchmark-only

prints a line a world. Steps of the original and ours are taken in turn, so that what else the
machine does slows both alike; the digits are the embedded ones, and count as full MNIST's 50,000.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import pytest
import torch
from measuring import FULL, measure, of_rounds
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn
from torch.nn.functional import l1_loss, leaky_relu, mse_loss

from benchmarks.core.suite import EMBEDDED, TrainingDomain
from benchmarks.data.generators import COUNTERFACTUALS_PER_IMAGE, SWAP_FRACTION
from benchmarks.suites import SUITES
from benchmarks.worlds.digits import N_OFFICIAL_TRAIN
from cgn import losses
from cgn.counterfactuals.abduction import real_image_counterfactuals
from cgn.data.image_set import to_images
from cgn.models.cgn import CGNConfig, compose
from cgn.models.critic import VGGFeatures
from cgn.segmentation.by_colour import segment_by_colour
from cgn.training.loop import seeded
from cgn.training.small import PRESETS, Training, prepare
from classifiers import MODELS
from classifiers.fit import fit

SIZE_PX, N_CLASSES, NOISE_SIZE = 32, 10, 32
ROUNDS = 6 if FULL else 1
STEPS = 5 if FULL else 1
N_IMAGES = 4_000 if FULL else 200
RECIPE = MODELS["cgn-abduct"]


class Schedule(NamedTuple):
    """How the authors trained a CGN: steps of 16 images, and what differs between the worlds.

    Attributes:
        steps: Of the weights that they released.
        entropy: Weight of the mask's entropy.
        style: Weights of the four Gram losses.
        convolutional: Whether the critic is.
    """

    steps: int
    entropy: float
    style: tuple[float, float, float, float]
    convolutional: bool


SCHEDULES = {
    "colored-mnist": Schedule(48_000, 0.1, (12.5, 50.0, 0.5, 0.0), convolutional=False),
    "double-colored-mnist": Schedule(44_000, 0.3, (0.0, 12.5, 0.0, 12.5), convolutional=False),
    "wildlife-mnist": Schedule(44_000, 0.3, (0.5, 12.5, 0.0, 0.5), convolutional=True),
}
BATCH_SIZE = 16


def up(before: int, after: int) -> list[nn.Module]:
    convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
    return [nn.Upsample(scale_factor=2), convolution, nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]


def first(channels: int) -> list[nn.Module]:
    return [nn.Linear(NOISE_SIZE + N_CLASSES, channels * 64), nn.Unflatten(1, (channels, 8, 8))]


def texture_mechanism() -> nn.Sequential:
    last = nn.Conv2d(32, 3, 3, padding=1)
    return nn.Sequential(*first(64), *up(64, 64), *up(64, 32), last, nn.BatchNorm2d(3), nn.Tanh())


def shuffled(textures: Tensor) -> Tensor:
    """Lay each texture out twice in both directions, and cut it anew."""
    shift = torch.randint(SIZE_PX + 1, (2, len(textures), 1)) + torch.arange(SIZE_PX)
    rows, columns = shift % SIZE_PX
    image = torch.arange(len(textures))[:, None, None]
    return textures[image, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


class OriginalCGN(nn.Module):
    """The authors' three mechanisms, all of one noise and one label."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(N_CLASSES, N_CLASSES)
        norms = nn.InstanceNorm2d(64), nn.InstanceNorm2d(32), nn.InstanceNorm2d(1)
        blocks = up(64, 32), up(32, 1)
        self.shape = nn.Sequential(*first(64), norms[0], *blocks[0], norms[1], *blocks[1], norms[2])
        self.foreground, self.background = texture_mechanism(), texture_mechanism()

    def forward(self, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        noise = torch.randn(len(labels), NOISE_SIZE)
        known = torch.cat([noise, self.embedding(labels)], dim=1)
        mask = self.shape(known).clamp(1e-4, 1 - 1e-4).expand(-1, 3, -1, -1)
        return mask, shuffled(self.foreground(known)), shuffled(self.background(known))


class LinearCritic(nn.Module):
    """The authors' critic of both worlds of plain colours."""

    def __init__(self, width: int = 512) -> None:
        super().__init__()
        self.embedding = nn.Embedding(N_CLASSES, N_CLASSES)
        sizes = 3 * SIZE_PX**2 + N_CLASSES, width, width, width
        self.layers = nn.ModuleList(map(nn.Linear, sizes[:-1], sizes[1:]))
        self.dropout, self.last = nn.Dropout(0.4), nn.Linear(width, 1)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        maps = torch.cat([images.flatten(1), self.embedding(labels)], dim=1)
        for number, layer in enumerate(self.layers):
            maps = layer(maps)
            maps = leaky_relu(self.dropout(maps) if number else maps, 0.2)
        return self.last(maps)  # type: ignore[no-any-return]


class ConvolutionalCritic(nn.Module):
    """The authors' critic of wildlife MNIST."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(N_CLASSES, 1)
        layers: list[nn.Module] = []
        shapes = (4, 1, 3, 1), (1, 2, 3, 1), (2, 4, 4, 2), (4, 4, 4, 2)
        for before, after, size_px, stride in shapes:
            before = before * width if layers else before  # three colours and the label
            layers += [nn.Conv2d(before, after * width, size_px, stride, bias=False)]
            layers += [nn.BatchNorm2d(after * width), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(
            *layers, nn.AvgPool2d(3), nn.Conv2d(4 * width, 1, 1, bias=False)
        )

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        label = self.embedding(labels)[:, :, None, None].expand(-1, -1, SIZE_PX, SIZE_PX)
        return self.layers(torch.cat([images, label], dim=1)).flatten(1)  # type: ignore[no-any-return]


def original_step(schedule: Schedule, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """Make one step of the original: float32, VGG on both batches, generator and then critic.

    Args:
        schedule: Of the world.
        images: A batch, (16, 3, 32, 32) in [-1, 1]; reading it is not timed.
        labels: Their classes, (16,) int64.
    """
    cgn = OriginalCGN()
    critic = ConvolutionalCritic() if schedule.convolutional else LinearCritic()
    # The original also runs the last stage, whose maps it does not look at.
    features = VGGFeatures(None)
    adams = [torch.optim.Adam(each.parameters(), 2e-4, (0.5, 0.999)) for each in (cgn, critic)]

    def gram(maps: Tensor) -> Tensor:
        return losses.gram(maps) / maps.shape[1]

    def judged(images: Tensor, labels: Tensor, goal: float) -> Tensor:
        scores = critic(images, labels)
        return mse_loss(scores, torch.full_like(scores, goal))

    def step() -> None:
        drawn = torch.randint(N_CLASSES, (BATCH_SIZE,))
        mask, foreground, background = cgn(drawn)
        fake = compose(mask, foreground, background)
        style = [
            weight * l1_loss(gram(one), gram(other))
            for weight, one, other in zip(
                schedule.style, features(fake), features(images), strict=True
            )
        ]
        entropy = schedule.entropy * losses.mask_entropy(mask)
        (judged(fake, drawn, 1) + entropy + torch.stack(style).sum()).backward()
        adams[0].step()
        for adam in adams:
            adam.zero_grad()
        ((judged(images, labels, 1) + judged(fake.detach(), drawn, 0)) / 2).backward()
        adams[1].step()
        adams[1].zero_grad()

    return step


def pieces(world: TrainingDomain) -> dict[str, tuple[Callable[[], object], float]]:
    """Make a piece of each part of the work, and say how many of them the part has."""
    images = world.train(EMBEDDED)
    images = images.select(torch.arange(N_IMAGES) * len(images) // N_IMAGES)
    labels = images.factors.shape
    config, schedule = PRESETS[world.name], SCHEDULES[world.name]
    with seeded(0) as generator:
        canvas_px = CGNConfig(n_classes=N_CLASSES, image_size_px=SIZE_PX).canvas_px
        find = partial(prepare, images, canvas_px, soft_edges=config.soft_edges)
        run, masks = (
            Training(find(), N_CLASSES, config, "cpu"),
            segment_by_colour(images.pixels, labels),
        )
        abducted = real_image_counterfactuals(
            run.cgn, images, masks, N_IMAGES, seed=0, swap_fraction=SWAP_FRACTION
        )
        first = slice(None, None, N_IMAGES // BATCH_SIZE)
        real = 2 * to_images(images.pixels[first][:BATCH_SIZE]) - 1
        original = original_step(schedule, real, labels[first][:BATCH_SIZE])

    def step() -> None:
        run.train_steps(1, generator)

    def repeat(step: Callable[[], object]) -> None:
        for _ in range(STEPS):
            step()

    share = N_OFFICIAL_TRAIN / N_IMAGES
    fit_steps = RECIPE.steps_for({"biased": N_OFFICIAL_TRAIN})
    short = replace(RECIPE, steps=4 * STEPS, epochs=0)
    return {
        "original": (partial(repeat, original), schedule.steps / STEPS),
        "CGN": (partial(repeat, step), config.steps / STEPS),
        "finding objects": (find, share),
        "counterfactuals": (
            partial(
                real_image_counterfactuals,
                run.cgn,
                images,
                masks,
                N_IMAGES,
                seed=0,
                swap_fraction=SWAP_FRACTION,
            ),
            COUNTERFACTUALS_PER_IMAGE * share,
        ),
        "classifier": (
            partial(fit, short, {"abducted": abducted}, n_classes=N_CLASSES, seed=0),
            fit_steps / short.steps,
        ),
    }


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_world_from_images_to_classifier_beside_the_original_schedule(
    benchmark: BenchmarkFixture, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    work = pieces(SUITES[name].world)
    seconds: dict[str, list[float]] = {part: [] for part in work}

    def each_in_turn() -> None:
        for part, (run, n_pieces) in work.items():
            started = time.perf_counter()
            run()
            seconds[part].append((time.perf_counter() - started) * n_pieces)

    measure(benchmark, each_in_turn, BATCH_SIZE, "cpu", rounds=ROUNDS)
    whole = torch.stack([of_rounds(taken, ROUNDS) for taken in seconds.values()])
    parts = dict(zip(seconds, whole.median(dim=1).values.tolist(), strict=True))
    ratio = (whole[0] / whole[1:].sum(dim=0)).median().item()
    benchmark.extra_info |= {"seconds": parts, "times_as_fast_as_the_original": ratio}
    if FULL:
        with capsys.disabled():
            ours = sum(parts.values()) - parts["original"]
            said = ", ".join(f"{part} {taken:,.0f}" for part, taken in parts.items())
            sys.stdout.write(f"\n{name}, seconds: {said}; all but the original's {ours:,.0f}, ")
            sys.stdout.write(f"{ratio:.1f} times as fast, median of {ROUNDS} paired rounds\n")
    assert all(taken > 0 for taken in parts.values())


def test_the_original_form_has_the_published_number_of_parameters() -> None:
    def count(network: nn.Module) -> int:
        return sum(each.numel() for each in network.parameters())

    assert count(OriginalCGN()) == 659_992
    assert count(LinearCritic()) == 2_104_421
    assert count(ConvolutionalCritic()) == 413_642


def test_a_shuffled_texture_is_a_torus_cut_anew() -> None:
    textures = torch.arange(2 * 3 * SIZE_PX**2).view(2, 3, SIZE_PX, SIZE_PX)
    assert shuffled(textures).flatten(1).sort().values.equal(textures.flatten(1))
