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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cgn.efficientnet import efficientnet_lite
from cgn.files import IMAGENET, Preprocessing
from cgn.io.downloads import download
from cgn.io.writing import write_text
from cgn.model import weights_sha256

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
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


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
    """

    spec: str
    module: nn.Module
    weights_sha256: str
    preprocessing: Preprocessing
    n_classes: int
    classes: tuple[str, ...] = ()

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
            `file:PATH#arch=ARCH` with weights of your own, safetensors or a plain state dict, for
            an ARCH `timm:NAME` or `tv:NAME`, and `&sha256=HEX` if the file is to be a certain one;
            `ensemble:PATH` with what `bench.py fit` wrote.

    Returns:
        The network, on the CPU and in evaluation mode.

    Raises:
        ValueError: If the spec could mean several networks, or the weights cannot be had.
    """
    if spec in SHIPPED:
        network: Any = efficientnet_lite(int(spec[-1]))
        return _of_timm(spec, network, network.pretrained_cfg)
    kind, _, rest = spec.partition(":")
    if kind not in _LOADERS:
        raise ValueError(f"{spec!r} could mean several networks; write {_candidates(spec)}")
    return _LOADERS[kind](rest)


def _candidates(name: str) -> str:
    """What a bare name may mean; the forms of specs if nothing."""
    import timm
    from torchvision.models import get_model_weights

    found = [f"timm:{each}" for each in timm.list_models(f"{name}.*", pretrained=True)]
    if name in _torchvision_classifiers():
        found += [f"tv:{name}@{each.name}" for each in get_model_weights(name)]
    return ", ".join(found) or FORMS


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
    return _of_timm(f"timm:{name}", network, network.pretrained_cfg)


def _of_timm(spec: str, network: nn.Module, config: Mapping[str, Any]) -> Pretrained:
    """Prepare a network of timm as its config says."""
    crop_px, mode = config["input_size"][-1], config["crop_mode"]
    if mode not in ("center", "squash"):
        raise ValueError(f"{spec} wants its images cropped by {mode!r}, which is not known here")
    preprocessing = Preprocessing(
        int(crop_px / config["crop_pct"]), crop_px, config["interpolation"], mode == "squash"
    )
    return _prepared(spec, network, config["mean"], config["std"], preprocessing)


def _load_torchvision(text: str) -> Pretrained:
    """Load `NAME@WEIGHTS` of torchvision."""
    from torchvision.models import get_model, get_model_weights

    name, _, tag = text.partition("@")
    if name not in _torchvision_classifiers():
        raise ValueError(f"torchvision has no network {name!r} that classifies images")
    known = get_model_weights(name)
    if tag not in known.__members__ or tag == "DEFAULT":  # which moves with the version
        names = ", ".join(f"tv:{name}@{each.name}" for each in known)
        raise ValueError(f"tv:{text} names no fixed weights; write {names}")
    weights = known[tag]
    network = _fetched(f"tv:{text}", lambda: get_model(name, weights=weights))
    own = weights.transforms()
    preprocessing = Preprocessing(own.resize_size[0], own.crop_size[0], own.interpolation.value)
    return _prepared(f"tv:{text}", network, own.mean, own.std, preprocessing)


def _torchvision_classifiers() -> list[str]:
    """Names of torchvision's networks for images; others detect, segment or see videos."""
    from torchvision import models

    # Those for other tasks, and quantised ones, lie in modules below.
    names: list[str] = models.list_models(module=models)
    return names


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
    network = _filled("tv:resnet50", path)
    return _prepared(f"geirhos:{name}", network, IMAGENET_MEAN, IMAGENET_STD, IMAGENET)


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
    """Load `PATH#arch=ARCH&sha256=HEX`."""
    name, _, rest = text.partition("#")
    options = dict(parse_qsl(rest, keep_blank_values=True))  # an empty sha256 is a wrong one
    path, arch = Path(name).expanduser(), options.get("arch", "")
    if unknown := options.keys() - {"arch", "sha256"}:
        raise ValueError(f"file:{text} has an unknown part {sorted(unknown)[0]!r}")
    try:
        sha256 = _sha256(path)
        if options.get("sha256", sha256).lower() != sha256:
            raise ValueError(f"{path} has the sha256 {sha256}, expected {options['sha256']!r}")
        network = _filled(arch, path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    spec = f"file:{path.name}#arch={arch}&sha256={sha256}"
    return _prepared(spec, network, IMAGENET_MEAN, IMAGENET_STD, IMAGENET)


def _sha256(path: Path) -> str:
    """Hash a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _filled(arch: str, path: Path) -> nn.Module:
    """Build a network and load its weights from a file."""
    plain = {key.removeprefix("module."): each.float() for key, each in _read_weights(path).items()}
    network = _untrained(arch, plain)
    try:
        network.load_state_dict(plain)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise ValueError(f"{path} does not fit {arch}: {first[:200]}") from None
    return network


def _read_weights(path: Path) -> dict[str, Tensor]:
    """Read safetensors or a state dict, never code."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        stored = torch.load(path, weights_only=True, map_location="cpu")
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file: {error}") from None
    except OSError:
        raise
    except Exception as error:  # the unpickler raises whatever it stumbles over
        raise ValueError(f"{path} holds no plain weights: {str(error).splitlines()[0]}") from None
    if isinstance(stored, dict) and isinstance(stored.get("state_dict"), dict):
        stored = stored["state_dict"]  # as in the checkpoints of training scripts
    if not isinstance(stored, dict) or not all(isinstance(v, Tensor) for v in stored.values()):
        raise ValueError(f"{path} holds no plain state dict, from names to tensors")
    return stored


def _untrained(arch: str, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Build a network without weights, with as many outputs as the weights have."""
    import timm
    from torchvision.models import get_model

    kind, _, name = arch.partition(":")
    builders: dict[str, Callable[..., nn.Module]] = {}
    if timm.is_model(name):
        builders["timm"] = timm.create_model
    if name in _torchvision_classifiers():
        builders["tv"] = get_model
    if kind not in builders:
        raise ValueError(f"arch must be timm:NAME or tv:NAME of a network there is, got {arch!r}")
    network = builders[kind](name)
    layers = [n for n, m in network.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    last = tensors.get(f"{layers[-1]}.weight")
    # Without that layer the weights don't fit, which loading them says better.
    return network if last is None else builders[kind](name, num_classes=len(last))


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


def _prepared(
    spec: str,
    network: nn.Module,
    mean: Sequence[float],
    deviation: Sequence[float],
    preprocessing: Preprocessing,
) -> Pretrained:
    """Put a network behind its normalisation."""
    module = Normalised(network, mean, deviation).eval()
    with torch.inference_mode():
        side = preprocessing.crop_px or 224
        n_classes = module(torch.zeros(1, 3, side, side)).shape[1]
    return Pretrained(
        spec=spec,
        module=module,
        weights_sha256=weights_sha256(network),
        preprocessing=preprocessing,
        n_classes=n_classes,
    )


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
