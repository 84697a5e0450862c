"""`bench.py check` ends with 1 and names the row, whatever is done to results, and else with 0."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from support import FirstRow, edit, patch_commands, patch_suites, run_model, tiny_images, tiny_suite
from torch import Tensor, nn

from benchmarks import cli
from benchmarks.core.evaluate import evaluate
from benchmarks.core.suite import EMBEDDED, Suite
from benchmarks.records.leaderboard import write_leaderboards
from classifiers.checkpoints import Shipped, load_shipped

SPEC = "shipped:cgn-ensemble"
SUITE = tiny_suite()
PREDICTIONS = evaluate(FirstRow(), SUITE.variants(EMBEDDED))[0]
Change = Callable[[Path, pytest.MonkeyPatch], None]


class FirstClass(nn.Module):
    """Worse weights: the same answer to every image."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.tensor([[1.0, 0.0, 0.0]]).expand(len(images), 3)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows of a recipe and of shipped weights, in a repository of their own."""
    folder = tmp_path / "results"
    for model, seed in (("erm", 0), ("erm", 1), (SPEC, 0)):
        run_model(folder, PREDICTIONS, model=model, seed=seed)
    monkeypatch.setenv("CGN_BENCH_CACHE", str(tmp_path / "cache"))
    patch_commands(monkeypatch, "outputs", lambda module, images: {"": module(images)})
    become(SUITE)(folder, monkeypatch)
    ship(FirstRow())(folder, monkeypatch)
    for command in ("init --quiet", "add .", "commit --quiet --message rows"):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "-C", folder, *identity, *command.split()], check=True)
    return folder


def ship(module: nn.Module, sha256: str = "w") -> Change:
    """Replace the shipped weights."""

    def change(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        about = {"seed": 0, "generator_seed": ""}
        patch_commands(monkeypatch, "load_shipped", lambda *_: Shipped(module, sha256, about))

    return change


def without_weights(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the shipped weights."""
    empty = partial(load_shipped, folder=results)
    patch_commands(monkeypatch, "load_shipped", lambda spec, world, _: empty(spec, world))


def become(suite: Suite) -> Change:
    """Replace the suite."""

    def change(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        patch_suites(monkeypatch, {suite.name: suite})

    return change


def lines(name: str, how: Callable[[list[str]], list[str]]) -> Change:
    """Change the lines of a file of results."""
    return lambda results, _: edit(results / name, how)


def without_a_run(results: Path, _: pytest.MonkeyPatch) -> None:
    """Remove all rows and predictions of one seed, and everything that follows from them."""
    path = results / "runs.csv"
    edit(path, lambda rows: [row for row in rows if ",erm,w,1," not in row])
    next(results.glob("predictions/tiny/embedded/erm/seed1.parquet")).unlink()
    write_leaderboards(results, [SUITE])


def of_other_images(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the test images otherwise, under the same version of the protocol."""
    monkeypatch.setenv("CGN_BENCH_CACHE", str(results.parent / "another-cache"))
    images = {"easy": tiny_images(1), "hard": tiny_images(7)}
    become(replace(SUITE, variants=lambda source: images))(results, monkeypatch)


def check(results: Path, *more: str) -> int:
    versions = str(results.parent / "protocols.csv")
    words = ["check", "--results", str(results), "--protocols", versions, "--against", "HEAD"]
    return cli.main([*words, *more])


def test_what_was_run_holds_with_any_number_of_threads(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = torch.get_num_threads()
    try:
        for n_threads in (1, 2):
            torch.set_num_threads(n_threads)
            assert check(results, "--pin") == 0, capsys.readouterr().out
    finally:
        torch.set_num_threads(before)
    assert "all rows hold" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("sabotage", "named"),
    [
        (lines("runs.csv", lambda x: x[:2] + x[3:]), "erm seed 0 easy accuracy: lacks the row"),
        (without_a_run, "a row vanished or was changed: tiny,1,embedded"),
        (lines("runs.csv", lambda x: [*x[:3], x[2], *x[3:]]), "seed 0 hard accuracy: doubled"),
        (
            lines("runs.csv", lambda x: [x[0], x[1].replace("1.0,", "0.9,", 1), *x[2:]]),
            "erm seed 0 easy accuracy: does not follow from its predictions",
        ),
        (
            lines("runs.csv", lambda x: [x[0], x[2], x[1], *x[3:]]),
            "rows changed their order, from tiny,1,embedded",
        ),
        (
            lines("tiny.csv", lambda x: [x[0], x[1].replace("erm", "mine"), *x[2:]]),
            "tiny.csv line 2 does not follow from runs.csv",
        ),
        (
            ship(FirstClass()),
            f"tiny embedded {SPEC} seed 0 hard: the shipped weights answer worse than the "
            "committed predictions",
        ),
        (
            ship(FirstRow(), "other weights"),
            f"tiny embedded {SPEC} seed 0: the shipped weights are others now",
        ),
        (without_weights, f"no classifier {SPEC} of tiny-world is shipped"),
        (
            become(replace(SUITE, decision_rule=lambda logits: logits.flip(1).softmax(1))),
            "tiny, protocol 1: it gives other numbers now; give it a new version",
        ),
        (
            become(replace(SUITE, primary="easy_accuracy")),
            "tiny, protocol 1: it gives other numbers now; give it a new version",
        ),
        (of_other_images, "tiny, protocol 1: it gives other test images now"),
        (of_other_images, "tiny embedded erm seed 0 easy accuracy: the suite's test images are"),
    ],
    ids=[
        "row-deleted",
        "run-deleted",
        "row-doubled",
        "row-edited",
        "rows-reordered",
        "leaderboard-stale",
        "weights-worse",
        "weights-other",
        "weights-gone",
        "protocol-decides-otherwise",
        "protocol-ranks-otherwise",
        "image-changed",
        "image-changed-under-rows",
    ],
)
def test_sabotage_ends_with_one_and_the_row_is_named(
    sabotage: Change,
    named: str,
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert check(results, "--pin") == 0, capsys.readouterr().out
    sabotage(results, monkeypatch)
    capsys.readouterr()
    assert check(results) == 1
    assert named in capsys.readouterr().out


def test_a_protocol_that_is_not_written_down_is_named_with_what_to_do(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(results) == 1
    said = capsys.readouterr().out
    assert "tiny, protocol 1: what it decides is not written down; `bench.py check --pin`" in said
