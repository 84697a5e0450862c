from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cgn.training.loop import adam_of_gans, load_adam, optimizer_step, set_rate, train_loop


@dataclass
class Schedule:
    steps: int
    checkpoint_steps: int


class Counting:
    """Counts its steps; its loss is their number."""

    def __init__(self, steps: int, checkpoint_steps: int) -> None:
        self.config, self.step = Schedule(steps, checkpoint_steps), 0
        self.taken: list[int] = []

    def restore(self, state: dict[str, Any], generator: torch.Generator, sha256: str, /) -> None:
        raise AssertionError

    def train_step(self, n: int) -> dict[str, Tensor]:
        first, self.step = self.step + 1, self.step + n
        self.taken.append(n)
        return {"loss": torch.arange(first, self.step + 1.0)}


@pytest.mark.parametrize(
    ("at_once", "taken"), [(1, [1] * 10), (3, [3, 1, 3, 1, 2]), (50, [4, 4, 2])]
)
def test_steps_taken_at_once_never_cross_a_checkpoint(at_once: int, taken: list[int]) -> None:
    run, kept, told = Counting(10, 4), [], []
    train_loop(
        run,
        run.train_step,
        lambda: kept.append(run.step),
        lambda step, steps, terms: told.append((step, steps, terms["loss"])),
        at_once=at_once,
    )
    assert run.taken == taken
    assert kept == [4, 8]
    assert told == [(i, 10, float(i)) for i in range(1, 11)]


def test_nothing_but_an_optimisers_own_weights_gets_a_gradient() -> None:
    ours, others = nn.Linear(2, 2), nn.Linear(2, 2)
    adam = adam_of_gans([ours], 0.1)
    before = ours.weight.detach().clone()
    optimizer_step(adam, others(ours(torch.ones(1, 2))).sum())
    assert not torch.equal(ours.weight, before)
    assert all(each.grad is None for each in others.parameters())


def test_a_rate_that_is_a_tensor_is_set_in_place() -> None:
    adam = torch.optim.Adam(nn.Linear(1, 1).parameters(), torch.tensor(1.0))
    rate = adam.param_groups[0]["lr"]
    set_rate(adam, 0.25)
    assert adam.param_groups[0]["lr"] is rate
    assert rate == 0.25


def test_an_optimisers_means_are_taken_up_and_how_it_computes_is_not() -> None:
    layer = nn.Linear(2, 1)
    adam, other = (
        torch.optim.Adam(layer.parameters(), 0.1, fused=fused) for fused in (True, False)
    )
    optimizer_step(adam, layer(torch.ones(1, 2)).sum())
    state = adam.state_dict()
    state["param_groups"][0]["capturable"] = True  # as on CUDA
    load_adam(other, state)
    assert not other.param_groups[0]["fused"]
    assert not other.param_groups[0]["capturable"]
    assert other.state[layer.weight]["exp_avg"].equal(adam.state[layer.weight]["exp_avg"])
    optimizer_step(other, layer(torch.ones(1, 2)).sum())
    assert other.state[layer.weight]["step"] == 2
