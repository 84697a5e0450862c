"""What can be scored: models, whatever their weights come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor, nn

from benchmarks.core.context import RunContext
from benchmarks.core.suite import TestSet
from cgn.data.preprocessing import Preprocessing
from cgn.io.cache import weights_sha256

Outputs = Callable[[nn.Module, Tensor], Mapping[str, Tensor]]


def logits_only(module: nn.Module, images: Tensor) -> Mapping[str, Tensor]:
    """Give a module's logits as its only output.

    Example:
        >>> logits_only(nn.Flatten(), Tensor([[[1.0, 2.0]]]))
        {'': tensor([[1., 2.]])}
    """
    return {"": module(images)}


@dataclass(frozen=True)
class FittedModel:
    """A module with weights, and where they come from.

    Attributes:
        name: In the results, but for correlation and precision.
        module: From images (B, 3, H, W) in [0, 1] to logits.
        weights_sha256: Hash of the weights.
        seed: Of the fit; 0 where none is known.
        generator_seed: Seeds of the generators that drew training images, joined by spaces.
        outputs: From module and images to logits by output; "" is the module's own.
        selected_on: What its settings were chosen by, in words; empty where it is unknown.
    """

    name: str
    module: nn.Module
    weights_sha256: str
    seed: int = 0
    generator_seed: str = ""
    outputs: Outputs = logits_only
    selected_on: str = ""


class Model(Protocol):
    """A model differs from others only in how it comes by its weights."""

    @property
    def name(self) -> str:
        """Name in the results, or the spec that was asked for."""

    def require(self, tests: Sequence[TestSet], context: RunContext) -> None:
        """Refuse, before any work, test sets that the model is not for.

        Raises:
            ValueError: If there is one.
        """

    def evaluations(
        self, tests: Sequence[TestSet], seeds: Sequence[int], context: RunContext
    ) -> Iterator[tuple[FittedModel, TestSet]]:
        """Yield weights and each test set as the model sees it, for every seed that it has."""


@dataclass(frozen=True)
class ModuleModel:
    """A module of the user's own, ready to be scored.

    Attributes:
        name: In the results.
        module: From images (B, 3, H, W) in [0, 1] to logits of the suite's classes, or of
            ImageNet's 1,000 for an official suite.
        selected_on: What its settings were chosen by, in the user's words.
    """

    name: str
    module: nn.Module
    selected_on: str = ""

    def require(self, tests: Sequence[TestSet], context: RunContext) -> None:
        """Accept every test set: what the module answers is checked as it answers."""

    def evaluations(
        self, tests: Sequence[TestSet], seeds: Sequence[int], context: RunContext
    ) -> Iterator[tuple[FittedModel, TestSet]]:
        """Yield the module with each test set."""
        sha256 = weights_sha256(self.module)
        fitted = FittedModel(self.name, self.module, sha256, selected_on=self.selected_on)
        for test in tests:
            yield fitted, prepared_as_protocol(test)


def prepared_as_protocol(test: TestSet, preprocessing: Preprocessing | None = None) -> TestSet:
    """Resize and crop images as a test set's protocol asks for, or else as given."""
    override = test.shown.view
    asked = override.preprocessing if override and override.preprocessing else preprocessing
    if asked is None:
        return test
    variants = {name: images.prepared(asked) for name, images in test.variants.items()}
    return replace(test, variants=variants)
