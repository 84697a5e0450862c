"""Names come from users, files and servers: the terminal shows them, and obeys none."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.table import Table
from support import FirstRow, patch_suites, run_model, tiny_suite

from benchmarks import cli
from benchmarks.cli.output import Output, PlainConsole
from benchmarks.core.evaluate import evaluate
from benchmarks.core.suite import EMBEDDED
from cgn.io.text import printable

HOSTILE = {
    "clears the screen": "a\x1b[2J\x1b[Hb",
    "names the window": "a\x1b]0;owned\x07b",
    "8-bit escape": "a\x9b31mb",
    "overwrites the line": "all rows hold\rb",
    "erases": "abc\x08\x08\x08xyz",
    "another line": "a\nproblems: 0",
    "line separator": "a\u2028b",
    "turns the direction": "a\u202etxt.exe",
    "isolates": "a\u2066b\u2069",
    "invisible": "a\u200bb\ufeff",
    "half a character": "a\udcffb",
    "nothing": "a\x00b",
    "deletes": "a\x7fb",
    "link": "a\x1b]8;;https://example.org\x1b\\b\x1b]8;;\x1b\\",
}
MARKUP = ["[bold]a[/bold]", "[/]", "a[link=https://example.org]b[/link]", ":smile:", "[red"]

hostile = pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)


def orders(text: str) -> list[str]:
    """Characters that a terminal would obey, but for the ends of lines."""
    return [each for each in text if not each.isprintable() and each != "\n"]


@hostile
def test_what_a_terminal_would_obey_becomes_visible(name: str) -> None:
    assert printable(name).isprintable()
    assert len(printable(name)) > len(name)


def test_other_words_stay_as_they_are() -> None:
    for text in ("timm:resnet50.a1_in1k", "Zoë/狗 犬", "50.0 [40.4, 59.6]", "a\\b", "U²-Net é"):
        assert printable(text) == text


@pytest.mark.parametrize("name", [*HOSTILE.values(), *MARKUP])
def test_a_table_shows_hostile_names_wherever_they_stand(name: str) -> None:
    console = PlainConsole(file=io.StringIO(), width=400)
    table = Table(name, title=f"title {name}", caption=f"caption {name}", min_width=200)
    table.add_row(name)
    console.print(table, f"line {name}")
    console.print(f"alone {name}")
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert orders(said) == []
    assert said.count(printable(name)) == 6


@hostile
def test_a_bar_shows_hostile_names(name: str) -> None:
    with Output().progress() as shown, shown.task(f"{name}: weights"):
        bars = shown.display
        bars.console.file = io.StringIO()
        bars.console.print(*bars.get_renderables(), f"not run: {name}")
        said = bars.console.file.getvalue()
    assert printable(name) in " ".join(said.split())
    assert orders(said) == []


@pytest.mark.parametrize(
    "command",
    [
        lambda name: ["--suite", name, "--model", "erm"],
        lambda name: ["--suite", "in9", "--model", name],
        lambda name: ["--suite", "in9", "--model", f"shipped:{name}"],
        lambda name: ["--suite", "in9", "--model", "erm", "--data", name],
        lambda name: ["--suite", "in9", "--model", "erm", "--protocol", name],
        lambda name: ["compare", name, "erm"],
        lambda name: ["compare", "erm", "cgn", "--source", name],
        lambda name: ["data", name],
        lambda name: ["fit", "--images", name, "--real-only", "--out", "a.safetensors"],
        lambda name: ["fit", "--images", ".", "--real-only", "--backbone", name, "--out", "a"],
        lambda name: ["report", "--results", name],
        lambda name: ["check", "--results", name],
        lambda name: ["train", "cgn", "--suite", name],
        lambda name: ["counterfactuals", "--weights", name, "--out", "a", "--n", "1"],
        lambda name: [name],
        lambda name: ["run", f"--{name}"],
    ],
)
def test_an_error_shows_hostile_words_in_one_line(
    command: Callable[[str], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CGN_BENCH_CACHE", str(tmp_path / "cache"))
    assert cli.main(command("".join(HOSTILE.values()))) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert orders(shown.err) == []


def test_hostile_names_in_committed_rows_are_shown_by_every_command_that_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = tiny_suite()
    patch_suites(monkeypatch, {suite.name: suite})
    torch.manual_seed(0)
    predictions = evaluate(FirstRow(), suite.variants(EMBEDDED))[0]
    name = "".join(HOSTILE.values()).replace("\udcff", "")  # which no table holds
    for model in (name, "erm"):
        run_model(tmp_path, predictions, model=model)
    for words in (["compare", name, "erm"], ["check"], ["rescore"], ["list"]):
        assert cli.main([*words, "--results", str(tmp_path)]) in (0, 1, 2)
        shown = capsys.readouterr()
        assert orders(shown.out + shown.err) == []
