"""What gives a plausible wrong number, tried as an enemy would."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from support import SHARED, tiny_suite
from torch import Tensor, nn

from benchmarks import score
from benchmarks.core.evaluate import probabilities
from benchmarks.core.sanity_checks import DEVIATION, MEAN, labels_in_another_order, suspicions
from benchmarks.suites import OFFICIAL_SUITES
from benchmarks.suites.decisions import decide_imagenet_a
from benchmarks.worlds.imagenet import class_table
from cgn.data.factors import Factors
from cgn.data.image_files import image_folder
from cgn.data.image_set import ImageSet
from cgn.data.preprocessing import IMAGENET
from classifiers import load_model

needs_data = pytest.mark.shared("imagenet-sample")


class Hues(nn.Module):
    """Names the strongest colour of images normalised as ImageNet's; all else is of class 0."""

    def forward(self, images: Tensor) -> Tensor:
        seen = images * DEVIATION + MEAN
        low, high = seen.amin(dim=(1, 2, 3)), seen.amax(dim=(1, 2, 3))
        sane = (low > 0.1) & (low < 0.3) & (high > 0.5) & (high < 0.9)
        nothing = torch.tensor([1.0, 0.0, 0.0])
        return 20 * torch.where(sane[:, None], seen.mean(dim=(2, 3)), nothing)


class Shown(nn.Module):
    """A module before which images are changed."""

    def __init__(self, module: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.module, self.change = module, change

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.module(self.change(images))
        return logits


def normalised(images: Tensor) -> Tensor:
    return (images - MEAN) / DEVIATION


@pytest.fixture
def hues() -> dict[str, ImageSet]:
    """96 images of which one colour stands out, the class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (96,), generator=generator)
    pixels = torch.randint(40, 90, (96, 3, 8, 8), generator=generator, dtype=torch.uint8)
    pixels[torch.arange(96), labels] += 90
    return {"test": ImageSet(pixels, Factors.aligned(labels), torch.arange(96))}


def test_a_module_that_is_right_raises_no_suspicion(hues: dict[str, ImageSet]) -> None:
    assert suspicions(Shown(Hues(), normalised), hues, probabilities) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: normalised(x.flip(1)), "the order of colours is reversed (BGR)"),
        (lambda x: normalised(normalised(x)), "images are normalised twice"),
        (lambda x: x, "images are not normalised"),
        (lambda x: normalised(x / 255), "images are taken to lie in [0, 255]"),
        (lambda x: (x - DEVIATION) / MEAN, "mean and deviation are exchanged"),
    ],
    ids=["BGR", "twice", "not", "bytes", "exchanged"],
)
def test_images_that_are_prepared_wrongly_are_noticed(
    change: Callable[[Tensor], Tensor], message: str, hues: dict[str, ImageSet]
) -> None:
    (sentence,) = suspicions(Shown(Hues(), change), hues, probabilities)
    assert f"rightly as if {message}, and" in sentence


@needs_data
def test_a_real_network_is_told_from_one_that_takes_images_for_bytes(tmp_path: Path) -> None:
    table = class_table()
    for wnid in table.loc[table["imagenet_a"], "wnid"]:
        (tmp_path / wnid).symlink_to(SHARED / "imagenet-sample" / wnid)
    images, _ = image_folder(tmp_path, IMAGENET)
    few = images.select(torch.arange(0, 200, 6))
    network = load_model("efficientnet-lite0").module
    assert suspicions(network, {"hard": few}, decide_imagenet_a) == []
    for_bytes = Shown(network, lambda x: x / 255)
    (sentence,) = suspicions(for_bytes, {"hard": few}, decide_imagenet_a)
    assert "as if images are taken to lie in [0, 255], and" in sentence


def test_outputs_that_are_probabilities_are_noticed(hues: dict[str, ImageSet]) -> None:
    module = nn.Sequential(Shown(Hues(), normalised), nn.Softmax(dim=1))
    (sentence,) = suspicions(module, hues, probabilities)
    assert sentence.startswith("the outputs are probabilities, not logits")


def test_answers_of_0_and_1_alone_may_be_meant(hues: dict[str, ImageSet]) -> None:
    class Decided(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            found = Shown(Hues(), normalised)(images).argmax(dim=1)
            return nn.functional.one_hot(found, 3).double()

    assert suspicions(Decided(), hues, probabilities) == []


@pytest.mark.parametrize("how", ["batch", "chance"])
def test_answers_that_depend_on_the_batch_or_on_chance_are_noticed(
    how: str, hues: dict[str, ImageSet]
) -> None:
    class Unsteady(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = Shown(Hues(), normalised)(images)
            if how == "batch":
                return (logits - logits.mean(dim=0)) / logits.std(dim=0)
            return nn.functional.dropout(logits)  # which is not told of evaluation mode

    found = suspicions(Unsteady().eval(), hues, probabilities)
    assert any("get other answers in another batch" in sentence for sentence in found)


def test_classes_in_another_order_are_noticed() -> None:
    names = sorted(map(str, range(12)))  # as folders named by index are sorted: 0, 1, 10, 11, 2
    shape = list(range(12)) * 20
    predicted = [names.index(str(label)) for label in shape]
    seen = pd.DataFrame({"shape": shape, "prediction": predicted})
    assert "right with labels in another order" in labels_in_another_order(seen, 12)
    right = seen.assign(prediction=seen["shape"])
    assert labels_in_another_order(right, 12) == ""
    assert labels_in_another_order(seen[:24], 12) == ""  # too few to tell


def test_a_classifier_that_reads_backgrounds_is_not_taken_for_one_of_other_labels() -> None:
    shape = torch.arange(9).repeat(40)
    variants = {"original": shape, "mixed_next": (shape + 1) % 9}
    parts = [pd.DataFrame({"shape": shape, "prediction": p}) for p in variants.values()]
    assert labels_in_another_order(pd.concat(parts), 9) == ""


class Row(nn.Module):
    """Reads the first row, as the tiny suite asks; its dropout sees to it that modes matter."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.9)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        brightness = self.drop(images[:, :, 0].mean(dim=(1, 2)))
        logits: Tensor = -(brightness[:, None] * 255 - torch.tensor([0.0, 100.0, 200.0])).abs()
        return logits * self.scale


def test_a_module_left_in_training_mode_is_evaluated_in_the_other_and_this_is_said() -> None:
    suite, module = tiny_suite(), Row()
    with pytest.warns(UserWarning, match=r"Row: it came in training mode, and was evaluated in"):
        trained = score(module, suite, data="embedded")
    assert module.training
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluated = score(module.eval(), suite, data="embedded")
    pd.testing.assert_frame_equal(trained.to_frame(), evaluated.to_frame())
    assert (evaluated.to_frame()["value"][:2] == 1).all()


def test_a_suite_of_imagenet_knows_the_order_of_its_classes_by_their_folders() -> None:
    assert OFFICIAL_SUITES["imagenet"].world.classes == tuple(class_table()["wnid"])
