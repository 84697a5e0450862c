"""Files whole or not at all, one process at a time, and nothing left behind by those that died."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from support import ROOT

from cgn.io import locks
from cgn.io.cache import open_or_make
from cgn.io.errors import WriteError, write_errors
from cgn.io.journal import journal
from cgn.io.locks import TakenError, locked, short_name
from cgn.io.weights import save_tensors
from cgn.io.writing import sweep, write_text, written
from cgn.training.checkpoints import write_checkpoint

PLENTY = torch.rand(200_000)  # 800 kB


@contextmanager
def forked(work: Callable[[], object]) -> Iterator[int]:
    """Let another process do something inside the block; it is killed at the end, if it lives."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def wait_for(path: Path) -> None:
    """Wait until a process has made a file."""
    while not path.exists():
        time.sleep(0.005)


def hang(path: Path, ready: Path) -> None:
    """Begin to write a file, and never end."""
    with written(path) as place:
        place.write_text("half")
        (place.parent / ".tmpAbCd").write_text("what a library keeps beside it")
        ready.touch()
        time.sleep(60)


def hold_on(path: Path, ready: Path) -> None:
    """Take a lock and keep it."""
    with locked(path):
        ready.touch()
        time.sleep(60)


def write_half(path: Path, error: BaseException) -> NoReturn:
    """Write a part of a file, and fail."""
    with written(path) as place:
        place.write_text("ha")
        raise error


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_that_fails_half_way_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    write_text(path, "old")
    with pytest.raises(KeyboardInterrupt):
        write_half(path, KeyboardInterrupt())
    assert path.read_text() == "old"
    assert names(tmp_path) == ["table.csv"]


def test_what_a_killed_process_was_writing_is_swept_when_the_next_file_is_written(
    tmp_path: Path,
) -> None:
    folder, ready = tmp_path / "kept", tmp_path / "ready"
    with forked(lambda: hang(folder / "a.csv", ready)):
        wait_for(ready)
        write_text(folder / "b.csv", "b")
        assert len(names(folder)) == 2  # that of a living process stays
    assert len(names(folder)) == 2
    write_text(folder / "c.csv", "c")
    assert names(folder) == ["b.csv", "c.csv"]


def test_a_process_killed_between_two_steps_leaves_nothing_that_stays(tmp_path: Path) -> None:
    (tmp_path / ".123-00000000.part").mkdir()  # before it had its lock
    half_swept = tmp_path / ".123-11111111.part"
    half_swept.mkdir()
    (half_swept / ".lock").touch()
    (tmp_path / ".entry.lock").touch()  # after its work and before it had let go
    with locked(tmp_path / "another"):
        sweep(tmp_path)
        assert names(tmp_path) == [".another.lock"]


def test_other_files_are_not_swept(tmp_path: Path) -> None:
    (tmp_path / "zoo.tar.part").touch()  # a download that will be taken up
    (tmp_path / ".hidden.part").mkdir()
    sweep(tmp_path)
    assert names(tmp_path) == [".hidden.part", "zoo.tar.part"]


def test_a_link_is_followed_and_a_pipe_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "inner" / "file")
    write_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "inner" / "file").read_text() == "text"
    write_text(Path("/dev/null"), "text")
    assert Path("/dev/null").is_char_device()


def test_a_lock_keeps_other_processes_out_until_they_are_killed(tmp_path: Path) -> None:
    path, ready = tmp_path / "cgn", tmp_path / "ready"
    with forked(lambda: hold_on(path, ready)):
        wait_for(ready)
        with pytest.raises(TakenError, match=f"another process works on {path}"):
            locked(path, wait=False).__enter__()
    with locked(path, wait=False):
        pass
    assert names(tmp_path) == ["ready"]


def refuse(number: int) -> Callable[..., NoReturn]:
    """A system call that this file system does not know."""

    def call(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
@pytest.mark.parametrize("missing", [["flock"], ["flock", "lockf"]])
def test_without_flock_a_lock_still_keeps_others_out_until_they_are_killed(
    missing: list[str], number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, ready = tmp_path / "cgn", tmp_path / "ready"
    real = {name: getattr(fcntl, name) for name in ("flock", "lockf")}

    def of_temporary_folder_only(descriptor: int, operation: int) -> None:
        where = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if where.is_relative_to(tmp_path):
            raise OSError(number, os.strerror(number))
        real["flock"](descriptor, operation)

    for name in missing:
        monkeypatch.setattr(fcntl, name, of_temporary_folder_only)
    with forked(lambda: hold_on(path, ready)):
        wait_for(ready)
        with pytest.raises(TakenError):
            locked(path, wait=False).__enter__()
    with locked(path, wait=False):
        pass


def test_without_flock_what_this_process_is_writing_is_not_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", refuse(errno.ENOSYS))
    with written(tmp_path / "a") as place:
        place.write_text("a")
        write_text(tmp_path / "b", "b")
    assert names(tmp_path) == ["a", "b"]


def test_who_waits_for_a_lock_is_told_once_for_what(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.05)
    path, ready = tmp_path / "cgn", tmp_path / "ready"

    def briefly() -> None:
        with locked(path):
            ready.touch()
            time.sleep(0.3)

    with caplog.at_level(logging.WARNING), forked(briefly):
        wait_for(ready)
        with locked(path):
            pass
    assert [r.getMessage() for r in caplog.records] == [
        f"another process works on {path}; waiting until it is done"
    ]


def test_threads_count_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "count"
    write_text(path, "0")

    def count() -> None:
        for _ in range(20):
            with locked(path), locked(path):
                write_text(path, str(int(path.read_text()) + 1))

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() == "80"


def test_processes_count_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "count"
    write_text(path, "0")
    count = (
        "import sys; from pathlib import Path\n"
        "from cgn.io.locks import locked; from cgn.io.writing import write_text\n"
        "path = Path(sys.argv[1])\n"
        "for _ in range(25):\n"
        "    with locked(path): write_text(path, str(int(path.read_text()) + 1))\n"
    )
    command = [sys.executable, "-c", count, str(path)]
    root = ROOT
    for process in [subprocess.Popen(command, cwd=root) for _ in range(8)]:
        assert process.wait() == 0
    assert path.read_text() == "200"
    assert names(tmp_path) == ["count"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if done.returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # a traceback may hold a file


def add_to_journal(path: Path, entry: str) -> None:
    with journal(path) as kept:
        kept.add(entry)


WRITERS: dict[str, Callable[[Path], object]] = {
    "torch": lambda path: write_checkpoint({"a": PLENTY}, path),
    "safetensors": lambda path: save_tensors(path, {"a": PLENTY}, {}),
    "text": lambda path: write_text(path, "a" * 800_000),
    "journal": lambda path: add_to_journal(path, "a" * 800_000),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_is_one_line_that_names_file_and_cure_and_leaves_nothing(
    kind: str, small_disk: Path
) -> None:
    path = small_disk / "file"
    with pytest.raises(WriteError) as caught:
        WRITERS[kind](path)
    assert str(caught.value) == (
        f"cannot write {path}: No space left on device; make room, and run this again"
    )
    assert caught.value.errno == errno.ENOSPC
    assert [each for each in names(small_disk) if (small_disk / each).stat().st_size] == []
    assert [each for each in names(small_disk) if each != "file"] == []


FULL = OSError(errno.ENOSPC, "No space left on device")
WRAPPED: list[Any] = [
    FULL,
    RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
]


@pytest.mark.parametrize("error", WRAPPED)
def test_a_full_disk_is_understood_in_the_words_of_any_library(
    error: Exception, tmp_path: Path
) -> None:
    with pytest.raises(WriteError, match="model: No space left on device; make room"):
        write_half(tmp_path / "model", error)
    assert names(tmp_path) == []


def test_a_full_disk_is_understood_behind_another_exception(tmp_path: Path) -> None:
    def wrap() -> NoReturn:
        try:
            raise FULL
        except OSError as error:
            raise RuntimeError("could not save") from error

    with pytest.raises(WriteError, match="No space left"), write_errors(tmp_path / "model"):
        wrap()


def test_other_exceptions_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="out of memory"), written(tmp_path / "model"):
        raise RuntimeError("out of memory")


def test_a_name_is_shortened_to_what_every_file_system_takes() -> None:
    long = "file--" + "ä" * 200 + ".safetensors"
    short = short_name(long)
    assert len(short.encode()) <= 143
    assert short.endswith(".safetensors")
    assert short_name(long + "x") != short
    assert short_name("cgn-ensemble") == "cgn-ensemble"


def test_a_journal_keeps_every_whole_line_of_a_killed_process(tmp_path: Path) -> None:
    path, ready = tmp_path / "lines.jsonl", tmp_path / "ready"

    def add() -> None:
        with journal(path) as kept:
            for number in range(100):
                kept.add({"number": number})
            ready.touch()
            time.sleep(60)

    with forked(add):
        wait_for(ready)
    with path.open("ab") as file:
        file.write(b'{"number": 1')  # cut short
    with journal(path) as kept:
        assert [entry["number"] for entry in kept.entries] == [*range(100)]
        kept.add({"number": 100})
    assert len(path.read_bytes().splitlines()) == 101


def test_a_journal_goes_on_from_where_its_reader_trusts_it(tmp_path: Path) -> None:
    with journal(tmp_path / "lines") as kept:
        for number in range(3):
            kept.add(number)
        kept.keep_first(1)
        kept.add("new")
    with journal(tmp_path / "lines") as kept:
        assert kept.entries == [0, "new"]
        kept.remove()
    assert names(tmp_path) == []


def test_two_processes_make_an_entry_of_the_cache_once(tmp_path: Path) -> None:
    path, made, begun = tmp_path / "cache" / "entry", tmp_path / "made", tmp_path / "begun"

    def make(path: Path) -> None:
        begun.touch()
        time.sleep(0.2)
        with made.open("a") as file:
            file.write("x")
        write_text(path, "whole")

    with forked(lambda: open_or_make(path, Path.read_text, make)):
        wait_for(begun)
        assert open_or_make(path, Path.read_text, make) == "whole"
    assert made.read_text() == "x"
    assert names(path.parent) == ["entry"]


def test_what_no_disk_has_room_for_is_refused_before_it_is_made(tmp_path: Path) -> None:
    made: list[Path] = []
    with pytest.raises(ValueError, match=r"make room or name another folder with CGN_BENCH_CACHE"):
        open_or_make(tmp_path / "entry", Path.read_text, made.append, n_bytes=10**18)
    assert made == []
    assert names(tmp_path) == []


def test_no_file_is_written_in_a_way_of_its_own() -> None:
    root = ROOT
    packages = [root / name for name in ("benchmarks", "cgn", "classifiers")]
    code = [root / "bench.py", *(path for each in packages for path in each.rglob("*.py"))]
    own = re.compile(r"mkstemp|NamedTemporary|os\.replace\(|\.part\"|\.write_(text|bytes)\(")
    found = {p.relative_to(root).as_posix() for p in code if own.search(p.read_text("utf-8"))}
    # What is downloaded grows in a file that is taken up again; a log is a new one each time.
    assert found == {"cgn/io/writing.py", "benchmarks/data/download.py", "benchmarks/cli/errors.py"}


def test_a_lock_can_be_had_in_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    with locked(tmp_path / "a" / "b"):
        assert names(tmp_path / "a") == [".b.lock"]
    assert names(tmp_path / "a") == []
