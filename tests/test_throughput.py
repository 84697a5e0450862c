"""How many images a second training, sampling and evaluation get through.

Measured, never asserted: pytest-benchmark prints seconds, and keeps images per second, peak memory
and the share of the device's matrix-product peak in each benchmark's extra information:
`pytest tests/test_throughput.py --benchmark-only --benchmark-json FILE`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from measuring import every_device, measure
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.evaluate import evaluate
from cgn.counterfactuals import sample
from cgn.efficientnet import efficientnet_lite
from cgn.files import ImageFiles
from cgn.images import Factors, ImageSet
from cgn.loop import seeded
from cgn.model import CGN, CGNConfig
from cgn.train import Batch, TrainConfig, Training, prepare
from classifiers import MODELS
from classifiers.fit import fit

SIZE_PX, N_CLASSES = 32, 10
# Recipes that differ in nothing but their images take the same time.
KINDS = {(recipe.network, recipe.objective): name for name, recipe in reversed(MODELS.items())}


def noise_images(n: int) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (n, 3, SIZE_PX, SIZE_PX), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, Factors.independent(n, N_CLASSES, generator), torch.arange(n))


@every_device
@pytest.mark.parametrize("style_features", ["critic", "efficientnet-lite0"])
def test_a_cgn_training_step(benchmark: BenchmarkFixture, device: str, style_features: str) -> None:
    config = TrainConfig(style_features=style_features)
    with seeded(0) as generator:
        run = Training(N_CLASSES, SIZE_PX, config, device)
        images = noise_images(config.batch_size)
        labels = torch.arange(config.batch_size // 2).repeat(2) % N_CLASSES
        found = prepare(replace(images, factors=Factors.tied(labels)), run.cgn.config.canvas_px)
        batch = Batch(*(each.to(device) for each in found.take(torch.arange(config.batch_size))))
        measure(benchmark, lambda: run.advance(batch, generator), config.batch_size, device)
    assert run.step > 0


@every_device
def test_counterfactual_sampling(benchmark: BenchmarkFixture, device: str) -> None:
    cgn, n = CGN(CGNConfig(n_classes=N_CLASSES, image_size_px=SIZE_PX)), 500
    measure(benchmark, lambda: sample(cgn, n, seed=0, device=device), n, device)


@every_device
@pytest.mark.parametrize("name", KINDS.values())
def test_a_classifier_step(benchmark: BenchmarkFixture, device: str, name: str) -> None:
    recipe = replace(MODELS[name], steps=2)
    sets = dict.fromkeys(recipe.trains_on, noise_images(256))
    n = recipe.steps * recipe.batch_size * len(recipe.trains_on)
    measure(
        benchmark,
        lambda: fit(recipe, sets, n_classes=N_CLASSES, seed=0, device=device),
        n,
        device,
    )


@every_device
@pytest.mark.parametrize("name", KINDS.values())
def test_an_evaluation_pass(benchmark: BenchmarkFixture, device: str, name: str) -> None:
    module, images = MODELS[name].network(N_CLASSES, SIZE_PX), noise_images(1_000)
    measure(
        benchmark, lambda: evaluate(module, {"test": images}, device=device), len(images), device
    )


@every_device
@pytest.mark.parametrize("what", ["forward pass alone", "evaluation of files"])
def test_a_pretrained_network(
    benchmark: BenchmarkFixture, device: str, what: str, tmp_path: Path
) -> None:
    n, size_px, at_once = 120, 224, 40
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(256, (n, 3, 28, 28), generator=generator, dtype=torch.uint8)
    paths = [tmp_path / f"{i}.jpg" for i in range(n)]
    for path, pixels in zip(paths, noise, strict=True):
        small = Image.fromarray(pixels.movedim(0, -1).numpy())
        small.resize((size_px, size_px)).save(path, quality=95)  # about as large as photographs
    labels = Factors.tied(torch.zeros(n, dtype=torch.int64))
    files = ImageFiles(paths, labels, torch.arange(n), size_px=size_px)
    module = efficientnet_lite(0).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = [
        batch.contiguous(memory_format=torch.channels_last)
        for batch, _ in files.batches(at_once, device=device)
    ]

    @torch.inference_mode()
    def forward() -> None:
        for batch in batches:
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                module(batch)

    def evaluation() -> None:
        evaluate(module, {"test": files}, device=device, batch_size=at_once)

    measure(benchmark, forward if what == "forward pass alone" else evaluation, n, device)
