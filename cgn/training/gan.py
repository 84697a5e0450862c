"""A plain conditional GAN of the CGN's budget without its factors: the CGN's baseline.

Source:
    Goodfellow et al., Generative Adversarial Networks, 2014. https://arxiv.org/abs/1406.2661
    Mirza and Osindero, Conditional Generative Adversarial Nets, 2014.
    https://arxiv.org/abs/1411.1784
    Sauer and Geiger, Counterfactual Generative Networks, ICLR 2021, where it is a baseline.
    https://arxiv.org/abs/2101.06046
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from cgn import losses
from cgn.counterfactuals.sampling import BLOCK
from cgn.data.factors import ByClass, Factors
from cgn.data.image_set import ImageSet, to_bytes, to_images
from cgn.device.graphs import Captured
from cgn.device.memory import images_at_once, in_batches
from cgn.device.precision import evaluating, training
from cgn.device.transfer import Mailbox, sent
from cgn.io.cache import Store
from cgn.io.weights import fill_described, load_tensors, save_tensors
from cgn.models.critic import Critic, packed
from cgn.models.mechanisms import Mechanism
from cgn.training.adversarial import draw_pairs
from cgn.training.checkpoints import Checkpoint, Stateful
from cgn.training.loop import EMA, GANAdam, seeded, train_loop
from cgn.training.small import TrainConfig

Progress = Callable[[int, int], None]

NOISE_SIZE = 32  # numbers in u, as in each of the CGN's mechanisms


class GAN(Mechanism):
    """One mechanism that draws whole images, twice as wide as each of the CGN's three.

    A step of training costs about as much as the CGN's: on one CPU core 0.8 of its time, where
    three times as wide is 1.5.

    Attributes:
        size_px: Height and width of the images.
    """

    def __init__(self, n_classes: int, size_px: int, *, width: int) -> None:
        super().__init__(n_classes, size_px, 3, width=2 * width, noise_size=NOISE_SIZE, wraps=False)
        self.size_px = size_px

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        """Draw images, (B, 3, H, W) in (0, 1), from u (B, Z) and y (B,) int64."""
        return super().forward(noise, labels).sigmoid()


class GANTraining:
    """A GAN and its critic while they learn from each other.

    Attributes:
        gan: What draws.
        critic: What it learns against.
        averaged: The GAN with averaged weights.
        step: Steps done.
    """

    def __init__(
        self, n_classes: int, size_px: int, config: TrainConfig, device: torch.device | str
    ) -> None:
        self.gan = GAN(n_classes, size_px, width=config.width).to(device)
        self.critic = Critic(n_classes, size_px, config.width).to(device)
        self.averaged = copy.deepcopy(self.gan)
        self.ema = EMA(self.gan.parameters(), self.averaged.parameters(), config.ema_decay)
        self.gan_adam = GANAdam([self.gan], config.learning_rate)
        self.critic_adam = GANAdam([self.critic], config.critic_learning_rate)
        self.steps, self.step = config.steps, 0
        self._learned = Captured(self._learn)

    def train_step(self, images: Tensor, labels: Tensor, noise: Tensor) -> None:
        """Take one step of the generator and one of the critic, a graph on CUDA.

        Args:
            images: Real images, (B, 3, H, W) in [0, 1], i and i + B/2 of one class.
            labels: Their classes, (B,) int64, which are also those of the drawn images.
            noise: Of the drawn images, (B, Z), standard normal.
        """
        for adam in (self.gan_adam, self.critic_adam):
            adam.set_rate(self.step, self.steps)
        self._learned(images, labels, noise)
        self.ema.update(self.step)
        self.step += 1

    def _learn(self, images: Tensor, labels: Tensor, noise: Tensor) -> Tensor:
        """Take a step but for the average; return the critic's loss."""
        pair_labels = labels[: len(labels) // 2]
        pairs = torch.cat([packed(images), packed(self.gan(noise, labels))])
        real, fake = self.critic(pairs, pair_labels.repeat(2)).scores.chunk(2)
        self.gan_adam.step_down(losses.adversarial(fake), keep_graph=True)
        loss = losses.critic_hinge(real, fake)
        self.critic_adam.step_down(loss)
        return loss.detach()

    def result(self) -> GAN:
        """Return the GAN with averaged weights, on the CPU and in evaluation mode."""
        return self.averaged.cpu().eval()


def train_gan(
    images: ImageSet,
    n_classes: int,
    config: TrainConfig,
    *,
    device: torch.device | str = "cpu",
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> GAN:
    """Train a GAN on biased images; of their labels it sees the class alone.

    Args:
        images: The biased training set.
        n_classes: Number of classes.
        config: That of the CGN it is held against: steps, batches, rates and width count, what
            concerns factors does not.
        device: Where it runs; the images lie there as bytes.
        checkpoint: File kept up to date during the run and resumed from if it is there.
        progress: Called after each step with steps done and steps in all.

    Returns:
        The GAN with averaged weights, on the CPU. One seed gives the same weights on one CPU,
        interrupted or not.

    Raises:
        ValueError: If the checkpoint belongs to another config or other images.

    Source:
        Losses and critic are those of `cgn.training.small`; the authors' code has no GAN to follow.
    """
    of = torch.device(device)
    by_class = ByClass(images.factors.shape)
    pixels, labels = images.pixels.to(of), images.factors.shape.to(of)
    with seeded(config.seed, of) as generator, training(of):
        run = GANTraining(n_classes, images.size_px[1], config, of)
        parts: dict[str, Stateful] = {
            "gan": run.gan,
            "critic": run.critic,
            "ema": run.ema,
            "gan_adam": run.gan_adam,
            "critic_adam": run.critic_adam,
        }
        origin = {"config": asdict(config), "train_sha256": images.sha256()}
        saved = Checkpoint(checkpoint, parts, origin, generator)
        run.step = saved.resume()

        def train_steps(n: int) -> dict[str, Tensor]:
            for _ in range(n):
                index = sent(draw_pairs(by_class, config.batch_size, generator), of)
                noise = torch.randn(config.batch_size, NOISE_SIZE, generator=generator)
                run.train_step(to_images(pixels[index]), labels[index], sent(noise, of))
            return {}

        try:
            train_loop(
                run,
                train_steps,
                config.steps,
                checkpoint_steps=config.checkpoint_steps,
                save=saved.save,
                progress=None if progress is None else lambda step, steps, _: progress(step, steps),
            )
        finally:
            saved.wait()
    return run.result()


@torch.inference_mode()
def sample_gan(gan: GAN, n: int, *, seed: int, device: torch.device | str = "cpu") -> ImageSet:
    """Draw images of uniformly drawn classes.

    Args:
        gan: What draws.
        n: Number of images.
        seed: Fixes labels and noise.
        device: Where it runs.

    Returns:
        The images; texture and background have the label of the class, as in biased images. There
        are no masks.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(gan.embedding.num_embeddings, (n,), generator=generator)
    gan = gan.to(device).eval()
    # In blocks, so that batches of any size get the same.
    blocks = [torch.randn(len(b), gan.noise_size, generator=generator) for b in labels.split(BLOCK)]
    noise = torch.cat(blocks)
    pixels = Mailbox(torch.empty(n, 3, gan.size_px, gan.size_px, dtype=torch.uint8))

    def draw(span: slice) -> None:
        pixels.put(span, to_bytes(gan(sent(noise[span], device), sent(labels[span], device))))

    with evaluating(device):
        in_batches(n, images_at_once(device, gan.size_px), draw)
    return ImageSet(pixels.close(), Factors.aligned(labels), torch.arange(n))


def gan_store(n_classes: int, size_px: int, width: int) -> Store[GAN]:
    """Return how trained GANs of one architecture are kept."""
    build = partial(GAN, n_classes, size_px, width=width)
    return Store(
        lambda gan, path: save_tensors(path, gan.state_dict(), {}),
        lambda path: fill_described(build, load_tensors(path)[0], path).eval(),
    )
