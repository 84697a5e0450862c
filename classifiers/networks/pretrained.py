"""Networks with weights of others: `timm:`, `tv:`, `geirhos:`, `file:` and packaged ones.

Source:
    timm: https://github.com/huggingface/pytorch-image-models
    torchvision: https://docs.pytorch.org/vision/stable/models.html
    Networks trained on Stylized-ImageNet: Geirhos et al., ImageNet-trained CNNs are biased towards
    texture, ICLR 2019, `load_pretrained_models.py` of https://github.com/rgeirhos/texture-vs-shape
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

import torch
from torch import Tensor, nn

from cgn.data.preprocessing import IMAGENET, Preprocessing
from cgn.io.cache import weights_sha256
from cgn.io.weight_sets import choose_set
from cgn.io.weights import misfit, read_stored
from cgn.io.writing import download, file_sha256, write_text
from cgn.models.efficientnet import efficientnet_lite
from classifiers.networks.architectures import (
    OPTIONS,
    Architecture,
    InputConfig,
    find_architectures,
    timm_input_config,
    torchvision_classifiers,
    torchvision_input_config,
)
from classifiers.networks.input_transforms import Normalised, Resized

PACKAGED = ("efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2")
FORMS = (
    "efficientnet-lite0, timm:resnet50.a1_in1k, tv:resnet50@IMAGENET1K_V1, "
    "geirhos:resnet50_trained_on_SIN or file:my.safetensors#arch=timm:resnet50"
)
# Each name ends in the first digits of the file's sha256.
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
    """A network that comes with its weights.

    Attributes:
        spec: Its full name, the same on every machine.
        module: From images (B, 3, H, W) in [0, 1] to logits (B, C), normalisation included.
        weights_sha256: Hash of its weights.
        preprocessing: How images are resized and cropped for it.
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

    def with_normalisation(self, mean: Sequence[float], deviation: Sequence[float]) -> Pretrained:
        """Replace the normalisation by another mean and deviation, by channel.

        Raises:
            ValueError: If it lies inside of the network, as in an ensemble.
        """
        if not isinstance(self.module, Normalised):
            raise ValueError(
                f"{self.spec} normalises images within, which a protocol cannot replace; choose "
                "another protocol"
            )
        return replace(self, module=Normalised(self.module.network, mean, deviation).eval())

    def for_size(self, size_px: int) -> Pretrained:
        """Let the network take square images of `size_px`.

        A network that takes only images of its own size, as many transformers do, resizes them
        first; its spec then ends in `+resizedPIXELS`.
        """
        own_px = self.preprocessing.crop_px
        if own_px in (None, size_px) or _count_classes(self.module, size_px) == self.n_classes:
            return self
        module = Resized(self.module, own_px, self.preprocessing.interpolation).eval()
        return replace(self, spec=f"{self.spec}+resized{own_px}", module=module)


def is_pretrained(spec: str) -> bool:
    """Return whether `load_pretrained` can read a spec.

    Example:
        >>> is_pretrained("timm:resnet50.a1_in1k"), is_pretrained("cgn")
        (True, False)
    """
    return spec in PACKAGED or spec.partition(":")[0] in _LOADERS


def load_pretrained(spec: str) -> Pretrained:
    """Load a network with weights of others, on the CPU and in evaluation mode.

    Args:
        spec: `efficientnet-lite0`, `-lite1` or `-lite2`, whose weights come with packages;
            `timm:NAME.TAG`, `tv:NAME@WEIGHTS` or `geirhos:NAME`, which are downloaded once; or
            `file:PATH#arch=ARCH` with weights of your own, safetensors or a state dict, for an
            ARCH `timm:NAME`, `timm:NAME.TAG`, `tv:NAME` or `tv:NAME@WEIGHTS`, whose configuration
            says how images are prepared. More options after `&`: `sha256=HEX` expects a certain
            file, `set=NAME` chooses one of several sets of weights, and `resize=`, `crop=`,
            `interpolation=`, `squash=1`, `mean=` and `deviation=` (three numbers, as in
            `0.485-0.456-0.406`, or one) replace what the configuration says.

    Raises:
        ValueError: If the spec could mean several networks, or the weights cannot be loaded.
    """
    if spec in PACKAGED:
        network: Any = efficientnet_lite(int(spec[-1]))
        return _pretrained(spec, network, timm_input_config(spec, network.pretrained_cfg))
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
    network = _download(f"timm:{name}", lambda: timm.create_model(name, pretrained=True))
    inputs = timm_input_config(f"timm:{name}", network.pretrained_cfg)
    return _pretrained(f"timm:{name}", network, inputs)


def _load_torchvision(text: str) -> Pretrained:
    """Load `NAME@WEIGHTS` of torchvision."""
    from torchvision.models import get_model, get_model_weights

    name, _, tag = text.partition("@")
    if name not in torchvision_classifiers():
        raise ValueError(f"torchvision has no network {name!r} that classifies images")
    known = get_model_weights(name)
    if tag not in known.__members__ or tag == "DEFAULT":  # which moves with the version
        names = ", ".join(f"tv:{name}@{weights.name}" for weights in known)
        raise ValueError(f"tv:{text} names no fixed weights; write {names}")
    weights = known[tag]
    network = _download(f"tv:{text}", lambda: get_model(name, weights=weights))
    return _pretrained(f"tv:{text}", network, torchvision_input_config(weights))


def load_geirhos(
    name: str, urls: Mapping[str, str] = GEIRHOS, arch: str = "tv:resnet50@IMAGENET1K_V1"
) -> Pretrained:
    """Load a network of the authors of cue-conflict.

    Args:
        name: A key of `urls`.
        urls: Where weights lie; each name ends in the first digits of the sha256.
        arch: See `find_architectures`.

    Raises:
        ValueError: If the name is unknown, the file cannot be fetched, or is another one than at
            its first use.
    """
    if name not in urls:
        raise ValueError(f"geirhos:{name} is unknown; write one of geirhos:{', '.join(urls)}")
    url = urls[name]
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    digits = path.name.removesuffix(".pth.tar").rpartition("-")[2]
    if not path.is_file():
        _download(f"geirhos:{name}", lambda: download(url, path, digits))
    _require_pinned(path, digits)
    return _pretrained(f"geirhos:{name}", load_weights(arch, path).network, InputConfig(IMAGENET))


def _require_pinned(path: Path, digits: str) -> None:
    """Refuse a file whose hash is not the one noted beside it at its first use."""
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
    """Load `PATH#arch=ARCH&…`."""
    name, rest = _split_options(text)
    path, options = Path(name).expanduser(), _parse_options(rest, f"file:{text}")
    sha256 = _sha256(path)
    if options.get("sha256", sha256).lower() != sha256:
        raise ValueError(f"{path} has the sha256 {sha256}, expected {options['sha256']!r}")
    loaded = load_weights(options.get("arch", ""), path, options.get("set"))
    inputs = loaded.architecture.inputs.with_options(options)
    full = {"arch": loaded.architecture.name, **inputs.options()}
    full |= {"set": loaded.set_name} if loaded.other_sets else {}
    full["sha256"] = sha256
    spec = f"file:{path.name}#{'&'.join(f'{name}={value}' for name, value in full.items())}"
    how = ", ".join(f"{name} {value}" for name, value in inputs.options().items())
    others = ", ".join(loaded.other_sets)
    which = f"the weights {loaded.set_name}, not {others}; " if others else ""
    note = f"{path.name}: {which}images prepared as {loaded.architecture.name} has it: {how}"
    return _pretrained(spec, loaded.network, inputs, note)


def pin_spec(spec: str) -> str:
    """Add to the spec of a file the hash of its content, for the key of a cache.

    Raises:
        ValueError: If the file cannot be read.
    """
    kind, _, rest = spec.partition(":")
    if kind != "file":
        return spec
    return f"{spec} {_sha256(Path(_split_options(rest)[0]).expanduser())}"


def _split_options(text: str) -> tuple[str, str]:
    """Split `PATH#OPTIONS`; the path may contain `#`."""
    path, _, options = (text, "", "") if Path(text).is_file() else text.rpartition("#")
    return path or options, options if path else ""


def _parse_options(text: str, spec: str) -> dict[str, str]:
    """Read the options after the path in a spec."""
    pairs = parse_qsl(text, keep_blank_values=True)  # an empty sha256 is a wrong one
    options = dict(pairs)
    if unknown := options.keys() - {"arch", "sha256", "set", *OPTIONS}:
        raise ValueError(f"{spec} has an unknown part {sorted(unknown)[0]!r}")
    if len(options) != len(pairs):
        raise ValueError(f"{spec} names a part twice")
    return options


def _sha256(path: Path) -> str:
    """Hash a file."""
    try:
        return file_sha256(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


def _download(spec: str, fetch: Callable[[], Any]) -> Any:
    """Let a library fetch weights; whatever it raises becomes one sentence."""
    try:
        return fetch()
    except Exception as error:  # each hub client has errors of its own
        reason = re.sub(r"\s+", " ", str(error))[:200]
        raise ValueError(
            f"the weights of {spec} could not be downloaded, which has to happen once, with a "
            f"connection: {type(error).__name__}: {reason}"
        ) from None


def _pretrained(spec: str, network: nn.Module, inputs: InputConfig, note: str = "") -> Pretrained:
    """Put a network behind its normalisation."""
    module = Normalised(network, inputs.mean, inputs.deviation).eval()
    size_px = inputs.preprocessing.crop_px or IMAGENET.crop_px or 0
    n_classes = _count_classes(module, size_px)
    if n_classes is None:
        raise ValueError(f"{spec} takes no images of {size_px} pixels; write another &crop=")
    return Pretrained(
        spec=spec,
        module=module,
        weights_sha256=weights_sha256(network),
        preprocessing=inputs.preprocessing,
        n_classes=n_classes,
        note=note,
    )


@torch.inference_mode()
def _count_classes(module: nn.Module, size_px: int) -> int | None:
    """Return how many logits a module gives; None if it takes no images of this size."""
    try:
        logits: Tensor = module(torch.zeros(1, 3, size_px, size_px))
    except (RuntimeError, AssertionError, ValueError, IndexError):  # each network raises its own
        return None
    return logits.shape[1]


_LOADERS = {
    "timm": _load_timm,
    "tv": _load_torchvision,
    "geirhos": load_geirhos,
    "file": _load_file,
}


class LoadedWeights(NamedTuple):
    """A network with weights from a file.

    Attributes:
        network: From normalised images to logits.
        architecture: What it is.
        set_name: Which of the file's sets of weights it has.
        other_sets: The sets that were not taken.
    """

    network: nn.Module
    architecture: Architecture
    set_name: str
    other_sets: tuple[str, ...]


def load_weights(arch: str, path: Path, set_name: str | None = None) -> LoadedWeights:
    """Build a network and load its weights from a file of any training script.

    Args:
        arch: See `find_architectures`; of several configurations the first that fits is taken.
        path: Safetensors, or what `torch.save` wrote.
        set_name: Which weights are meant, if the file holds several sets.

    Raises:
        ValueError: If there is no such network, the file cannot be read, or its weights do not fit.
    """
    candidates, stored, problems = find_architectures(arch), read_stored(path), []
    for architecture in candidates:
        network = architecture.build()
        weights = choose_set(stored, network.state_dict(), path, arch, set_name)
        tensors = {
            name: tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in weights.tensors.items()
            if not name.startswith(architecture.training_only)
        }
        network = _match_classes(network, tensors, architecture)
        if not (problem := misfit(network, tensors)):
            network.load_state_dict(tensors)
            return LoadedWeights(network, architecture, weights.name, weights.others)
        problems.append(problem)
    raise ValueError(f"{path} does not fit {arch}: {problems[0]}")


def _match_classes(
    network: nn.Module, tensors: Mapping[str, Tensor], architecture: Architecture
) -> nn.Module:
    """Build the network anew if the weights are for another number of classes."""
    layers = [n for n, m in network.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    own = network.get_parameter(f"{layers[-1]}.weight")
    theirs = tensors.get(f"{layers[-1]}.weight")
    # `misfit` reports a missing layer, or one of another shape.
    if theirs is None or theirs.shape[1:] != own.shape[1:] or len(theirs) in (0, len(own)):
        return network
    return architecture.build(num_classes=len(theirs))
