"""Classifiers around any backbone of timm: with one head, or the ensemble of three."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from classifiers.networks.input_transforms import Normalised
from classifiers.networks.joins import Join
from classifiers.networks.pretrained import is_pretrained, load_pretrained
from classifiers.networks.small import InvariantEnsemble

UNTRAINED_MEAN = UNTRAINED_DEVIATION = (0.5, 0.5, 0.5)  # of a backbone of random weights


@dataclass(frozen=True)
class Backbone:
    """Builds networks around a backbone.

    Attributes:
        spec: `timm:NAME` for random weights; for trained ones `timm:NAME.TAG`,
            `efficientnet-lite0` or `file:PATH#arch=timm:NAME`, see `load_pretrained`.
        options: Arguments of `timm.create_model`, for random weights.
        heads: Whether the network is an `InvariantEnsemble`.
        join: How its heads become the deployed answer.
    """

    spec: str
    options: tuple[tuple[str, Any], ...] = ()
    heads: bool = False
    join: Join = "alignment"

    def __call__(self, n_classes: int, image_size_px: int) -> nn.Module:
        """Build a network from images (B, 3, H, W) in [0, 1] to logits (B, C).

        Raises:
            ValueError: If there is no such backbone, its weights cannot be loaded, or it takes no
                images of this size.
        """
        features = self._build()
        n_features = self._count_features(features, image_size_px)
        if not self.heads:
            return nn.Sequential(features, nn.Linear(n_features, n_classes)).train()
        return InvariantEnsemble(
            n_classes, image_size_px, features=features, n_features=n_features, join=self.join
        ).train()

    def require_size(self, image_size_px: int) -> None:
        """Check the size of images without fetching weights.

        Raises:
            ValueError: If the backbone takes no images of this size, or does not exist.
        """
        untrained = self.spec.partition(".")[0] if self.spec.startswith("timm:") else self.spec
        self._count_features(replace(self, spec=untrained)._build(), image_size_px)

    def _count_features(self, features: Normalised, image_size_px: int) -> int:
        """Run a backbone on one image to count its features."""
        try:
            with torch.inference_mode():
                output = features.eval()(torch.zeros(1, 3, image_size_px, image_size_px))
        except (AssertionError, RuntimeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"{self.spec} takes no images of {image_size_px} pixels ({reason}); choose "
                "another `size`, or another `backbone`"
            ) from None
        if output.ndim != 2:
            raise ValueError(f"{self.spec} gives no features of whole images; take another one")
        return int(output.shape[1])

    def _build(self) -> Normalised:
        """Build the backbone without its classifier, behind its normalisation."""
        import timm

        name = self.spec.removeprefix("timm:")
        if self.spec != name and "." not in name:
            if not timm.is_model(name):
                raise ValueError(f"timm has no network {name!r}; `timm.list_models()` names them")
            network = timm.create_model(name, num_classes=0, **dict(self.options))
            return Normalised(network, UNTRAINED_MEAN, UNTRAINED_DEVIATION)
        if not is_pretrained(self.spec) or self.options:
            raise ValueError(
                f"{self.spec!r} names no backbone; write timm:NAME for random weights, to which "
                "options belong, or timm:NAME.TAG, efficientnet-lite0 or file:PATH#arch=timm:NAME"
            )
        pretrained = load_pretrained(self.spec).module
        assert isinstance(pretrained, Normalised)
        if not hasattr(pretrained.network, "reset_classifier"):
            raise ValueError(f"{self.spec} is no network of timm, and keeps its classifier")
        reset_classifier: Any = pretrained.network.reset_classifier
        reset_classifier(0)
        return pretrained
