from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cgn.training.loop import EMA, GANAdam, train_loop


class Counting:
    """Counts its steps; its loss is their number."""

    def __init__(self) -> None:
        self.step = 0
        self.taken: list[int] = []

    def train_steps(self, n: int) -> dict[str, Tensor]:
        first, self.step = self.step + 1, self.step + n
        self.taken.append(n)
        return {"loss": torch.arange(first, self.step + 1.0)}


@pytest.mark.parametrize(
    ("at_once", "taken"), [(1, [1] * 10), (3, [3, 1, 3, 1, 2]), (50, [4, 4, 2])]
)
def test_steps_taken_at_once_never_cross_a_checkpoint(at_once: int, taken: list[int]) -> None:
    run, saved, reports = Counting(), list[int](), []
    train_loop(
        run,
        run.train_steps,
        10,
        checkpoint_steps=4,
        save=saved.append,
        progress=lambda step, steps, terms: reports.append((step, steps, terms["loss"])),
        at_once=at_once,
    )
    assert run.taken == taken
    assert saved == [4, 8]
    assert reports == [(i, 10, float(i)) for i in range(1, 11)]


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_an_average_without_warm_up_is_pytorchs_to_the_bit(decay: float) -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    theirs = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    averages = [tensor.detach().clone() for tensor in network.state_dict().values()]
    ema = EMA(network.state_dict().values(), averages, decay)
    for step in range(5):
        with torch.no_grad():
            network(torch.rand(8, 3))
            network[0].weight.add_(torch.rand(3, 3))  # type: ignore[operator]
        theirs.update_parameters(network)
        ema.update(step)
    expected = theirs.module.state_dict().values()
    assert all(torch.equal(own, other) for own, other in zip(averages, expected, strict=True))


def test_nothing_but_an_optimisers_own_weights_gets_a_gradient() -> None:
    ours, others = nn.Linear(2, 2), nn.Linear(2, 2)
    adam = GANAdam([ours], 0.1)
    before = ours.weight.detach().clone()
    adam.step_down(others(ours(torch.ones(1, 2))).sum())
    assert not torch.equal(ours.weight, before)
    assert all(parameter.grad is None for parameter in others.parameters())


def test_a_rate_that_is_a_tensor_is_set_in_place() -> None:
    adam = GANAdam([nn.Linear(1, 1)], 1.0)
    rate = adam.param_groups[0]["lr"] = torch.tensor(1.0)
    adam.set_rate(6, 8)
    assert adam.param_groups[0]["lr"] is rate
    assert rate == 0.5


def test_an_optimiser_loads_its_means_and_keeps_how_it_computes() -> None:
    layer = nn.Linear(2, 1)
    adam, other = GANAdam([layer], 0.1), GANAdam([layer], 0.1)
    adam.step_down(layer(torch.ones(1, 2)).sum())
    state = adam.state_dict()
    state["param_groups"][0] |= {"capturable": True, "fused": False}  # as of another device
    other.load_state_dict(state)
    assert other.param_groups[0]["fused"]
    assert not other.param_groups[0]["capturable"]
    assert other.state[layer.weight]["exp_avg"].equal(adam.state[layer.weight]["exp_avg"])
    other.step_down(layer(torch.ones(1, 2)).sum())
    assert other.state[layer.weight]["step"] == 2
