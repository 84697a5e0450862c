"""Optimisers with their learning rates over time.

Source:
    One cycle: Smith and Topin, Super-Convergence, 2017. https://arxiv.org/abs/1708.07120
    AdamW: Loshchilov and Hutter, Decoupled Weight Decay Regularization, ICLR 2019.
    https://arxiv.org/abs/1711.05101
    Thirds: Sauer and Geiger, Counterfactual Generative Networks, ICLR 2021, the authors' code.
    https://arxiv.org/abs/2101.06046
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    SequentialLR,
)

# From parameters, the highest learning rate, the weight decay and the number of steps.
Schedule = Callable[[Iterable[nn.Parameter], float, float, int], tuple[Optimizer, LRScheduler]]

WARM_UP = 0.05  # of the steps
FIRST_RATE = 0.1  # of the highest learning rate


def adamw_one_cycle(
    parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float, steps: int
) -> tuple[Optimizer, LRScheduler]:
    """AdamW that rises to its learning rate for three tenths of the steps, then falls to nothing.

    Example:
        >>> _, schedule = adamw_one_cycle([nn.Parameter()], 0.1, 0.0, 10)
        >>> round(schedule.get_last_lr()[0], 3)
        0.004
    """
    optimiser = AdamW(parameters, learning_rate, weight_decay=weight_decay, fused=True)
    return optimiser, OneCycleLR(optimiser, learning_rate, total_steps=steps)


def adamw_cosine(
    parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float, steps: int
) -> tuple[Optimizer, LRScheduler]:
    """AdamW that rises for a twentieth of the steps, then follows half a cosine to nothing.

    Example:
        >>> _, schedule = adamw_cosine([nn.Parameter()], 0.1, 0.0, 100)
        >>> [round(rate, 3) for rate in schedule.get_last_lr()]
        [0.01]
    """
    optimiser = AdamW(parameters, learning_rate, weight_decay=weight_decay, fused=True)
    warm_up = max(1, round(WARM_UP * steps))
    rise = LinearLR(optimiser, FIRST_RATE, total_iters=warm_up)
    fall = CosineAnnealingLR(optimiser, max(1, steps - warm_up))
    return optimiser, SequentialLR(optimiser, [rise, fall], milestones=[warm_up])


def sgd_thirds(
    parameters: Iterable[nn.Parameter], learning_rate: float, weight_decay: float, steps: int
) -> tuple[Optimizer, LRScheduler]:
    """SGD with momentum whose learning rate falls to a tenth after each third: the paper's.

    The authors train for 45 epochs and divide by ten after each 15; their learning rate is 1e-3,
    their weight decay 1e-4.

    Example:
        >>> optimiser, schedule = sgd_thirds([nn.Parameter()], 1e-3, 1e-4, 45)
        >>> optimiser.defaults["momentum"], sorted(schedule.milestones)
        (0.9, [15, 30])
    """
    optimiser = SGD(parameters, learning_rate, momentum=0.9, weight_decay=weight_decay)
    return optimiser, MultiStepLR(optimiser, [steps // 3, 2 * steps // 3])


SCHEDULES: dict[str, Schedule] = {
    "sgd-thirds": sgd_thirds,
    "adamw-cosine": adamw_cosine,
    "adamw-one-cycle": adamw_one_cycle,
}
