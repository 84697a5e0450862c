"""Trains the ImageNet CGN: three BigGANs learn to decompose the images of a fourth.

There are no real images: x_gt is what the published BigGAN draws from the same noise and class.

Source:
    Sauer and Geiger, Counterfactual Generative Networks, ICLR 2021, section 3 and appendix.
    https://arxiv.org/abs/2101.06046
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cgn import losses
from cgn.data.factors import Factors
from cgn.device.distributed import ProcessGroup
from cgn.device.graphs import Captured
from cgn.device.memory import offload_to_disk, trim_heap
from cgn.device.transfer import sent
from cgn.io.cache import weights_sha256
from cgn.models.cgn import MechanismOutputs
from cgn.models.critic import VGGFeatures
from cgn.models.imagenet.biggan import BigGAN, frozen_sigma
from cgn.models.imagenet.cgn import ImageNetCGN, truncated_noise
from cgn.models.imagenet.spectral import iterate, spectral_layers
from cgn.training.checkpoints import Checkpoint, Stateful
from cgn.training.imagenet_config import ImageNetTrainConfig
from cgn.training.imagenet_memory import at_once, free_bytes
from cgn.training.loop import EMA, Progress, seeded, train_loop
from cgn.training.patches import draw_patches, patch_grid
from cgn.training.stopwatch import Stopwatch

N_TEXTURE = 3  # stages of VGG up to relu3_3, of which the texture loss takes the last two


class BatchNoise(NamedTuple):
    """The random numbers of a batch; all processes draw all of them, and take their share.

    Attributes:
        noise: u, (B, Z).
        labels: y, (B,) int64, one for all mechanisms.
        patches: See `cgn.training.patches`, (B, 36) int64.
    """

    noise: Tensor
    labels: Tensor
    patches: Tensor

    def split(self, size: int) -> list[BatchNoise]:
        """Split into batches."""
        return [BatchNoise(*parts) for parts in zip(*(t.split(size) for t in self), strict=True)]

    def take(self, index: slice) -> BatchNoise:
        """Take some images."""
        return BatchNoise(*(tensor[index] for tensor in self))

    def to(self, device: torch.device) -> BatchNoise:
        """Move to a device."""
        return BatchNoise(*(sent(tensor, device) for tensor in self))


class ImageNetTraining:
    """A training run in progress: networks, optimiser, and what is needed to resume.

    Attributes:
        cgn: What learns.
        real: The frozen BigGAN that draws x_gt.
        features: In which textures are compared.
        ema: The running mean of the weights, in the order of `learning`.
        step: Steps done.
        at_once: How this process divides its share of a step into passes.
        whole: Whether the weights are those of `step`; False within an update.
    """

    def __init__(
        self,
        cgn: ImageNetCGN,
        real: BigGAN,
        features: VGGFeatures,
        config: ImageNetTrainConfig,
        device: torch.device | str,
        team: ProcessGroup = ProcessGroup(),  # noqa: B008
    ) -> None:
        if config.images_per_step < team.size:
            raise ValueError(
                f"{team.size} processes cannot share {config.images_per_step} images a step; "
                "start fewer, or set a larger images_per_step"
            )
        self.config, self.team, self.device = config, team, torch.device(device)
        self.at_once = at_once(
            config.batch_size,
            -(-config.images_per_step // team.size),
            free_bytes(self.device),
            sum(p.numel() for m in cgn.mechanisms().values() for p in m.parameters()),
            cgn.config,
        )
        dtype = config.dtype
        self._saliency = offload_to_disk(cgn.saliency)  # for the result; training uses a fused copy
        cgn.saliency = cgn.saliency.fused(dtype)
        self.cgn = _placed(cgn, self.device).train()
        self.real = _placed(real.fused(dtype), self.device)
        self.features = _placed(features.to(dtype), self.device)
        mechanisms = self.cgn.mechanisms().values()
        for mechanism in mechanisms:
            mechanism.generator.checkpointed = self.at_once.checkpointed
        self.learning = [p for m in mechanisms for p in m.parameters()]
        averages = [parameter.detach().clone() for parameter in self.learning]
        self.ema = EMA(self.learning, averages, config.ema_decay, warm_up=True)
        self.sigma = frozen_sigma(mechanisms, dtype)
        for parameter in self.learning:  # where a graph can add to them
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        layers = spectral_layers(self.cgn)
        self._vectors = [each for layer in layers for each in (layer.weight_u, layer.weight_v)]
        self._vectors_before = [each.clone() for each in self._vectors]
        self.adam = self._adam()
        self.step, self.whole = 0, True
        self._stopwatch = Stopwatch(self.device)
        self._images, self._terms = 0, list[str]()  # of the step, and of a pass
        self._pass: Captured[Tensor] = Captured(self._backward)

    def _adam(self) -> torch.optim.Adam:
        """Build the optimiser, with a learning rate for each mechanism."""
        groups = [
            {"params": list(m.parameters()), "lr": getattr(self.config, f"{name}_learning_rate")}
            for name, m in self.cgn.mechanisms().items()
        ]
        fused = self.device.type in ("cpu", "cuda")  # a CPU takes half the time
        return torch.optim.Adam(groups, betas=(0.9, 0.999), fused=fused)

    def draw(self, generator: torch.Generator, n: int | None = None) -> BatchNoise:
        """Draw noise, labels and patches of all images of a step."""
        n, of = n or self.config.images_per_step, self.cgn.config
        noise = truncated_noise(n, of.noise_size, generator, self.config.truncation)
        labels = torch.randint(of.n_classes, (n,), generator=generator)
        return BatchNoise(noise, labels, draw_patches(n, generator))

    def train_step(self, draw: BatchNoise) -> dict[str, Tensor]:
        """Take one step.

        Args:
            draw: For all images of the step, the same in all processes.

        Returns:
            The unweighted losses, each a scalar, the mean over the step's images.
        """
        torch._foreach_copy_(self._vectors_before, self._vectors)
        try:
            with self._stopwatch.part("norms"):
                self.sigma.freeze()
            with self._stopwatch.part("passes"):
                terms = self._accumulate(draw)
        except BaseException:  # be as if the step had not begun
            torch._foreach_copy_(self._vectors, self._vectors_before)
            self.sigma.unfreeze()
            self.adam.zero_grad(set_to_none=False)
            raise
        self.whole = False
        with self._stopwatch.part("update"):
            self.sigma.backprop()
            self.team.all_reduce_sum_(p.grad for p in self.learning if p.grad is not None)
            self.team.all_reduce_sum_(terms.values())
            self.adam.step()
            self.adam.zero_grad(set_to_none=False)
            self.ema.update(self.step)
        self.step, self.whole = self.step + 1, True
        return terms

    @property
    def seconds(self) -> dict[str, float]:
        """How long the parts of the last step took, on this process."""
        return self._stopwatch.seconds()

    def _accumulate(self, draw: BatchNoise) -> dict[str, Tensor]:
        """Sum the gradients of this process's share; each image counts the same."""
        if self._images != len(draw.labels):  # a graph holds what an image counts
            self._images = len(draw.labels)
            self._pass = Captured(partial(self._backward, self._images), record=self.config.graph)
        share = draw.take(slice(self.team.rank, None, self.team.size)).to(self.device)
        sums: Tensor | None = None
        for batch in share.split(self.at_once.images):
            whole = len(batch.labels) == self.at_once.images
            terms = self._pass(*batch) if whole else self._backward(self._images, *batch)
            sums = terms.clone() if sums is None else sums.add_(terms)
        assert sums is not None
        return dict(zip(self._terms, sums.unbind(), strict=True))

    def _backward(self, n: int, *tensors: Tensor) -> Tensor:
        """Add the gradients of a batch to those of the weights.

        Args:
            n: Images of the whole step.
            tensors: Of a `BatchNoise`.

        Returns:
            Its share of the unweighted losses, in the order of `_terms`.
        """
        batch = BatchNoise(*tensors)
        part = len(batch.labels) / n
        mask, foreground, background, _ = self.outputs(batch)
        outputs, losses_ = [mask, foreground, background], {}
        mask, foreground, background = leaves = [
            output.detach().requires_grad_() for output in outputs
        ]
        for name, term in self.terms(batch, MechanismOutputs(mask, foreground, background, mask)):
            (part * getattr(self.config.weights, name) * term).backward()
            losses_[name] = term.detach()
        for i, leaf in enumerate(leaves):
            output = outputs.pop(0)  # the last reference to what its mechanism kept
            if i == 1:  # maps are being freed, and most gradients of weights are still to come
                trim_heap(self.device)
            if leaf.grad is not None:
                output.backward(leaf.grad)
        self._terms = list(losses_)
        return part * torch.stack(list(losses_.values()))

    def outputs(self, batch: BatchNoise) -> MechanismOutputs:
        """Draw a batch with the mechanisms' current weights."""
        factors = Factors.aligned(batch.labels)
        parts: MechanismOutputs = self.cgn.draw(batch.noise, factors, self.config.truncation)
        return parts

    def terms(self, batch: BatchNoise, parts: MechanismOutputs) -> Iterator[tuple[str, Tensor]]:
        """Yield the losses of a batch that count, each with its name.

        The caller can free what a loss keeps for its gradient, mostly maps of frozen networks,
        before the next one is computed.
        """
        wanted = self.config.weights.active()
        if "mask_entropy" in wanted:
            yield "mask_entropy", losses.mask_entropy(parts.mask)
        if "mask_area" in wanted:
            yield "mask_area", losses.mask_area(parts.mask)
        if "background_saliency" in wanted:
            saliency = self.cgn.salient(parts.background)
            yield "background_saliency", losses.background_saliency(saliency)
        if not wanted & {"difference", "perceptual", "texture"}:
            return
        with torch.no_grad():
            real = self.real(batch.noise, batch.labels, self.config.truncation)
        if "difference" in wanted:
            yield "difference", losses.difference(parts.image(), real)
        if "perceptual" in wanted:
            yield "perceptual", self._compare(parts.image(), real, slice(0, 4))
        if "texture" in wanted:
            grid = patch_grid(real, parts.mask.detach(), batch.patches)
            yield "texture", self._compare(parts.foreground, grid, slice(1, N_TEXTURE))

    def _compare(self, drawn: Tensor, real: Tensor, stages: slice) -> Tensor:
        """Compare textures in some stages of the features."""
        with torch.no_grad():
            target = [each.float() for each in self.features(real, stages.stop)[stages]]
        maps = self.features(drawn, stages.stop)[stages]
        return losses.perceptual([each.float() for each in maps], target)

    @contextmanager
    def with_averages(self) -> Iterator[ImageNetCGN]:
        """Give the CGN its averaged weights inside the block."""
        self._swap()
        try:
            yield self.cgn.eval()
        finally:
            self._swap()
            self.cgn.train()

    def _swap(self) -> None:
        """Exchange current and averaged weights, without copies."""
        for i, weight in enumerate(self.learning):
            weight.data, self.ema.averages[i] = self.ema.averages[i], weight.data

    def result(self) -> ImageNetCGN:
        """Return the CGN with averaged weights, on the CPU; the run is over."""
        self._swap()
        for layer in spectral_layers(self.cgn):
            for _ in range(5):  # u and v are those of the current weights
                iterate([layer])
        for parameter in self.learning:
            parameter.grad = None
        self.cgn.saliency = self._saliency
        cgn: ImageNetCGN = self.cgn.cpu().eval()
        return cgn

    def parts(self) -> dict[str, Stateful]:
        """Return all that changes from step to step."""
        return {**self.cgn.mechanisms(), "ema": self.ema, "adam": self.adam}


def _placed(module: nn.Module, device: torch.device) -> Any:
    """Move a network to a device, channels last in memory."""
    return module.to(device).to(memory_format=torch.channels_last)


def start_sha256(cgn: ImageNetCGN, real: BigGAN, features: VGGFeatures) -> str:
    """Hash the weights that a run starts from, and those of what it is compared in."""
    return "".join(weights_sha256(network) for network in (cgn, real, features))


def train_imagenet(
    cgn: ImageNetCGN,
    real: BigGAN,
    features: VGGFeatures,
    config: ImageNetTrainConfig,
    *,
    device: torch.device | str = "cpu",
    team: ProcessGroup = ProcessGroup(),  # noqa: B008
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    at_checkpoint: Callable[[ImageNetCGN, int], None] | None = None,
) -> ImageNetCGN:
    """Train the CGN to decompose the images of a BigGAN.

    Args:
        cgn: What learns, usually `cgn.models.imagenet.pretrained.from_biggan`; it is changed.
        real: Draws x_gt; fused into `config.dtype` it takes least memory.
        features: In which textures are compared.
        config: Everything else that fixes the run.
        device: Where this process runs.
        team: The processes that share each step's images.
        checkpoint: File kept up to date during the run and resumed from if it is there; an
            interrupt saves the last whole step.
        progress: Called after each step with steps done, steps in all, and the losses.
        at_checkpoint: Called in the main process whenever a checkpoint is due, with the CGN of
            averaged weights, and steps done.

    Returns:
        The CGN with averaged weights, on the CPU. One seed gives the same weights on one thread of
        one CPU, interrupted or not, and up to rounding for any number of threads and processes.

    Raises:
        ValueError: If the checkpoint belongs to another config or other weights.
    """
    origin = {"config": asdict(config), "start_sha256": start_sha256(cgn, real, features)}
    with seeded(config.seed) as generator:
        run = ImageNetTraining(cgn, real, features, config, device, team)
        run.step = Checkpoint(checkpoint, run.parts(), origin, generator).resume()
        path = checkpoint if team.is_main_process else None
        saved = Checkpoint(path, run.parts(), origin, generator)

        def train_step(_: int) -> dict[str, Tensor]:
            before = generator.get_state()
            try:
                return run.train_step(run.draw(generator))
            except BaseException:
                generator.set_state(before)
                raise

        def save(step: int) -> None:
            due = saved.seconds_since_save() >= 60 * config.checkpoint_minutes
            if team.is_main_process and (due or step == config.steps):
                saved.save(step)
                if at_checkpoint is not None:
                    with run.with_averages() as averaged:
                        at_checkpoint(averaged, step)
            team.barrier()

        try:
            train_loop(
                run,
                train_step,
                config.steps,
                checkpoint_steps=config.checkpoint_steps,
                save=save,
                progress=progress,
            )
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f"{run.at_once.images} images at once do not fit into the memory of {device}: set "
                "a smaller batch_size"
            ) from error
        except (KeyboardInterrupt, InterruptedError, SystemExit):
            if run.whole:
                saved.save(run.step)
            raise
        finally:
            saved.wait()
    return run.result()
