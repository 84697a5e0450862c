"""In what precision networks compute, and that rows and caches say so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pretended_cuda import pretended_cuda
from support import tiny_images
from torch import Tensor, nn

from benchmarks.core.context import RunContext
from benchmarks.core.environment import environment
from benchmarks.core.evaluate import evaluate, probabilities
from benchmarks.suites.backgrounds_challenge import attack
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet
from cgn.device.precision import PRECISIONS, evaluating, training
from classifiers import MODELS
from classifiers.fit import fit

Flags = tuple[bool, bool, bool]


def flags() -> Flags:
    """TF32 in convolutions and in products, and whether cuDNN measures its kernels."""
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    return convolutions.allow_tf32, products.allow_tf32, convolutions.benchmark


class Watching(nn.Module):
    """Notes what a product gives, and how CUDA is set, whenever it is asked for logits."""

    def __init__(self) -> None:
        super().__init__()
        self.product: set[torch.dtype] = set()
        self.flags: set[Flags] = set()
        self.layer = nn.Linear(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layer(images.mean(dim=(2, 3)))
        self.product.add(logits.dtype)
        self.flags.add(flags())
        return logits


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", PRECISIONS)
def test_a_module_is_evaluated_in_what_is_named_on_every_device(name: str, device: str) -> None:
    module = Watching()
    with pretended_cuda():
        evaluate(module, {"v": tiny_images(1)}, device=device, precision=PRECISIONS[name])
    assert module.product == {PRECISIONS[name]}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_unless_told_otherwise_a_module_is_evaluated_in_float32(device: str) -> None:
    module = Watching()
    with pretended_cuda():
        evaluate(module, {"v": tiny_images(1)}, device=device)
    assert module.product == {torch.float32}


def test_on_cuda_evaluation_is_without_tf32_and_leaves_the_users_settings() -> None:
    before = flags()
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        module = Watching()
        with pretended_cuda():
            evaluate(module, {"v": tiny_images(1)}, device="cuda")
        assert module.flags == {(False, False, False)}
        assert flags() == (before[0], True, before[2])
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before[1]


def test_on_cuda_training_takes_tf32_for_convolutions_alone() -> None:
    before = flags()
    torch.backends.cudnn.allow_tf32 = False
    try:
        with training("cuda"):
            assert flags() == (True, False, False)
        assert flags() == (False, *before[1:])
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]


def test_settings_come_back_after_an_error() -> None:
    before = flags()
    with pretended_cuda(), pytest.raises(KeyError), evaluating("cuda"):
        raise KeyError
    assert flags() == before


def test_a_cpus_settings_are_left_alone() -> None:
    before = flags()
    with evaluating("cpu"), training("cpu"):
        assert flags() == before


def test_no_two_precisions_share_a_name_and_float32_has_none(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    contexts = [RunContext(cpu, tmp_path, tmp_path, precision=name) for name in PRECISIONS]
    names = [context.model_id("erm") for context in contexts]
    assert names == ["erm", "erm+bfloat16"]


def test_the_row_of_a_gpu_says_what_networks_are_trained_in() -> None:
    with pretended_cuda():
        assert environment("cuda")["device"] == (
            "cuda: Pretended with bfloat16 and TF32 in training"
        )
    assert environment("cpu")["device"] in ("cpu", "cpu with bfloat16")


@pytest.mark.parametrize("name", PRECISIONS)
def test_the_backgrounds_challenge_obeys_the_precision(name: str) -> None:
    images = tiny_images(1, 4)
    masks = torch.full((4, 1, 8, 8), 255, dtype=torch.uint8)
    objects = ImageSet(images.pixels, images.factors, images.ids, masks)
    module = Watching().eval()
    of = PRECISIONS[name]
    outcomes = [*attack(module, objects, images, decision_rule=probabilities, precision=of)]
    assert len(outcomes) == 4
    assert module.product == {of}


def test_a_fit_computes_its_convolutions_in_tf32_and_its_products_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = set()
    small = replace(MODELS["erm"], steps=1, epochs=0, batch_size=2)
    step = torch.optim.AdamW.step

    def noted(self: torch.optim.AdamW, *given: object) -> object:
        seen.add(flags())
        return step(self, *given)

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    pixels = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8)
    images = ImageSet(pixels, Factors.aligned(torch.arange(6) % 3), torch.arange(6))
    with pretended_cuda():
        fit(small, {"biased": images}, n_classes=3, seed=0, device="cuda")
    assert seen == {(True, False, False)}
