"""Each way in which results can stop to hold is tried out, and found."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from support import TINY_SHA256, FirstRow, edit, run_model, tiny_suite

from benchmarks.core.evaluate import evaluate
from benchmarks.core.suite import EMBEDDED, TestSet
from benchmarks.records.answers import check_answers
from benchmarks.records.check import check, check_weights, summary
from benchmarks.records.gate import check_regression
from benchmarks.records.history import check_history, results_at_revision
from benchmarks.records.leaderboard import write_leaderboards
from benchmarks.records.predictions import Run, load, save

SUITES = {"tiny": tiny_suite("tiny")}
HASHES = {"tiny": TINY_SHA256}
PREDICTIONS = evaluate(FirstRow(), SUITES["tiny"].variants(EMBEDDED))[0]


def worse(predictions: pd.DataFrame) -> pd.DataFrame:
    """Miss two images of three."""
    missed = predictions["index"] % 3 > 0
    return predictions.assign(prediction=predictions["shape"].where(~missed, 3))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    run_model(folder, PREDICTIONS, seed=0)
    run_model(folder, PREDICTIONS, seed=1)
    return folder


@pytest.fixture
def before(results: Path, tmp_path: Path) -> Path:
    shutil.copytree(results, tmp_path / "before")
    return tmp_path / "before"


def found(results: Path) -> str:
    return "\n".join(check(results, SUITES, HASHES))


def test_what_runs_leave_behind_holds(results: Path, before: Path) -> None:
    assert check(results, SUITES, HASHES) == []
    assert check_history(before, results) == []
    assert check_regression(before, results, SUITES) == []


def test_an_empty_folder_holds(tmp_path: Path) -> None:
    assert check(tmp_path, SUITES, {}) == []


def test_rows_that_were_appended_hold(results: Path, before: Path) -> None:
    run_model(results, PREDICTIONS, seed=2)
    assert check(results, SUITES, HASHES) + check_history(before, results) == []


def test_rows_to_which_a_column_was_added_are_still_there(results: Path, before: Path) -> None:
    edit(before / "runs.csv", lambda lines: [line.rpartition(",")[0] for line in lines])
    assert check_history(before, results) == []
    edit(results / "runs.csv", lambda lines: [*lines[:2], *lines[3:]])
    assert len(check_history(before, results)) == 1


def test_a_deleted_row_is_missed(results: Path, before: Path) -> None:
    edit(results / "runs.csv", lambda lines: lines[:2] + lines[3:])
    assert "tiny embedded erm seed 0 easy accuracy: lacks the row of hard accuracy" in found(
        results
    )
    (problem,) = check_history(before, results)
    assert problem.startswith("runs.csv: a row vanished or was changed: tiny,1,embedded")
    assert problem.endswith("hard,accuracy")


def test_a_doubled_row_is_named(results: Path) -> None:
    edit(results / "runs.csv", lambda lines: [*lines[:3], lines[2], *lines[3:]])
    assert "tiny embedded erm seed 0 hard accuracy: doubled" in found(results)


def test_an_edited_value_is_named(results: Path, before: Path) -> None:
    first = (results / "runs.csv").read_text().splitlines()[1].split(",")
    place = list(pd.read_csv(before / "runs.csv").columns).index("value")
    edited = [*first[:place], "0.123", *first[place + 1 :]]
    edit(results / "runs.csv", lambda lines: [lines[0], ",".join(edited), *lines[2:]])
    assert "seed 0 easy accuracy: does not follow from its predictions" in found(results)
    assert len(check_history(before, results)) == 1


def test_rows_in_another_order_are_found(results: Path, before: Path) -> None:
    edit(results / "runs.csv", lambda lines: [lines[0], lines[2], lines[1], *lines[3:]])
    (problem,) = check_history(before, results)
    assert problem.startswith("runs.csv line 2: rows changed their order, from tiny,1,embedded")


def test_a_stale_leaderboard_is_found(results: Path) -> None:
    edit(results / "tiny.csv", lambda lines: [lines[0], lines[1].replace("erm", "mine")])
    assert "tiny.csv line 2 does not follow from runs.csv" in found(results)
    (results / "tiny.csv").unlink()
    assert "tiny.csv line 1 does not follow from runs.csv" in found(results)


@pytest.mark.parametrize(
    ("name", "cell", "said"),
    [
        ("commit", "", "lacks commit"),
        ("torch", "", "lacks torch"),
        ("commit", "c0-dirty", "made with changes that are in no commit"),
    ],
)
def test_a_row_without_provenance_is_named(results: Path, name: str, cell: str, said: str) -> None:
    table = pd.read_csv(results / "runs.csv", dtype=str)
    table.loc[0, name] = cell
    table.to_csv(results / "runs.csv", index=False)
    assert f"tiny embedded erm seed 0 easy accuracy: {said}" in found(results)


def test_changed_test_images_ask_for_a_new_version_of_the_protocol(results: Path) -> None:
    problems = check(results, SUITES, {"tiny": "another hash"})
    assert len(problems) == 2  # one a seed
    assert all("give its protocol a new version" in problem for problem in problems)


def test_rows_of_an_older_protocol_need_not_hold_any_more(results: Path) -> None:
    newer = {"tiny": replace(SUITES["tiny"], protocol="2")}
    write_leaderboards(results, newer.values())
    assert check(results, newer, {"tiny": "another hash"}) == []


def test_rows_of_an_unknown_suite_are_named(results: Path) -> None:
    assert "runs.csv has rows of 'tiny', which is no suite" in check(results, {}, {})


def test_predictions_that_are_gone_or_of_another_run_are_named(results: Path) -> None:
    path = next(results.rglob("seed0.parquet"))
    table, run = load(path)
    save(table, path, replace(run, weights_sha256="others"))
    assert "its predictions are of another weights_sha256" in found(results)
    path.unlink()
    assert "there is no file" in found(results)


def test_worse_weights_are_found_and_the_score_is_named(results: Path, before: Path) -> None:
    for seed in (0, 1):
        run_model(results, worse(PREDICTIONS), seed=seed, weights="worse")
    assert check(results, SUITES, HASHES) == []
    problems = check_regression(before, results, SUITES)
    assert [problem.split(":")[0] for problem in problems] == [
        "tiny embedded erm easy_accuracy",
        "tiny embedded erm hard_accuracy",
    ]


def committed(results: Path) -> Run:
    return load(next(results.rglob("seed0.parquet")))[1]


def test_shipped_weights_that_answer_worse_than_committed_are_named_by_row(results: Path) -> None:
    problems = check_weights(results, [(committed(results), worse(PREDICTIONS))])
    assert [problem.split(":")[0] for problem in problems] == [
        "tiny embedded erm seed 0 easy",
        "tiny embedded erm seed 0 hard",
    ]
    assert "answer worse than the committed predictions, 35.0 instead of 100.0 %" in problems[0]


def test_shipped_weights_that_another_machine_rounds_otherwise_hold(results: Path) -> None:
    rounded = PREDICTIONS.assign(confidence=PREDICTIONS["confidence"] + 1e-4)
    rounded.loc[[3, 50], "prediction"] = (rounded.loc[[3, 50], "shape"] + 1) % 3
    assert check_weights(results, [(committed(results), rounded)]) == []


def test_shipped_weights_that_are_better_hold_if_they_are_those_of_the_row(results: Path) -> None:
    run_model(results, worse(PREDICTIONS), seed=0)
    assert check_weights(results, [(committed(results), PREDICTIONS)]) == []
    others = replace(committed(results), weights_sha256="others")
    (problem,) = check_weights(results, [(others, PREDICTIONS)])
    assert problem.startswith("tiny embedded erm seed 0: the shipped weights are others now")


def test_shipped_weights_whose_committed_predictions_are_gone_are_named(results: Path) -> None:
    run = committed(results)
    run.path(results).unlink()
    (problem,) = check_weights(results, [(run, PREDICTIONS)])
    assert problem.startswith("tiny embedded erm seed 0: there is no file")


def test_a_run_whose_rows_are_all_gone_is_named_by_its_predictions(results: Path) -> None:
    edit(results / "runs.csv", lambda lines: [lines[0], *(x for x in lines if ",erm,w,0," in x)])
    assert "predictions/tiny/embedded/erm/seed1.parquet: runs.csv has no rows of it" in found(
        results
    )


def test_better_weights_and_a_few_other_answers_are_no_regression(
    results: Path, before: Path
) -> None:
    changed = PREDICTIONS.copy()
    changed.loc[[3, 50], "prediction"] = (changed.loc[[3, 50], "shape"] + 1) % 3
    for seed in (0, 1):
        run_model(results, changed, seed=seed, weights="other")
    assert check_regression(before, results, SUITES) == []
    for seed in (0, 1):
        run_model(before, worse(PREDICTIONS), seed=seed, weights="worse")
    assert check_regression(before, results, SUITES) == []


def test_predictions_on_other_images_are_not_compared(results: Path, before: Path) -> None:
    for path in results.rglob("*.parquet"):
        table, run = load(path)
        save(worse(table), path, replace(run, data_sha256="other images"))
    assert check_regression(before, results, SUITES) == []


def five_points_worse(predictions: pd.DataFrame) -> pd.DataFrame:
    """Miss two of the forty images of a variant."""
    missed = (predictions["variant"] == "hard") & (predictions["index"] < 2)
    return predictions.assign(prediction=predictions["prediction"].where(~missed, 3))


def test_five_points_of_one_row_of_the_same_weights_are_found(results: Path, before: Path) -> None:
    run_model(results, five_points_worse(PREDICTIONS), seed=1)
    problems = check_regression(before, results, SUITES)
    assert (
        "tiny embedded erm seed 1 hard_accuracy: the same weights give 95.0 % instead of 100.0 %"
        in problems
    )


def test_answers_of_the_same_weights_that_got_better_are_found_too(
    results: Path, before: Path
) -> None:
    for folder, table in ((before, worse(PREDICTIONS)), (results, PREDICTIONS)):
        run_model(folder, table, seed=1, weights="again")
    found_here = "\n".join(check_regression(before, results, SUITES))
    assert "seed 1 hard_accuracy: the same weights give 100.0 % instead of 35.0 %" in found_here


def test_one_answer_of_forty_that_another_machine_rounds_otherwise_holds(
    results: Path, before: Path
) -> None:
    rounded = PREDICTIONS.copy()
    rounded["prediction"] = rounded["prediction"].mask(
        rounded.index == 3, (rounded["shape"] + 1) % 3
    )
    run_model(results, rounded, seed=1)
    assert check_regression(before, results, SUITES) == []


def test_a_large_drop_of_other_weights_is_found_among_models_that_did_not_change(
    results: Path, before: Path
) -> None:
    for model in map(str, range(4)):
        for folder in (before, results):
            for seed in (0, 1, 2):
                run_model(folder, PREDICTIONS, model=model, seed=seed, weights=folder.name)
    for seed in (0, 1, 2):
        run_model(results, worse(PREDICTIONS), model="2", seed=seed, weights="new")
    problems = check_regression(before, results, SUITES)
    assert [problem.split(":")[0] for problem in problems] == [
        "tiny embedded 2 easy_accuracy",
        "tiny embedded 2 hard_accuracy",
    ]


TESTS = {
    "tiny": TestSet(SUITES["tiny"], EMBEDDED, SUITES["tiny"].variants(EMBEDDED), TINY_SHA256, "1")
}


def test_predictions_of_the_suites_images_hold(results: Path) -> None:
    assert check_answers(results, SUITES, TESTS) == []
    assert check_answers(results, SUITES, {}) == []


@pytest.mark.parametrize(
    ("forge", "said"),
    [
        (lambda table: table[table["index"] != 5], "lack 2 images, such as image 5 of easy"),
        (lambda table: pd.concat([table, table[:1]]), "have image 0 of easy twice"),
        (
            lambda table: table.assign(shape=table["prediction"].where(table["index"] > 0, 2)),
            "have another shape of image 0 of",
        ),
        (lambda table: table.assign(id=table["id"] + 1), "have another id of image 0 of easy"),
    ],
)
@pytest.mark.parametrize("tests", [TESTS, {}])
def test_forged_predictions_are_named_with_or_without_the_images(
    results: Path,
    tests: dict[str, TestSet],
    forge: Callable[[pd.DataFrame], pd.DataFrame],
    said: str,
) -> None:
    run_model(results, forge(PREDICTIONS), seed=2)
    (problem,) = check_answers(results, SUITES, tests)
    assert problem.startswith("tiny embedded erm seed 2: its predictions")
    assert said in problem


def test_a_newer_row_of_the_same_weights_with_another_score_is_named(results: Path) -> None:
    run_model(results, worse(PREDICTIONS), seed=0)
    problems = check_answers(results, SUITES, TESTS)
    assert (
        "tiny embedded erm seed 0 hard accuracy: 35.0 %, and the same weights gave 100.0 % before"
        in problems
    )
    run_model(results, PREDICTIONS, seed=1, weights="other")
    assert len(check_answers(results, SUITES, TESTS)) == len(problems)


@pytest.fixture
def repository(results: Path) -> Path:
    """The folder of results in a repository, all of it in one commit."""

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "-C", results, *identity, *arguments], check=True)

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "rows")
    return results


def test_an_earlier_state_comes_out_of_git(repository: Path) -> None:
    run_model(repository, PREDICTIONS, seed=2)
    with results_at_revision(repository, "HEAD") as there:
        assert len(list(there.rglob("*.parquet"))) == 2
        assert check_history(there, repository) == []
    assert not there.exists()


@pytest.mark.parametrize(
    "revision",
    [
        "nowhere",
        "",
        "--output=stolen",
        "--exec=touch stolen",
        "--remote=.",
        "HEAD:runs.csv",
        "HEAD --output=stolen",
        "-",
        "--end-of-options",
        "HEAD\nHEAD",
        "HEAD^{tree}",
    ],
)
def test_what_is_no_revision_is_refused_and_reaches_git_as_nothing_else(
    repository: Path, revision: str
) -> None:
    before = sorted(repository.rglob("*"))
    with (
        pytest.raises(ValueError, match=r"git has no .* at "),
        results_at_revision(repository, revision),
    ):
        pass
    assert sorted(repository.rglob("*")) == before


def test_the_summary_lists_problems_and_leaderboards() -> None:
    assert summary(["row x: doubled"], "| model |").splitlines() == [
        "### Benchmark: 1 problem",
        "",
        "- row x: doubled",
        "",
        "| model |",
    ]
    assert "All rows hold." in summary([], "")
