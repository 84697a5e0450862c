"""Networks without weights, of timm and of torchvision, and how each wants its images.

What a name's configuration says holds for weights of one's own as for those it was written for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from torch import nn

from cgn.data.preprocessing import IMAGENET, Preprocessing

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SEPARATOR = "-"  # between the numbers of channels: commas part the names of models


@dataclass(frozen=True)
class Front:
    """What is done to an image before a network sees it.

    Attributes:
        preprocessing: How it is resized and cropped.
        mean: What is subtracted, by channel.
        deviation: What it is divided by, by channel.
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
        """Say all of it by name, as in a spec.

        Example:
            >>> Front(Preprocessing(256, 224), mean=(0.5, 0.5, 0.5)).options()
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
            "mean": _joined(self.mean),
            "deviation": _joined(self.deviation),
        }

    def but(self, options: Mapping[str, str]) -> Front:
        """Replace what some options say otherwise.

        Args:
            options: As `options` has them, some or all.

        Raises:
            ValueError: If one cannot be read.

        Example:
            >>> Front(Preprocessing(256, 224)).but({"mean": "0.5"}).mean
            (0.5, 0.5, 0.5)
        """
        own = self.preprocessing
        try:
            changed = Preprocessing(
                int(options.get("resize", own.resize_px or 0)),
                int(options.get("crop", own.crop_px or 0)),
                options.get("interpolation", own.interpolation),  # type: ignore[arg-type]
                options.get("squash", str(int(own.squash))) == "1",
            )
            mean = _parted(options["mean"]) if "mean" in options else self.mean
            deviation = _parted(options["deviation"]) if "deviation" in options else self.deviation
            return Front(changed, mean, deviation)
        except ValueError as error:
            raise ValueError(f"what is to be done to images cannot be read: {error}") from None


OPTIONS = ("resize", "crop", "interpolation", "squash", "mean", "deviation")


@dataclass(frozen=True)
class Architecture:
    """A network that can be built without weights.

    Attributes:
        name: Its full name: `timm:NAME.TAG` or `tv:NAME@WEIGHTS`, after the configuration.
        build: Makes it; takes `num_classes`.
        front: How it wants its images.
        unused: Beginnings of names of weights that only training uses, which are left out.
    """

    name: str
    build: Callable[..., nn.Module]
    front: Front
    unused: tuple[str, ...] = ()


def architectures(arch: str) -> list[Architecture]:
    """Find what `timm:NAME`, `timm:NAME.TAG`, `tv:NAME` or `tv:NAME@WEIGHTS` may mean.

    Returns:
        One for each configuration that may be meant, in the order in which torchvision names
        them; timm has a usual one for each name.

    Raises:
        ValueError: If there is no such network, or its images cannot be prepared.
    """
    kind, _, name = arch.partition(":")
    find = {"timm": _of_timm, "tv": _of_torchvision}.get(kind)
    if find is None or not (found := find(name)):
        raise ValueError(
            "arch must be timm:NAME or tv:NAME of a network there is, with its tag where you know "
            f"it (timm:NAME.TAG, tv:NAME@WEIGHTS), got {arch!r}"
        )
    return found


def _of_timm(name: str) -> list[Architecture]:
    """Find a network of timm, with its tag or with the usual one."""
    import timm

    plain, _, tag = name.partition(".")
    tagged = timm.list_models(f"{plain}.*", pretrained=True)
    if not timm.is_model(plain) or (tag and name not in tagged):
        return []
    found: Any = timm.get_pretrained_cfg(name)
    config = found.to_dict() if found else {}
    own = f"{plain}.{config['tag']}" if config.get("tag") else plain
    front = timm_front(f"timm:{own}", config) if config else Front(IMAGENET)
    return [Architecture(f"timm:{own}", partial(timm.create_model, own), front)]


def timm_front(spec: str, config: Mapping[str, Any]) -> Front:
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
    return Front(preprocessing, tuple(config["mean"]), tuple(config["std"]))


def _of_torchvision(text: str) -> list[Architecture]:
    """Find a network of torchvision under each of its configurations, or under a certain one."""
    from torchvision.models import get_model, get_model_weights

    name, at, tag = text.partition("@")
    if name not in torchvision_classifiers():
        return []
    known = get_model_weights(name)
    tags = [each for each in known if not at or each.name == tag]
    settings: dict[str, Any] = {}
    if name in ("inception_v3", "googlenet"):
        # As with their published weights, which expect other images than they are given.
        settings = {"transform_input": True, "aux_logits": False, "init_weights": False}
    found = []
    for each in tags:
        if name.startswith("vit_"):
            settings = {"image_size": each.meta["min_size"][0]}
        build = partial(get_model, name, **settings)
        full = f"tv:{name}@{each.name}"
        found.append(
            Architecture(full, build, torchvision_front(each), ("aux1.", "aux2.", "AuxLogits."))
        )
    return found


def torchvision_front(weights: Any) -> Front:
    """Read from an entry of torchvision's weights how images are prepared."""
    own = weights.transforms()
    preprocessing = Preprocessing(own.resize_size[0], own.crop_size[0], own.interpolation.value)
    return Front(preprocessing, tuple(own.mean), tuple(own.std))


@cache
def torchvision_classifiers() -> list[str]:
    """Names of torchvision's networks for images; others detect, segment or see videos."""
    from torchvision import models

    # Those for other tasks, and quantised ones, lie in modules below.
    names: list[str] = models.list_models(module=models)
    return names


def _joined(numbers: Sequence[float]) -> str:
    """Write the numbers of channels, only once if they are one."""
    return SEPARATOR.join(f"{x:.8g}" for x in (numbers[:1] if len(set(numbers)) == 1 else numbers))


def _parted(text: str) -> tuple[float, ...]:
    """Read the numbers of channels."""
    numbers = tuple(map(float, text.split(SEPARATOR)))
    return numbers * 3 if len(numbers) == 1 else numbers
