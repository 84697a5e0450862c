"""Many kernels launched as one: CUDA graphs, for steps whose kernels are shorter than their launch.

On an H100 a launch takes 10.7 us, and 1.2 us within a graph (`results/gpu`).

Source:
    https://docs.pytorch.org/docs/stable/notes/cuda.html#whole-network-capture
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

WARM_UP = 3  # calls before one is recorded: libraries choose their kernels, optimisers their state


class Captured(Generic[T]):
    """A function of tensors that becomes a CUDA graph after a few calls; elsewhere it just runs.

    Every call counts: the first ones run as usual, recording runs nothing, and later ones replay.
    So the function may change tensors that live as long as this does, weights, their gradients and
    an optimiser's means among them, as long as they stay where they lie in memory; an optimiser
    must be `capturable`.

    The function must touch no host memory: no `.item()`, no generator of the CPU, no shape that
    depends on values, no tensor made from Python's numbers. What it decides in Python is decided
    once. Autocast must not keep casts (`cache_enabled=False`).
    """

    def __init__(self, function: Callable[..., T], *, record: bool = True) -> None:
        """Wrap a function.

        Args:
            function: From tensors on one device to tensors, in any containers.
            record: Whether graphs are wanted at all.
        """
        self._function, self._record = function, record
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream: torch.cuda.Stream | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._outputs: T

    def __call__(self, *inputs: Tensor) -> T:
        """Call the function.

        Args:
            inputs: As the function takes them. Those of other shapes than the recorded ones do not
                fit the graph: the function runs as usual.

        Returns:
            What the function returns. Of a graph they are the same tensors each time: the next call
            writes them anew.
        """
        if not self._record or inputs[0].device.type != "cuda":
            return self._function(*inputs)
        if self._graph is None:
            self._calls += 1
            if self._calls <= WARM_UP:
                return self._aside(inputs)
            self._graph = self._recorded(inputs)
        if any(own.shape != given.shape for own, given in zip(self._inputs, inputs, strict=True)):
            return self._function(*inputs)
        torch._foreach_copy_(self._inputs, inputs, non_blocking=True)
        self._graph.replay()
        return self._outputs

    def _aside(self, inputs: tuple[Tensor, ...]) -> T:
        """Run the function on the stream that it will be recorded on.

        Autograd adds up a gradient on the stream that it first saw.
        """
        before = torch.cuda.current_stream()
        self._stream = self._stream or torch.cuda.Stream()
        self._stream.wait_stream(before)
        with torch.cuda.stream(self._stream):
            outputs = self._function(*inputs)
        before.wait_stream(self._stream)
        return outputs

    def _recorded(self, inputs: tuple[Tensor, ...]) -> torch.cuda.CUDAGraph:
        """Record the kernels of a call; none of them runs."""
        self._inputs = tuple(each.detach().clone() for each in inputs)
        gc.collect()  # a cycle may hold a graph of autograd
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # Other threads, that of NCCL or one that writes a file, may meanwhile do what they like.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            self._outputs = self._function(*self._inputs)
        return graph
