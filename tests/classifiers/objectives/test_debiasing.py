"""Objectives of other methods, on networks whose logits are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cgn.data.factors import Factors
from classifiers.networks.small import N_FEATURES, SmallCNN
from classifiers.objectives import debiasing
from classifiers.objectives.basic import Batches
from classifiers.objectives.debiasing import (
    GROUP_STEP_SIZE,
    IRM_PENALTY_WEIGHT,
    REVERSED_SHARE,
    GroupWeightedCNN,
    UnlearningCNN,
    environments,
    group_dro,
    irm,
    reverse_gradient,
    scale_gradient,
    unlearn,
)

N_CLASSES = 2


class Fixed(nn.Module):
    """Gives the logits it was made with, whatever it sees."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values)

    def forward(self, images: Tensor) -> Tensor:
        return self.values


def with_logits(kind: type[SmallCNN], logits: list[list[float]]) -> SmallCNN:
    """A network of a kind whose logits are given, so that losses are known by hand."""
    network = kind(N_CLASSES, 16)
    network.backbone, network.head = nn.Sequential(), Fixed(torch.tensor(logits))  # type: ignore[assignment]
    return network


def batch(shape: list[int], texture: list[int], background: list[int] | None = None) -> Batches:
    labels = (torch.tensor(each) for each in (shape, texture, background or texture))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(len(shape), 3, 16, 16, generator=generator)
    return {"biased": (images, Factors(*labels))}


@pytest.mark.parametrize(
    ("objective", "kind"), [(group_dro, GroupWeightedCNN), (unlearn, UnlearningCNN)]
)
def test_a_network_without_the_objectives_state_is_refused(
    objective: Callable[[nn.Module, Batches], Tensor], kind: type[nn.Module]
) -> None:
    with pytest.raises(ValueError, match=f"expected a {kind.__name__}, got a SmallCNN"):
        objective(SmallCNN(N_CLASSES, 16), batch([0, 1], [0, 0]))


def test_the_gradient_of_the_scale_is_that_which_autograd_finds() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(50, 7, generator=generator)
    labels = torch.randint(7, (50,), generator=generator)
    scale = torch.ones((), requires_grad=True)
    (expected,) = torch.autograd.grad(cross_entropy(scale * logits, labels), scale)
    assert scale_gradient(logits, labels).mean().item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_penalty_of_known_logits_is_that_worked_out_by_hand() -> None:
    # Two agree: p = (3/4, 1/4), d = log 3 (3/4 - 1); the others do not: d = log 3 * 3/4.
    log3 = math.log(3)
    network = with_logits(SmallCNN, [[log3, 0.0]] * 4)
    images = batch([0, 0, 1, 1], [0] * 4)
    loss = irm(network, images).item()
    risk = (math.log(4 / 3) + math.log(4)) / 2
    penalty = ((log3 / 4) ** 2 + (3 * log3 / 4) ** 2) / 2
    assert loss == pytest.approx(risk + IRM_PENALTY_WEIGHT * penalty, rel=1e-5)


def test_environments_weigh_alike_whatever_their_sizes() -> None:
    few = with_logits(SmallCNN, [[1.0, 0.0]] * 2 + [[2.0, 0.0]] * 2)
    many = with_logits(SmallCNN, [[1.0, 0.0]] * 6 + [[2.0, 0.0]] * 2)
    losses = (irm(few, batch([0, 0, 1, 1], [0] * 4)), irm(many, batch([0] * 6 + [1] * 2, [0] * 8)))
    assert losses[0].item() == pytest.approx(losses[1].item())


@pytest.mark.parametrize("texture", [[0, 1, 0, 1], [1, 0, 1, 0]], ids=["all agree", "none agrees"])
def test_a_batch_of_one_kind_is_split_in_halves(texture: list[int]) -> None:
    (images, factors) = batch([0, 1, 0, 1], texture)["biased"]
    halves = environments(debiasing.agrees(factors))
    assert halves.tolist() == [[True, True, False, False], [False, False, True, True]]
    network = with_logits(SmallCNN, [[1.0, 0.0], [0.0, 1.0], [9.0, 0.0], [0.0, 9.0]])
    slopes = scale_gradient(network(images), factors.shape).view(2, 2)
    risk = cross_entropy(network(images), factors.shape)
    expected = (risk + slopes.prod(dim=1).mean()).item()
    assert irm(network, {"biased": (images, factors)}).item() == pytest.approx(expected)


def test_slopes_that_differ_within_an_environment_are_taken_for_noise() -> None:
    # Half of either environment wants a larger scale, the other half a smaller one.
    logits = [[1.0, 0.0], [0.0, 1.0]] * 2
    network, images = with_logits(SmallCNN, logits), batch([0] * 4, [0, 0, 1, 1])
    risk = cross_entropy(torch.tensor(logits), torch.zeros(4, dtype=torch.int64))
    assert irm(network, images).item() < risk.item()


def test_group_weights_after_one_step_are_those_worked_out_by_hand() -> None:
    # Class 0 agrees at a loss of log 2; class 0 does not, at log 4; class 1 agrees, at log 4 / 3.
    log3 = math.log(3)
    network = with_logits(GroupWeightedCNN, [[0.0, 0.0], [0.0, log3], [0.0, log3]])
    loss = group_dro(network, batch([0, 0, 1], [0, 1, 1])).item()
    losses = [math.log(2), math.log(4), math.log(4 / 3)]
    grown = [math.exp(GROUP_STEP_SIZE * each) / 4 for each in [*losses, 0.0]]
    weights = [each / sum(grown) for each in grown]
    assert network.get_buffer("group_weights").tolist() == pytest.approx(weights, rel=1e-5)
    present = weights[:3]
    expected = sum(w * each for w, each in zip(present, losses, strict=True)) / sum(present)
    assert loss == pytest.approx(expected, rel=1e-5)


def test_the_weight_of_the_worst_group_keeps_growing() -> None:
    network, seen = with_logits(GroupWeightedCNN, [[5.0, 0.0], [5.0, 0.0]]), []
    for _ in range(200):
        group_dro(network, batch([0, 1], [0, 0]))
        seen.append(network.get_buffer("group_weights")[3].item())
    assert seen == sorted(seen)
    assert seen[-1] > 0.99


def test_at_correlation_1_there_are_as_many_groups_as_classes() -> None:
    network = with_logits(GroupWeightedCNN, [[1.0, 0.0], [3.0, 0.0]])
    loss = group_dro(network, batch([0, 1], [0, 1]))
    losses = cross_entropy(network.head(loss), torch.tensor([0, 1]), reduction="none")
    weights = network.get_buffer("group_weights")[[0, 2]]
    assert loss.item() == pytest.approx((losses @ weights / weights.sum()).item())


def test_group_weights_are_state_and_no_parameter() -> None:
    network = GroupWeightedCNN(5, 16)
    assert network.state_dict()["group_weights"].tolist() == pytest.approx([0.1] * 10)
    assert "group_weights" not in dict(network.named_parameters())


def test_a_reversed_gradient_has_the_other_sign() -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    (straight,) = torch.autograd.grad((x**2).sum(), x)
    (turned,) = torch.autograd.grad((reverse_gradient(x, 0.5) ** 2).sum(), x)
    assert torch.equal(turned, -0.5 * straight)
    assert torch.equal(reverse_gradient(x, 0.5), x)


def unlearning() -> UnlearningCNN:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UnlearningCNN(N_CLASSES, 16).eval()


def test_features_climb_the_loss_that_the_bias_head_descends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(debiasing, "ENTROPY_WEIGHT", 0.0)
    network = unlearning()
    head: Any = network.bias_heads[0]
    features = torch.linspace(-1, 1, 2 * N_FEATURES).view(2, N_FEATURES).requires_grad_()
    network.backbone = Fixed(features.detach())  # type: ignore[assignment]
    nn.init.zeros_(network.head.weight)  # the class passes no gradient on
    unlearn(network, batch([0, 1], [0, 1], [-1, -1])).backward()
    alone = cross_entropy(head(features), torch.tensor([0, 1]))
    of_features, of_head = torch.autograd.grad(alone, [features, head[-1].weight])
    (found,) = network.backbone.parameters()
    assert torch.allclose(not_none(found.grad), -REVERSED_SHARE * of_features, atol=1e-7)
    assert torch.allclose(head[-1].weight.grad, of_head, atol=1e-7)
    assert of_features.abs().max() > 1e-3


def not_none(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient


def test_unknown_labels_of_texture_and_background_count_for_nothing() -> None:
    network = unlearning()
    blind = batch([0, 1], [-1, -1])
    images, factors = blind["biased"]
    plain = cross_entropy(network(images), factors.shape)
    assert unlearn(network, blind).item() == pytest.approx(plain.item())
    half = unlearn(network, batch([0, 1], [1, -1])).item()
    one = unlearn(network, {"biased": (images[:1], batch([0], [1])["biased"][1])}).item()
    first = cross_entropy(network(images[:1]), factors.shape[:1]).item()
    assert half - plain.item() == pytest.approx(one - first, rel=1e-4)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_uneven_guesses_cost_the_features_and_not_the_heads(
    weight: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debiasing, "ENTROPY_WEIGHT", weight)
    network, images = unlearning(), batch([0, 1], [0, 1], [-1, -1])
    head: Any = network.bias_heads[0]
    features = network.backbone(images["biased"][0]).detach().requires_grad_()
    network.backbone = Fixed(features.detach())  # type: ignore[assignment]
    nn.init.zeros_(network.head.weight)
    unlearn(network, images).backward()
    guess = head(features).softmax(dim=1)
    alone = -guess.diag().log().mean()  # both labels are their image's place
    entropy = -(guess * guess.log()).sum(dim=1).mean()
    reversed_ = -REVERSED_SHARE * alone - weight / 2 * entropy  # the mean of two heads, one blind
    (of_head,) = torch.autograd.grad(alone, head[-1].weight, retain_graph=True)
    (of_features,) = torch.autograd.grad(reversed_, features)
    (found,) = network.backbone.parameters()
    assert torch.allclose(head[-1].weight.grad, of_head, atol=1e-7)
    assert torch.allclose(not_none(found.grad), of_features, atol=1e-7)


@pytest.mark.parametrize("kind", [GroupWeightedCNN, UnlearningCNN])
def test_once_fitted_the_network_answers_as_the_small_cnn_does(kind: type[SmallCNN]) -> None:
    network, plain = kind(N_CLASSES, 16).eval(), SmallCNN(N_CLASSES, 16).eval()
    plain.load_state_dict(network.state_dict(), strict=False)
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(images), plain(images))
