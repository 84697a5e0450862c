"""How words become arguments: suggestions, settings from files, JSON, and what help costs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, FirstRow, patch_suites, run_model, tiny_suite

from benchmarks import cli
from benchmarks.cli.app import COMMANDS, command_line, full_words
from benchmarks.core.evaluate import evaluate
from benchmarks.core.suite import EMBEDDED
from cgn.training.imagenet_config import IMAGENET_PRESETS
from cgn.training.small import PRESETS


def parsed(text: str) -> dict[str, Any]:
    """The arguments that a command would be called with."""
    words = full_words(text.split())
    _, bound, _ = command_line().parse_args(words, print_error=False, exit_on_error=False)
    return bound.arguments


def test_help_imports_no_tensor_library() -> None:
    code = "import sys; from benchmarks.cli import main; main(['--help']); 'torch' in sys.modules"
    shown = subprocess.run(
        [sys.executable, "-c", f"{code} and print('PyTorch')"], cwd=ROOT, capture_output=True
    )
    assert b"Score models" in shown.stdout
    assert b"PyTorch" not in shown.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_has_examples(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*name.split(" "), "--help"]) == 0
    shown = capsys.readouterr().out
    assert "bench.py " in shown.partition("─╯")[2]
    assert COMMANDS[name].about[:30] in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--suite in8 --model erm", "unknown suite 'in8'; did you mean 'in9'?"),
        ("--suite erm --model in9", "unknown suite 'erm'; it is the name of a model"),
        (
            "--suite in9 --model resnet50",
            "unknown model 'resnet50'; as a pretrained network write timm:resnet50.a1_in1k or "
            "tv:resnet50@IMAGENET1K_V1",
        ),
        ("--suite in9 --model erm --seed 1", "no flag --seed; did you mean '--seeds'?"),
        ("--suite in9 --model erm --precision half", "expected float32, bfloat16, got 'half'"),
        ("data minst", "unknown data set 'minst'; did you mean 'mnist'?"),
        ("in9", "there is no command 'in9'; it is the name of a suite"),
        ("--suite in9 --suite in9 --model erm", "--suite specified multiple times"),
        ("train cgn --suite in9 --weight-style 1", "did you mean '--weights.style'?"),
    ],
)
def test_what_is_unknown_gets_a_suggestion(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words.split()) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


def test_settings_come_from_words_then_a_file_then_the_preset(tmp_path: Path) -> None:
    path = tmp_path / "settings.toml"
    path.write_text("steps = 33\nwidth = 8\n[weights]\nstyle = 0.25\n")
    text = f"train cgn --suite colored-mnist --config {path} --steps 1500"
    config = parsed(text)["config"]
    preset = PRESETS["colored-mnist"]
    assert (config.steps, config.width, config.weights.style) == (1500, 8, 0.25)
    assert (config.tile_px, config.soft_edges) == (preset.tile_px, preset.soft_edges)


def test_the_authors_preset_of_imagenet_is_taken_and_its_scale_names_the_command() -> None:
    text = "train cgn --suite in9 --scale imagenet --u2net random:8 --preset code"
    assert parsed(text)["config"] == IMAGENET_PRESETS["code"]
    assert parsed(text) == parsed(text.replace("--scale imagenet", "--scale=imagenet"))


@pytest.mark.parametrize(
    ("content", "message"),
    [("stepz = 1", "has an unknown setting stepz; did you mean '--steps'?"), ("a b", "is no TOML")],
)
def test_a_file_of_settings_that_cannot_be_meant_is_named(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "settings.toml"
    path.write_text(content)
    assert cli.main(["train", "cgn", "--suite", "in9", "--config", str(path)]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert str(path) in shown


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    suite = tiny_suite()
    patch_suites(monkeypatch, {suite.name: suite})
    monkeypatch.setenv("CGN_BENCH_CACHE", str(tmp_path / "cache"))
    table = evaluate(FirstRow(), suite.variants(EMBEDDED))[0]
    for model in ("erm", "cgn"):
        run_model(tmp_path / "results", table, model=model)
    return tmp_path / "results"


def test_json_is_all_that_a_command_prints(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in ("compare erm cgn", "list", "check", "rescore"):
        cli.main([*words.split(), "--json", "--results", str(results)])
        for line in capsys.readouterr().out.splitlines():
            json.loads(line)


def test_a_quiet_command_prints_results_alone(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["rescore", "--results", str(results)]) == 0
    assert "rows added: 0" in capsys.readouterr().out
    assert cli.main(["rescore", "--quiet", "--results", str(results)]) == 0
    assert capsys.readouterr().out == ""


def test_results_lie_where_the_command_is_given(tmp_path: Path) -> None:
    code = "from benchmarks.cli.arguments import RESULTS, WEIGHTS; print(RESULTS, WEIGHTS)"
    command = [sys.executable, "-c", f"import sys; sys.path[0] = {str(ROOT)!r}; {code}"]
    for folder in (ROOT, tmp_path):
        shown = subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout
        assert shown.split() == ["results", "classifiers/weights"]
