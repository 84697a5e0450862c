"""Some hundred damaged files and made-up command lines, the same ones each time."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import fuzz
import hostile
import invented
import pytest

from benchmarks.cli.app import COMMANDS

N = 240  # cases; `tests/fuzz.py` runs more of them
SECONDS = 45.0


def test_no_case_ends_in_a_traceback_hangs_or_writes_elsewhere() -> None:
    faults, n = fuzz.fuzz(N, seed=0, seconds=SECONDS)
    assert [f"{fault.kind} {fault.case}: {fault.why}" for fault in faults] == []
    assert n > 0


@pytest.mark.parametrize("kind", hostile.KINDS)
def test_sound_files_of_every_kind_are_read(kind: str, tmp_path: Path) -> None:
    hostile.KINDS[kind].make(tmp_path)
    assert hostile.KINDS[kind].read(tmp_path) is not None


def test_the_same_state_damages_a_file_alike_and_another_otherwise() -> None:
    data = json.dumps({"a": 1, "b": [2, 3]}).encode() * 9
    each = [hostile.damaged(data, random.Random(seed)) for seed in range(50)]
    assert each == [hostile.damaged(data, random.Random(seed)) for seed in range(50)]
    assert len(set(each)) > 30


def test_a_header_of_json_stays_json() -> None:
    text = json.dumps({"a": {"shape": [1, 2]}, "__metadata__": {"about": '{"seed": 0}'}}).encode()
    data = len(text).to_bytes(8, "little") + text + b"tensors"
    for seed in range(50):
        damaged = hostile.header(data, random.Random(seed))
        size = int.from_bytes(damaged[:8], "little")
        json.loads(damaged[8 : 8 + size])
        assert damaged.endswith(b"tensors")


def test_every_command_is_made_up_with_all_its_flags(tmp_path: Path) -> None:
    lines = [invented.invented(tmp_path, random.Random(seed)) for seed in range(500)]
    commands = {" ".join(words[: 2 if words[0] == "train" else 1]) for words in lines}
    assert set(COMMANDS) <= commands
    flags = {word.partition("=")[0] for words in lines for word in words}
    assert {"--backbone", "--no-frozen-norms", "--weights.style", "--json", "--config"} <= flags


@pytest.mark.parametrize(
    ("code", "out", "err", "why"),
    [
        (0, "all rows hold\n", "", ""),
        (2, "", "bench.py: there is no file x\n", ""),
        (3, "", "bench.py: this should not have happened\n", "ended with 3"),
        ("KeyError: 1", "", "", "ended with KeyError"),
        (2, "", "Traceback (most recent call last)\n", "shows a traceback"),
        (0, "a\x1b[2J", "", "prints"),
        (2, "", "bench.py: one\ntwo\n", "does not say in one line"),
        (2, "", "", "does not say in one line"),
        (2, "", "bench.py: too many values to unpack (expected 1)\n", "speaks of its own code"),
    ],
)
def test_what_a_command_must_not_do_is_noticed(code: object, out: str, err: str, why: str) -> None:
    assert invented.wrong(code, out, err).startswith(why)
    assert bool(invented.wrong(code, out, err)) == bool(why)


@pytest.mark.parametrize(
    ("read", "why"),
    [
        (lambda folder: None, ""),
        (lambda folder: raise_(ValueError(f"{folder}/a is cut short")), ""),
        (lambda folder: raise_(OSError("cut short")), "names no file"),
        (lambda folder: raise_(KeyError("shape")), "KeyError"),
        (lambda folder: spin(5), "took more than"),
    ],
)
def test_what_a_reader_must_not_do_is_noticed(
    read: object, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz, "LIMIT_SECONDS", 0.2)
    for name in ("sound", "case"):
        (tmp_path / name).mkdir()
    before = signal.signal(signal.SIGPROF, fuzz.stop)
    try:
        kind = hostile.Kind(lambda folder: (folder / "a").write_text("sound"), read)  # type: ignore[arg-type]
        found = fuzz.tried(kind, "a", random.Random(0), tmp_path)
    finally:
        signal.signal(signal.SIGPROF, before)
    assert found.startswith(why)
    assert bool(found) == bool(why)


def spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def raise_(error: Exception) -> None:
    raise error


def test_what_is_written_elsewhere_is_noticed(tmp_path: Path) -> None:
    written: list[str] = []
    (tmp_path / "own").mkdir()
    fuzz.watch(tmp_path / "own", written)  # to the end of this process, which writes nothing down
    (tmp_path / "own" / "a").write_text("a")
    (tmp_path / "own" / "a").read_text()
    assert written == []
    (tmp_path / "other").mkdir()
    (tmp_path / "own" / "a").rename(tmp_path / "a")
    assert written == [f"os.mkdir {tmp_path / 'other'}", f"os.rename {tmp_path / 'a'}"]
