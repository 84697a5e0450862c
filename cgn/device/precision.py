"""The precision that networks train, sample and evaluate in.

Evaluation and sampling are in float32 proper unless something else is named, and what is named
stands in the row: TF32, which CUDA would put in the place of float32, keeps 10 of its 23 bits.
Training takes what pays. On CUDA that is bfloat16 and, in convolutions that stay in float32, TF32;
products of matrices stay as they are, for spectral norms are made of them.

cuDNN always chooses its kernels by rule. To let it measure them saves 1 % of a step of the ImageNet
CGN on an H100, and the choice, and with it the rounding, could differ from run to run.

What does not depend on chance then: on a CPU everything, on one number of threads. On CUDA
sampling, counterfactuals of real images and evaluation, whose noise comes from the CPU: the same as
there but for rounding. Training on CUDA does: gradients of `grid_sample` and of indexing are added
up in the order in which they come.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def supports_bfloat16(device: torch.device | str) -> bool:
    """Tell whether a device has instructions for bfloat16; without, it is slower than float32.

    On a CPU with them, one thread takes 28 ms instead of 45 for a step of a classifier of 96
    images.

    Args:
        device: Where networks are trained.

    Example:
        >>> supports_bfloat16("meta")
        False
    """
    kind = torch.device(device).type
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # PyTorch has no public question for this one.
    return kind == "cpu" and torch.cpu._is_avx512_bf16_supported()


@contextmanager
def evaluating(
    device: torch.device | str, precision: torch.dtype = torch.float32
) -> Iterator[None]:
    """Let networks answer or draw in just the precision that is named, inside the block.

    Args:
        device: Where they run.
        precision: torch.float32, or torch.bfloat16, which autocast uses where it finds that safe.

    Example:
        >>> with evaluating("cpu", torch.bfloat16):
        ...     torch.nn.Linear(2, 1)(torch.ones(1, 2)).dtype
        torch.bfloat16
    """
    kind, low = torch.device(device).type, precision == torch.bfloat16
    with _convolutions_in_tf32(kind, False), torch.autocast(kind, torch.bfloat16, enabled=low):
        yield


@contextmanager
def training(device: torch.device | str) -> Iterator[None]:
    """Let networks learn in what pays, inside the block; where bfloat16 does, autocast is theirs.

    Args:
        device: Where they learn.
    """
    with _convolutions_in_tf32(torch.device(device).type, True):
        yield


@contextmanager
def _convolutions_in_tf32(kind: str, allowed: bool) -> Iterator[None]:
    """Decide on CUDA for convolutions; products are in float32, kernels are chosen by rule."""
    if kind != "cuda":
        yield
        return
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, convolutions.benchmark, products.allow_tf32
    convolutions.allow_tf32, convolutions.benchmark, products.allow_tf32 = allowed, False, False
    try:
        yield
    finally:
        convolutions.allow_tf32, convolutions.benchmark, products.allow_tf32 = before


def described(device: torch.device | str) -> str:
    """Name a device and what networks are trained in on it, for a row.

    Example:
        >>> described("cpu") in ("cpu", "cpu with bfloat16")
        True
    """
    device = torch.device(device)
    trained_in = ["bfloat16"] * supports_bfloat16(device)
    if device.type != "cuda":
        return " with ".join([device.type, *trained_in])
    name = torch.cuda.get_device_name(device)
    return f"cuda: {name} with {' and '.join([*trained_in, 'TF32'])} in training"
