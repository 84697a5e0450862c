"""Networks around any backbone of timm: a plain classifier, or the ensemble of three heads.

The small CNN of the drawn images is in `classifiers.networks.small`, networks that are only tested
in `classifiers.pretrained`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from classifiers.networks.small import HEAD_WEIGHTS, InvariantEnsemble
from classifiers.pretrained import Normalised, is_spec, load

PLAIN = (0.5, 0.5, 0.5)  # mean and deviation of a backbone that is trained from scratch


@dataclass(frozen=True)
class Backbone:
    """Builds networks around a backbone; calling it gives a fresh one.

    Attributes:
        spec: `timm:NAME` for random weights; for trained ones `timm:NAME.TAG`,
            `efficientnet-lite0` or `file:PATH#arch=timm:NAME`, as for `pretrained.load`.
        options: What `timm.create_model` takes beside, for random weights.
        heads: Whether the network is an `InvariantEnsemble`.
        head_weights: How much its heads count in the deployed answer.
    """

    spec: str
    options: tuple[tuple[str, Any], ...] = ()
    heads: bool = False
    head_weights: tuple[float, float, float] = HEAD_WEIGHTS

    def __call__(self, n_classes: int, image_size_px: int) -> nn.Module:
        """Build a network from images (B, 3, H, W) in [0, 1] to logits (B, C).

        Raises:
            ValueError: If there is no such backbone, its weights cannot be had, or it takes no
                images of this size.
        """
        features = self._features()
        n_features = self._n_features(features, image_size_px)
        if not self.heads:
            return nn.Sequential(features, nn.Linear(n_features, n_classes)).train()
        return InvariantEnsemble(
            n_classes,
            image_size_px,
            features=features,
            n_features=n_features,
            head_weights=self.head_weights,
        ).train()

    def require_size(self, image_size_px: int) -> None:
        """Find out now, not after the images were read, that a backbone does not take their size.

        No weights are fetched for it.

        Raises:
            ValueError: If it does not, or there is no such backbone.
        """
        untrained = self.spec.partition(".")[0] if self.spec.startswith("timm:") else self.spec
        self._n_features(replace(self, spec=untrained)._features(), image_size_px)

    def _n_features(self, features: Normalised, image_size_px: int) -> int:
        """Try a backbone on one image; how many features it has."""
        try:
            with torch.inference_mode():
                seen = features.eval()(torch.zeros(1, 3, image_size_px, image_size_px))
        except (AssertionError, RuntimeError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"{self.spec} takes no images of {image_size_px} pixels ({reason}); choose "
                "another --size, or another --backbone"
            ) from None
        if seen.ndim != 2:
            raise ValueError(f"{self.spec} gives no features of whole images; take another one")
        return int(seen.shape[1])

    def _features(self) -> Normalised:
        """Build the backbone without its classifier, behind its normalisation."""
        import timm

        name = self.spec.removeprefix("timm:")
        if self.spec != name and "." not in name:
            if not timm.is_model(name):
                raise ValueError(f"timm has no network {name!r}; `timm.list_models()` names them")
            return Normalised(
                timm.create_model(name, num_classes=0, **dict(self.options)), PLAIN, PLAIN
            )
        if not is_spec(self.spec) or self.options:
            raise ValueError(
                f"{self.spec!r} names no backbone; write timm:NAME for random weights, to which "
                "options belong, or timm:NAME.TAG, efficientnet-lite0 or file:PATH#arch=timm:NAME"
            )
        loaded = load(self.spec).module
        assert isinstance(loaded, Normalised)
        if not hasattr(loaded.network, "reset_classifier"):
            raise ValueError(f"{self.spec} is no network of timm, and keeps its classifier")
        reset: Any = loaded.network.reset_classifier
        reset(0)
        return loaded
