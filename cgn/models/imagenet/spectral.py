"""Layers whose weights are divided by their largest singular value.

Source:
    Miyato et al., Spectral Normalization for GANs, ICLR 2018. https://arxiv.org/abs/1802.05957
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, linear, normalize

EPSILON = 1e-4


class Layer(nn.Module, ABC):
    """A linear layer or a convolution that keeps height and width.

    Its biases are left to whoever comes next, who has something to add anyway.
    """

    bias: nn.Parameter | None

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Of what inputs are multiplied with."""

    @abstractmethod
    def weights(self) -> Tensor:
        """Return what inputs are multiplied with, (outputs, inputs, …)."""

    def forward(self, inputs: Tensor, n_outputs: int | None = None) -> Tensor:
        """Apply the layer without its biases, or its first outputs only."""
        weights = self.weights()
        if n_outputs is not None:  # else its gradient would be written a second time
            weights = weights[:n_outputs]
        if weights.ndim == 2:
            return linear(inputs, weights)
        return conv2d(inputs, weights, padding=weights.shape[2] // 2)


class FoldedLayer(Layer):
    """A frozen layer that is multiplied as it is."""

    def __init__(self, weights: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weights.detach(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return self.weight.dtype

    def weights(self) -> Tensor:
        """Return what inputs are multiplied with, (outputs, inputs, …)."""
        return self.weight


class SpectralLayer(Layer):
    """A layer whose weights W are divided by their largest singular value.

    That is s = u^T W v, with u and v kept close to the singular vectors.

    Attributes:
        weight_orig: W, (outputs, inputs, …).
        weight_u: u, (outputs,).
        weight_v: v, (all other numbers of W,).
        held: W / s, where `HeldNorms` holds it; else None and computed where needed.
    """

    weight_u: Tensor
    weight_v: Tensor

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.weight_orig = layer.weight
        self.bias = cast(nn.Parameter | None, layer.bias)
        n_outputs = layer.weight.shape[0]
        self.register_buffer("weight_u", normalize(torch.randn(n_outputs), dim=0))
        self.register_buffer("weight_v", torch.zeros(layer.weight[0].numel()))
        self.held: Tensor | None = None
        for _ in range(5):
            iterate([self])

    @property
    def dtype(self) -> torch.dtype:
        """Of W / s."""
        return self.weight_orig.dtype if self.held is None else self.held.dtype

    @property
    def vector(self) -> Tensor:
        """A view of v in the order of `matrix`, (…)."""
        if self.weight_orig.is_contiguous():
            return self.weight_v
        return self.weight_v.view(self.weight_orig.shape[1:]).movedim(0, -1)

    def weights(self) -> Tensor:
        """Return W / s, with a gradient."""
        if self.held is not None:
            return self.held
        norm = self.weight_u @ (matrix(self.weight_orig) @ self.vector.flatten())
        return self.weight_orig / norm

    def folded(self, dtype: torch.dtype, n_outputs: int | None = None) -> FoldedLayer:
        """Return the plain layer that does the same; biases stay in full precision."""
        bias = None if self.bias is None else self.bias[:n_outputs].clone()
        return FoldedLayer(self.weights()[:n_outputs].to(dtype), bias)


class Joint:
    """Linear layers of the same inputs, applied in one product.

    Attributes:
        layers: In the order of their outputs.
        held: All their W / s, where `HeldNorms` holds them.
    """

    def __init__(self, layers: Sequence[SpectralLayer]) -> None:
        self.layers = layers
        self.held: Tensor | None = None

    def weights(self) -> Tensor:
        """Return all W / s, (outputs of all layers, inputs), with a gradient."""
        if self.held is not None:
            return self.held
        return torch.cat([layer.weights() for layer in self.layers])

    def __call__(self, inputs: Tensor) -> Tensor:
        """Apply all layers, (B, outputs of all layers)."""
        return linear(inputs, self.weights())


def matrix(weights: Tensor) -> Tensor:
    """View weights as a matrix, (outputs, …), in the order in which they lie in memory."""
    return (weights if weights.is_contiguous() else weights.movedim(1, -1)).flatten(1)


@torch.no_grad()
def iterate(layers: Sequence[SpectralLayer]) -> tuple[Tensor, Tensor]:
    """Bring u and v closer to the singular vectors, by one power iteration.

    Args:
        layers: N, all of the same shape, which lie in memory alike.

    Returns:
        Weights, (N, outputs, …), and s, (N,).
    """
    weights = _stacked([matrix(layer.weight_orig) for layer in layers])
    u = _stacked([layer.weight_u for layer in layers])
    v = normalize(torch.bmm(u[:, None], weights)[:, 0], dim=1, eps=EPSILON)
    moved = torch.bmm(weights, v[:, :, None])[:, :, 0]
    u = normalize(moved, dim=1, eps=EPSILON)
    to = [layer.vector for layer in layers]
    torch._foreach_copy_([layer.weight_u for layer in layers], list(u.unbind()))
    torch._foreach_copy_(to, [each.view(v.shape) for each, v in zip(v.unbind(), to, strict=True)])
    return weights, (u * moved).sum(dim=1)


def spectral_layers(module: nn.Module) -> list[SpectralLayer]:
    """Return all layers of a module that are normalised."""
    return [layer for layer in module.modules() if isinstance(layer, SpectralLayer)]


class HeldNorms:
    """All W / s of some networks, computed once for as long as the weights do not change.

    Meanwhile they are leaves to the gradient, each of which adds up in that of its W and stays in
    full precision; `release` makes it the gradient by W. All of them stay where they lie in
    memory, so that a CUDA graph may read and write them.
    """

    def __init__(
        self, layers: Sequence[SpectralLayer], joints: Iterable[Joint], dtype: torch.dtype
    ) -> None:
        """Make room for weights and gradients.

        Args:
            layers: What to hold, where it will stay.
            joints: Those of them that are applied together.
            dtype: Of convolutions; all else stays in full precision.
        """
        self._norms: list[Tensor] = []
        self._own: dict[SpectralLayer, Tensor] = {}
        self._joints = [(joint, self._hold_jointly(joint)) for joint in joints]
        for layer in layers:
            if layer not in self._own:
                self._hold_alone(layer, dtype if layer.weight_orig.ndim == 4 else None)
        self._groups = _alike(layers)

    def _hold_jointly(self, joint: Joint) -> Tensor:
        """Let what layers hold, and its gradients, be parts of what is multiplied at once."""
        first, sizes = joint.layers[0].weight_orig, [len(w.weight_orig) for w in joint.layers]
        whole = first.new_empty(sum(sizes), first.shape[1])
        gradients = torch.zeros_like(whole)
        for layer, own, gradient in zip(
            joint.layers, whole.split(sizes), gradients.split(sizes), strict=True
        ):
            self._own[layer], layer.weight_orig.grad = own, gradient
        whole = whole.detach().requires_grad_()
        whole.grad = gradients
        return whole

    def _hold_alone(self, layer: SpectralLayer, dtype: torch.dtype | None) -> None:
        """Let a layer hold a leaf."""
        weight = layer.weight_orig
        weight.grad = total = torch.zeros_like(weight)
        own = torch.empty_like(weight, dtype=dtype).requires_grad_()

        def all_reduce_sum_(held: Tensor) -> None:
            total.add_(held.grad)  # type: ignore[arg-type]
            held.grad = None

        own.register_post_accumulate_grad_hook(all_reduce_sum_)
        self._own[layer] = own

    @torch.no_grad()
    def hold(self) -> None:
        """Iterate once, and compute each W / s."""
        self._norms = []
        for layers in self._groups:
            weights, norms = iterate(layers)
            held = [self._own[layer] for layer in layers]
            divided = (weights / norms[:, None, None]).unbind()
            torch._foreach_copy_([matrix(each) for each in held], list(divided))
            self._norms.append(norms)
            for layer, own in zip(layers, held, strict=True):
                layer.held = own
        for joint, whole in self._joints:
            joint.held = whole

    @torch.no_grad()
    def release(self) -> None:
        """Turn the gradients by W / s into those by W, and hold no longer.

        While s was held, it was a constant to the gradient G. With s = u^T W v, of which u v^T is
        the derivative, the gradient by W is (G - <W / s, G> u v^T) / s: it asks for none of the
        maps.
        """
        for layers, norms in zip(self._groups, self._norms, strict=True):
            gradients = [matrix(_gradient(layer)) for layer in layers]
            g, w = _stacked(gradients), _stacked([matrix(self._own[layer]) for layer in layers])
            u = _stacked([layer.weight_u for layer in layers])
            v = _stacked([layer.vector.flatten() for layer in layers])
            along = (w * g).sum(dim=(1, 2))
            g.baddbmm_((u * -along[:, None])[:, :, None], v[:, None])
            g.div_(norms[:, None, None])
            if len(layers) > 1:
                torch._foreach_copy_(gradients, list(g.unbind()))
        self.forget()

    def forget(self) -> None:
        """Hold no longer."""
        for layer in self._own:
            layer.held = None
        for joint, _ in self._joints:
            joint.held = None


def _gradient(layer: SpectralLayer) -> Tensor:
    """Return the gradient of W, for which there is room."""
    assert layer.weight_orig.grad is not None
    return layer.weight_orig.grad


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Stack tensors; of one alone it is a view."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack(list(tensors))


def _alike(layers: Iterable[SpectralLayer]) -> list[list[SpectralLayer]]:
    """Group layers of one shape: a GPU computes many in the time of one; a CPU would only copy."""
    groups: dict[object, list[SpectralLayer]] = defaultdict(list)
    for layer in layers:
        weight = layer.weight_orig
        on_cpu = weight.device.type == "cpu"
        groups[layer if on_cpu else (weight.shape, weight.stride())].append(layer)
    return list(groups.values())
