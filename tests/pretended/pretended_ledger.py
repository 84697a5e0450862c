"""What a pretended CUDA device counts, each with the line of the product that caused it.

Source:
    Limits of multi-tensor launches: ATen/native/cuda/MultiTensorApply.cuh.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from support import ROOT
from torch import Tensor

PRODUCT = tuple(str(ROOT / name) for name in ("cgn/", "classifiers/", "benchmarks/", "bench.py"))
OWN = str(Path(__file__).parent / "pretended_")


def names(text: str) -> set[str]:
    """Take words apart."""
    return set(text.split())


# Operations that launch nothing: they only say how memory is to be read, or reserve some.
VIEWS = names(
    "view _unsafe_view reshape _reshape_alias transpose t permute expand detach alias slice "
    "select unsqueeze squeeze split split_with_sizes unbind as_strided unfold diagonal chunk "
    "narrow movedim view_as lift_fresh _conj is_same_size empty empty_like new_empty "
    "empty_strided new_empty_strided sym_size sym_stride sym_numel"
)
# Operations whose result the host has to know before it can go on.
WAITS = names(
    "_local_scalar_dense nonzero masked_select _unique2 unique_dim unique_consecutive equal "
    "bincount is_nonzero repeat_interleave _linalg_check_errors"
)
# Tensors that one multi-tensor launch takes, by the lists it goes through; blocks, and their size.
TENSORS_A_LAUNCH = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}
BLOCKS_A_LAUNCH, NUMBERS_A_BLOCK = 320, 65_536


class Counts(NamedTuple):
    """What a block cost.

    Attributes:
        launches: Kernels; a graph that is replayed is one.
        blocking: Copies from the host that it waits for: all but non-blocking ones of pinned
            memory.
        waits: Everything else for which the host waits for the device.
        copies: Copies from the host that it does not wait for.
    """

    launches: int
    blocking: int
    waits: int
    copies: int


@dataclass
class Ledger:
    """What was done on the pretended device, by the line of the product that caused it."""

    launches: Counter[str] = field(default_factory=Counter)
    blocking: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    copies: Counter[str] = field(default_factory=Counter)

    def counts(self) -> Counts:
        """Add up all lines."""
        return Counts(*(sum(each.values()) for each in vars(self).values()))

    def reset(self) -> None:
        """Begin anew."""
        for each in vars(self).values():
            each.clear()

    def __str__(self) -> str:
        """Show the lines that cost most, for the message of a test."""
        return "\n".join(
            f"{name}: {sum(lines.values())} {dict(lines.most_common(12))}"
            for name, lines in vars(self).items()
        )


@cache
def origin(file: str) -> str:
    """Tell whose code a file holds: the product's, a test's, or neither."""
    if file.startswith(PRODUCT):
        return "product"
    return "test" if file.startswith(str(ROOT)) and not file.startswith(OWN) else ""


def line() -> str:
    """Name the line of the product that is being run, or else that of the test."""
    frame, of_test = sys._getframe(1), ""
    while frame is not None:
        file = frame.f_code.co_filename
        if whose := origin(file):
            here = f"{file[len(str(ROOT)) + 1 :]}:{frame.f_lineno}"
            if whose == "product":
                return here
            of_test = of_test or here
        frame = frame.f_back  # type: ignore[assignment]
    return of_test


def n_launches(name: str, args: Sequence[Any]) -> int:
    """Count the kernels of one operation."""
    if name in VIEWS:
        return 0
    if name.startswith(("_foreach", "_fused")):
        lists = [each for each in args if isinstance(each, list | tuple) and len(each)]
        lists = [each for each in lists if isinstance(each[0], Tensor)]
        blocks: int = sum(-(-each.numel() // NUMBERS_A_BLOCK) for each in lists[0])
        limit = TENSORS_A_LAUNCH[min(len(lists), 5)]
        return max(-(-len(lists[0]) // limit), -(-blocks // BLOCKS_A_LAUNCH))
    # Gradients of the maps and of the weights.
    return 2 if name.startswith("convolution_backward") else 1
