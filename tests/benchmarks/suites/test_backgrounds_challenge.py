from __future__ import annotations

from collections.abc import Sequence
from math import comb
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support import patch_commands
from torch import Tensor, nn

from benchmarks import cli
from benchmarks.core.evaluate import probabilities, score_suite
from benchmarks.core.suite import DataSource
from benchmarks.records.runs import read_runs
from benchmarks.suites.backgrounds_challenge import (
    AT_RANDOM,
    CHALLENGE,
    Outcome,
    attack,
    challenge_variants,
    outcomes_kept,
    predictions_of,
    random_backgrounds,
)
from benchmarks.suites.imagenet9 import IN9_CLASSES, IN9_VARIANTS
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet
from cgn.data.preprocessing import IMAGENET
from cgn.models.cgn import compose
from classifiers.networks.pretrained import Pretrained

N_CLASSES = 3


class Counting(nn.Module):
    """A fixed random network that counts the images it sees, and what it saw at once."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(3 * 8 * 8, N_CLASSES, generator=generator))
        self.seen: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(len(images))
        return images.flatten(1) @ self.weight


def noise(n: int, seed: int, masks: bool = False) -> ImageSet:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (n, 3, 8, 8), generator=generator, dtype=torch.uint8)
    inside = torch.zeros(n, 1, 8, 8, dtype=torch.uint8)
    inside[..., 1:7, 1:7] = 255
    labels = torch.randint(N_CLASSES, (n,), generator=generator)
    return ImageSet(pixels, Factors.aligned(labels), torch.arange(n), inside if masks else None)


@pytest.fixture
def network() -> Counting:
    return Counting()


@pytest.fixture
def foregrounds(network: Counting) -> ImageSet:
    """Objects that the network reads right before black: some break, some do not."""
    images = noise(30, 2, masks=True)
    assert images.masks is not None
    with torch.inference_mode():
        found = network(images.images() * (images.masks > 0)).argmax(dim=1)
    network.seen.clear()
    return ImageSet(images.pixels, Factors.aligned(found), images.ids, images.masks)


@pytest.fixture
def backgrounds() -> ImageSet:
    return noise(150, 3)


def run(
    network: Counting, foregrounds: ImageSet, backgrounds: ImageSet, earlier: Sequence[Outcome] = ()
) -> list[Outcome]:
    outcomes = attack(
        network, foregrounds, backgrounds, decision_rule=probabilities, earlier=earlier
    )
    return [*earlier, *outcomes]


@torch.inference_mode()
def by_brute_force(network: Counting, foregrounds: ImageSet, backgrounds: ImageSet) -> list[bool]:
    """Which objects are misread before any background."""
    assert foregrounds.masks is not None
    broken = []
    for i, label in enumerate(foregrounds.factors.shape.tolist()):
        span = slice(i, i + 1)
        mask = (foregrounds.masks[span] > 0).float()
        images = compose(mask, foregrounds.images(span), backgrounds.images())
        broken.append(bool((network(images).argmax(dim=1) != label).any()))
    network.seen.clear()
    return broken


def test_the_objects_that_break_are_those_of_a_search_without_order(
    network: Counting, foregrounds: ImageSet, backgrounds: ImageSet
) -> None:
    expected = by_brute_force(network, foregrounds, backgrounds)
    assert 0 < sum(expected) < len(expected)
    orders = [torch.arange(150), torch.arange(150).flip(0), torch.randperm(150)]
    for order in orders:
        outcomes = run(network, foregrounds, backgrounds.select(order))
        assert [outcome.broken_by >= 0 for outcome in outcomes] == expected


def test_what_is_said_to_break_an_object_does(
    network: Counting, foregrounds: ImageSet, backgrounds: ImageSet
) -> None:
    assert foregrounds.masks is not None
    for i, outcome in enumerate(run(network, foregrounds, backgrounds)):
        label = int(foregrounds.factors.shape[i])
        assert (outcome.prediction == label) == (outcome.broken_by < 0)
        if outcome.broken_by >= 0:
            behind = backgrounds.images(slice(outcome.broken_by, outcome.broken_by + 1))
            mask = (foregrounds.masks[i : i + 1] > 0).float()
            image = compose(mask, foregrounds.images(slice(i, i + 1)), behind)
            assert int(network(image).argmax()) == outcome.prediction


def test_the_composites_that_were_tried_are_those_the_network_saw(
    network: Counting, foregrounds: ImageSet, backgrounds: ImageSet
) -> None:
    outcomes = run(network, foregrounds, backgrounds)
    assert sum(outcome.tried for outcome in outcomes) == sum(network.seen)
    assert max(network.seen) == 64
    assert {o.tried for o in outcomes if o.broken_by < 0} == {len(backgrounds)}


def test_a_background_that_breaks_many_is_found_five_times_as_fast() -> None:
    class Dark(nn.Module):
        """Reads every image right but those on the one black background."""

        def forward(self, images: Tensor) -> Tensor:
            is_black = images[:, 0, 0, 0] == 0
            return torch.stack([~is_black, is_black], dim=1).double()

    bright = torch.full((400, 3, 8, 8), 9, dtype=torch.uint8)
    bright[-1] = 0  # last, so that scanning in order looks at all
    behind = ImageSet(bright, Factors.aligned(torch.zeros(400).long()), torch.arange(400))
    objects = noise(50, 0, masks=True)
    objects = ImageSet(
        objects.pixels, Factors.aligned(torch.zeros(50).long()), objects.ids, objects.masks
    )
    outcomes = list(attack(Dark(), objects, behind, decision_rule=probabilities))
    assert {outcome.broken_by for outcome in outcomes} == {399}
    assert sum(outcome.tried for outcome in outcomes) * 5 < 50 * 400


def test_an_interrupted_search_goes_on_where_it_was(
    network: Counting, foregrounds: ImageSet, backgrounds: ImageSet, tmp_path: Path
) -> None:
    whole = run(network, foregrounds, backgrounds)
    path = tmp_path / "deep" / "kept.jsonl"

    def go_on(earlier: Sequence[Outcome]) -> list[Outcome]:
        return run(network, foregrounds, backgrounds, earlier)[len(earlier) :]

    def lazily(earlier: Sequence[Outcome]):  # type: ignore[no-untyped-def]
        return iter(go_on(earlier))

    kept = outcomes_kept(path, lazily)
    first = [next(kept) for _ in range(12)]
    kept.close()  # type: ignore[attr-defined]
    path.write_text(path.read_text() + '{"broken_by": 3, "pred')  # cut short
    network.seen.clear()
    assert list(outcomes_kept(path, lazily)) == whole
    assert sum(network.seen) == sum(outcome.tried for outcome in whole[len(first) :])
    network.seen.clear()
    assert list(outcomes_kept(path, lazily)) == whole
    assert network.seen == []


def test_objects_without_masks_are_refused(network: Counting, backgrounds: ImageSet) -> None:
    with pytest.raises(ValueError, match="needs masks"):
        list(attack(network, noise(3, 0), backgrounds, decision_rule=probabilities))


def test_the_score_is_the_share_of_objects_that_nothing_breaks() -> None:
    outcomes = [Outcome(-1, 1, 0.5, 20, 0), Outcome(4, 0, 0.5, 16, 8), Outcome(9, 0, 0.5, 18, 0)]
    images = noise(3, 0)
    images = ImageSet(images.pixels, Factors.aligned(torch.tensor([1, 1, 2])), images.ids)
    seen = predictions_of(outcomes, images, 20)
    found = {score.metric: estimate for score, estimate in score_suite(CHALLENGE, seen).items()}
    assert found["accuracy"].value == pytest.approx(1 / 3)
    # Half of 16 mislead the second; two of 16 that do not are 28 pairs of 120.
    assert found["accuracy_against_1"].value == pytest.approx((1 + 8 / 16 + 1) / 3)
    assert found["accuracy_against_2"].value == pytest.approx((1 + 28 / 120 + 1) / 3)
    assert found["accuracy_against_16"].value == pytest.approx(2 / 3)
    assert found["accuracy_against_16"].n == 3
    assert found["accuracy_against_1"].low < found["accuracy_against_1"].value


def test_the_curve_is_that_of_looking_at_so_many_backgrounds_drawn_at_random(
    network: Counting, foregrounds: ImageSet, backgrounds: ImageSet
) -> None:
    seen = predictions_of(run(network, foregrounds, backgrounds), foregrounds, len(backgrounds))
    for k in (1, 4, AT_RANDOM):
        right = []
        for i in range(len(foregrounds)):
            first = random_backgrounds(len(backgrounds), i)
            alone = foregrounds.select(slice(i, i + 1))
            misled = [
                by_brute_force(network, alone, backgrounds.select(each))[0]
                for each in first[:, None]
            ]
            n_harmless = AT_RANDOM - sum(misled)
            right.append(comb(n_harmless, k) / comb(AT_RANDOM, k))
        score = next(s for s in CHALLENGE.scores if s.metric == f"accuracy_against_{k}")
        assert score.compute(seen).value == pytest.approx(sum(right) / len(right))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An ImageNet-9 of one object a class, before or beside which nothing is."""
    folder = tmp_path / "bg_challenge"
    for label, name in enumerate(IN9_CLASSES):
        stem = f"n0000000{label}_1"
        for variant in IN9_VARIANTS:
            (folder / variant / "val" / name).mkdir(parents=True)
            path = folder / variant / "val" / name / f"{stem}.JPEG"
            Image.new("RGB", (224, 224), (label, 0, 0)).save(path)
        (folder / "fg_mask" / "val" / name).mkdir(parents=True)
        mask = np.zeros((224, 224), dtype=bool)
        mask[100:] = True
        np.save(folder / "fg_mask" / "val" / name / f"{stem}.npy", mask)
    return folder


def test_objects_masks_and_backgrounds_are_found_in_the_official_layout(archive: Path) -> None:
    sets = challenge_variants(DataSource(folder=archive))
    masks = sets["foregrounds"].masks
    assert masks is not None
    assert masks.shape == (9, 1, 224, 224)
    assert masks[:, :, 100:].unique().tolist() == [255]
    assert masks[:, :, :100].unique().tolist() == [0]
    assert len(sets["backgrounds"]) == 9


@pytest.mark.parametrize(
    ("spoil", "message"),
    [("name", "has other names than"), ("shape", r"is a mask of \(9, 9\), expected \(224, 224\)")],
)
def test_masks_that_do_not_fit_are_refused(spoil: str, message: str, archive: Path) -> None:
    path = next((archive / "fg_mask" / "val" / "00_dog").iterdir())
    if spoil == "name":
        path.rename(path.with_name("other.npy"))
    else:
        np.save(path, np.zeros((9, 9)))
    with pytest.raises(ValueError, match=message):
        challenge_variants(DataSource(folder=archive))


def test_how_many_masks_are_empty_is_said(archive: Path, caplog: pytest.LogCaptureFixture) -> None:
    challenge_variants(DataSource(folder=archive))
    assert not caplog.records
    np.save(next((archive / "fg_mask" / "val" / "00_dog").iterdir()), np.zeros((224, 224)))
    challenge_variants(DataSource(folder=archive))
    assert "1 of 9 masks are empty" in caplog.text


def test_another_mask_makes_the_challenge_another_one(archive: Path) -> None:
    before = challenge_variants(DataSource(folder=archive))["foregrounds"].sha256()
    np.save(next((archive / "fg_mask" / "val" / "00_dog").iterdir()), np.ones((224, 224)))
    assert challenge_variants(DataSource(folder=archive))["foregrounds"].sha256() != before


def test_the_command_line_runs_the_challenge_and_says_what_it_took(
    archive: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    class AlwaysDog(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.nn.functional.one_hot(torch.full((len(images),), 151), 1_000).double()

    always_dog = Pretrained(
        spec="efficientnet-lite0",
        module=AlwaysDog(),
        weights_sha256="w",
        preprocessing=IMAGENET,
        n_classes=1_000,
    )
    patch_commands(monkeypatch, "load_model", lambda spec: always_dog)
    monkeypatch.setenv("CGN_BENCH_CACHE", str(tmp_path / "cache"))
    results = tmp_path / "results"
    text = f"--suite in9-challenge --model efficientnet-lite0 --data {archive.parent} --device cpu"
    assert cli.main([*text.split(), "--results", str(results)]) == 0
    # With nine backgrounds all are among those drawn at random.
    assert "81 of 81 composites had to be looked at" in capsys.readouterr().err
    row = read_runs(results).to_dict("records")[0]
    assert (row["suite"], row["source"], row["n"]) == ("in9-challenge", "official-part", 9)
    assert row["value"] == pytest.approx(1 / 9)
