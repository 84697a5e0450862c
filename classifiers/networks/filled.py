"""Networks filled with weights from a file, of whichever script and format these are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from cgn.io.weight_sets import choose_set
from cgn.io.weights import misfit, read_stored
from classifiers.networks.architectures import Architecture, architectures


class Filled(NamedTuple):
    """A network with weights.

    Attributes:
        network: From normalised images to logits.
        architecture: What it is.
        set_name: Which of the file's sets of weights it has.
        others: The sets that it might have had.
    """

    network: nn.Module
    architecture: Architecture
    set_name: str
    others: tuple[str, ...]


def fill(arch: str, path: Path, set_name: str | None = None) -> Filled:
    """Build a network and load its weights from a file; only names and shapes have to fit.

    Args:
        arch: As for `architectures`; of several configurations the first one that fits is taken.
        path: The file.
        set_name: Which weights are meant, if the file holds several sets.

    Raises:
        ValueError: If there is no such network, the file cannot be read, or its weights do not fit.
    """
    known, stored, problems = architectures(arch), read_stored(path), []
    for architecture in known:
        network = architecture.build()
        found = choose_set(stored, network.state_dict(), path, arch, set_name)
        tensors = {
            name: tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in found.tensors.items()
            if not name.startswith(architecture.unused)
        }
        network = _with_classes_of(tensors, network, architecture)
        if not (problem := misfit(network, tensors)):
            network.load_state_dict(tensors)
            return Filled(network, architecture, found.name, found.others)
        problems.append(problem)
    raise ValueError(f"{path} does not fit {arch}: {problems[0]}")


def _with_classes_of(
    tensors: Mapping[str, Tensor], network: nn.Module, architecture: Architecture
) -> nn.Module:
    """Build the network anew if the weights are for another number of classes."""
    layers = [n for n, m in network.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    own = network.get_parameter(f"{layers[-1]}.weight")
    theirs = tensors.get(f"{layers[-1]}.weight")
    # Without that layer, or with another one, the weights don't fit, which is said elsewhere.
    if theirs is None or theirs.shape[1:] != own.shape[1:] or len(theirs) in (0, len(own)):
        return network
    return architecture.build(num_classes=len(theirs))
