from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support import N_CLASSES
from torch import nn

from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet
from cgn.io.cache import weights_sha256
from classifiers import MODELS
from classifiers import fit as fitting
from classifiers.data import balanced_groups, fetch_batch, infinite_sampler
from classifiers.fit import fit, fit_cached
from classifiers.networks.backbones import Backbone
from classifiers.networks.joins import Heads, Join, mean_of_heads
from classifiers.networks.small import InvariantEnsemble, SmallCNN, backbone, outputs
from classifiers.objectives.basic import invariant, shape_cross_entropy
from classifiers.recipes import PHOTOGRAPH_STEPS, SELECTION_RULES, Recipe

every_model = pytest.mark.parametrize("name", MODELS)
SETS = (
    "biased",
    "unbiased",
    "counterfactual",
    "end-to-end",
    "released",
    "abducted",
    "abducted:drawn",
    "abducted:borrowed",
    "abducted:end-to-end",
    "pasted",
    "pasted:true-masks",
    "recombined",
    "generated",
)


def coloured(seed: int, n: int = 48) -> ImageSet:
    """A pale red bar that lies, a green bar that stands or a blue square, by the shape label."""
    generator = torch.Generator().manual_seed(seed)
    factors = Factors.independent(n, N_CLASSES, generator)
    figures = torch.zeros(N_CLASSES, 16, 16, dtype=torch.uint8)
    figures[0, 6:10, 2:14] = figures[1, 2:14, 6:10] = figures[2, 3:13, 3:13] = 1
    masks = figures[factors.shape]
    pixels = torch.randint(40, (n, 3, 16, 16), generator=generator, dtype=torch.uint8)
    pixels += 80 * masks[:, None]
    pixels[torch.arange(n), factors.shape] += 120 * masks
    return ImageSet(pixels, factors, torch.arange(n), 255 * masks[:, None])


@pytest.fixture(scope="module")
def sets() -> dict[str, ImageSet]:
    return {name: coloured(seed) for seed, name in enumerate(SETS)}


def short(name: str, **changes: Any) -> Recipe:
    # Sums in bfloat16 may differ in their last bits from one call to the next.
    common: dict[str, Any] = {"steps": 2, "epochs": 0, "batch_size": 8, "bfloat16": False}
    changes = common | changes
    if first := MODELS[name].identification_model:
        changes = {"identification_model": replace(first, **common)} | changes
    return replace(MODELS[name], **changes)


def fitted(recipe: Recipe, sets: dict[str, ImageSet], seed: int = 0) -> str:
    return weights_sha256(fit(recipe, sets, n_classes=N_CLASSES, seed=seed))


@every_model
def test_every_recipe_stands_under_its_name_and_says_what_it_is(name: str) -> None:
    assert MODELS[name].name == name
    assert MODELS[name].about
    assert MODELS[name].source
    assert set(MODELS[name].trains_on) <= set(SETS)
    assert MODELS[name].selected_on in SELECTION_RULES


@every_model
@pytest.mark.parametrize(("n_biased", "steps"), [(4_000, 625), (20_000, 625), (50_000, 1_563)])
def test_every_recipe_takes_as_many_steps_as_its_world_has_for_all(
    name: str, n_biased: int, steps: int
) -> None:
    recipe = MODELS[name]
    budget = PHOTOGRAPH_STEPS if isinstance(recipe.network, Backbone) else steps
    n_images = dict.fromkeys(recipe.trains_on, 150_000) | {"biased": n_biased}
    assert recipe.steps_for(n_images) == budget
    if first := recipe.identification_model:
        assert first.steps_for(n_images) == math.ceil(steps / 5)


@every_model
def test_one_seed_gives_one_classifier_bit_for_bit(name: str, sets: dict[str, ImageSet]) -> None:
    hashes = [fitted(short(name), sets, seed) for seed in (0, 0, 1)]
    assert hashes[0] == hashes[1] != hashes[2]


@every_model
def test_fitting_leaves_the_callers_random_state_alone(
    name: str, sets: dict[str, ImageSet]
) -> None:
    before = torch.get_rng_state()
    fitted(short(name), sets)
    assert torch.equal(torch.get_rng_state(), before)


@every_model
def test_a_recipe_sees_the_sets_it_names_and_no_other(name: str, sets: dict[str, ImageSet]) -> None:
    own = {each: sets[each] for each in MODELS[name].trains_on}
    assert fitted(short(name), own) == fitted(short(name), sets)
    for each in own:
        other = own | {each: coloured(99)}
        assert fitted(short(name), other) != fitted(short(name), own)


@every_model
def test_a_fitted_classifier_gives_finite_logits_in_evaluation_mode(
    name: str, sets: dict[str, ImageSet]
) -> None:
    network = fit(short(name), sets, n_classes=N_CLASSES, seed=0)
    assert not network.training
    for logits in outputs(network, sets["biased"].images()).values():
        assert logits.shape == (48, N_CLASSES)
        assert logits.isfinite().all()


@every_model
def test_an_answer_does_not_depend_on_its_batch_neighbours(
    name: str, sets: dict[str, ImageSet]
) -> None:
    network = fit(short(name), sets, n_classes=N_CLASSES, seed=0)
    images = sets["unbiased"].images(slice(4))
    with torch.no_grad():
        alone = torch.cat([network(image[None]) for image in images])
        assert torch.allclose(network(images), alone, atol=1e-4)


@every_model
def test_a_missing_set_is_an_error_that_names_it(
    name: str, sets: dict[str, ImageSet], tmp_path: Path
) -> None:
    lost = MODELS[name].trains_on[-1]
    rest = {each: images for each, images in sets.items() if each != lost}
    message = re.escape(f"{name} trains on {lost}, which is missing")
    with pytest.raises(ValueError, match=message):
        fit(short(name), rest, n_classes=N_CLASSES, seed=0)
    with pytest.raises(ValueError, match=message):
        fit_cached(short(name), rest, n_classes=N_CLASSES, seed=0, cache=tmp_path)


def test_progress_tells_every_step(sets: dict[str, ImageSet]) -> None:
    told: list[tuple[int, int]] = []
    fit(
        short("erm", steps=3),
        sets,
        n_classes=N_CLASSES,
        seed=0,
        progress=lambda done, steps: told.append((done, steps)),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]


@every_model
def test_every_recipe_learns_to_tell_figures_of_plain_colour(
    name: str, sets: dict[str, ImageSet]
) -> None:
    recipe = short(name, steps=25, batch_size=16)
    network = fit(recipe, sets, n_classes=N_CLASSES, seed=0)
    test = coloured(7)
    with torch.no_grad():
        prediction = network(test.images()).argmax(dim=1)
    assert (prediction == test.factors.shape).double().mean() > 0.9


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds that were really fitted."""
    done: list[int] = []
    real = fitting.fit

    def counted(recipe: Recipe, *args: Any, seed: int, **others: Any) -> nn.Module:
        done.append(seed)
        return real(recipe, *args, seed=seed, **others)

    monkeypatch.setattr(fitting, "fit", counted)
    return done


@every_model
def test_a_second_fit_to_the_same_things_is_taken_from_the_cache(
    name: str, sets: dict[str, ImageSet], fits: list[int], tmp_path: Path
) -> None:
    (first, first_hash), (second, second_hash) = (
        fit_cached(short(name), sets, n_classes=N_CLASSES, seed=5, cache=tmp_path) for _ in range(2)
    )
    assert fits == [5] * (2 if MODELS[name].identification_model else 1)
    assert first_hash == second_hash == weights_sha256(second)
    images = sets["biased"].images()
    with torch.no_grad():
        assert torch.allclose(first(images), second(images), atol=1e-4)
    assert not second.training


def test_all_that_decides_the_weights_is_in_the_caches_key(
    sets: dict[str, ImageSet], fits: list[int], tmp_path: Path
) -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"steps": 3},
        {"epochs": 1},
        {"batch_size": 4},
        {"learning_rate": 1e-2},
        {"weight_decay": 0.0},
        {"network": InvariantEnsemble},
        {"objective": lambda network, batches: 2 * shape_cross_entropy(network, batches)},
        {"sampling": balanced_groups},
    ]
    for seed, change in enumerate(changes):
        fit_cached(short("erm", **change), sets, n_classes=N_CLASSES, seed=0, cache=tmp_path)
        assert len(fits) == seed + 1
    fit_cached(short("erm"), sets, n_classes=N_CLASSES, seed=1, cache=tmp_path)
    fit_cached(short("erm"), sets, n_classes=4, seed=0, cache=tmp_path)
    others = sets | {"biased": coloured(99)}
    fit_cached(short("erm"), others, n_classes=N_CLASSES, seed=0, cache=tmp_path)
    assert len(fits) == len(changes) + 3
    for steps in (1, 2):
        twice = short("jtt", identification_model=short("erm", steps=steps))
        fit_cached(twice, sets, n_classes=N_CLASSES, seed=0, cache=tmp_path)
    assert len(fits) == len(changes) + 3 + 2 * 2


def test_a_set_that_is_not_trained_on_is_not_in_the_caches_key(
    sets: dict[str, ImageSet], fits: list[int], tmp_path: Path
) -> None:
    for others in (sets, sets | {"unbiased": coloured(99)}):
        fit_cached(short("erm"), others, n_classes=N_CLASSES, seed=0, cache=tmp_path)
    assert fits == [0]


def test_weights_of_a_damaged_cache_are_fitted_anew(
    sets: dict[str, ImageSet], fits: list[int], tmp_path: Path
) -> None:
    _, first = fit_cached(short("erm"), sets, n_classes=N_CLASSES, seed=0, cache=tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    _, second = fit_cached(short("erm"), sets, n_classes=N_CLASSES, seed=0, cache=tmp_path)
    assert first == second
    assert fits == [0, 0]


def test_an_endless_stream_shows_every_image_once_in_each_round() -> None:
    stream = infinite_sampler(torch.arange(12), 4, torch.Generator().manual_seed(0))
    rounds = [torch.cat([next(stream) for _ in range(3)]).tolist() for _ in range(3)]
    assert all(sorted(index) == list(range(12)) for index in rounds)
    assert rounds[0] != rounds[1]


def test_a_set_smaller_than_a_batch_repeats_within_the_batch() -> None:
    index = next(infinite_sampler(torch.arange(3), 7, torch.Generator().manual_seed(0)))
    assert len(index) == 7
    assert index.bincount().min() >= 2


def test_the_images_of_a_batch_go_with_their_labels() -> None:
    images = coloured(0)
    stream = infinite_sampler(torch.arange(len(images)), 20, torch.Generator().manual_seed(0))
    for _ in range(3):
        batch, factors = fetch_batch(images, next(stream), "cpu")
        assert torch.equal(batch.mean(dim=(2, 3)).argmax(dim=1), factors.shape)


def test_a_round_has_the_images_it_is_given_as_often_as_they_are_given() -> None:
    stream = infinite_sampler(torch.tensor([2, 2, 3, 2, 0, 2]), 3, torch.Generator().manual_seed(0))
    index = torch.cat([next(stream) for _ in range(2 * 4)])
    assert all(part.bincount().tolist() == [1, 0, 4, 1] for part in index.split(6)[:-1])


def test_what_the_first_network_sees_decides_what_the_second_is_shown(
    sets: dict[str, ImageSet],
) -> None:
    seen: list[torch.Tensor] = []

    def sampling(factors: Factors, predictions: torch.Tensor | None) -> torch.Tensor:
        assert predictions is not None
        seen.append(predictions)
        return torch.arange(len(predictions))

    first = short("erm", steps=25, batch_size=16)
    recipe = short("erm", identification_model=first, sampling=sampling)
    fit(recipe, sets, n_classes=N_CLASSES, seed=0)
    network = fit(first, sets, n_classes=N_CLASSES, seed=0)
    with torch.no_grad():
        expected = network(sets["biased"].images()).argmax(dim=1)
    assert len(seen) == 1
    assert torch.equal(seen[0], expected)


def ensemble(join: Join = "mean") -> InvariantEnsemble:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return InvariantEnsemble(N_CLASSES, 16, join=join).eval()


@pytest.mark.parametrize("size_px", [0, 8, 28, 40])
def test_image_sizes_that_do_not_divide_into_blocks_are_refused(size_px: int) -> None:
    with pytest.raises(ValueError, match=f"must be a multiple of 16, got {size_px}"):
        backbone(size_px)


def test_the_heads_are_reachable_by_name_and_are_what_the_ensemble_joins() -> None:
    network, images = ensemble(), coloured(0).images()
    answers = outputs(network, images)
    assert list(answers) == ["", *Heads._fields]
    joined = mean_of_heads(Heads(*(answers[name] for name in Heads._fields)))
    assert torch.equal(answers[""], joined)
    assert torch.equal(answers["texture"], network.heads(images).texture)


def test_a_plain_network_has_one_answer() -> None:
    network, images = SmallCNN(N_CLASSES, 16).eval(), coloured(0).images()
    (answer,) = outputs(network, images).items()
    assert answer[0] == ""
    assert torch.equal(answer[1], network(images))


def test_all_heads_answer_from_one_pass_through_the_backbone() -> None:
    network, passes = ensemble(), []
    network.backbone.register_forward_hook(lambda *_: passes.append(1))
    outputs(network, coloured(0).images())
    assert passes == [1]


def batch(seed: int) -> tuple[torch.Tensor, Factors]:
    images = coloured(seed, n=6)
    return images.images(), images.factors


def test_the_invariant_objective_refuses_a_network_without_heads() -> None:
    with pytest.raises(ValueError, match="expected an ensemble of three heads, got a SmallCNN"):
        invariant(SmallCNN(N_CLASSES, 16), {"biased": batch(0), "counterfactual": batch(1)})


def counterfactual_loss(network: InvariantEnsemble, seed: int) -> torch.Tensor:
    images, targets = batch(seed)
    terms = map(nn.functional.cross_entropy, network.heads(images), targets)
    return torch.stack(list(terms)).sum()


def test_the_invariant_objective_is_the_sum_of_four_cross_entropies() -> None:
    network, (images, factors) = ensemble(), batch(0)
    loss = invariant(network, {"biased": (images, factors), "counterfactual": batch(1)})
    real = nn.functional.cross_entropy(network(images), factors.shape)
    assert loss.item() == pytest.approx((real + counterfactual_loss(network, 1)).item(), rel=1e-5)


def test_several_sets_of_counterfactuals_count_as_much_as_one() -> None:
    network, real = ensemble(), batch(0)
    several = invariant(network, {"biased": real, "counterfactual": batch(1), "abducted": batch(2)})
    alone = [invariant(network, {"biased": real, "counterfactual": batch(i)}) for i in (1, 2)]
    assert several.item() == pytest.approx(torch.stack(alone).mean().item(), rel=1e-5)


@pytest.mark.parametrize("join", ["mean", "alignment"])
def test_a_background_that_real_images_do_not_have_teaches_its_head_nothing(join: Join) -> None:
    network, (images, factors) = ensemble(join), batch(0)
    without = factors._replace(background=torch.full_like(factors.shape, -1))
    invariant(network, {"biased": (images, without), "counterfactual": batch(1)}).backward()
    with_real = network.classifiers[2].weight.grad.clone()  # type: ignore[union-attr, operator]
    network.zero_grad()
    counterfactual_loss(network, 1).backward()
    assert torch.allclose(with_real, network.classifiers[2].weight.grad, atol=1e-6)  # type: ignore[arg-type]


@pytest.mark.parametrize("join", ["mean", "alignment"])
@pytest.mark.parametrize("name", Factors._fields)
def test_each_head_learns_the_label_of_its_own_factor(name: str, join: Join) -> None:
    network, (images, targets) = ensemble(join), batch(1)
    moved = targets._replace(**{name: (getattr(targets, name) + 1) % N_CLASSES})
    gradients = []
    for labels in (targets, moved):
        network.zero_grad()
        batches = {"biased": batch(0), "counterfactual": (images, labels)}
        invariant(network, batches).backward()
        gradients.append([head.weight.grad.clone() for head in network.classifiers])  # type: ignore[union-attr, operator]
    unmoved = [torch.allclose(a, b) for a, b in zip(*gradients, strict=True)]
    assert unmoved == [factor != name for factor in Factors._fields]


def test_the_cross_entropy_of_a_guess_is_the_logarithm_of_the_number_of_classes() -> None:
    network = SmallCNN(N_CLASSES, 16)
    nn.init.zeros_(network.head.weight)
    nn.init.zeros_(network.head.bias)
    loss = shape_cross_entropy(network, {"biased": batch(0), "unbiased": batch(1)})
    assert loss.item() == pytest.approx(torch.tensor(N_CLASSES).log().item())
