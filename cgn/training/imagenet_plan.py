"""What a training run of the ImageNet CGN will need, measured by a few passes."""

from __future__ import annotations

from typing import NamedTuple

import torch

from cgn.device.graphs import WARM_UP
from cgn.device.memory import peak_bytes
from cgn.training.imagenet import ImageNetTraining


class Plan(NamedTuple):
    """What a run will need.

    Attributes:
        parameters: Of all networks.
        learning: Of what learns.
        fixed_bytes: Weights, normalised and averaged too, gradients, both means of the optimiser.
        peak_bytes: All memory of this process, or of its GPU, at most.
        at_once: Images of a pass, in this process.
        seconds_a_pass: Forth and back for one batch.
        seconds_an_update: Of the weights, once a step.
        seconds_left: Until the end of the run.
    """

    parameters: int
    learning: int
    fixed_bytes: int
    peak_bytes: int
    at_once: int
    seconds_a_pass: float
    seconds_an_update: float
    seconds_left: float


def plan(run: ImageNetTraining, generator: torch.Generator, n_passes: int = 3) -> Plan:
    """Measure a run by some passes of one batch each; the run cannot be used afterwards.

    Args:
        run: At any step.
        generator: Decides the noise.
        n_passes: How many; the first, which is slower, does not count unless it is the only one.
    """
    config, batch = run.config, run.at_once.images * run.team.size
    graph = config.graph and run.device.type == "cuda"
    times = []
    for _ in range(n_passes + (WARM_UP if graph else 0)):
        run.train_step(run.draw(generator, batch))
        times.append(dict(run.seconds))
    counted = times[WARM_UP + 1 if graph else 1 :] or times[-1:]
    a_pass = sum(each["passes"] for each in counted) / len(counted)
    update = sum(each["norms"] + each["update"] for each in counted) / len(counted)
    passes = -(-config.images_per_step // batch)
    learning = sum(p.numel() for p in run.learning)
    frozen = [p for m in (run.real, run.cgn.saliency, run.features) for p in m.parameters()]
    return Plan(
        learning + sum(p.numel() for p in frozen),
        learning,
        (5 * 4 + config.dtype.itemsize) * learning
        + sum(p.numel() * p.element_size() for p in frozen),
        peak_bytes(run.device),
        run.at_once.images,
        a_pass,
        update,
        (config.steps - run.step + len(times)) * (passes * a_pass + update),
    )
