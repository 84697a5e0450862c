"""Rows of speed: kept, read again, held against those of before."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import patch_commands

from benchmarks import cli, throughput
from benchmarks.throughput import (
    COMMIT,
    Measured,
    Speed,
    append_speeds,
    machine,
    measure_all,
    read_speeds,
    slower,
    speeds_markdown,
)

H100 = Speed(
    time="2026-01-01T00:00:00+00:00",
    commit="c0",
    device="cuda",
    card="NVIDIA H100",
    driver="580.1",
    python="3.12.1",
    torch="2.11.0",
    cuda="13.0",
    cudnn="91900",
    flags="cudnn.benchmark=False",
    benchmark="cgn-step",
    batch=64,
    form="graph",
    median_ms=4.5,
    iqr_ms=0.1,
    rounds=7,
    images_per_second=14_000.0,
)


def test_rows_are_added_and_read_again_as_they_were(tmp_path: Path) -> None:
    append_speeds([H100], tmp_path)
    append_speeds([replace(H100, batch=8, share_of_peak=0.25)], tmp_path)
    table = read_speeds(tmp_path)
    assert table["batch"].tolist() == [64, 8]
    assert table["card"].unique().tolist() == ["NVIDIA H100"]
    assert math.isnan(table["share_of_peak"][0])
    assert table["share_of_peak"][1] == 0.25


def test_a_file_of_other_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "throughput.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"throughput\.csv"):
        read_speeds(tmp_path)


def test_slower_is_what_has_less_than_its_share_of_the_newest_row_of_the_same_card(
    tmp_path: Path,
) -> None:
    append_speeds([replace(H100, images_per_second=1.0), H100], tmp_path)
    before = read_speeds(tmp_path)
    fine, slow = (replace(H100, images_per_second=speed) for speed in (12_600.0, 12_599.0))
    assert slower(before, [fine], 0.9) == []
    (line,) = slower(before, [slow], 0.9)
    assert line == "cgn-step batch 64 graph: 0.90 of the 14,000.0 images/s before"
    others = [replace(slow, card="A100"), replace(slow, batch=8), replace(slow, form="eager")]
    assert slower(before, others, 0.9) == []


def test_the_table_has_the_newest_row_of_each_card(tmp_path: Path) -> None:
    append_speeds(
        [H100, replace(H100, images_per_second=20.0), replace(H100, card="A100")], tmp_path
    )
    text = speeds_markdown(read_speeds(tmp_path))
    assert text.count("| cgn-step | 64 | graph |") == 2
    assert "20.0" in text
    assert "NVIDIA H100, PyTorch 2.11.0, CUDA 13.0, cuDNN 91900, driver 580.1:" in text


def test_the_commit_can_be_told_where_there_is_no_repository(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(COMMIT, "abc123")
    assert machine("cpu")["commit"] == "abc123"
    assert machine("cpu")["driver"] == ""


def test_an_installed_package_says_that_it_has_no_benchmarks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(throughput, "MODULE", tmp_path / "test_throughput.py")
    assert cli.main(["throughput", "--device", "cpu", "--results", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "run this in a checkout" in error
    assert error.count("\n") == 1


def test_what_no_benchmark_fits_is_said_in_one_line() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        measure_all(torch.device("cpu"), "no_such_benchmark", quick=True)


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one row, in which nothing is measured in truth."""
    append_speeds([H100], tmp_path)
    slow = replace(H100, images_per_second=7_000.0)
    measured = Measured([slow], ["test_speed[x] - OutOfMemoryError"], 3, cut=False)
    patch_commands(monkeypatch, "measure_all", lambda *_, **__: measured)
    return tmp_path


def test_a_failure_or_a_slower_row_ends_with_1_and_what_was_measured_is_kept(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["throughput", "--device", "cpu", "--results", str(results), "--seconds", "9"]
    assert cli.main([*command, "--compare-fail", "0.9"]) == 1
    shown = capsys.readouterr().out
    assert "failed: test_speed[x] - OutOfMemoryError" in shown
    assert "slower: cgn-step batch 64 graph: 0.50 of the 14,000.0" in shown
    assert "after 9 s: 3 benchmarks were left out" in shown
    assert len(read_speeds(results)) == 2
    assert cli.main(["throughput", "--table", "--results", str(results)]) == 0
    assert "7,000.0" in capsys.readouterr().out


def test_small_sizes_leave_no_rows(results: Path) -> None:
    cli.main(["throughput", "--device", "cpu", "--results", str(results), "--quick"])
    assert len(read_speeds(results)) == 1
