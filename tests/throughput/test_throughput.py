"""How many images a second the product trains on, draws, recombines and evaluates.

    python bench.py throughput

measures all of it on the device at hand and keeps rows. As ordinary tests each case runs once,
small. Networks have random weights: time does not depend on them.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache

import pytest
import timm
import torch
from measuring import (
    FULL,
    MEASURING,
    allows_tf32_warning,
    every_device,
    flops_of,
    keep_row,
    measure,
    milliseconds_of,
    seconds_left,
)
from pretended_cuda import pretended_cuda
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

from benchmarks.core.evaluate import evaluate
from benchmarks.throughput import flags
from cgn.counterfactuals.abduction import real_image_counterfactuals
from cgn.counterfactuals.sampling import sample
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet
from cgn.device.graphs import WARM_UP, Captured
from cgn.models.cgn import CGN, CGNConfig
from cgn.models.critic import VGGFeatures
from cgn.models.imagenet.biggan import BigGAN, BigGANConfig
from cgn.models.imagenet.cgn import ImageNetCGN, truncated_noise
from cgn.models.imagenet.pretrained import from_biggan
from cgn.segmentation.by_colour import segment_by_colour
from cgn.segmentation.u2net import U2Net
from cgn.training.imagenet import ImageNetTraining
from cgn.training.imagenet_config import ImageNetTrainConfig
from cgn.training.loop import seeded
from cgn.training.small import TrainConfig, Training, prepare
from classifiers import MODELS
from classifiers.fit import fit

SIZE_PX, N_CLASSES = 32, 10
IMAGENET = BigGANConfig() if FULL else BigGANConfig(resolution_px=16, width=4, n_classes=5)
STEPS = 10 if FULL else 1  # of the small networks in a call
ROUNDS = 7

# What is measured: benchmark, images at once (0: what the product takes), form. What says most
# comes first, for there may be time for a part only; what is compiled comes last.
CASES = [
    ("imagenet-step", 32, "graph"),
    ("cgn-step", 64, "graph"),
    ("imagenet-step", 8, "graph"),
    ("imagenet-step", 1, "eager"),
    ("sampling", 0, "eager"),
    ("classifier-step", 96, "eager"),
    ("ensemble-step", 96, "eager"),
    ("abduction", 0, "eager"),
    ("evaluation", 0, "eager"),
    ("evaluation-resnet50", 0, "float32"),
    ("evaluation-resnet50", 0, "bfloat16"),
    ("imagenet-sampling", 32, "eager"),
    ("imagenet-sampling", 1, "graph"),
    ("imagenet-sampling", 1, "eager"),
    ("cgn-step", 64, "eager"),
    ("imagenet-step", 64, "graph"),
    ("imagenet-step", 1, "graph"),
    ("imagenet-step", 8, "eager"),
    ("imagenet-step", 32, "eager"),
    ("imagenet-sampling", 8, "eager"),
    ("imagenet-sampling", 8, "graph"),
    ("imagenet-sampling", 128, "eager"),
    ("sampling", 100, "eager"),
    ("cgn-step", 8, "graph"),
    ("cgn-step", 32, "graph"),
    ("cgn-step", 512, "graph"),
    ("imagenet-sampling", 8, "compiled"),
]


FIRST = {each for each in CASES if next(c for c in CASES if c[0] == each[0]) == each}


@dataclass
class Case:
    """What is timed.

    Attributes:
        run: One call.
        n_images: How many images it gets through.
        calls: How many steps it takes.
        result: What it computes, to be held against the CPU's; None where that takes too long.
        networks: What the form "compiled" compiles.
        seconds: How long the part of the last call took that is asked for; None for all of it.
    """

    run: Callable[[], object]
    n_images: int
    calls: int = 1
    result: Callable[[], Tensor] | None = None
    networks: list[nn.Module] = field(default_factory=list)
    seconds: Callable[[], float] | None = None


def noise_images(n: int, size_px: int = SIZE_PX) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (n, 3, size_px, size_px), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, Factors.aligned(torch.arange(n) % N_CLASSES), torch.arange(n))


@cache
def small_cgn() -> CGN:
    with seeded(0):
        return CGN(CGNConfig(n_classes=N_CLASSES, image_size_px=SIZE_PX)).eval()


@cache
def imagenet_networks() -> tuple[BigGAN, U2Net]:
    with seeded(0):
        return BigGAN(IMAGENET), U2Net(64 if FULL else 8).requires_grad_(False).eval()


def imagenet_cgn() -> ImageNetCGN:
    return from_biggan(*imagenet_networks())


def cgn_step(device: str, batch_size: int, form: str) -> Case:
    """A step of the small CGN, with what it draws."""
    with seeded(0) as generator:
        of = TrainConfig(steps=10_000, batch_size=batch_size if FULL else 4)
        run = Training(prepare(noise_images(200), SIZE_PX), N_CLASSES, of, device)
    if form == "eager":
        run._learned = Captured(run._learn, record=False)

    def losses() -> Tensor:
        with torch.random.fork_rng(devices=[]):
            terms = run.train_steps(WARM_UP + 2, torch.Generator().manual_seed(1))
        return torch.cat(list(terms.values()))

    def step() -> None:
        run.train_steps(STEPS, generator)

    return Case(step, STEPS * of.batch_size, STEPS, losses)


def sampling(device: str, batch_size: int, form: str) -> Case:
    n = 20_000 if FULL else 20

    def draw(n: int = n) -> ImageSet:
        return sample(small_cgn(), n, seed=0, batch_size=batch_size or None, device=device)

    return Case(draw, n, 1, lambda: draw(min(n, 500)).pixels.float())


def fitting(model: str) -> Callable[[str, int, str], Case]:
    """Steps of a recipe's fit, with the images that are read for them."""

    def case(device: str, batch_size: int, form: str) -> Case:
        steps = 200 if FULL else 2
        recipe = replace(MODELS[model], steps=steps, epochs=0, batch_size=batch_size)
        sets = dict.fromkeys(recipe.trains_on, noise_images(2_000 if FULL else 100))

        def run() -> nn.Module:
            return fit(recipe, sets, n_classes=N_CLASSES, seed=0, device=device)

        return Case(run, steps * batch_size * len(sets), steps)

    return case


def abduction(device: str, batch_size: int, form: str) -> Case:
    images = noise_images(1_000 if FULL else 40)
    masks = segment_by_colour(images.pixels, images.factors.shape)
    n = 20_000 if FULL else 40

    def draw(n: int = n) -> ImageSet:
        return real_image_counterfactuals(
            small_cgn(), images, masks, n, seed=0, swap_fraction=0.5, device=device
        )

    return Case(draw, n, 1, lambda: draw(min(n, 500)).pixels.float())


def evaluation(device: str, batch_size: int, form: str) -> Case:
    with seeded(0):
        network = MODELS["cgn-ensemble"].network(N_CLASSES, SIZE_PX).eval()
    images = noise_images(20_000 if FULL else 20)

    def confidence() -> Tensor:
        table, _ = evaluate(network, {"x": images.select(torch.arange(20))}, device=device)
        return torch.tensor(table["confidence"].to_numpy())

    return Case(lambda: evaluate(network, {"x": images}, device=device), len(images), 1, confidence)


def evaluation_resnet50(device: str, batch_size: int, form: str) -> Case:
    """Images in memory, so that no decoding is in the way."""
    with seeded(0):
        network = timm.create_model("resnet50" if FULL else "resnet10t").eval()
    images = noise_images(2_000 if FULL and device == "cuda" else 20, 224 if FULL else 32)
    how = {"device": device, "precision": getattr(torch, form)}

    def confidence() -> Tensor:
        table, _ = evaluate(network, {"x": images.select(torch.arange(10))}, **how)
        return torch.tensor(table["confidence"].to_numpy())

    return Case(lambda: evaluate(network, {"x": images}, **how), len(images), 1, confidence)


def imagenet_step(device: str, batch_size: int, form: str) -> Case:
    """Passes of a step; norms and updates come once in 2,048 images and do not count."""
    cgn, real = imagenet_cgn(), imagenet_networks()[0]
    batch_size = batch_size if FULL else 2
    of = ImageNetTrainConfig(
        images_per_step=batch_size, batch_size=batch_size, graph=form == "graph"
    )
    with seeded(0) as generator:
        run = ImageNetTraining(cgn, real, VGGFeatures(None), of, device)
    return Case(
        lambda: run.train_step(run.draw(generator)),
        batch_size,
        networks=[*run.cgn.mechanisms().values(), run.cgn.saliency, run.real, run.features],
        seconds=lambda: run.seconds["passes"],
    )


def imagenet_sampling(device: str, batch_size: int, form: str) -> Case:
    cgn = imagenet_cgn().for_sampling().to(device)
    batch_size = batch_size if FULL else 2
    noise = truncated_noise(batch_size, IMAGENET.noise_size, torch.Generator().manual_seed(0))
    labels = torch.zeros(batch_size, dtype=torch.int64, device=device)

    def draw(noise: Tensor, labels: Tensor) -> Tensor:
        return cgn.draw(noise, Factors.aligned(labels), 0.5).image()

    noise, drawn = noise.to(device), Captured(draw, record=form == "graph")

    @torch.inference_mode()
    def run() -> Tensor:
        return drawn(noise, labels)

    @torch.inference_mode()
    def first() -> Tensor:
        run()
        return draw(noise[:1], labels[:1]) if device == "cpu" else run()[:1].float().cpu()

    return Case(run, batch_size, 1, first, networks=list(cgn.children()))


BENCHMARKS: dict[str, Callable[[str, int, str], Case]] = {
    "cgn-step": cgn_step,
    "sampling": sampling,
    "classifier-step": fitting("cgn-abduct"),
    "ensemble-step": fitting("cgn-ensemble:paper"),
    "abduction": abduction,
    "evaluation": evaluation,
    "evaluation-resnet50": evaluation_resnet50,
    "imagenet-step": imagenet_step,
    "imagenet-sampling": imagenet_sampling,
}


@cache
def on_the_cpu(name: str, batch_size: int) -> Tensor:
    """What the CPU computes, in float32 and without a graph."""
    form = "float32" if name == "evaluation-resnet50" else "eager"
    result = BENCHMARKS[name]("cpu", batch_size, form).result
    assert result is not None
    return result().float()


def disagreement(found: Tensor, true: Tensor) -> float:
    """Relative error: 0 where both are the same."""
    found, true = found.float().cpu(), true.cpu()
    return float((found - true).norm() / true.norm())


def compiled(networks: list[nn.Module], device: str, first: Callable[[], object]) -> float:
    """Compile networks, and call what uses them for the first time; the seconds it takes."""
    for network in networks:
        network.compile(backend="inductor" if device == "cuda" else "eager")
    started = time.perf_counter()
    first()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


@allows_tf32_warning
@every_device
@pytest.mark.parametrize(("name", "batch_size", "form"), CASES, ids=lambda each: str(each))
def test_speed(
    benchmark: BenchmarkFixture, device: str, name: str, batch_size: int, form: str
) -> None:
    if seconds_left() < 5:
        pytest.skip("no time left")
    if not MEASURING and (name, batch_size, form) not in FIRST:
        pytest.skip("small, it is as another: give --benchmark-only")
    large = name.startswith("imagenet") and batch_size > 1
    if FULL and device == "cpu" and (large or form in ("graph", "compiled", "bfloat16")):
        pytest.skip("for a GPU")
    if device == "cuda":
        torch.cuda.empty_cache()
    case, wrong, seconds = BENCHMARKS[name](device, batch_size, form), None, None
    if case.result is not None:
        found = case.result()
        wrong = disagreement(found, on_the_cpu(name, batch_size)) if device == "cuda" else 0.0
    flops = flops_of(case.run) if case.result is None or form != "graph" else None
    if form == "compiled":
        seconds = compiled(case.networks, device, case.run)
    if flops is None:
        flops = flops_of(BENCHMARKS[name](device, batch_size, "eager").run)
    measure(
        benchmark,
        case.run,
        case.n_images,
        device,
        ROUNDS,
        warm_up=WARM_UP + 2 if form == "graph" else 2,
        flops=flops,
        seconds=case.seconds,
    )
    info = benchmark.extra_info
    keep_row(
        benchmark=name,
        batch=batch_size,
        form=form,
        median_ms=info["median_ms"] / case.calls,
        iqr_ms=info["iqr_ms"] / case.calls,
        rounds=info["rounds"],
        images_per_second=info["images_per_second"],
        share_of_peak=info.get("share_of_matrix_product_peak"),
        peak_allocated_gb=(info["peak_bytes"] or 0) / 1e9,
        peak_reserved_gb=info.get("peak_reserved_bytes", 0) / 1e9,
        compile_s=seconds,
        agreement=wrong,
        flags=flags(),
    )
    assert info["images_per_second"] > 0


def warn_as_inductor_does() -> None:
    """PyTorch up to 2.12 warns, once in a process, where a GPU could use TF32 and does not."""
    warnings.warn(
        "TensorFloat32 tensor cores for float32 matrix multiplication available but not enabled. "
        "Consider setting `torch.set_float32_matmul_precision('high')` for better performance.",
        stacklevel=2,
    )


@allows_tf32_warning
def test_a_compiler_may_say_that_tf32_is_off() -> None:
    warn_as_inductor_does()
    with pytest.raises(UserWarning, match="another"):
        warnings.warn("another", stacklevel=1)


def test_elsewhere_that_warning_is_an_error() -> None:
    with pytest.raises(UserWarning, match="TensorFloat32 tensor cores"):
        warn_as_inductor_does()


@pytest.mark.parametrize(("name", "batch_size", "form"), sorted(FIRST), ids=lambda each: str(each))
def test_what_is_measured_runs_on_a_gpu_and_agrees_with_the_cpu(
    name: str, batch_size: int, form: str
) -> None:
    with pretended_cuda():
        case = BENCHMARKS[name]("cuda", batch_size, form)
        for _ in range(WARM_UP + 2 if form == "graph" else 1):
            milliseconds_of(case.run, "cuda")
        if case.seconds is not None:
            assert case.seconds() > 0
        if case.result is not None:
            case = BENCHMARKS[name]("cuda", batch_size, form)
            assert case.result is not None
            assert disagreement(case.result(), on_the_cpu(name, batch_size)) < 0.01
