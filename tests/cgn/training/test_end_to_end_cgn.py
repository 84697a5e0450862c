from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cgn import losses
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet
from cgn.io.cache import weights_sha256
from cgn.models.cgn import CGN
from cgn.models.mechanisms import ShapeMechanism
from cgn.training.end_to_end import (
    EndToEndConfig,
    EndToEndTraining,
    EndToEndWeights,
    train_end_to_end,
)
from cgn.training.loop import seeded

CONFIG = EndToEndConfig(steps=4, batch_size=8, width=8, checkpoint_steps=2)
N_CLASSES = 3


@pytest.fixture
def images() -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (30, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, Factors.aligned(torch.arange(30) % N_CLASSES), torch.arange(30))


@pytest.fixture
def run(images: ImageSet) -> EndToEndTraining:
    """A run before its first step."""
    with seeded(0):
        return EndToEndTraining(images, N_CLASSES, CONFIG, "cpu")


@pytest.mark.parametrize("name", ["cgn", "averaged", "critic"])
def test_a_step_moves_every_network(run: EndToEndTraining, name: str) -> None:
    before = weights_sha256(getattr(run, name))
    run.train_step(*run.draw(torch.Generator().manual_seed(0)))
    assert weights_sha256(getattr(run, name)) != before


def test_the_critic_teaches_all_three_mechanisms(run: EndToEndTraining) -> None:
    terms = run.losses(*run.draw(torch.Generator().manual_seed(0)))
    terms["adversarial"].backward(inputs=[*run.cgn.parameters()])
    reached = {
        name.split(".")[0]
        for name, weight in run.cgn.named_parameters()
        if weight.grad is not None and weight.grad.abs().sum() > 0
    }
    assert reached == {"shape", "texture", "background"}


def test_masks_and_labels_but_the_class_are_not_looked_at(images: ImageSet) -> None:
    others = torch.randint(N_CLASSES, (2, 30), generator=torch.Generator().manual_seed(1))
    masks = torch.randint(256, (30, 1, 16, 16), dtype=torch.uint8)
    changed = ImageSet(images.pixels, Factors(images.factors.shape, *others), images.ids, masks)
    trained = [train_end_to_end(each, N_CLASSES, CONFIG) for each in (images, changed)]
    assert weights_sha256(trained[0]) == weights_sha256(trained[1])


def test_an_interrupted_run_ends_with_the_same_weights(images: ImageSet, tmp_path: Path) -> None:
    def stop(step: int, steps: int, terms: dict[str, float]) -> None:
        if step == 3:
            raise InterruptedError

    path = tmp_path / "run.pt"
    with pytest.raises(InterruptedError):
        train_end_to_end(images, N_CLASSES, CONFIG, checkpoint=path, progress=stop)
    resumed = train_end_to_end(images, N_CLASSES, CONFIG, checkpoint=path)
    assert weights_sha256(resumed) == weights_sha256(train_end_to_end(images, N_CLASSES, CONFIG))
    with pytest.raises(ValueError, match="made with other settings"):
        train_end_to_end(images, N_CLASSES, replace(CONFIG, edge=0.2), checkpoint=path)


def test_the_canvas_of_the_shape_is_the_whole_image(images: ImageSet, tmp_path: Path) -> None:
    cgn = train_end_to_end(images, N_CLASSES, CONFIG)
    assert isinstance(cgn.shape, ShapeMechanism)
    ramp = torch.linspace(-1, 1, 16).expand(1, 1, 16, 16)
    placed = cgn.shape.place(ramp, cgn.shape.poses[0, :1])
    assert torch.allclose(placed, ramp.sigmoid(), atol=1e-5)
    cgn.save(tmp_path / "cgn.safetensors", {})
    read, _ = CGN.load(tmp_path / "cgn.safetensors")
    assert torch.allclose(read.shape.get_buffer("poses"), cgn.shape.poses, atol=1e-3)


@pytest.mark.parametrize(("area", "cost"), [(0.0, 0.06), (0.06, 0.0), (0.25, 0.0), (1.0, 0.5)])
def test_an_object_costs_nothing_within_its_bounds(area: float, cost: float) -> None:
    mask = torch.full((2, 1, 8, 8), area)
    term = losses.mask_area(mask, CONFIG.smallest_object, CONFIG.largest_object)
    assert term == pytest.approx(cost, abs=1e-6)


def test_the_edge_is_what_lies_outside_the_inner_pixels() -> None:
    mask = torch.zeros(2, 1, 8, 8)
    mask[:, :, 2:6, 2:6] = 1
    assert losses.mask_edge(mask, 2) == 0
    assert losses.mask_edge(1 - mask, 2) == 1
    assert losses.mask_edge(mask, 3) == pytest.approx(12 / 60)


def test_every_loss_has_a_weight_and_an_odd_batch_is_refused(run: EndToEndTraining) -> None:
    terms = run.losses(*run.draw(torch.Generator().manual_seed(0)))
    assert set(terms) == {*vars(EndToEndWeights()), "critic"}
    with pytest.raises(ValueError, match="batch_size must be even, got 7"):
        replace(CONFIG, batch_size=7)
