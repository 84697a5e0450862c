from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from support import ROOT, FirstRow, Flip, tiny_suite
from torch import nn

import benchmarks
from benchmarks import compare, run, score
from benchmarks.records.runs import read_runs


def test_a_run_from_python_leaves_what_a_run_of_the_command_line_does(tmp_path: Path) -> None:
    suite = tiny_suite()
    models = {"mine": FirstRow(), "other": nn.Sequential(FirstRow(), Flip())}
    rows = run(models, [suite], data="embedded", results=tmp_path)
    assert rows["model"].tolist() == ["mine"] * 3 + ["other"] * 3
    assert read_runs(tmp_path)["value"].tolist() == rows["value"].tolist()
    board = pd.read_csv(tmp_path / "tiny.csv")
    assert board["model"].tolist() == ["mine", "other"]
    assert len([*tmp_path.glob("predictions/tiny/**/*.parquet")]) == 2


def test_what_was_run_from_python_is_compared(tmp_path: Path) -> None:
    suite = tiny_suite()
    models = {"mine": FirstRow(), "other": nn.Sequential(FirstRow(), Flip())}
    run(models, [suite], data="embedded", results=tmp_path)
    table = compare("mine", "other", [suite], results=tmp_path).set_index("score")
    with pytest.warns(UserWarning, match="labels in another order"):
        shares = score(models["other"], suite, data="embedded")
    easy = table.loc["easy_accuracy"]
    assert easy["first"] == 1
    assert easy["value"] == pytest.approx(1 - shares["easy_accuracy"].value)
    assert easy["p_value"] < 0.001
    with pytest.raises(ValueError, match="holds no embedded predictions of both mine and nobody"):
        compare("mine", "nobody", [suite], results=tmp_path)


def test_a_precision_has_rows_of_its_own(tmp_path: Path) -> None:
    module = {"mine": FirstRow()}
    rows = run(module, [tiny_suite()], data="embedded", results=tmp_path, precision="bfloat16")
    assert set(rows["model"]) == {"mine+bfloat16"}


def test_a_suite_of_no_such_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown suite 'in99'; did you mean 'in9'"):
        score(FirstRow(), "in99")


@pytest.mark.parametrize("name", benchmarks.__all__)
def test_what_the_package_offers_is_there(name: str) -> None:
    assert getattr(benchmarks, name) is not None
    assert name in dir(benchmarks)


def test_the_package_is_imported_without_pytorch() -> None:
    code = "import sys, benchmarks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
