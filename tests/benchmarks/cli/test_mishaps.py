"""What ends a command is one line: too little memory says what to lower, the rest where to look."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from support import ROOT, patch_commands

from benchmarks import cli
from benchmarks.cli.errors import Invocation, explain, keep_traceback, ran_out_of_memory

TOO_MUCH = 1 << 55  # bytes, more than any address space has
ASKS: dict[str, Callable[[], object]] = {
    "Python": lambda: bytearray(TOO_MUCH),
    "NumPy": lambda: np.empty(TOO_MUCH),
    "PyTorch on the CPU": lambda: torch.empty(TOO_MUCH, dtype=torch.uint8),
    "PyTorch's sizes": lambda: torch.empty(1 << 40, 1 << 40),
    "a layer": lambda: torch.nn.Linear(1 << 27, 1 << 27),
}


def raised(ask: Callable[[], object]) -> BaseException:
    """What asking for too much raises."""
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        ask()
    return caught.value


@pytest.mark.parametrize("name", ASKS)
def test_asking_for_more_memory_than_there_is_is_recognised(name: str) -> None:
    assert ran_out_of_memory(raised(ASKS[name]))


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be ..."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: "), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOENT, "there is no out of memory.txt"), False),
        (ValueError("out of memory.safetensors is no whole file"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_errors_of_memory_are_told_from_others(error: Exception, is_memory: bool) -> None:
    assert ran_out_of_memory(error) is is_memory


def test_the_setting_to_lower_is_that_of_the_command_with_its_value() -> None:
    flags = {"width": "--width", "batch_size": "--batch-size", "tile_px": "--tile-px"}
    invocation = Invocation([], "train cgn", flags, {"--batch-size": "512"})
    line, code = explain(MemoryError(), invocation)
    assert code == 2
    assert line == "out of memory; lower --batch-size (now 512), --width or --tile-px"
    assert "fewer suites in --suite" in explain(MemoryError(), Invocation([], "run"))[0]


def test_training_that_needs_too_much_memory_says_what_to_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(*_: object, **__: object) -> NoReturn:
        torch.nn.Linear(1 << 27, 1 << 27)
        raise AssertionError("there was enough")

    monkeypatch.setenv("CGN_BENCH_CACHE", str(tmp_path))
    patch_commands(monkeypatch, "train", train)
    words = "train cgn --suite in9 --width 512 --data embedded --device cpu --out"
    assert cli.main([*words.split(), str(tmp_path / "my.safetensors")]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert shown.startswith("bench.py: out of memory: ")
    assert "; lower --batch-size, --width (now 512) or --tile-px" in shown


class Rust(BaseException):
    """As the panics of Rust's libraries, it is no Exception."""


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], int]:
    """Runs a command that raises."""
    monkeypatch.setenv("CGN_BENCH_CACHE", str(tmp_path / "cache"))

    def run(error: BaseException) -> int:
        def show_lists(*, results: str) -> NoReturn:
            raise error

        patch_commands(monkeypatch, "show_lists", show_lists)
        return cli.main(["list", "--results", "a\x1b[2Jb"])

    return run


@pytest.mark.parametrize(
    "error",
    [
        KeyError("shape"),
        AssertionError(),
        RuntimeError("first line\nsecond line\x1b[2J"),
        TypeError("x" * 5_000),
        RecursionError("maximum recursion depth exceeded"),
        Rust("panicked"),
        ValueError(),
        ZeroDivisionError("division by zero"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_nobody_foresaw_is_one_line_that_names_the_log_of_its_traceback(
    error: BaseException,
    broken: Callable[[BaseException], int],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    assert broken(error) == 3
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert len(shown.err) < 1_000
    assert "Traceback" not in shown.err
    assert type(error).__name__ in shown.err
    (log,) = (tmp_path / "cache" / "logs").iterdir()
    assert shown.err.rstrip().endswith(f"its traceback is in {log}")
    text = log.read_text()
    assert "Traceback (most recent call last)" in text
    assert r"python bench.py list --results 'a\x1b[2Jb'" in text
    assert "\x1b" not in text


def test_bad_input_and_interruptions_leave_no_log(
    broken: Callable[[BaseException], int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert broken(ValueError("there is\nno file")) == 2
    assert capsys.readouterr().err == "bench.py: there is no file\n"
    assert broken(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err.startswith("interrupted; ")
    assert not (tmp_path / "cache").exists()


def test_a_log_that_cannot_be_written_is_no_second_error(
    broken: Callable[[BaseException], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "cache").touch()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    assert broken(KeyError("shape")) == 3
    (log,) = (tmp_path / "temporary").iterdir()
    assert f"its traceback is in {log}" in capsys.readouterr().err
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "cache"))
    assert broken(KeyError("shape")) == 3
    assert "no log of it could be written" in capsys.readouterr().err


def bench_py(words: str, **options: Any) -> subprocess.Popen[str]:
    """Start the program."""
    command = [sys.executable, str(ROOT / "bench.py"), *words.split()]
    return subprocess.Popen(command, text=True, stderr=subprocess.PIPE, **options)


def test_nobody_who_reads_on_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    with bench_py("list", stdout=write) as process:
        os.close(write)
        assert process.communicate()[1] == ""
    assert process.returncode == 141


def test_a_terminal_with_few_characters_gets_the_others_as_escapes() -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    with bench_py("train cgn --help", stdout=subprocess.PIPE, env=environment) as process:
        out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert out.isascii()


def test_each_log_has_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CGN_BENCH_CACHE", str(tmp_path))
    logs = {keep_traceback(KeyError("shape"), Invocation(["list"])) for _ in range(3)}
    assert len(logs) == 3
