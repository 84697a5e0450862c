"""Many kernels launched as one: CUDA graphs, for steps whose kernels are shorter than their launch.

On an H100 a launch takes 10.7 us, and 1.2 us within a graph (`results/gpu`).

Source:
    https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3  # calls before one is captured: libraries choose their kernels, optimisers their state


class Captured:
    """A function of tensors that becomes a CUDA graph after a few calls; elsewhere it just runs.

    Every call counts: the first ones run as usual, on a stream of their own, and capturing runs
    nothing. So the function may change what it likes, weights and optimisers among it, as long as
    it does so in place.

    The function must not touch host memory: no `.item()`, no random numbers of the CPU, no copies
    from it. What changes from call to call and is no argument has to lie in tensors that it reads.
    """

    def __init__(self, function: Callable[..., Tensor], *, enabled: bool = True) -> None:
        """Wrap a function.

        Args:
            function: Takes tensors on one device and returns one.
            enabled: Whether graphs are wanted at all.
        """
        self.function = function
        self.enabled = enabled
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._output = torch.empty(0)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Call the function.

        Args:
            inputs: As the function takes them. Those of other shapes than at the time of capture
                do not fit the graph: the function runs as usual.

        Returns:
            What the function returns. Of a graph it is one and the same tensor each time, written
            anew by the next call.
        """
        if not self.enabled or inputs[0].device.type != "cuda":
            return self.function(*inputs)
        if self._graph is None:
            self._calls += 1
            if self._calls <= WARM_UP:
                return self._aside(inputs)
            self._capture(inputs)
        if any(a.shape != b.shape for a, b in zip(self._inputs, inputs, strict=True)):
            return self.function(*inputs)
        for static, given in zip(self._inputs, inputs, strict=True):
            static.copy_(given, non_blocking=True)
        assert self._graph is not None  # captured above
        self._graph.replay()
        return self._output

    def _aside(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """Run the function on another stream than the default one, as capturing will."""
        current, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            output = self.function(*inputs)
        current.wait_stream(aside)
        output.record_stream(current)
        return output

    def _capture(self, inputs: tuple[Tensor, ...]) -> None:
        """Record the kernels; none of them runs."""
        self._inputs = tuple(each.clone() for each in inputs)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._output = self.function(*self._inputs)
        self._graph = graph
