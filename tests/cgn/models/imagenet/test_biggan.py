from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from imagenet_networks import TINY, tiny_biggan
from pytorch_pretrained_biggan import BigGAN as PublishedBigGAN
from pytorch_pretrained_biggan import BigGANConfig as PublishedConfig
from torch import Tensor
from torch.nn.functional import conv2d, one_hot

from cgn.models.imagenet import biggan, spectral
from cgn.models.imagenet.biggan import (
    MULTIPLIERS,
    BigGAN,
    BigGANConfig,
    frozen_sigma,
    interpolate_statistics,
)
from cgn.models.imagenet.spectral import iterate, spectral_layers

# Of the published config files: does the block grow, channels before and after it.
LAYERS_256 = [
    *((False, 16, 16), (True, 16, 16), (False, 16, 16), (True, 16, 8), (False, 8, 8), (True, 8, 8)),
    *((False, 8, 8), (True, 8, 4), (False, 4, 4), (True, 4, 2), (False, 2, 2), (True, 2, 1)),
]
LAYERS = {
    128: PublishedConfig().layers,
    256: LAYERS_256,
    512: [*LAYERS_256, (False, 1, 1), (True, 1, 1)],
}
TRUNCATIONS = (0.02, 0.3, 0.37, 0.5, 0.993, 1.0)


def inputs(config: BigGANConfig, n: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(n, config.noise_size, generator=generator)
    return noise, torch.randint(config.n_classes, (n,), generator=generator)


def published(network: BigGAN) -> PublishedBigGAN:
    """The published implementation with the same weights."""
    config = network.config
    twin = PublishedBigGAN(
        PublishedConfig(
            output_dim=config.resolution_px,
            z_dim=config.noise_size,
            class_embed_dim=config.noise_size,
            channel_width=config.width,
            num_classes=config.n_classes,
            layers=LAYERS[config.resolution_px],
        )
    )
    twin.load_state_dict(network.state_dict())
    return twin.eval()


@pytest.mark.parametrize("size_px", LAYERS)
def test_it_draws_what_the_published_implementation_draws(size_px: int) -> None:
    config = BigGANConfig(
        resolution_px=size_px, width=8, n_classes=7, noise_size=16, swapped_statistics=True
    )
    network = tiny_biggan(2, config)
    noise, labels = inputs(config, 1)
    twin = published(network)
    for truncation in TRUNCATIONS if size_px == 128 else (0.37,):
        with torch.no_grad():
            expected = twin(noise, one_hot(labels, 7).float(), truncation)
            found = 2 * network(noise, labels, truncation) - 1
        assert expected.std() > 0.1
        assert (found - expected).abs().max() < 1e-5


def test_statistics_that_are_not_swapped_differ_between_the_known_truncations_only() -> None:
    generator = torch.Generator().manual_seed(0)
    statistics = torch.randn(51, 3, generator=generator)
    for truncation in (0.02, 0.5, 1.0):
        swapped = interpolate_statistics(statistics, truncation, swapped=True)
        assert torch.equal(interpolate_statistics(statistics, truncation), swapped)
    assert not torch.allclose(
        interpolate_statistics(statistics, 0.305),
        interpolate_statistics(statistics, 0.305, swapped=True),
    )


@pytest.mark.parametrize("truncation", [0.3, 0.58, 0.86])  # not whole times 0.02 in binary
def test_statistics_do_not_jump_where_they_are_known(truncation: float) -> None:
    statistics = torch.randn(51, 3, generator=torch.Generator().manual_seed(0))
    near = interpolate_statistics(statistics, truncation + 1e-5)
    assert torch.allclose(interpolate_statistics(statistics, truncation), near, atol=1e-2)
    known = statistics[round(truncation * 50)]
    assert torch.allclose(interpolate_statistics(statistics, truncation), known, atol=1e-6)


@pytest.mark.parametrize("truncation", [-0.1, 1.02])
def test_a_truncation_outside_0_to_1_is_refused(truncation: float) -> None:
    network = tiny_biggan()
    with pytest.raises(ValueError, match=r"truncation must lie in \[0, 1\]"):
        network(*inputs(TINY), truncation)


@pytest.mark.parametrize("size_px", sorted(MULTIPLIERS))
def test_every_size_draws_images_of_that_size_between_0_and_1(size_px: int) -> None:
    config = BigGANConfig(resolution_px=size_px, width=4, n_classes=3, noise_size=4)
    with torch.device("meta"):
        meta = BigGAN(config)
    drawn = meta(*(each.to("meta") for each in inputs(config)), 0.5)
    assert drawn.shape == (2, 3, size_px, size_px)
    if size_px <= 32:
        drawn = tiny_biggan(0, config)(*inputs(config), 0.5)
        assert drawn.min() >= 0
        assert drawn.max() <= 1


def test_an_unknown_size_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="draws 16, 32, 64, 128, 256, 512 pixels, not 96"):
        BigGANConfig(resolution_px=96)


def test_a_folded_network_draws_the_same_from_plain_layers() -> None:
    network = tiny_biggan()
    fused = network.fused()
    assert not spectral_layers(fused)
    assert not any(weight.requires_grad for weight in fused.parameters())
    with torch.no_grad():
        expected = network(*inputs(TINY), 0.37)
        assert torch.allclose(fused(*inputs(TINY), 0.37), expected, atol=1e-6)
        rough = network.fused(torch.bfloat16)(*inputs(TINY), 0.37)
    assert (rough - expected).abs().mean() < 0.02
    assert spectral_layers(network)


def test_what_is_folded_is_neither_copied_nor_folded_into_another_type() -> None:
    fused = tiny_biggan().fused(torch.bfloat16)
    assert fused.fused(torch.bfloat16) is fused
    with pytest.raises(ValueError, match=r"fused into torch\.bfloat16 already"):
        fused.fused(torch.float32)


def test_shares_of_one_class_are_its_label_and_of_two_lie_between() -> None:
    network = tiny_biggan()
    noise, labels = inputs(TINY)
    shares = one_hot(labels, TINY.n_classes).float()
    with torch.no_grad():
        assert torch.equal(network(noise, labels), network(noise, shares))
        ends = [network(noise, one_hot(labels * 0 + i, TINY.n_classes).float()) for i in (0, 1)]
        half = network(noise, (shares * 0).index_fill(1, torch.tensor([0, 1]), 0.5))
    assert not any(torch.allclose(half, end, atol=1e-3) for end in ends)


def gradients(network: BigGAN) -> list[Tensor]:
    network.zero_grad()
    network(*inputs(TINY)).square().mean().backward()
    return [w.grad.clone() for w in network.parameters() if w.grad is not None]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_norms_that_are_held_give_the_same_gradients(memory_format: torch.memory_format) -> None:
    network = tiny_biggan().to(memory_format=memory_format)
    sigma = frozen_sigma([network], torch.float32)
    sigma.freeze()
    network(*inputs(TINY)).square().mean().backward()
    sigma.backprop()
    held = [w.grad.clone() for w in network.parameters() if w.grad is not None]
    plain = gradients(network)
    assert len(held) == len(plain) > 50
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-7) for a, b in zip(held, plain, strict=True))
    assert all(layer.frozen is None for layer in spectral_layers(network))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_layers_of_one_shape_give_the_same_together(memory_format: torch.memory_format) -> None:
    """As on a GPU, where they are computed at once."""
    found = []
    for together in (False, True):
        network = tiny_biggan().to(memory_format=memory_format)
        sigma = frozen_sigma([network], torch.float32)
        if together:
            layers = spectral_layers(network)
            shapes = sorted({(w.weight_orig.shape, w.weight_orig.stride()) for w in layers})
            sigma._groups = [
                [w for w in layers if (w.weight_orig.shape, w.weight_orig.stride()) == shape]
                for shape in shapes
            ]
            assert len(sigma._groups) < len(layers) / 2
        sigma.freeze()
        network(*inputs(TINY)).square().mean().backward()
        sigma.backprop()
        vectors = [
            v for layer in spectral_layers(network) for v in (layer.weight_u, layer.weight_v)
        ]
        found.append([w.grad for w in network.parameters() if w.grad is not None] + vectors)
    for alone, stacked in zip(*found, strict=True):
        torch.testing.assert_close(alone, stacked)


def test_gradients_reach_the_weights_through_their_norm() -> None:
    """Scaling normalised weights changes nothing, so the gradient along them is 0."""
    network = tiny_biggan()
    for layer in spectral_layers(network):
        for _ in range(50):
            iterate([layer])
    network(*inputs(TINY)).square().mean().backward()
    for layer in spectral_layers(network):
        weight, gradient = layer.weight_orig, layer.weight_orig.grad
        assert gradient is not None
        along = (weight * gradient).sum()
        assert along.abs() <= 1e-3 * weight.norm() * gradient.norm() + 1e-9


def test_computing_normalised_maps_again_changes_no_gradient(monkeypatch: Any) -> None:
    network = tiny_biggan()
    again = gradients(network)
    monkeypatch.setattr(biggan, "checkpoint", lambda function, *args, **_: function(*args))
    kept = gradients(network)
    for a, b in zip(again, kept, strict=True):
        torch.testing.assert_close(a, b)


def bytes_kept_for_gradients(network: BigGAN) -> int:
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    frozen_sigma([network], torch.float32).freeze()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        drawn = network(*inputs(TINY))
    for weight in network.parameters():
        kept.pop(weight.untyped_storage().data_ptr(), None)
    assert drawn.requires_grad
    return sum(kept.values())


def test_normalised_maps_are_not_kept_for_the_gradient() -> None:
    whole = tiny_biggan()
    whole.generator.checkpointed = False
    assert bytes_kept_for_gradients(tiny_biggan()) < 0.7 * bytes_kept_for_gradients(whole)


def test_no_convolution_is_computed_again_for_a_gradient(monkeypatch: Any) -> None:
    calls: list[Tensor] = []

    def counted(*args: Any, **settings: Any) -> Tensor:
        calls.append(conv2d(*args, **settings))
        return calls[-1]

    monkeypatch.setattr(spectral, "conv2d", counted)
    network = tiny_biggan()
    frozen_sigma([network], torch.float32).freeze()
    drawn = network(*inputs(TINY))
    n_forward = len(calls)
    drawn.sum().backward()
    assert len(calls) == n_forward > 0


def test_the_power_iteration_finds_the_largest_singular_value() -> None:
    for layer in spectral_layers(tiny_biggan()):
        for _ in range(200):
            _, found = iterate([layer])
        expected = torch.linalg.matrix_norm(layer.weight_orig.flatten(1), 2)
        assert found == pytest.approx(expected.item(), rel=1e-2)


def test_the_blocks_of_each_size_are_those_of_the_published_configs() -> None:
    for size_px, layers in LAYERS.items():
        pairs = [(a, b) for a, b in pairwise(MULTIPLIERS[size_px])]
        ours = [block for a, b in pairs for block in ((False, a, a), (True, a, b))]
        assert ours == [tuple(layer) for layer in layers]
