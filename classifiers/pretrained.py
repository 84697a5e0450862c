"""Networks that were trained elsewhere, named by specs that cannot come to mean another network.

Source:
    timm: https://github.com/huggingface/pytorch-image-models
    torchvision: https://docs.pytorch.org/vision/stable/models.html
    Networks trained on Stylized-ImageNet: Geirhos et al., ImageNet-trained CNNs are biased towards
    texture, ICLR 2019, `load_pretrained_models.py` of https://github.com/rgeirhos/texture-vs-shape
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cgn.data.preprocessing import IMAGENET, Preprocessing
from cgn.io.writing import download, write_text
from cgn.models.cgn import weights_sha256
from cgn.models.efficientnet import efficientnet_lite
from classifiers.networks.architectures import (
    OPTIONS,
    Front,
    timm_front,
    torchvision_classifiers,
    torchvision_front,
)
from classifiers.networks.filled import Filled, fill

SHIPPED = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")
FORMS = (
    "efficientnet-lite0, timm:resnet50.a1_in1k, tv:resnet50@IMAGENET1K_V1, "
    "geirhos:resnet50_trained_on_SIN or file:my.safetensors#arch=timm:resnet50"
)
# Of torchvision's resnet50; each name ends in the first digits of the file's sha256.
_GEIRHOS = "https://bitbucket.org/robert_geirhos/texture-vs-shape-pretrained-models/raw/"
GEIRHOS = {
    "resnet50_trained_on_SIN": _GEIRHOS
    + "6f41d2e86fc60566f78de64ecff35cc61eb6436f/resnet50_train_60_epochs-c8e5653e.pth.tar",
    "resnet50_trained_on_SIN_and_IN": _GEIRHOS
    + "60b770e128fffcbd8562a3ab3546c1a735432d03/"
    + "resnet50_train_45_epochs_combined_IN_SF-2a0d100e.pth.tar",
    "resnet50_trained_on_SIN_and_IN_then_finetuned_on_IN": _GEIRHOS
    + "60b770e128fffcbd8562a3ab3546c1a735432d03/"
    + "resnet50_finetune_60_epochs_lr_decay_after_30_start_resnet50_train_45_epochs_combined_IN_SF"
    + "-ca06340c.pth.tar",
}


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A network that somebody else trained.

    Attributes:
        spec: Its full name, the same on every machine.
        module: From images (B, 3, H, W) in [0, 1] to logits (B, C); it normalises them itself.
        weights_sha256: Hash of its weights.
        preprocessing: How images were resized and cropped for it.
        n_classes: C.
        classes: Their names, in the order of the outputs; empty if they are ImageNet's 1,000.
        note: What the user should know about how the spec was read; may be empty.
    """

    spec: str
    module: nn.Module
    weights_sha256: str
    preprocessing: Preprocessing
    n_classes: int
    classes: tuple[str, ...] = ()
    note: str = ""

    def normalised_by(self, mean: Sequence[float], deviation: Sequence[float]) -> Pretrained:
        """Return the same network behind another normalisation than it was trained with.

        Args:
            mean: By channel.
            deviation: By channel.

        Raises:
            ValueError: If its own lies within, as that of an ensemble's backbone does.
        """
        if not isinstance(self.module, Normalised):
            raise ValueError(
                f"{self.spec} normalises images within, which a protocol cannot replace; choose "
                "another --protocol"
            )
        return replace(self, module=Normalised(self.module.network, mean, deviation).eval())

    def for_images_of(self, size_px: int) -> Pretrained:
        """Return the network for images of a size that is not its own, if it has to be helped.

        Many networks take images of any size; others, transformers above all, only their own. To
        these images are resized within, and their spec says so.

        Args:
            size_px: Height and width of the images.
        """
        own_px = self.preprocessing.crop_px
        if own_px in (None, size_px) or _n_classes(self.module, size_px) == self.n_classes:
            return self
        module = Resized(self.module, own_px, self.preprocessing.interpolation).eval()
        return replace(self, spec=f"{self.spec}+resized{own_px}", module=module)


class Normalised(nn.Module):
    """A network behind a layer that subtracts a mean and divides by a deviation, by channel."""

    mean: Tensor
    deviation: Tensor

    def __init__(
        self, network: nn.Module, mean: Sequence[float], deviation: Sequence[float]
    ) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of images (B, 3, H, W) in [0, 1]."""
        return self.network((images - self.mean) / self.deviation)  # type: ignore[no-any-return]


class Resized(nn.Module):
    """A network that takes images of one size, behind a layer that resizes them to it."""

    def __init__(self, network: nn.Module, size_px: int, interpolation: str) -> None:
        super().__init__()
        self.network, self.size_px, self.interpolation = network, size_px, interpolation

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, C) of images (B, 3, H, W) in [0, 1]."""
        size = (self.size_px, self.size_px)
        resized = F.interpolate(images, size, mode=self.interpolation, antialias=True)
        return self.network(resized.clamp(0, 1))  # type: ignore[no-any-return]


def is_spec(text: str) -> bool:
    """Tell the spec of a pretrained network from the name of a recipe.

    Example:
        >>> is_spec("timm:resnet50.a1_in1k"), is_spec("efficientnet-lite0"), is_spec("cgn")
        (True, True, False)
    """
    return text in SHIPPED or text.partition(":")[0] in _LOADERS


def load(spec: str) -> Pretrained:
    """Load a pretrained network.

    Args:
        spec: `efficientnet-lite0`, `-lite1` or `-lite2`, whose weights come with packages;
            `timm:NAME.TAG`, `tv:NAME@WEIGHTS` or `geirhos:NAME`, which are downloaded once; or
            `file:PATH#arch=ARCH` with weights of your own, safetensors or a state dict, for an
            ARCH `timm:NAME`, `timm:NAME.TAG`, `tv:NAME` or `tv:NAME@WEIGHTS`, whose configuration
            says how images are prepared; `&sha256=HEX` if the file is to be a certain one,
            `&set=NAME` if it holds several sets of weights, and `&resize=`, `&crop=`,
            `&interpolation=`, `&squash=1`, `&mean=` and `&deviation=` (three numbers, as in
            `0.485-0.456-0.406`, or one) where the configuration is not that of the weights;
            `ensemble:PATH` with what `bench.py fit` wrote.

    Returns:
        The network, on the CPU and in evaluation mode.

    Raises:
        ValueError: If the spec could mean several networks, or the weights cannot be had.
    """
    if spec in SHIPPED:
        network: Any = efficientnet_lite(int(spec[-1]))
        return _prepared(spec, network, timm_front(spec, network.pretrained_cfg))
    kind, _, rest = spec.partition(":")
    if kind not in _LOADERS:
        raise ValueError(f"{spec!r} could mean several networks; write {_candidates(spec)}")
    return _LOADERS[kind](rest)


def specs_of(name: str) -> list[str]:
    """List the pretrained networks of timm and torchvision that a bare name may mean."""
    import timm
    from torchvision.models import get_model_weights

    specs = [f"timm:{each}" for each in timm.list_models(f"{name}.*", pretrained=True)]
    if name in torchvision_classifiers():
        specs += [f"tv:{name}@{each.name}" for each in get_model_weights(name)]
    return specs


def _candidates(name: str) -> str:
    """Name what a bare name may mean; the forms of specs if nothing."""
    return ", ".join(specs_of(name)) or FORMS


def _load_timm(name: str) -> Pretrained:
    """Load `NAME.TAG` of timm."""
    import timm

    if name not in timm.list_models(pretrained=True):
        raise ValueError(
            f"timm:{name} is no pretrained network of timm with its tag; write "
            f"{_candidates(name.partition('.')[0])}"
        )
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.num_classes:
        raise ValueError(f"timm:{name} gives features, no classes; take a network with classes")
    network = _fetched(f"timm:{name}", lambda: timm.create_model(name, pretrained=True))
    front = timm_front(f"timm:{name}", network.pretrained_cfg)
    return _prepared(f"timm:{name}", network, front)


def _load_torchvision(text: str) -> Pretrained:
    """Load `NAME@WEIGHTS` of torchvision."""
    from torchvision.models import get_model, get_model_weights

    name, _, tag = text.partition("@")
    if name not in torchvision_classifiers():
        raise ValueError(f"torchvision has no network {name!r} that classifies images")
    known = get_model_weights(name)
    if tag not in known.__members__ or tag == "DEFAULT":  # which moves with the version
        names = ", ".join(f"tv:{name}@{each.name}" for each in known)
        raise ValueError(f"tv:{text} names no fixed weights; write {names}")
    weights = known[tag]
    network = _fetched(f"tv:{text}", lambda: get_model(name, weights=weights))
    return _prepared(f"tv:{text}", network, torchvision_front(weights))


def _load_geirhos(name: str) -> Pretrained:
    """Load a network of the authors of cue-conflict; its file must stay what it was at first."""
    if name not in GEIRHOS:
        raise ValueError(f"geirhos:{name} is unknown; write one of geirhos:{', '.join(GEIRHOS)}")
    url = GEIRHOS[name]
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    digits = path.name.removesuffix(".pth.tar").rpartition("-")[2]
    if not path.is_file():
        _fetched(f"geirhos:{name}", lambda: download(url, path, digits))
    _require_pinned(path, digits)
    network = fill("tv:resnet50@IMAGENET1K_V1", path).network
    return _prepared(f"geirhos:{name}", network, Front(IMAGENET))


def _require_pinned(path: Path, digits: str) -> None:
    """Refuse a file that is not what it was when it was first used, which is noted beside it."""
    sha256 = _sha256(path)
    pin = path.with_name(f"{path.name}.sha256")
    if not pin.is_file() and sha256.startswith(digits):
        write_text(pin, f"{sha256}\n")
    expected = pin.read_text().strip() if pin.is_file() else f"{digits}…"
    if sha256 != expected:
        raise ValueError(
            f"{path} has the sha256 {sha256}, expected {expected}; delete it and run this again"
        )


def _load_file(text: str) -> Pretrained:
    """Load `PATH#arch=ARCH`, and maybe `&sha256=HEX`, `&set=NAME` or how images are prepared."""
    name, rest = _path_and_options(text)
    path, options = Path(name).expanduser(), _options(rest, f"file:{text}")
    try:
        sha256 = _sha256(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if options.get("sha256", sha256).lower() != sha256:
        raise ValueError(f"{path} has the sha256 {sha256}, expected {options['sha256']!r}")
    filled = fill(options.get("arch", ""), path, options.get("set"))
    front = filled.architecture.front.but(options)
    said = {"arch": filled.architecture.name, **front.options()}
    said |= {"set": filled.set_name} if filled.others else {}
    said["sha256"] = sha256
    spec = f"file:{path.name}#{'&'.join(f'{name}={value}' for name, value in said.items())}"
    return _prepared(spec, filled.network, front, note=_note(path, filled, front))


def pinned(spec: str) -> str:
    """Name the network of a spec so that no other has the name: a file's content counts.

    Raises:
        ValueError: If a file cannot be read.
    """
    kind, _, rest = spec.partition(":")
    if kind not in ("file", "ensemble"):
        return spec
    path = Path(rest if kind == "ensemble" else _path_and_options(rest)[0]).expanduser()
    try:
        return f"{spec} {_sha256(path)}"
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


def _path_and_options(text: str) -> tuple[str, str]:
    """Part a path, in which `#` may stand, from what is said behind it."""
    path, _, options = (text, "", "") if Path(text).is_file() else text.rpartition("#")
    return path or options, options if path else ""


def _options(text: str, spec: str) -> dict[str, str]:
    """Read what stands behind the path in a spec; whatever is there counts."""
    pairs = parse_qsl(text, keep_blank_values=True)  # an empty sha256 is a wrong one
    options = dict(pairs)
    if unknown := options.keys() - {"arch", "sha256", "set", *OPTIONS}:
        raise ValueError(f"{spec} has an unknown part {sorted(unknown)[0]!r}")
    if len(options) != len(pairs):
        raise ValueError(f"{spec} names a part twice")
    return options


def _note(path: Path, filled: Filled, front: Front) -> str:
    """Say in a sentence what was taken for what."""
    how = ", ".join(f"{name} {value}" for name, value in front.options().items())
    others = ", ".join(filled.others)
    which = f"the weights {filled.set_name}, not {others}; " if filled.others else ""
    return f"{path.name}: {which}images prepared as {filled.architecture.name} has it: {how}"


def _sha256(path: Path) -> str:
    """Hash a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetched(spec: str, fetch: Callable[[], Any]) -> Any:
    """Let a library fetch weights; whatever goes wrong becomes one sentence."""
    try:
        return fetch()
    except Exception as error:  # each hub client has errors of its own
        reason = re.sub(r"\s+", " ", str(error))[:200]
        raise ValueError(
            f"the weights of {spec} could not be downloaded, which has to happen once, with a "
            f"connection: {type(error).__name__}: {reason}"
        ) from None


def _prepared(spec: str, network: nn.Module, front: Front, note: str = "") -> Pretrained:
    """Put a network behind its normalisation."""
    module = Normalised(network, front.mean, front.deviation).eval()
    size_px = front.preprocessing.crop_px or IMAGENET.crop_px or 0
    n_classes = _n_classes(module, size_px)
    if n_classes is None:
        raise ValueError(f"{spec} takes no images of {size_px} pixels; write another &crop=")
    return Pretrained(
        spec=spec,
        module=module,
        weights_sha256=weights_sha256(network),
        preprocessing=front.preprocessing,
        n_classes=n_classes,
        note=note,
    )


@torch.inference_mode()
def _n_classes(module: nn.Module, size_px: int) -> int | None:
    """How many logits a module in evaluation mode gives; None if it takes none of that size."""
    try:
        logits: Tensor = module(torch.zeros(1, 3, size_px, size_px))
    except (RuntimeError, AssertionError, ValueError, IndexError):  # as each network has it
        return None
    return logits.shape[1]


def _load_ensemble(text: str) -> Pretrained:
    """Load an ensemble from a file that `bench.py fit` wrote."""
    from classifiers.ensemble import load_ensemble  # which is built on this module

    path = Path(text).expanduser()
    network, about = load_ensemble(path)
    size_px = about["size_px"]
    sha256 = weights_sha256(network)
    return Pretrained(
        spec=f"ensemble:{path.name}#sha256={sha256}",
        module=network,
        weights_sha256=sha256,
        preprocessing=Preprocessing(round(size_px * 256 / 224), size_px),
        n_classes=len(about["classes"]),
        classes=tuple(about["classes"]),
    )


_LOADERS = {
    "timm": _load_timm,
    "tv": _load_torchvision,
    "geirhos": _load_geirhos,
    "file": _load_file,
    "ensemble": _load_ensemble,
}
