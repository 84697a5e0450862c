"""Joins of heads: what they answer, known without a network."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from classifiers.networks.joins import PATTERNS, Alignment, Heads, Mean, build_join, mix_alignments
from classifiers.networks.small import InvariantEnsemble, outputs

N_CLASSES = 4
NOTHING = torch.zeros(1, N_CLASSES)
ONES = torch.ones(3)


def says(label: int, logit: float = 9.0) -> Tensor:
    """Logits of a head that names a class."""
    return logit * torch.nn.functional.one_hot(torch.tensor([label]), N_CLASSES).float()


def shares(**of_patterns: float) -> Tensor:
    return torch.tensor([of_patterns.get(name, 0.0) for name in PATTERNS])


def random_heads(n: int = 6) -> Heads:
    return Heads(*torch.randn(3, n, N_CLASSES, generator=torch.Generator().manual_seed(0)))


def test_the_mean_of_heads_that_agree_is_what_they_say() -> None:
    (logits, _, _) = random_heads()
    joined = Mean()(Heads(logits, logits, logits)).softmax(dim=1)
    assert torch.allclose(joined, logits.softmax(dim=1), atol=1e-6)


def test_the_mean_weighs_each_head_alike() -> None:
    heads = random_heads()
    assert torch.allclose(Mean()(heads), Mean()(Heads(*heads[::-1])), atol=1e-6)
    mean = sum(head.log_softmax(dim=1) for head in heads) / 3
    assert torch.allclose(Mean()(heads), torch.as_tensor(mean), atol=1e-6)


@pytest.mark.parametrize("join", [Mean(), Alignment(N_CLASSES)])
def test_joining_does_not_depend_on_what_is_added_to_all_logits_of_a_head(
    join: Mean | Alignment,
) -> None:
    heads = random_heads()
    moved = heads._replace(texture=heads.texture + 100)
    assert torch.allclose(join(moved), join(heads), atol=1e-3)


def test_where_no_surface_follows_the_shape_its_head_alone_answers() -> None:
    heads = random_heads()
    joined = mix_alignments(heads, shares(neither=1.0), ONES, N_CLASSES)
    assert torch.allclose(joined, heads.shape.log_softmax(dim=1), atol=1e-5)


def test_where_both_surfaces_always_follow_the_shape_the_heads_multiply() -> None:
    heads = random_heads()
    joined = mix_alignments(heads, shares(both=1.0), ONES, N_CLASSES)
    product = torch.stack([head.log_softmax(dim=1) for head in heads]).sum(dim=0)
    assert torch.allclose(joined.log_softmax(dim=1), product.log_softmax(dim=1), atol=1e-5)


def test_a_surface_that_follows_nothing_counts_for_nothing() -> None:
    heads = random_heads()
    of_texture = mix_alignments(heads, shares(neither=0.3, texture=0.7), ONES, N_CLASSES)
    other = heads._replace(background=-heads.background)
    assert torch.equal(mix_alignments(other, shares(neither=0.3, texture=0.7), ONES, 4), of_texture)


def test_surfaces_that_disagree_leave_the_answer_to_the_shape() -> None:
    join = Alignment(N_CLASSES)
    heads = Heads(says(0, 1.0), says(1), says(2))
    assert join(heads).argmax() == 0
    assert join(heads._replace(background=says(1))).argmax() == 1


def test_surfaces_change_the_odds_by_a_bounded_factor_however_sure_they_are() -> None:
    join = Alignment(N_CLASSES)  # C^2 q_both / q_neither = 16
    bound = math.log(N_CLASSES**2)
    for margin, winner in ((bound - 0.1, 1), (bound + 0.1, 0)):
        assert join(Heads(says(0, margin), says(1, 1e3), says(1, 1e3))).argmax() == winner


def test_an_exponent_below_one_makes_a_head_less_sure() -> None:
    heads, halves = Heads(says(0, 4.0), NOTHING, NOTHING), torch.tensor([0.5, 1.0, 1.0])
    joined = mix_alignments(heads, shares(neither=1.0), halves, N_CLASSES)
    assert torch.allclose(joined, says(0, 2.0).log_softmax(dim=1), atol=1e-5)


def test_shares_that_are_rounded_to_nothing_leave_finite_answers() -> None:
    join = Alignment(N_CLASSES).half().float()
    join.shares.copy_(shares(both=1.0))
    assert join(Heads(says(0, 1e4), says(1, 1e4), says(2, 1e4))).isfinite().all()


@pytest.mark.parametrize("name", ["mean", "alignment"])
def test_the_deployed_output_is_the_join_of_the_heads_beside_it(name: str) -> None:
    network = InvariantEnsemble(3, 16, join=name).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        answers = outputs(network, torch.rand(2, 3, 16, 16))
        heads = Heads(*(answers[factor] for factor in Heads._fields))
        assert torch.equal(answers[""], build_join(name, 3)(heads))  # type: ignore[arg-type]


def test_what_is_learned_travels_with_the_weights_and_a_mean_has_none() -> None:
    learned = InvariantEnsemble(3, 16)
    assert isinstance(learned.join, Alignment)
    learned.join.shares.copy_(shares(texture=1.0))
    again = InvariantEnsemble(3, 16)
    again.load_state_dict(learned.state_dict())
    assert torch.equal(torch.as_tensor(again.join.shares), shares(texture=1.0))
    assert not [
        name for name in InvariantEnsemble(3, 16, join="mean").state_dict() if "join" in name
    ]
