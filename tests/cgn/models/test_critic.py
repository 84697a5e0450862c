from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cgn.models.critic import Critic, _Divided, _iterated, packed


@pytest.fixture
def critic() -> Critic:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Critic(3, 32, width=8)


def test_images_of_the_two_halves_are_packed_in_pairs() -> None:
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 3, 2, 2)
    assert packed(images)[:, ::3, 0, 0].tolist() == [[0, 2], [1, 3]]


def test_the_largest_singular_value_of_every_weight_becomes_one(critic: Critic) -> None:
    for _ in range(300):
        critic._normalised()
    for weight in critic._normalised():
        assert torch.linalg.matrix_norm(weight.detach().flatten(1), 2) == pytest.approx(1, abs=1e-3)


def test_a_call_takes_one_step_of_the_power_iteration(critic: Critic) -> None:
    before = critic.get_buffer("right_0").clone()
    weight = critic.get_parameter("layers.0.weight").detach()
    expected = _iterated([weight], [before])[1][0]
    critic(torch.rand(2, 6, 32, 32), torch.tensor([0, 1]))
    assert critic.get_buffer("right_0").equal(expected)


def test_gradients_of_divided_weights_are_those_of_the_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((4, 3, 2, 2), (1, 5), (3, 6))
    ]
    seen = [torch.randn(w.shape, generator=generator, dtype=torch.float64) for w in weights]
    with torch.no_grad():
        starts = [torch.ones(w[0].numel(), dtype=torch.float64) for w in weights]
        singular = _iterated(weights, starts)

    def by_formula() -> list[Tensor]:
        lefts, rights, _ = singular
        return [
            weight / (left @ weight.flatten(1) @ right)
            for weight, left, right in zip(weights, lefts, rights, strict=True)
        ]

    gradients = []
    for divided in (_Divided.apply(*singular, *weights), by_formula()):
        loss = torch.stack([(a * b).sum() for a, b in zip(divided, seen, strict=True)]).sum()
        gradients.append(torch.autograd.grad(loss, weights))
    for ours, expected in zip(*gradients, strict=True):
        assert torch.allclose(ours, expected, atol=1e-12)


def test_the_score_of_a_pair_depends_on_no_other_pair(critic: Critic) -> None:
    pairs, labels = torch.rand(3, 6, 32, 32), torch.tensor([0, 1, 2])
    state = {name: tensor.clone() for name, tensor in critic.state_dict().items()}
    together = critic(pairs, labels).scores
    critic.load_state_dict(state)
    assert torch.allclose(critic(pairs[1:2], labels[1:2]).scores, together[1:2], atol=1e-6)
