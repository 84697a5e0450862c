"""What a fit holds out, and the join that is learned there: known answers without training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet
from classifiers import MODELS
from classifiers.fit import fit
from classifiers.held_out import (
    FEWEST_ORIGINS,
    MOST,
    SHARE,
    hold_out,
    learn_alignment,
    learn_join,
    weigh_by_nuisances,
)
from classifiers.networks.joins import PATTERNS, Alignment, Heads
from classifiers.networks.small import InvariantEnsemble
from classifiers.recipes import Recipe

N_CLASSES = 5
KNOWS_NOTHING = torch.zeros(2_000, N_CLASSES)


def numbered(ids: Tensor, n_classes: int = 2) -> ImageSet:
    """Images that show their number, of an origin each."""
    number = torch.arange(len(ids))
    pixels = torch.stack([number // 256, number % 256, number * 0], dim=1).to(torch.uint8)
    labels = ids % n_classes
    return ImageSet(pixels[:, :, None, None].expand(-1, -1, 16, 16), Factors.aligned(labels), ids)


def origins(images: ImageSet) -> set[int]:
    return set(images.ids.tolist())


def numbers(images: ImageSet) -> list[int]:
    corner = images.pixels[:, :, 0, 0].int()
    return sorted((256 * corner[:, 0] + corner[:, 1]).tolist())


REAL = numbered(torch.arange(1_000))
SETS = {
    "biased": REAL,
    "abducted": numbered(torch.arange(1_000).repeat(3)),
    "counterfactual": numbered(torch.arange(2_000)),
}


def test_every_image_is_in_one_part_and_no_origin_is_in_both_of_any_set() -> None:
    fitted, held_out = hold_out(SETS, seed=0)
    for name, images in SETS.items():
        assert numbers(fitted[name]) + numbers(held_out[name]) != numbers(images)
        assert sorted(numbers(fitted[name]) + numbers(held_out[name])) == numbers(images)
    of_fit = set().union(*map(origins, fitted.values()))
    assert not of_fit & set().union(*map(origins, held_out.values()))
    assert origins(held_out["abducted"]) == origins(held_out["biased"])


def test_a_tenth_is_held_out_and_at_most_five_thousand_real_images() -> None:
    _, held_out = hold_out(SETS, seed=0)
    assert len(held_out["biased"]) == SHARE * len(REAL)
    _, held_out = hold_out({"biased": numbered(torch.arange(60_000))}, seed=0)
    assert len(held_out["biased"]) == MOST


def test_another_seed_holds_out_other_images() -> None:
    chosen = [numbers(hold_out(SETS, seed)[1]["biased"]) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_where_a_class_has_few_origins_images_are_held_out_and_every_origin_stays() -> None:
    few = numbered(torch.arange(1_000) % (2 * FEWEST_ORIGINS - 2))
    fitted, held_out = hold_out({"biased": few}, seed=0)
    assert origins(fitted["biased"]) == origins(few)
    assert sorted(numbers(fitted["biased"]) + numbers(held_out["biased"])) == numbers(few)
    enough = numbered(torch.arange(1_000) % (2 * FEWEST_ORIGINS))
    fitted, held_out = hold_out({"biased": enough}, seed=0)
    assert not origins(fitted["biased"]) & origins(held_out["biased"])


def test_a_single_image_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="1 abducted images are too few to hold a part"):
        hold_out({"biased": REAL, "abducted": numbered(torch.zeros(1).long())}, seed=0)


@pytest.mark.parametrize("nuisances", [("texture", "background"), ("background",), ("texture",)])
def test_weights_make_nuisances_free_and_all_else_follow_the_shape(
    nuisances: tuple[str, ...],
) -> None:
    factors = Factors.independent(4_000, N_CLASSES, torch.Generator().manual_seed(0))
    keeps = torch.rand(4_000, generator=torch.Generator().manual_seed(1)) < 0.5
    factors = factors._replace(texture=torch.where(keeps, factors.shape, factors.texture))
    weights = weigh_by_nuisances(factors, nuisances, N_CLASSES)
    assert weights.sum() == pytest.approx(1)
    for name in ("texture", "background"):
        follows = weights[getattr(factors, name) == factors.shape].sum()
        assert follows == pytest.approx(1 / N_CLASSES if name in nuisances else 1.0)


def test_a_background_without_labels_does_not_count() -> None:
    factors = Factors.independent(400, 2, torch.Generator().manual_seed(0))
    factors = factors._replace(background=torch.full_like(factors.shape, -1))
    weights = weigh_by_nuisances(factors, ("background",), 2)
    assert weights[factors.texture == factors.shape].sum() == pytest.approx(1)


def test_counterfactuals_of_other_textures_alone_are_refused_where_texture_is_no_nuisance() -> None:
    labels = torch.arange(10) % 2
    with pytest.raises(ValueError, match=r"no held-out counterfactual has background free"):
        weigh_by_nuisances(Factors(labels, 1 - labels, labels), ("background",), 2)


def drawn(shares: dict[str, float], sureness: float = 3.0) -> tuple[Heads, Tensor]:
    """Draw images of patterns in given shares, and heads that are as sure as they are right."""
    n, generator = 20_000, torch.Generator().manual_seed(0)
    shape, texture, background = Factors.independent(n, N_CLASSES, generator)
    weights = torch.tensor([shares.get(name, 0.0) for name in PATTERNS])
    pattern = torch.multinomial(weights, n, replacement=True, generator=generator)
    texture = torch.where((pattern == 1) | (pattern == 3), shape, texture)
    background = torch.where(pattern >= 2, shape, background)

    def head(labels: Tensor) -> Tensor:
        logits = sureness * nn.functional.one_hot(labels, N_CLASSES).float()
        # The head reads another class as often as these logits say.
        read = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
        return sureness * nn.functional.one_hot(read, N_CLASSES).float()

    return Heads(head(shape), head(texture), head(background)), shape


@pytest.mark.parametrize(
    "shares",
    [
        {"neither": 0.5, "both": 0.5},
        {"texture": 0.5, "both": 0.5},
        {"neither": 0.4, "texture": 0.3, "background": 0.2, "both": 0.1},
    ],
)
def test_the_shares_that_images_were_drawn_with_are_learned(shares: dict[str, float]) -> None:
    heads, labels = drawn(shares)
    learned, exponents = learn_alignment(heads, labels, torch.ones(len(labels)), N_CLASSES)
    expected = torch.tensor([shares.get(name, 0.0) for name in PATTERNS])
    assert learned.sum() == pytest.approx(1)
    assert (learned >= 0).all()
    assert (learned - expected).abs().max() < 0.04
    assert (exponents - 1).abs().max() < 0.15


def test_a_head_that_is_always_right_gets_all_weight() -> None:
    labels = torch.arange(2_000) % N_CLASSES
    right = 4 * nn.functional.one_hot(labels, N_CLASSES).float()
    wrong = right.roll(1, dims=1)
    for heads, winner in (
        (Heads(KNOWS_NOTHING, right, wrong), 1),
        (Heads(KNOWS_NOTHING, wrong, right), 2),
        (Heads(right, wrong, wrong), 0),
    ):
        learned, _ = learn_alignment(heads, labels, torch.ones(2_000), N_CLASSES)
        assert learned[winner] > 0.95


def test_surfaces_that_are_alike_get_equal_shares() -> None:
    labels = torch.arange(2_000) % N_CLASSES
    half = torch.where((labels < 2)[:, None], nn.functional.one_hot(labels, N_CLASSES), 0).float()
    learned, exponents = learn_alignment(
        Heads(KNOWS_NOTHING, half, half), labels, torch.ones(2_000), N_CLASSES
    )
    assert learned[1] == pytest.approx(learned[2].item(), abs=1e-3)
    assert exponents[1] == pytest.approx(exponents[2].item(), rel=1e-2)


def test_a_head_that_is_too_sure_gets_an_exponent_below_one() -> None:
    heads, labels = drawn({"neither": 1.0}, sureness=2.0)
    _, exponents = learn_alignment(
        heads._replace(shape=3 * heads.shape), labels, torch.ones(len(labels)), N_CLASSES
    )
    assert exponents[0] == pytest.approx(1 / 3, rel=0.1)


def test_images_of_no_weight_change_nothing() -> None:
    heads, labels = drawn({"neither": 0.5, "both": 0.5})
    weights = (torch.arange(len(labels)) < 5_000).float()
    part = Heads(*(logits[:5_000] for logits in heads))
    whole, _ = learn_alignment(heads, labels.where(weights > 0, 0), weights, N_CLASSES)
    alone, _ = learn_alignment(part, labels[:5_000], torch.ones(5_000), N_CLASSES)
    assert torch.allclose(whole, alone, atol=1e-3)


def test_a_mean_has_nothing_to_learn() -> None:
    with pytest.raises(ValueError, match="the Mean of heads has nothing to learn"):
        learn_join(InvariantEnsemble(2, 16, join="mean"), {"biased": REAL}, ("background",))


def short(name: str, **changes: Any) -> Recipe:
    common = {"steps": 2, "epochs": 0, "batch_size": 8, "bfloat16": False}
    return replace(MODELS[name], **(common | changes))


@pytest.mark.parametrize("name", ["cgn-ensemble", "cgn-ensemble:background"])
def test_a_fit_never_sees_what_it_holds_out_and_learns_its_join_there(name: str) -> None:
    seen: list[Tensor] = []

    def watched(network: nn.Module, batches: Any) -> Tensor:
        seen.extend(images[:, :2, 0, 0] for images, _ in batches.values())
        return network(batches["biased"][0]).sum()  # type: ignore[no-any-return]

    recipe = short(name, objective=watched, steps=60, batch_size=64)
    network = fit(recipe, SETS, n_classes=2, seed=3)
    _, held_out = hold_out({each: SETS[each] for each in recipe.trains_on}, seed=3)
    corner = (255 * torch.cat(seen)).round().int()
    shown = set((256 * corner[:, 0] + corner[:, 1]).tolist())
    assert len(shown) > 1_000
    assert not shown & set(numbers(held_out["biased"]))
    assert isinstance(network, InvariantEnsemble)
    assert isinstance(network.join, Alignment)
    assert not torch.equal(network.join.shares, Alignment(2).shares)


def test_ensembles_differ_in_what_is_a_nuisance_and_in_nothing_else_that_they_see() -> None:
    for base in ("cgn-ensemble", "recombined-ensemble"):
        both, background, paper = (MODELS[base + end] for end in ("", ":background", ":paper"))
        assert both.nuisances == ("texture", "background")
        assert background == replace(
            both, name=background.name, about=background.about, nuisances=("background",)
        )
        assert paper.nuisances == ()
        assert paper.trains_on == both.trains_on
        assert (paper.steps, paper.epochs) == (both.steps, both.epochs)
        assert both.about != background.about != paper.about


@pytest.mark.parametrize("name", ["cgn-ensemble:paper", "recombined-ensemble:paper"])
def test_the_papers_ensemble_answers_with_the_mean_of_its_heads(name: str) -> None:
    network = MODELS[name].network(3, 64).eval()
    assert isinstance(network, InvariantEnsemble)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        mean = torch.stack([head.log_softmax(dim=1) for head in network.heads(images)]).mean(dim=0)
        assert torch.allclose(network(images), mean, atol=1e-5)
