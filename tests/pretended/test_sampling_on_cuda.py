"""Sampling, fits and evaluation on a pretended GPU: what a CPU gives, by thousands."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pretended_cuda import pretended_cuda
from pretended_ledger import Counts
from torch import Tensor, nn

from benchmarks.core.evaluate import evaluate
from cgn.counterfactuals.abduction import real_image_counterfactuals
from cgn.counterfactuals.generators import SegmentingCGN, Workspace
from cgn.counterfactuals.sampling import sample
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet, to_bytes
from cgn.models.cgn import CGN, CGNConfig
from cgn.quality.effectiveness import accuracy, coverage_and_diversity, sample_quality
from cgn.quality.intervention import Reference, intervention_quality
from cgn.quality.verification import accept_mask
from cgn.segmentation.by_colour import segment_by_colour
from cgn.training.gan import GAN, sample_gan
from classifiers import MODELS
from classifiers.fit import fit
from classifiers.networks.small import InvariantEnsemble, SmallCNN
from classifiers.recipes import CHECK

N_CLASSES = 4


def seeded_network(kind: type[nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(N_CLASSES, 32).eval()


def drawer() -> CGN:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CGN(CGNConfig(n_classes=N_CLASSES, image_size_px=32, width=8))


def squares(n: int = 60) -> ImageSet:
    """Bright squares on dark noise, and where they are."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(60, (n, 3, 32, 32), generator=generator, dtype=torch.uint8)
    pixels[:, :, 8:24, 8:24] += 150
    masks = (pixels[:, :1] > 100).to(torch.uint8) * 255
    return ImageSet(pixels, Factors.aligned(torch.arange(n) % N_CLASSES), torch.arange(n), masks)


def assert_alike(ours: ImageSet, theirs: ImageSet) -> None:
    """Hold images of two devices to rounding: a level of 255."""
    assert (ours.pixels.int() - theirs.pixels.int()).abs().max() <= 1
    assert ours.factors.texture.equal(theirs.factors.texture)


def test_a_thousand_images_are_those_of_a_cpu_and_take_three_hundred_launches() -> None:
    here = sample(drawer(), 1_000, seed=3)
    with pretended_cuda() as ledger:
        there = sample(drawer(), 1_000, seed=3, device="cuda")
        assert ledger.counts().launches <= 300, str(ledger)
    assert_alike(here, there)
    assert here.masks is not None
    assert there.masks is not None
    assert here.masks.equal(there.masks)


@pytest.mark.parametrize("batch_size", [1, 30, 100, 250])
def test_images_do_not_depend_on_how_many_are_drawn_at_once(batch_size: int) -> None:
    assert_alike(
        sample(drawer(), 250, seed=1), sample(drawer(), 250, seed=1, batch_size=batch_size)
    )


def test_noise_is_drawn_a_hundred_images_at_a_time() -> None:
    generator, cgn = torch.Generator().manual_seed(1), drawer().eval()
    factors = Factors.independent(250, N_CLASSES, generator)
    with torch.inference_mode():
        blocks = [
            to_bytes(cgn(factors.map(lambda own, i=index: own[i]), generator).image())  # type: ignore[misc]
            for index in torch.arange(250).split(100)
        ]
    assert sample(drawer(), 250, seed=1).pixels.equal(torch.cat(blocks))


def test_images_of_a_gan_are_those_of_a_cpu() -> None:
    gan = GAN(N_CLASSES, 32, width=8)
    here = sample_gan(copy.deepcopy(gan), 250, seed=0)
    with pretended_cuda() as ledger:
        there = sample_gan(gan, 250, seed=0, device="cuda")
        assert ledger.counts().launches <= 50, str(ledger)
    assert_alike(here, there)


def test_objects_are_found_on_a_gpu_as_on_a_cpu() -> None:
    images = squares()
    with pretended_cuda() as ledger:
        found = segment_by_colour(images.pixels, images.factors.shape, device="cuda")
        assert ledger.counts().blocking == 2, str(ledger)
    assert found.equal(segment_by_colour(images.pixels, images.factors.shape))


def test_counterfactuals_of_real_images_are_those_of_a_cpu() -> None:
    images = squares()
    masks = segment_by_colour(images.pixels, images.factors.shape)
    here = real_image_counterfactuals(drawer(), images, masks, 1_000, seed=2, swap_fraction=0.5)
    with pretended_cuda() as ledger:
        there = real_image_counterfactuals(
            drawer(), images, masks, 1_000, seed=2, swap_fraction=0.5, device="cuda"
        )
        assert ledger.counts().launches <= 200, str(ledger)
    assert_alike(here, there)


def test_quality_is_measured_on_the_device_that_is_given(tmp_path: Path) -> None:
    images = squares()
    masks = segment_by_colour(images.pixels, images.factors.shape)

    def measured(device: str) -> tuple[dict[str, float], Tensor]:
        judge = seeded_network(InvariantEnsemble).to(device)
        assert isinstance(judge, InvariantEnsemble)
        heads = judge.heads
        free = sample(drawer(), 60, seed=0, device=device)
        work = Workspace(torch.device(device), tmp_path / device)
        generator = SegmentingCGN(drawer(), work, lambda images: masks)
        samples = generator.sample(200, seed=0)
        scores = sample_quality(samples, heads, heads, n_classes=N_CLASSES, device=device)
        scores |= accuracy(images, heads, device=device)
        scores |= coverage_and_diversity(free, images, judge.backbone, device=device)
        scores |= intervention_quality(
            generator,
            images,
            {"do_texture": images},
            Reference(images, judge.backbone),
            true_masks=masks,
            n_classes=N_CLASSES,
            device=device,
        )
        return scores, accept_mask(free, heads, confidence=0.2, device=device)

    here, sure_here = measured("cpu")
    with pretended_cuda():
        there, sure_there = measured("cuda")
    assert there == pytest.approx(here, abs=2e-4)
    assert sure_there.equal(sure_here)
    assert sure_here.any()


def fitted(name: str, steps: int, device: str = "cuda", *, bfloat16: bool = True) -> nn.Module:
    recipe = CHECK if name == CHECK.name else MODELS[name]
    recipe = replace(recipe, steps=steps, epochs=0, batch_size=8, bfloat16=bfloat16)
    sets = dict.fromkeys(recipe.trains_on, squares())
    return fit(recipe, sets, n_classes=N_CLASSES, seed=0, device=device)


def of_a_step(name: str) -> Counts:
    """What each step of a fit costs, without what it costs to begin, to record and to end."""
    costs = []
    for steps in (6, 11):
        with pretended_cuda() as ledger:
            fitted(name, steps)
            costs.append(ledger.counts())
    return Counts(*((after - before) // 5 for before, after in zip(*costs, strict=True)))


@pytest.mark.parametrize("name", ["erm", "cgn-abduct", "cgn-ensemble", CHECK.name])
def test_a_step_of_a_fit_touches_no_host_memory_and_is_a_graph(name: str) -> None:
    launches, blocking, waits, copies = of_a_step(name)
    assert (blocking, waits, copies) == (0, 0, 0)
    assert launches <= 25


@pytest.mark.parametrize("name", ["erm", "irm", "group-dro", "lntl", "cgn-ensemble"])
def test_a_fit_in_a_graph_ends_with_the_weights_of_one_without(name: str) -> None:
    here = fitted(name, 7, "cpu", bfloat16=False).state_dict()
    with pretended_cuda():
        there = fitted(name, 7, bfloat16=False).state_dict()
    assert all(torch.allclose(here[key], there[key], atol=1e-5) for key in here)


class Shapes(nn.Module):
    """Notes how many images it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        return images.mean(dim=(2, 3))


def test_evaluation_waits_for_a_gpu_once_a_variant_and_column() -> None:
    counts = []
    for batch_size in (60, 7):
        with pretended_cuda() as ledger:
            evaluate(Shapes(), {"v": squares()}, device="cuda", batch_size=batch_size)
            counts.append(ledger.counts()[1:])
    assert counts[0] == counts[1]
    assert counts[0][0] == 1  # the images
    assert counts[0][1] == 3  # predictions, confidences, and whether logits are finite


def test_answers_of_a_gpu_are_those_of_a_cpu() -> None:
    variants = {"some": squares(), "others": squares(20)}
    here, _ = evaluate(seeded_network(SmallCNN), variants)
    with pretended_cuda():
        there, _ = evaluate(seeded_network(SmallCNN), variants, device="cuda", batch_size=7)
    assert there.drop(columns="confidence").equals(here.drop(columns="confidence"))
    assert there["confidence"].to_numpy() == pytest.approx(here["confidence"].to_numpy())


def test_a_gpu_is_shown_batches_of_one_size() -> None:
    module = Shapes()
    with pretended_cuda():
        table, _ = evaluate(module, {"v": squares(20)}, device="cuda", batch_size=6)
    assert module.seen == [6, 6, 6, 6]
    assert len(table) == 20


def test_a_gpu_is_shown_thousands_of_small_images_at_once() -> None:
    module = Shapes()
    images = squares(4)
    many = images.select(torch.arange(4_500) % 4)
    with pretended_cuda():
        evaluate(module, {"v": many}, device="cuda")
    assert module.seen == [4_000, 4_000]


def test_logits_that_are_not_finite_are_found_on_a_gpu_too() -> None:
    class Diverged(Shapes):
        """Gives NaN for the last image."""

        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            logits[-1] = torch.nan
            return logits

    with pretended_cuda(), pytest.raises(ValueError, match="infinite or NaN"):
        evaluate(Diverged(), {"v": squares()}, device="cuda", batch_size=60)
