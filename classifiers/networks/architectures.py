"""Networks of timm and torchvision without weights, and the input each of them expects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from torch import nn

from cgn.data.preprocessing import IMAGENET, Preprocessing

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SEPARATOR = "-"  # between the numbers of channels: commas separate the names of models
OPTIONS = ("resize", "crop", "interpolation", "squash", "mean", "deviation")


@dataclass(frozen=True)
class InputConfig:
    """How an image is prepared for a network.

    Attributes:
        preprocessing: How it is resized and cropped.
        mean: What is subtracted from each channel.
        deviation: What each channel is divided by.

    Raises:
        ValueError: If mean and deviation are not three numbers each, the latter positive.
    """

    preprocessing: Preprocessing
    mean: tuple[float, ...] = IMAGENET_MEAN
    deviation: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.deviation) != 3 or min(self.deviation) <= 0:
            raise ValueError(
                "mean and deviation are three numbers, and deviations are positive, got "
                f"{self.mean} and {self.deviation}"
            )

    def options(self) -> dict[str, str]:
        """Return all settings by name, as a spec has them.

        Example:
            >>> InputConfig(Preprocessing(256, 224), mean=(0.5, 0.5, 0.5)).options()
            {'resize': '256', 'crop': '224', 'interpolation': 'bilinear', 'mean': '0.5', \
'deviation': '0.229-0.224-0.225'}
        """
        own = self.preprocessing
        squash = {"squash": "1"} if own.squash else {}
        return {
            "resize": str(own.resize_px),
            "crop": str(own.crop_px),
            "interpolation": own.interpolation,
            **squash,
            "mean": _format_channels(self.mean),
            "deviation": _format_channels(self.deviation),
        }

    def with_options(self, options: Mapping[str, str]) -> InputConfig:
        """Replace some settings, named as `options` names them.

        Raises:
            ValueError: If a value cannot be read.

        Example:
            >>> InputConfig(Preprocessing(256, 224)).with_options({"mean": "0.5"}).mean
            (0.5, 0.5, 0.5)
        """
        own = self.preprocessing
        try:
            preprocessing = Preprocessing(
                int(options.get("resize", own.resize_px or 0)),
                int(options.get("crop", own.crop_px or 0)),
                options.get("interpolation", own.interpolation),  # type: ignore[arg-type]
                options.get("squash", str(int(own.squash))) == "1",
            )
            mean, deviation = (
                _parse_channels(options[name]) if name in options else getattr(self, name)
                for name in ("mean", "deviation")
            )
            return InputConfig(preprocessing, mean, deviation)
        except ValueError as error:
            raise ValueError(f"what is to be done to images cannot be read: {error}") from None


@dataclass(frozen=True)
class Architecture:
    """A network that can be built without weights.

    Attributes:
        name: Its full name with the tag of its configuration: `timm:NAME.TAG` or `tv:NAME@WEIGHTS`.
        build: Builds it; takes `num_classes`.
        inputs: How it expects its images.
        training_only: Prefixes of the names of weights that only training uses.
    """

    name: str
    build: Callable[..., nn.Module]
    inputs: InputConfig
    training_only: tuple[str, ...] = ()


def find_architectures(arch: str) -> list[Architecture]:
    """Find what `timm:NAME`, `timm:NAME.TAG`, `tv:NAME` or `tv:NAME@WEIGHTS` may mean.

    Returns:
        One for each possible configuration, in torchvision's order; timm has one default a name.

    Raises:
        ValueError: If there is no such network, or its images cannot be prepared.
    """
    kind, _, name = arch.partition(":")
    find = {"timm": _timm_architectures, "tv": _torchvision_architectures}.get(kind)
    if find is None or not (architectures := find(name)):
        raise ValueError(
            "arch must be timm:NAME or tv:NAME of a network there is, with its tag where you know "
            f"it (timm:NAME.TAG, tv:NAME@WEIGHTS), got {arch!r}"
        )
    return architectures


def _timm_architectures(name: str) -> list[Architecture]:
    """Find a network of timm, with the tag of its name or the default one."""
    import timm

    plain, _, tag = name.partition(".")
    tagged = timm.list_models(f"{plain}.*", pretrained=True)
    if not timm.is_model(plain) or (tag and name not in tagged):
        return []
    pretrained_cfg: Any = timm.get_pretrained_cfg(name)
    config = pretrained_cfg.to_dict() if pretrained_cfg else {}
    full = f"{plain}.{config['tag']}" if config.get("tag") else plain
    inputs = timm_input_config(f"timm:{full}", config) if config else InputConfig(IMAGENET)
    return [Architecture(f"timm:{full}", partial(timm.create_model, full), inputs)]


def timm_input_config(spec: str, config: Mapping[str, Any]) -> InputConfig:
    """Read from a configuration of timm how images are prepared.

    Raises:
        ValueError: If they are cropped in a way that is not known here.
    """
    crop_px, mode = config["input_size"][-1], config["crop_mode"]
    if mode not in ("center", "squash"):
        raise ValueError(f"{spec} wants its images cropped by {mode!r}, which is not known here")
    preprocessing = Preprocessing(
        int(crop_px / config["crop_pct"]), crop_px, config["interpolation"], mode == "squash"
    )
    return InputConfig(preprocessing, tuple(config["mean"]), tuple(config["std"]))


def _torchvision_architectures(text: str) -> list[Architecture]:
    """Find a network of torchvision under each of its configurations, or under the tagged one."""
    from torchvision.models import get_model, get_model_weights

    name, at, tag = text.partition("@")
    if name not in torchvision_classifiers():
        return []
    settings: dict[str, Any] = {}
    if name in ("inception_v3", "googlenet"):
        # As with their published weights, which expect another normalisation of images.
        settings = {"transform_input": True, "aux_logits": False, "init_weights": False}
    architectures = []
    for weights in get_model_weights(name):
        if at and weights.name != tag:
            continue
        if name.startswith("vit_"):
            settings = {"image_size": weights.meta["min_size"][0]}
        architectures.append(
            Architecture(
                f"tv:{name}@{weights.name}",
                partial(get_model, name, **settings),
                torchvision_input_config(weights),
                training_only=("aux1.", "aux2.", "AuxLogits."),
            )
        )
    return architectures


def torchvision_input_config(weights: Any) -> InputConfig:
    """Read from an entry of torchvision's weights how images are prepared."""
    own = weights.transforms()
    preprocessing = Preprocessing(own.resize_size[0], own.crop_size[0], own.interpolation.value)
    return InputConfig(preprocessing, tuple(own.mean), tuple(own.std))


@cache
def torchvision_classifiers() -> list[str]:
    """Return the names of torchvision's networks that classify images."""
    from torchvision import models

    # Networks for other tasks, and quantised ones, lie in the modules below this one.
    names: list[str] = models.list_models(module=models)
    return names


def _format_channels(numbers: Sequence[float]) -> str:
    """Write the numbers of channels, only once if they are equal."""
    return SEPARATOR.join(f"{x:.8g}" for x in (numbers[:1] if len(set(numbers)) == 1 else numbers))


def _parse_channels(text: str) -> tuple[float, ...]:
    """Read the numbers of channels."""
    numbers = tuple(map(float, text.split(SEPARATOR)))
    return numbers * 3 if len(numbers) == 1 else numbers
