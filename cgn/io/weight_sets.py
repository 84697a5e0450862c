"""Which weights of a checkpoint are a network's: found by names, whatever they are wrapped in.

Training scripts put weights under `state_dict`, `model`, `net` or the like, beside averaged ones
and optimisers, and wrappers of PyTorch put `module.`, `_orig_mod.` or `model.` before each name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from cgn.io.schema import shown
from cgn.io.weights import COUNTER

DEEPEST = 4  # mappings within each other
MOST = 1_000  # mappings that are looked at
TOP = "."  # the set that is not within anything


class WeightSet(NamedTuple):
    """Weights of one network."""

    name: str  # where they lie in the checkpoint
    tensors: dict[str, Tensor]  # by the network's own names
    others: tuple[str, ...] = ()  # names of other sets there that are of the same network


def choose_set(
    stored: Any, names: Collection[str], path: Path, arch: str, wanted: str | None = None
) -> WeightSet:
    """Choose the weights of a network in a checkpoint.

    Args:
        stored: From `cgn.io.weights.read_stored`.
        names: The network's own names of its weights.
        path: The file, for messages.
        arch: What the network is, for messages.
        wanted: Name of the set that is meant, where there are several.

    Returns:
        The only one that has all names, or the one that is wanted; else that which has most.

    Raises:
        ValueError: If several are the network's and none is named, or none is.
    """
    needed = {name for name in names if not name.endswith(COUNTER)}
    whole: list[tuple[WeightSet, int]] = []
    parts: list[tuple[WeightSet, int]] = []
    for found, share in _sets(stored, needed):
        (whole if share == len(needed) else parts).append((found, share))
    known = [found for found, _ in whole]
    if not known and parts:
        known = [max(parts, key=lambda each: each[1])[0]]
    if not known:
        raise ValueError(
            f"{path} does not fit {arch}: it has none of its tensors, such as {next(iter(names))}"
        )
    of_name = {found.name: found for found in known}
    listed = ", ".join(shown(name)[1:-1] for name in of_name)
    if wanted is not None and wanted not in of_name:
        raise ValueError(f"{path} holds no weights {wanted!r} of {arch}, but {listed}")
    if wanted is None and len(of_name) > 1:
        raise ValueError(
            f"{path} holds {len(of_name)} sets of weights: {listed}; say which by &set=NAME, as in "
            f"&set={shown(known[-1].name)[1:-1]}"
        )
    chosen = of_name[known[0].name if wanted is None else wanted]
    return chosen._replace(others=tuple(name for name in of_name if name != chosen.name))


def _sets(stored: Any, needed: Collection[str]) -> Iterator[tuple[WeightSet, int]]:
    """Find sets that have names of a network, and how many of them: of a mapping all whole ones."""
    for place, tensors in islice(_groups(stored), MOST):
        shares = _prefixes(tensors, needed)
        best = [prefix for prefix, share in shares.items() if share == max(shares.values())]
        whole = best if shares and shares[best[0]] == len(needed) else best[:1]
        for prefix in whole:
            inner = tuple(each for each in whole if each != prefix and each.startswith(prefix))
            own = {
                name.removeprefix(prefix): tensor
                for name, tensor in tensors.items()
                if name.startswith(prefix) and not name.startswith(inner)
            }
            within = prefix.removesuffix(".") if len(whole) > 1 else ""
            name = ".".join(filter(None, (*place, within))) or TOP
            yield WeightSet(name, own), shares[prefix]


def _groups(stored: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Find mappings with tensors, and where they lie."""
    if not isinstance(stored, Mapping):
        return
    named = {key: value for key, value in stored.items() if isinstance(key, str)}
    if tensors := {key: value for key, value in named.items() if isinstance(value, Tensor)}:
        yield place, tensors
    for key, value in named.items() if len(place) < DEEPEST else ():
        yield from _groups(value, (*place, key))


def _prefixes(tensors: Collection[str], needed: Collection[str]) -> Counter[str]:
    """Count how many of a network's names stand behind each prefix."""
    counts: Counter[str] = Counter()
    for name in tensors:
        parts = name.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in needed:
                counts[".".join([*parts[:i], ""]) if i else ""] += 1
    return counts
