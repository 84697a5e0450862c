"""How many images a second the ImageNet CGN trains on and draws, and in how much memory.

    python -m pytest tests/throughput/test_throughput_imagenet.py --benchmark-only --benchmark-json
    FILE

measures the published size, 256 pixels, with random weights: 4 GB and minutes on a CPU. Without
`--benchmark-only` each case runs small, to see that it still does. On a GPU runner
`--benchmark-compare --benchmark-compare-fail=mean:10%` fails where something became slower.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from measuring import FULL, allows_tf32_warning, every_device, measure, needs_cuda
from pytest_benchmark.fixture import BenchmarkFixture
from pytorch_pretrained_biggan import BigGAN as PublishedBigGAN
from pytorch_pretrained_biggan import BigGANConfig as PublishedConfig
from torch import Tensor, nn
from torch.nn.functional import one_hot

from cgn import losses
from cgn.data.factors import Factors
from cgn.models.cgn import compose
from cgn.models.critic import VGGFeatures
from cgn.models.imagenet.biggan import MULTIPLIERS, BigGAN, BigGANConfig
from cgn.models.imagenet.cgn import truncated_noise
from cgn.models.imagenet.pretrained import from_biggan
from cgn.segmentation.u2net import U2Net
from cgn.training.imagenet import ImageNetTraining
from cgn.training.imagenet_config import IMAGENET_PRESETS, ImageNetTrainConfig
from cgn.training.patches import draw_patches, patch_grid

pytestmark = pytest.mark.skipif(
    not FULL, reason="minutes of benchmarks: give --benchmark-only; other tests cover the code"
)

SIZES = BigGANConfig() if FULL else BigGANConfig(resolution_px=64, width=8, n_classes=5)
SALIENCY_WIDTH = 64 if FULL else 8
WEIGHTS = IMAGENET_PRESETS["paper"].weights


def saliency_network() -> U2Net:
    return U2Net(SALIENCY_WIDTH).requires_grad_(False).eval()


def ours(device: str, batch_size: int = 1) -> ImageNetTraining:
    config = ImageNetTrainConfig(images_per_step=batch_size, batch_size=batch_size)
    real = BigGAN(SIZES)
    cgn = from_biggan(real, saliency_network())
    return ImageNetTraining(cgn, real, VGGFeatures(None), config, device)


class Original(nn.Module):
    """The five networks as the original has them: float32, and all of them every time."""

    def __init__(self) -> None:
        super().__init__()
        multipliers = MULTIPLIERS[SIZES.resolution_px]
        blocks = [each for a, b in pairwise(multipliers) for each in ((False, a, a), (True, a, b))]
        config = PublishedConfig(
            output_dim=SIZES.resolution_px,
            z_dim=SIZES.noise_size,
            class_embed_dim=SIZES.noise_size,
            channel_width=SIZES.width,
            num_classes=SIZES.n_classes,
            layers=blocks,
            attention_layer_position=8 if FULL else 2,
        )
        if not FULL:  # it begins at sixteen times its width, and can only halve that
            config.layers = [(True, 16, 8), (True, 8, 4), (True, 4, 2), (True, 2, 1)]
        self.real, self.shape, self.texture, self.background = (
            PublishedBigGAN(config) for _ in range(4)
        )
        for network in (self.real, self.shape, self.texture, self.background):
            nn.init.ones_(network.generator.bn.weight)
            nn.init.zeros_(network.generator.bn.bias)
        self.real.requires_grad_(False).eval()
        self.saliency = saliency_network()
        self.features = VGGFeatures(None)  # the original has two of them

    def forward(self, noise: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """Draw x_gt, mask, foreground, background and the background's mask."""
        classes = one_hot(labels, SIZES.n_classes).float()
        networks = self.real, self.shape, self.texture, self.background
        real, premask, foreground, background = (n(noise, classes, 1.0) for n in networks)
        mask = self.saliency(premask).clamp(1e-4, 1 - 1e-4)
        images = ((each + 1) / 2 for each in (real, foreground, background))
        return mask, *images, self.saliency(background)

    def loss(self, noise: Tensor, labels: Tensor, patches: Tensor) -> Tensor:
        """Compute all losses, whatever was computed before."""
        mask, real, foreground, background, salient = self(noise, labels)
        image = compose(mask, foreground, background)
        grid = patch_grid(real, mask.detach(), patches)
        maps = [self.features(each) for each in (image, real, foreground, grid)]
        return WEIGHTS.total(
            {
                "difference": losses.difference(image, real),
                "perceptual": losses.perceptual(maps[0], maps[1]),
                "mask_entropy": losses.mask_entropy(mask),
                "mask_area": losses.mask_area(mask),
                "texture": losses.perceptual(maps[2][1:3], maps[3][1:3]),
                "background_saliency": losses.background_saliency(salient),
            }
        )


def original_step(device: str) -> Callable[[], None]:
    networks = Original().to(device)
    adams = [
        torch.optim.Adam(network.parameters(), 1e-5)
        for network in (networks.shape, networks.texture, networks.background)
    ]
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        noise = truncated_noise(1, SIZES.noise_size, generator).to(device)
        patches = draw_patches(1, generator).to(device)
        networks.loss(noise, torch.zeros(1, dtype=torch.int64, device=device), patches).backward()
        for adam in adams:
            adam.step()
            adam.zero_grad()

    return step


@every_device
def test_a_training_step_in_the_original_form(benchmark: BenchmarkFixture, device: str) -> None:
    measure(benchmark, original_step(device), 1, device)


@every_device
def test_a_training_step(benchmark: BenchmarkFixture, device: str) -> None:
    run, generator = ours(device), torch.Generator().manual_seed(0)
    measure(benchmark, lambda: run.train_step(run.draw(generator)), 1, device)
    benchmark.extra_info["seconds"] = run.seconds
    assert run.step > 0


@allows_tf32_warning
@needs_cuda
@pytest.mark.parametrize("batch_size", [1, 8])
def test_a_compiled_training_step(benchmark: BenchmarkFixture, batch_size: int) -> None:
    run, generator = ours("cuda", batch_size), torch.Generator().manual_seed(0)
    for network in (*run.cgn.mechanisms().values(), run.cgn.saliency, run.real, run.features):
        network.compile()
    measure(benchmark, lambda: run.train_step(run.draw(generator)), batch_size, "cuda")


@allows_tf32_warning
@every_device
@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("form", ["eager", pytest.param("compiled", marks=needs_cuda)])
@torch.inference_mode()
def test_sampling(benchmark: BenchmarkFixture, device: str, batch_size: int, form: str) -> None:
    cgn = from_biggan(BigGAN(SIZES), saliency_network()).for_sampling().to(device)
    if form == "compiled":
        for network in cgn.children():
            network.compile()
    noise = truncated_noise(batch_size, SIZES.noise_size, torch.Generator().manual_seed(0))
    labels = torch.zeros(batch_size, dtype=torch.int64, device=device)
    factors, noise = Factors.aligned(labels), noise.to(device)
    measure(benchmark, lambda: cgn.draw(noise, factors, 0.5).image(), batch_size, device)


@every_device
@torch.no_grad()
def test_sampling_in_the_original_form(benchmark: BenchmarkFixture, device: str) -> None:
    networks = Original().to(device).eval()
    noise = truncated_noise(1, SIZES.noise_size, torch.Generator().manual_seed(0)).to(device)
    labels = torch.zeros(1, dtype=torch.int64, device=device)
    measure(benchmark, lambda: networks(noise, labels), 1, device)


def parts_of_a_step(run: ImageNetTraining) -> dict[str, Callable[[], object]]:
    draw = run.draw(torch.Generator().manual_seed(0), 1).to(run.device)
    run.sigma.freeze()

    def mechanisms() -> None:
        for mechanism in run.cgn.mechanisms().values():
            mechanism(draw.noise, draw.labels)

    real = run.real(draw.noise, draw.labels)
    return {
        "x_gt": lambda: run.real(draw.noise, draw.labels),
        "three mechanisms": mechanisms,
        "saliency": lambda: run.cgn.saliency(real),
        "features": lambda: run.features(real),
        "all losses": lambda: dict(run.terms(draw, run.outputs(draw))),
    }


@every_device
@pytest.mark.parametrize("part", ["x_gt", "three mechanisms", "saliency", "features", "all losses"])
def test_a_part_of_a_training_step(benchmark: BenchmarkFixture, device: str, part: str) -> None:
    run = ours(device)
    measure(benchmark, parts_of_a_step(run)[part], 1, device)
