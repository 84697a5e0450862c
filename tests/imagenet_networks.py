"""Tiny networks of random weights, in the form of the published ones."""

from __future__ import annotations

import torch
from torch import nn

from cgn.models.imagenet.biggan import BigGAN, BigGANConfig
from cgn.models.imagenet.cgn import ImageNetCGN
from cgn.models.imagenet.pretrained import from_biggan
from cgn.segmentation.u2net import U2Net

TINY = BigGANConfig(resolution_px=16, width=4, n_classes=5, noise_size=4)


def scattered(network: nn.Module, seed: int = 0) -> None:
    """Give statistics, biases and gains values other than 0 and 1, which would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith(("running_vars", "running_var")):
            tensor.copy_(0.5 + noise.abs())
        elif name.endswith(("running_means", "running_mean", "bias")):
            tensor.copy_(0.1 * noise)
        elif name.endswith(("gamma", "bn.weight", "bn_s1.weight")):
            tensor.copy_(1 + 0.1 * noise)


def tiny_biggan(seed: int = 0, config: BigGANConfig = TINY) -> BigGAN:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = BigGAN(config).eval()
    scattered(network, seed)
    return network


def tiny_u2net(seed: int = 0) -> U2Net:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = U2Net(8).requires_grad_(False).eval()
    scattered(network, seed)
    return network


def tiny_cgn(seed: int = 0) -> tuple[ImageNetCGN, BigGAN]:
    """A CGN as training begins with it, and the BigGAN it is to take apart."""
    real = tiny_biggan(seed)
    return from_biggan(real, tiny_u2net(seed)), real
