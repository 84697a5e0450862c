"""One set of predictions, scored under every protocol that it allows."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from benchmarks.core.environment import environment
from benchmarks.core.evaluate import evaluate, score_suite
from benchmarks.core.suite import Suite
from benchmarks.records.check import check
from benchmarks.records.leaderboard import write_leaderboards
from benchmarks.records.predictions import Run, load, save
from benchmarks.records.rescore import missing_rows
from benchmarks.records.runs import Row, append, read_runs
from benchmarks.records.sensitivity import FILE, sensitivity, write_sensitivity
from benchmarks.report.tables import sensitivity_table
from benchmarks.suites import OFFICIAL_SUITES
from benchmarks.worlds.imagenet import class_table, classes_of
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet

CUE_CONFLICT, IN9 = OFFICIAL_SUITES["cue-conflict"], OFFICIAL_SUITES["in9"]
NO_CLASS = 999  # an output that counts for no class
OVEN = 766
DOGS = [i for i, name in enumerate(class_table()["cue_conflict"]) if name == "dog"]
# What a network thinks of images with the shape of an oven, the only output of its class, and the
# texture of a dog, one of 109: probabilities by output.
SPREAD_OUT = {OVEN: 0.3, NO_CLASS: 0.1} | dict.fromkeys(DOGS, 0.6 / 109)
ONE_DOG = {OVEN: 0.1, NO_CLASS: 0.55, DOGS[0]: 0.35}
NOTHING = {OVEN: 0.05, NO_CLASS: 0.93, DOGS[0]: 0.02}
ONLY_DOGS = dict.fromkeys(DOGS, 1 / 109)
THOUGHTS = [SPREAD_OUT, *[ONE_DOG] * 2, *[NOTHING] * 3, *[ONLY_DOGS] * 4]
# By shape, of all decisions for a cue.
EXPECTED = {
    "cue-conflict@geirhos-avg-v2": 6 / 10,
    "cue-conflict@sum-v2": 3 / 10,
    "cue-conflict@argmax207-v2": 4 / 10,
    "cue-conflict@argmax1000-v2": 1 / 5,
    "cue-conflict@cgn-paper-v2": 7 / 10,  # sees the images otherwise
}


class Thinks(nn.Module):
    """Gives logits that are known, an image after the other."""

    def __init__(self, thoughts: list[dict[int, float]]) -> None:
        super().__init__()
        probabilities = torch.zeros(len(thoughts), 1_000)
        for row, thought in zip(probabilities, thoughts, strict=True):
            for output, probability in thought.items():
                row[output] = probability
        self.logits, self.seen = (probabilities + 1e-9).log(), 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return self.logits[self.seen - len(images) : self.seen]


def images_of(labels: Factors) -> ImageSet:
    n = len(labels.shape)
    return ImageSet(torch.zeros(n, 3, 1, 1, dtype=torch.uint8), labels, torch.arange(n))


def predicted(
    suite: Suite, variants: dict[str, ImageSet], thoughts: list[dict[int, float]]
) -> pd.DataFrame:
    assert suite.decision_rule is not None
    return evaluate(
        Thinks(thoughts),
        variants,
        decision_rule=suite.decision_rule,
        columns=suite.columns,
        n_classes=1_000,
    )[0]


def ovens_of_dogs(thoughts: list[dict[int, float]]) -> pd.DataFrame:
    names, n = classes_of("cue_conflict"), len(thoughts)
    shape, texture = (torch.full((n,), names.index(name)) for name in ("oven", "dog"))
    conflict = images_of(Factors(shape, texture, torch.full((n,), -1)))
    agree = images_of(Factors(texture[:1], texture[:1], torch.tensor([-1])))
    return predicted(CUE_CONFLICT, {"conflict": conflict, "agree": agree}, [*thoughts, ONLY_DOGS])


def keep(results: Path, suite: Suite, predictions: pd.DataFrame) -> None:
    """Leave behind what a run under one protocol does, but for rows of the others."""
    run = Run(
        suite=suite.name,
        protocol=suite.protocol,
        source="official",
        data_sha256="d",
        model="net",
        weights_sha256="w",
        seed=0,
    )
    kept = replace(run, protocol=suite.kept_as)
    save(predictions, kept.path(results, suite.view_name), kept)
    found = environment("cpu") | {"commit": "c0"}
    append(
        [
            Row(
                **asdict(run),
                variant=score.variant,
                metric=score.metric,
                **estimate._asdict(),
                images_per_second=1.0,
                **found,  # type: ignore[arg-type]
            )
            for score, estimate in score_suite(suite, predictions).items()
        ],
        results,
    )


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Predictions of one network on images as they are, and resized."""
    keep(tmp_path, CUE_CONFLICT, ovens_of_dogs(THOUGHTS))
    resized = CUE_CONFLICT.with_protocol("cue-conflict@cgn-paper-v2")
    keep(tmp_path, resized, ovens_of_dogs([SPREAD_OUT, *THOUGHTS[:-1]]))
    return tmp_path


def rescore(results: Path) -> int:
    suites = {CUE_CONFLICT.name: CUE_CONFLICT}
    added = append(missing_rows(results, suites), results)
    write_leaderboards(results, suites.values())
    write_sensitivity(results, suites.values())
    return added


def test_known_logits_give_known_numbers_under_five_protocols(results: Path) -> None:
    assert rescore(results) == 3 * len(CUE_CONFLICT.scores)
    runs = read_runs(results)
    biases = runs[runs["metric"] == "shape_bias"].set_index("protocol")["value"]
    assert biases.to_dict() == pytest.approx(EXPECTED)
    assert len({*EXPECTED.values()}) == 5
    assert rescore(results) == 0


def test_what_was_rescored_holds_until_a_number_is_changed(results: Path) -> None:
    rescore(results)

    def problems() -> list[str]:
        found = check(results, {CUE_CONFLICT.name: CUE_CONFLICT}, {})
        return [each for each in found if "changes that are in no commit" not in each]

    assert problems() == []
    path = results / "runs.csv"
    text = path.read_text()
    assert ",0.3," in text  # the shape bias by sums
    path.write_text(text.replace(",0.3,", ",0.31,", 1))
    assert any("does not follow from its predictions" in each for each in problems())
    assert any(f"{FILE} line" in each for each in problems())


def test_the_sensitivity_is_the_difference_from_the_suites_own_protocol(results: Path) -> None:
    rescore(results)
    table = pd.read_csv(results / FILE)
    biases = table[table["metric"] == "shape_bias"]
    assert biases["protocol"].tolist() == CUE_CONFLICT.protocol_names
    own = EXPECTED[CUE_CONFLICT.protocol]
    expected = [EXPECTED[name] - own for name in CUE_CONFLICT.protocol_names]
    assert biases["difference"].tolist() == pytest.approx(expected)
    shown = sensitivity_table(CUE_CONFLICT, table)
    assert shown.rows[0].cells[-1].text == "50.0"  # from 20 to 70
    one = read_runs(results).query("protocol == 'cue-conflict@sum-v2'")
    assert sensitivity(one, [CUE_CONFLICT]).empty


def test_predictions_without_other_decisions_allow_no_other_protocol(tmp_path: Path) -> None:
    old = ovens_of_dogs(THOUGHTS)
    keep(tmp_path, CUE_CONFLICT, old.drop(columns=list(CUE_CONFLICT.columns)))
    assert rescore(tmp_path) == 0
    assert not (tmp_path / FILE).exists()


def test_an_unknown_protocol_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"no protocol 'in9@v9', only in9@madry-v1, in9@argmax370"):
        IN9.with_protocol("in9@v9")
    assert IN9.with_protocol("in9@madry-v1") is IN9


def test_the_protocol_of_the_cgn_paper_divides_by_full_batches() -> None:
    fish, tench = 8, 0
    labels = Factors.aligned(torch.full((50,), fish))
    variants = dict.fromkeys(IN9.n_images, images_of(labels))
    seen = predicted(IN9, variants, [{tench: 1.0}] * 50 * len(variants))
    found = score_suite(IN9.with_protocol("in9@cgn-paper-v1"), seen)
    values = {score.key: estimate for score, estimate in found.items()}
    assert values["original_accuracy"].value == 50 / 64  # two batches of 32
    assert values["mixed_same-mixed_rand_bg_gap"].value == 0
    assert {each.value for each in score_suite(IN9, seen).values()} == {0, 1}


def test_only_outputs_that_count_for_a_class_decide_under_argmax370() -> None:
    italian_greyhound, tench = 171, 0  # the former counts for no class
    images = images_of(Factors.aligned(torch.tensor([8])))
    variants = dict.fromkeys(IN9.n_images, images)
    seen = predicted(IN9, variants, [{italian_greyhound: 0.9, tench: 0.1}] * len(variants))
    for name, expected in (("in9@madry-v1", 0), ("in9@argmax370-v1", 1)):
        values = {s.key: e.value for s, e in score_suite(IN9.with_protocol(name), seen).items()}
        assert values["original_accuracy"] == expected


def test_imagenet_a_is_harder_where_all_outputs_decide() -> None:
    suite = OFFICIAL_SUITES["imagenet-a"]
    tench, stingray = 0, 6  # of which there are no images, and the first that there are
    images = images_of(Factors(torch.tensor([0]), *[torch.tensor([-1])] * 2))
    seen = predicted(suite, {"hard": images}, [{tench: 0.9, stingray: 0.1}])
    found = [score_suite(suite.with_protocol(name), seen) for name in suite.protocol_names]
    right = [
        e.value for of_one in found for score, e in of_one.items() if score.key == suite.primary
    ]
    assert right == [1, 0]


def test_imagenet_counts_the_five_most_probable_and_the_classes_of_imagenet_a() -> None:
    suite = OFFICIAL_SUITES["imagenet"]
    fifth, sixth = ({i: 0.3 - i / 100 for i in range(n)} for n in (5, 6))
    tench, stingray = 0, 6
    among_200 = {tench: 0.9, stingray: 0.1}
    labels = Factors(torch.tensor([4, 5, stingray]), *[torch.full((3,), -1)] * 2)
    seen = predicted(suite, {"validation": images_of(labels)}, [fifth, sixth, among_200])
    values = {score.metric: estimate for score, estimate in score_suite(suite, seen).items()}
    assert values["accuracy"].value == 0
    assert values["top5_accuracy"].value == pytest.approx(2 / 3)
    assert values["accuracy_on_imagenet_a_classes"][:1] == (1.0,)
    assert values["accuracy_on_imagenet_a_classes"].n == 1


def test_what_else_is_said_of_images_is_kept(tmp_path: Path) -> None:
    seen = ovens_of_dogs(THOUGHTS)
    keep(tmp_path, CUE_CONFLICT, seen)
    table, _ = load(next(tmp_path.rglob("*.parquet")))
    for column in CUE_CONFLICT.columns:
        assert table[column].tolist() == seen[column].tolist()
