"""What a protocol decides is written down, and a change without a new version is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from support import TINY_SHA256, tiny_suite
from torch import Tensor

from benchmarks.core.scores import accuracy
from benchmarks.core.suite import Suite
from benchmarks.suites import ALL_SUITES, OFFICIAL_SUITES
from benchmarks.suites.decisions import decide_in9
from benchmarks.suites.protocols import PINNED, check_protocols, record_fingerprint, scores_sha256

HASHES = {"tiny": TINY_SHA256}
VERSIONS = [(suite, name) for suite in ALL_SUITES.values() for name in suite.protocol_names]


@pytest.fixture
def pinned(tmp_path: Path) -> Path:
    path = tmp_path / "protocols.csv"
    assert record_fingerprint([tiny_suite()], HASHES, path) == ["1"]
    return path


def sharpened(logits: Tensor) -> Tensor:
    return decide_in9(2 * logits)


@pytest.mark.parametrize(
    ("suite", "name"), [pytest.param(*version, id=version[1]) for version in VERSIONS]
)
def test_every_suites_scores_are_what_its_version_of_the_protocol_says(
    suite: Suite, name: str
) -> None:
    problems = check_protocols([suite.with_protocol(name)], {})
    assert [each for each in problems if "other test images" not in each] == []  # `check` sees them


def test_nothing_changed_is_no_problem_and_is_written_down_once(pinned: Path) -> None:
    assert check_protocols([tiny_suite()], HASHES, pinned) == []
    before = pinned.read_bytes()
    assert record_fingerprint([tiny_suite()], {"tiny": "other images"}, pinned) == []
    assert pinned.read_bytes() == before


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        (replace(tiny_suite(), primary="easy_accuracy"), "numbers"),
        (replace(tiny_suite(), scores=tiny_suite().scores[1:]), "numbers"),
        (replace(tiny_suite(), own_preprocessing=True), "numbers"),
        (replace(tiny_suite(), n_images={"easy": 40}), "numbers"),
    ],
)
def test_a_changed_suite_asks_for_a_new_version(changed: Suite, what: str, pinned: Path) -> None:
    assert check_protocols([changed], HASHES, pinned) == [
        f"tiny, protocol 1: it gives other {what} now; give it a new version"
    ]
    newer = replace(changed, protocol="2")
    (problem,) = check_protocols([newer], HASHES, pinned)
    assert problem.startswith("tiny, protocol 2: what it decides is not written down")
    assert record_fingerprint([newer], HASHES, pinned) == ["2"]
    assert check_protocols([newer], HASHES, pinned) == []
    assert check_protocols([tiny_suite()], HASHES, pinned) == []


def test_changed_test_images_ask_for_a_new_version(pinned: Path) -> None:
    assert check_protocols([tiny_suite()], {"tiny": "others"}, pinned) == [
        "tiny, protocol 1: it gives other test images now; give it a new version"
    ]


def test_another_rule_of_decision_and_another_score_move_the_hash() -> None:
    official = OFFICIAL_SUITES["in9"]
    assert scores_sha256(official) == scores_sha256(official)
    assert scores_sha256(official) != scores_sha256(replace(official, decision_rule=sharpened))
    texture = replace(accuracy("hard", chance=1 / 3, factor="texture"), higher_is_better=True)
    others = tuple(texture if s.variant == "hard" else s for s in tiny_suite().scores)
    assert scores_sha256(tiny_suite()) != scores_sha256(replace(tiny_suite(), scores=others))


def test_a_column_another_rule_and_another_view_move_the_hash() -> None:
    official = OFFICIAL_SUITES["in9"]
    of_last = {"prediction_mapped": lambda logits, labels: labels.shape}
    hashes = [scores_sha256(official.with_protocol(name)) for name in official.protocol_names]
    assert len({*hashes, scores_sha256(replace(official, columns=of_last))}) == len(hashes) + 1


def test_the_committed_file_has_each_version_once() -> None:
    lines = PINNED.read_text().splitlines()[1:]
    versions = [tuple(line.split(",")[:2]) for line in lines]
    assert len(set(versions)) == len(versions)
