"""What else than data and weights decides a result is in the key that the result is kept under."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.core.context import RunContext
from benchmarks.core.suite import DataSource, TestSet
from benchmarks.suites.backgrounds_challenge import CHALLENGE, evaluate_by_search
from cgn.data.factors import Factors
from cgn.data.image_files import image_folder
from cgn.data.image_set import ImageSet
from cgn.data.preprocessing import Preprocessing
from cgn.io.cache import architecture, sources, weights_sha256
from classifiers.fit import _key
from classifiers.networks.backbones import Backbone
from classifiers.recipes import ERM


class Small(nn.Module):
    """A convolution that may be padded, before the mean over all places."""

    def __init__(self, padding: int = 0, flips: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.layer = nn.Conv2d(3, 1_000, 3, padding=padding, bias=False)
        self.layer.weight.data = torch.randn(1_000, 3, 3, 3, generator=generator)
        self.flips = flips

    def forward(self, images: Tensor) -> Tensor:
        seen = images.flip(1) if self.flips else images
        logits: Tensor = self.layer(seen[:, :, ::16, ::16]).mean(dim=(2, 3))
        return logits


class Doubled(Small):
    """The same tensors, and logits twice as high."""

    def forward(self, images: Tensor) -> Tensor:
        return 2 * super().forward(images)


class WithMean(nn.Module):
    """A mean that is not saved with the weights."""

    def __init__(self, mean: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean), persistent=False)


def noise(n: int, seed: int, masks: bool) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (n, 3, 224, 224), generator=generator, dtype=torch.uint8)
    inside = torch.zeros(n, 1, 224, 224, dtype=torch.uint8)
    inside[..., 60:160, 60:160] = 255
    labels = torch.arange(n) % 9
    return ImageSet(pixels, Factors.aligned(labels), torch.arange(n), inside if masks else None)


@pytest.fixture
def exam() -> TestSet:
    sets = {"foregrounds": noise(6, 0, True), "backgrounds": noise(20, 1, False)}
    return TestSet(CHALLENGE, DataSource(), sets, "d", CHALLENGE.protocol)


@pytest.fixture
def take(exam: TestSet, tmp_path: Path) -> Callable[[nn.Module], list[Any]]:
    """Lets a network take the challenge; the rows of its predictions."""

    def run(module: nn.Module) -> list[Any]:
        context = RunContext(torch.device("cpu"), tmp_path / "results", tmp_path)
        table, _ = evaluate_by_search(exam, module.eval(), "net", context)
        columns = ["background", "prediction", "confidence", "misled"]
        found: list[Any] = table[columns].to_numpy().tolist()
        return found

    return run


@pytest.mark.parametrize("other", [Small(padding=1), Small(flips=True), Doubled()])
def test_another_network_of_the_same_tensors_does_not_get_the_first_ones_answers(
    other: Small, take: Callable[[nn.Module], list[Any]], tmp_path: Path
) -> None:
    assert weights_sha256(other) == weights_sha256(Small())
    first = take(Small())
    second = take(other)
    assert second != first
    for path in tmp_path.rglob("*.jsonl"):
        path.unlink()
    assert take(other) == second  # what it answers without any cache
    assert take(Small()) == first


@pytest.mark.parametrize(
    "pair",
    [
        (nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3)),
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Sequential(nn.Linear(2, 2), nn.GELU())),
        (nn.BatchNorm2d(2, eps=1e-3), nn.BatchNorm2d(2)),
        (Small(), Doubled()),
        (Small(), Small(flips=True)),
        (WithMean(0.5), WithMean(0.4)),
    ],
    ids=["padding", "activation", "epsilon", "forward", "setting", "buffer"],
)
def test_what_is_computed_beside_the_weights_tells_networks_apart(
    pair: tuple[nn.Module, nn.Module],
) -> None:
    assert architecture(pair[0]) != architecture(pair[1])


def test_a_hook_makes_a_network_another_one_and_a_copy_does_not() -> None:
    first, second = Small(), Small()
    assert architecture(first) == architecture(second)
    second.register_forward_hook(lambda module, inputs, output: -output)
    assert architecture(first) != architecture(second)


def test_the_two_lite0s_of_timm_are_not_one() -> None:
    import timm

    names = "tf_efficientnet_lite0", "efficientnet_lite0"
    first, second = (timm.create_model(name, num_classes=3) for name in names)
    second.load_state_dict(first.state_dict())
    assert weights_sha256(first) == weights_sha256(second)
    assert architecture(first) != architecture(second)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    for label in ("a", "b"):
        (tmp_path / "photographs" / label).mkdir(parents=True)
        for i in range(2):
            image = Image.new("RGB", (40, 30), (90 * i, 50, ord(label)))
            image.save(tmp_path / "photographs" / label / f"{i}.png")
    return tmp_path / "photographs"


def prepared(folder: Path, *settings: Any) -> ImageSet:
    return image_folder(folder, Preprocessing(*settings))[0]


def test_images_prepared_otherwise_are_others_to_a_cache(photographs: Path) -> None:
    ways = [(20, 16), (24, 16), (20, 20), (20, 16, "bicubic"), (20, 16, "bilinear", True)]
    keys = []
    for way in ways:
        sets = {"biased": prepared(photographs, *way)}
        assert sets["biased"].sha256() == prepared(photographs, 20, 16).sha256()
        keys.append(_key(ERM, sets, n_classes=2, seed=0, device="cpu"))
    assert len(set(keys)) == len(ways)


def test_weights_of_a_backbone_that_lie_in_a_file_count_by_what_is_in_it(
    photographs: Path, tmp_path: Path
) -> None:
    path = tmp_path / "mine.pth"
    recipe = replace(ERM, network=Backbone(f"file:{path}#arch=timm:test_resnet"))
    keys = set()
    for content in (b"one", b"two"):
        path.write_bytes(content)
        sets = {"biased": prepared(photographs, 20, 16)}
        keys.add(_key(recipe, sets, n_classes=2, seed=0, device="cpu"))
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("module", "files"),
    [
        ("cgn.counterfactuals.sampling", {"image_set.py", "poses.py", "mechanisms.py", "cgn.py"}),
        (
            "cgn.counterfactuals.abduction",
            {"abduction.py", "image_set.py", "poses.py", "mechanisms.py"},
        ),
        ("cgn.training.gan", {"image_set.py", "losses.py", "small.py", "critic.py"}),
        ("cgn.data.image_files", {"decoding.py", "image_set.py"}),
        ("classifiers.fit", {"image_set.py", "loop.py", "precision.py", "small.py"}),
        (
            "benchmarks.suites.backgrounds_challenge",
            {"decisions.py", "image_files.py", "image_set.py", "cgn.py"},
        ),
    ],
)
def test_the_code_that_a_key_names_is_all_that_is_run(module: str, files: set[str]) -> None:
    assert files | {f"{module.rpartition('.')[2]}.py"} <= {path.name for path in sources(module)}
