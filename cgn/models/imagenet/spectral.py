"""Layers whose weights are divided by their largest singular value sigma.

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

    The caller adds the biases: the normalisation after it adds something anyway.
    """

    bias: nn.Parameter | None

    @abstractmethod
    def weights(self) -> Tensor:
        """Return what inputs are multiplied with, (outputs, inputs, …)."""

    @property
    def dtype(self) -> torch.dtype:
        """Of what inputs are multiplied with."""
        return self.weights().dtype

    def forward(self, inputs: Tensor, n_outputs: int | None = None) -> Tensor:
        """Apply the layer without its biases, or its first outputs only."""
        weights = self.weights()
        if n_outputs is not None:  # else its gradient would be written a second time
            weights = weights[:n_outputs]
        if weights.ndim == 2:
            return linear(inputs, weights)
        return conv2d(inputs, weights, padding=weights.shape[2] // 2)


class FusedLayer(Layer):
    """A frozen layer whose weights are divided by sigma already."""

    def __init__(self, weights: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weights.detach(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)

    def weights(self) -> Tensor:
        """Return what inputs are multiplied with, (outputs, inputs, …)."""
        return self.weight


class SpectralLayer(Layer):
    """A layer whose weights W are divided by sigma = u^T W v, u and v near the singular vectors.

    Attributes:
        weight_orig: W, (outputs, inputs, …).
        weight_u: u, (outputs,).
        weight_v: v, (all other numbers of W,).
        frozen: W / sigma while `FrozenSigma` keeps it; else None.
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
        self.frozen: Tensor | None = None
        if not layer.weight.is_meta:  # whose numbers say nothing, and take long
            for _ in range(5):
                iterate([self])

    @property
    def dtype(self) -> torch.dtype:
        """Of W / sigma."""
        return self.weight_orig.dtype if self.frozen is None else self.frozen.dtype

    @property
    def vector(self) -> Tensor:
        """A view of v in the order of `matrix`, (…)."""
        if self.weight_orig.is_contiguous():
            return self.weight_v
        return self.weight_v.view(self.weight_orig.shape[1:]).movedim(0, -1)

    def weights(self) -> Tensor:
        """Return W / sigma, with a gradient."""
        if self.frozen is not None:
            return self.frozen
        sigma = self.weight_u @ (matrix(self.weight_orig) @ self.vector.flatten())
        return self.weight_orig / sigma

    def fused(self, dtype: torch.dtype, n_outputs: int | None = None) -> FusedLayer:
        """Return the plain layer that does the same; biases stay in full precision."""
        bias = None if self.bias is None else self.bias[:n_outputs].clone()
        return FusedLayer(self.weights()[:n_outputs].to(dtype), bias)


class JointLinear:
    """Linear layers of the same inputs, applied in one product.

    Attributes:
        layers: In the order of their outputs.
        frozen: All W / sigma while `FrozenSigma` keeps them; else None.
    """

    def __init__(self, layers: Sequence[SpectralLayer]) -> None:
        self.layers = layers
        self.frozen: Tensor | None = None

    def weights(self) -> Tensor:
        """Return all W / sigma, (outputs of all layers, inputs), with a gradient."""
        if self.frozen is not None:
            return self.frozen
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
        layers: N, all of one shape and memory layout.

    Returns:
        Weights, (N, outputs, …), and sigma, (N,).
    """
    weights = _stack([matrix(layer.weight_orig) for layer in layers])
    u = _stack([layer.weight_u for layer in layers])
    v = normalize(torch.bmm(u[:, None], weights)[:, 0], dim=1, eps=EPSILON)
    product = torch.bmm(weights, v[:, :, None])[:, :, 0]
    u = normalize(product, dim=1, eps=EPSILON)
    views = [layer.vector for layer in layers]
    torch._foreach_copy_([layer.weight_u for layer in layers], list(u.unbind()))
    torch._foreach_copy_(
        views, [new.view(view.shape) for new, view in zip(v.unbind(), views, strict=True)]
    )
    return weights, (u * product).sum(dim=1)


def spectral_layers(module: nn.Module) -> list[SpectralLayer]:
    """Return all layers of a module that are normalised."""
    return [layer for layer in module.modules() if isinstance(layer, SpectralLayer)]


class FrozenSigma:
    """All W / sigma of some networks, computed once for as long as W does not change.

    Meanwhile they are leaves of the graph, whose gradients are summed in full precision in the
    gradient of W; `backprop` makes that the gradient by W. Nothing moves in memory, so that a CUDA
    graph may read and write all of it.
    """

    def __init__(
        self, layers: Sequence[SpectralLayer], joints: Iterable[JointLinear], dtype: torch.dtype
    ) -> None:
        """Allocate weights and gradients.

        Args:
            layers: On the device where they will stay.
            joints: Those of them that are applied together.
            dtype: Of convolutions; all else stays in full precision.
        """
        self._sigmas: list[Tensor] = []
        self._frozen: dict[SpectralLayer, Tensor] = {}
        self._joints = [(joint, self._allocate_joint(joint)) for joint in joints]
        for layer in layers:
            if layer not in self._frozen:
                self._allocate(layer, dtype if layer.weight_orig.ndim == 4 else None)
        self._groups = _group_by_shape(layers)

    def _allocate_joint(self, joint: JointLinear) -> Tensor:
        """Let the layers' W / sigma, and their gradients, be views of the whole product's."""
        first, sizes = joint.layers[0].weight_orig, [len(w.weight_orig) for w in joint.layers]
        whole = first.new_empty(sum(sizes), first.shape[1])
        gradients = torch.zeros_like(whole)
        for layer, own, gradient in zip(
            joint.layers, whole.split(sizes), gradients.split(sizes), strict=True
        ):
            self._frozen[layer], layer.weight_orig.grad = own, gradient
        whole = whole.detach().requires_grad_()
        whole.grad = gradients
        return whole

    def _allocate(self, layer: SpectralLayer, dtype: torch.dtype | None) -> None:
        """Give a layer a leaf whose gradients are summed in that of its W."""
        weight = layer.weight_orig
        weight.grad = total = torch.zeros_like(weight)
        leaf = torch.empty_like(weight, dtype=dtype).requires_grad_()

        def accumulate(leaf: Tensor) -> None:
            total.add_(leaf.grad)  # type: ignore[arg-type]
            leaf.grad = None

        leaf.register_post_accumulate_grad_hook(accumulate)
        self._frozen[layer] = leaf

    @torch.no_grad()
    def freeze(self) -> None:
        """Take one power iteration, and compute each W / sigma."""
        self._sigmas = []
        for layers in self._groups:
            weights, sigma = iterate(layers)
            frozen = [self._frozen[layer] for layer in layers]
            divided = (weights / sigma[:, None, None]).unbind()
            torch._foreach_copy_([matrix(leaf) for leaf in frozen], list(divided))
            self._sigmas.append(sigma)
            for layer, leaf in zip(layers, frozen, strict=True):
                layer.frozen = leaf
        for joint, whole in self._joints:
            joint.frozen = whole

    @torch.no_grad()
    def backprop(self) -> None:
        """Turn the gradients by W / sigma into those by W, and unfreeze.

        While sigma was frozen, it was a constant to the gradient G. With sigma = u^T W v, of which
        u v^T is the derivative, the gradient by W is (G - <W / sigma, G> u v^T) / sigma.
        """
        for layers, sigma in zip(self._groups, self._sigmas, strict=True):
            gradients = [matrix(cast(Tensor, layer.weight_orig.grad)) for layer in layers]
            g, w = _stack(gradients), _stack([matrix(self._frozen[layer]) for layer in layers])
            u = _stack([layer.weight_u for layer in layers])
            v = _stack([layer.vector.flatten() for layer in layers])
            along = (w * g).sum(dim=(1, 2))
            g.baddbmm_((u * -along[:, None])[:, :, None], v[:, None])
            g.div_(sigma[:, None, None])
            if len(layers) > 1:
                torch._foreach_copy_(gradients, list(g.unbind()))
        self.unfreeze()

    def unfreeze(self) -> None:
        """Compute W / sigma where it is needed from now on."""
        for layer in self._frozen:
            layer.frozen = None
        for joint, _ in self._joints:
            joint.frozen = None


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    """Stack tensors; of a single one it is a view."""
    return tensors[0][None] if len(tensors) == 1 else torch.stack(list(tensors))


def _group_by_shape(layers: Iterable[SpectralLayer]) -> list[list[SpectralLayer]]:
    """Group layers of one shape: a GPU computes many in the time of one; a CPU would only copy."""
    groups: dict[object, list[SpectralLayer]] = defaultdict(list)
    for layer in layers:
        weight = layer.weight_orig
        on_cpu = weight.device.type == "cpu"
        groups[layer if on_cpu else (weight.shape, weight.stride())].append(layer)
    return list(groups.values())
