"""Every training loop, sampler and recipe on a pretended GPU: it runs, and costs no more than so.

Budgets are of launches, copies that the host waits for, and its other waits; the message of a
failure names the lines that cost most. They hold what was reached, so that a step back is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from imagenet_networks import tiny_biggan, tiny_cgn, tiny_u2net
from pretended_cuda import pretended_cuda
from pretended_ledger import Counts, Ledger
from torch import Tensor, nn

from benchmarks.core.evaluate import evaluate
from cgn.counterfactuals.abduction import real_image_counterfactuals
from cgn.counterfactuals.sampling import sample
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet
from cgn.io.cache import weights_sha256
from cgn.models.cgn import CGN, CGNConfig
from cgn.models.critic import VGGFeatures
from cgn.models.imagenet.biggan import BigGANConfig
from cgn.models.imagenet.pretrained import from_biggan
from cgn.segmentation.by_colour import segment_by_colour
from cgn.training.gan import GAN, sample_gan, train_gan
from cgn.training.imagenet import ImageNetTraining, train_imagenet
from cgn.training.imagenet_config import ImageNetTrainConfig
from cgn.training.small import PRESETS, TrainConfig, train
from classifiers import MODELS
from classifiers.fit import fit
from classifiers.networks.small import SmallCNN

N_CLASSES = 4


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """The device, and what is counted on it."""
    with pretended_cuda() as counted:
        yield counted


def images(n: int = 40, size_px: int = 32) -> ImageSet:
    """Bright squares on dark noise: something with objects in it."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(60, (n, 3, size_px, size_px), generator=generator, dtype=torch.uint8)
    pixels[:, :, 8:24, 8:24] += 150
    return ImageSet(pixels, Factors.aligned(torch.arange(n) % N_CLASSES), torch.arange(n))


def narrow_features() -> VGGFeatures:
    """The network that textures are compared in, with as many layers and few channels."""
    features = VGGFeatures(None)
    for layer in features.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.data, layer.bias.data = layer.weight[:4, :4], layer.bias[:4]  # type: ignore[index, union-attr]
    return features


def config(world: str, **changes: int) -> TrainConfig:
    return replace(PRESETS[world], **{"batch_size": 8, "width": 8, **changes})  # type: ignore[arg-type]


def difference(ledger: Ledger, run: Callable[[int], object], few: int, many: int) -> Counts:
    """What each step of a run costs, without what it costs to begin and to end."""
    costs = []
    for steps in (few, many):
        ledger.reset()
        run(steps)
        costs.append(ledger.counts())
    return Counts(*(-(-(b - a) // (many - few)) for a, b in zip(*costs, strict=True)))


def assert_within(ledger: Ledger, counts: Counts, launches: int, blocking: int, waits: int) -> None:
    """Hold counts against a budget."""
    within = counts.launches <= launches and counts.blocking <= blocking and counts.waits <= waits
    assert within, f"{counts}, budget {launches, blocking, waits}\n{ledger}"


def of_world(world: str) -> ImageSet:
    return images(40, 64 if world == "openmoji-9" else 32)


@pytest.mark.parametrize("world", PRESETS)
def test_a_step_of_a_cgn_keeps_its_budget_before_it_is_a_graph(ledger: Ledger, world: str) -> None:
    def run(steps: int) -> None:
        train(of_world(world), N_CLASSES, config(world, steps=steps), device="cuda")

    assert_within(
        ledger, difference(ledger, run, 1, 3), 520 if world == "openmoji-9" else 500, 0, 0
    )


def test_a_step_of_a_cgn_is_a_few_launches_once_it_is_a_graph(ledger: Ledger) -> None:
    def run(steps: int) -> None:
        train(images(), N_CLASSES, config("wildlife-mnist", steps=steps), device="cuda")

    assert_within(ledger, difference(ledger, run, 5, 8), 20, 0, 0)


def test_the_gpu_learns_what_the_cpu_learns(ledger: Ledger) -> None:
    curves: dict[str, list[dict[str, float]]] = {"cpu": [], "cuda": []}
    for device, curve in curves.items():
        train(
            images(),
            N_CLASSES,
            config("wildlife-mnist", steps=6),
            device=device,
            progress=lambda step, steps, terms, curve=curve: curve.append(terms),  # type: ignore[misc]
        )
    for here, there in zip(*curves.values(), strict=True):
        assert here == pytest.approx(there, rel=1e-3, abs=1e-3)


def test_a_checkpoint_written_on_a_gpu_loads_and_goes_on_without_one(tmp_path: Path) -> None:
    def run(device: str, stop_at: int = 0) -> dict[str, Tensor]:
        def stop(step: int, steps: int, terms: dict[str, float]) -> None:
            if step == stop_at:
                raise KeyboardInterrupt

        path, of = (
            tmp_path / "run.checkpoint",
            config("wildlife-mnist", steps=4, checkpoint_steps=2),
        )
        return train(
            images(), N_CLASSES, of, device=device, checkpoint=path, progress=stop
        ).state_dict()

    straight = run("cpu")
    (tmp_path / "run.checkpoint").unlink()
    with pretended_cuda(), pytest.raises(KeyboardInterrupt):
        run("cuda", stop_at=3)
    assert torch.load(tmp_path / "run.checkpoint", weights_only=True)["step"] == 2
    resumed = run("cpu")
    for name, value in straight.items():
        assert torch.allclose(value, resumed[name], atol=1e-3), name


def test_a_step_of_the_gan_keeps_its_budget(ledger: Ledger) -> None:
    def run(steps: int) -> None:
        train_gan(images(), N_CLASSES, config("wildlife-mnist", steps=steps), device="cuda")

    assert_within(ledger, difference(ledger, run, 1, 3), 150, 1, 0)


def test_sampling_a_thousand_images_keeps_its_budget(ledger: Ledger) -> None:
    cgn = CGN(CGNConfig(n_classes=N_CLASSES, image_size_px=32, width=8))
    here = sample(cgn, 1_000, seed=0)
    ledger.reset()
    there = sample(cgn, 1_000, seed=0, device="cuda")
    assert_within(ledger, ledger.counts(), 130, 40, 6)
    assert (here.pixels.int() - there.pixels.int()).abs().max() <= 1


def test_sampling_of_the_gan_keeps_its_budget(ledger: Ledger) -> None:
    sample_gan(GAN(N_CLASSES, 32, width=8), 1_000, seed=0, device="cuda")
    assert_within(ledger, ledger.counts(), 30, 11, 3)


def test_counterfactuals_of_real_images_keep_their_budget(ledger: Ledger) -> None:
    of = images()
    cgn = CGN(CGNConfig(n_classes=N_CLASSES, image_size_px=32, width=8))
    masks = segment_by_colour(of.pixels, of.factors.shape)
    ledger.reset()
    real_image_counterfactuals(cgn, of, masks, 1_000, seed=0, swap_fraction=0.5, device="cuda")
    assert_within(ledger, ledger.counts(), 112, 44, 3)


def test_a_pass_of_the_imagenet_cgn_keeps_its_budget(ledger: Ledger) -> None:
    """Launches do not depend on widths, so that narrow networks tell those of the published."""
    real = tiny_biggan(config=BigGANConfig(resolution_px=256, width=4, n_classes=5))
    of = ImageNetTrainConfig(images_per_step=2, batch_size=1)
    run = ImageNetTraining(from_biggan(real, tiny_u2net()), real, narrow_features(), of, "cuda")
    costs = []
    for n in (1, 2):
        draw = run.draw(torch.Generator(), n)
        ledger.reset()
        run.train_step(draw)
        costs.append(ledger.counts())
    a_pass = Counts(*(two - one for one, two in zip(*costs, strict=True)))
    assert_within(ledger, a_pass, 6_000, 0, 0)
    assert_within(ledger, costs[0], 8_000, 0, 0)


def test_the_imagenet_cgn_trains_and_draws(ledger: Ledger) -> None:
    cgn, real = tiny_cgn()
    before = weights_sha256(cgn)
    of = ImageNetTrainConfig(steps=1, images_per_step=2, batch_size=2)
    trained = train_imagenet(cgn, real, narrow_features(), of, device="cuda")
    assert weights_sha256(trained) != before
    fast = trained.for_sampling().to("cuda")
    ledger.reset()
    sample(fast, 4, seed=0, batch_size=4, device="cuda")
    assert_within(ledger, ledger.counts(), 1_250, 0, 6)


@pytest.mark.parametrize("name", MODELS)
def test_a_step_of_every_recipe_keeps_its_budget(ledger: Ledger, name: str) -> None:
    recipe = replace(MODELS[name], batch_size=8, epochs=0)
    if (first := recipe.identification_model) is not None:
        first = replace(first, steps=1, batch_size=8, epochs=0)
        recipe = replace(recipe, identification_model=first)
    sets = dict.fromkeys(recipe.trains_on, images())

    def run(steps: int) -> None:
        fit(replace(recipe, steps=steps), sets, n_classes=N_CLASSES, seed=0, device="cuda")

    assert_within(ledger, difference(ledger, run, 1, 3), 330, 0, 0)


def test_evaluation_of_images_in_memory_keeps_its_budget(ledger: Ledger) -> None:
    evaluate(SmallCNN(N_CLASSES, 32), {"test": images(1_000)}, device="cuda")
    assert_within(ledger, ledger.counts(), 50, 29, 3)
