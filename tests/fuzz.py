"""Damages files of all kinds and makes up command lines, and looks for what must not happen.

No traceback, no hang, no more memory than is allowed, nothing written outside of its folder: each
case ends well or in one sentence that names the file. `PYTHONPATH=. python tests/fuzz.py --n 100000
--seconds 1800` runs for half an hour; a case that fails is run again by `--only NUMBER`.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).parents[1]
LIMIT_SECONDS = 10.0  # of one case, on a processor of its own
PATIENCE_SECONDS = 90.0  # after which the process is ended that does not even listen, or sleeps
LIMIT_BYTES = 6 << 30  # of all that one process asks for
COMMANDS = "commands"  # what is no kind of file


@dataclass(frozen=True)
class Fault:
    """A case that did what must not happen.

    Attributes:
        case: Its number.
        kind: What was damaged.
        why: What happened.
    """

    case: int
    kind: str
    why: str


class TooLong(BaseException):
    """A case takes longer than it may; no `except Exception` holds it back."""


def main() -> int:
    """Run cases and print what failed; 1 if any did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=300, help="cases; default 300")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after so long")
    parser.add_argument("--kind", action="append", help="of these kinds only")
    parser.add_argument("--only", type=int, help="one case, here, with its traceback")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options)
        return 0
    if options.only is not None:
        options.first, options.n = options.only, options.only + 1
    faults, n = fuzz(options.n, options.seed, options.seconds, options.kind, options.first)
    lines = [json.dumps(asdict(fault)) for fault in faults]
    sys.stdout.write("\n".join([*lines, f"cases: {n}, of which {len(faults)} failed", ""]))
    return int(bool(faults))


def fuzz(
    n: int, seed: int, seconds: float = 1e9, kinds: list[str] | None = None, first: int = 0
) -> tuple[list[Fault], int]:
    """Run cases in processes of their own, each the next one's successor if it dies.

    Returns:
        What failed, and the number of cases that were run.
    """
    end = time.monotonic() + seconds
    faults: list[Fault] = []
    done = first
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        log = Path(folder) / "log.jsonl"
        (Path(folder) / "home").mkdir()
        while done < n and time.monotonic() < end:
            log.unlink(missing_ok=True)
            words = ["--n", n, "--seed", seed, "--first", done, "--worker", folder]
            words += ["--seconds", end - time.monotonic()]
            words += [word for kind in kinds or () for word in ("--kind", kind)]
            command = [sys.executable, __file__, *map(str, words)]
            ended = subprocess.run(command, env=environment(Path(folder)), capture_output=True)
            lines = (
                [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
            )
            if not lines:
                raise RuntimeError(f"no case could begin: {ended.stderr.decode()[-2_000:]}")
            faults += [Fault(**line) for line in lines if line.get("why")]
            done = lines[-1]["case"] + 1
            if "why" not in lines[-1]:  # it began, and took the process with it
                why = f"ended its process with {ended.returncode}: {ended.stderr.decode()[-500:]}"
                faults.append(Fault(lines[-1]["case"], lines[-1]["kind"], why))
    return faults, done - first


def environment(folder: Path) -> dict[str, str]:
    """Variables for a process that is to leave everything else alone."""
    own = {name: str(folder / "home") for name in ("HOME", "TMPDIR", "HF_HOME", "TORCH_HOME")}
    own |= {"TORCHINDUCTOR_CACHE_DIR": str(folder / "home")}
    own |= {"CGN_BENCH_CACHE": str(folder / "cache"), "CGN_BENCH_DATA": str(folder / "data")}
    own |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    own |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "COLUMNS": "200"}
    return os.environ | own


def work(options: argparse.Namespace) -> None:
    """Run cases one after the other, and note each as it begins and as it ends."""
    root: Path = options.worker
    for name in ("case", "sound", "a/b/c"):
        (root / name).mkdir(parents=True, exist_ok=True)
    os.chdir(root / "a" / "b" / "c")  # from where "../.." leads to what is watched, too
    import hostile  # seconds to import, and all of it before limits hold
    import invented

    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))
    signal.signal(signal.SIGPROF, stop)
    written: list[str] = []
    watch(root, written)
    kinds = options.kind or [*hostile.KINDS, *[COMMANDS] * (len(hostile.KINDS) // 3)]
    began = time.monotonic()
    with (root / "log.jsonl").open("a") as log:
        for case in range(options.first, options.n):
            if time.monotonic() - began > options.seconds:
                return
            kind = kinds[case % len(kinds)]
            note = {"case": case, "kind": kind}
            print(json.dumps(note), file=log, flush=True)
            rng = random.Random(f"{options.seed}/{case}")
            written.clear()
            faulthandler.dump_traceback_later(PATIENCE_SECONDS, exit=True)
            if kind == COMMANDS:
                why = invented.tried(rng, root / "case", limited)
            else:
                why = tried(hostile.KINDS[kind], kind, rng, root)
            faulthandler.cancel_dump_traceback_later()
            why = why or (f"wrote {written[0]}" if written else "")
            print(json.dumps(note | {"why": why}), file=log, flush=True)


def tried(kind: Any, name: str, rng: random.Random, root: Path) -> str:
    """Damage a sound file and read it; what went wrong, empty if nothing did."""
    import hostile

    sound, case = root / "sound" / name, root / "case"
    if not sound.exists():
        begun = Path(tempfile.mkdtemp(dir=root))
        kind.make(begun)
        begun.rename(sound)
    shutil.rmtree(case)
    shutil.copytree(sound, case)
    paths = sorted(path for path in case.rglob("*") if path.is_file())
    path = rng.choice(paths)
    path.write_bytes(hostile.damaged(path.read_bytes(), rng))
    try:
        with limited(), contextlib.redirect_stderr(io.StringIO()):
            kind.read(case)
    except TooLong:
        return f"took more than {LIMIT_SECONDS} seconds"
    except (ValueError, OSError) as error:
        names = filter(None, (path.name, str(case), kind.called))
        named = any(each in str(error) for each in names)
        return "" if named else f"names no file: {type(error).__name__}: {str(error)[:300]}"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:300]}"
    return ""


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Raise `TooLong` inside the block when its time is over."""
    signal.setitimer(signal.ITIMER_PROF, LIMIT_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def stop(number: int, frame: FrameType | None) -> None:
    """End a case from outside."""
    raise TooLong


def watch(root: Path, written: list[str]) -> None:
    """Note whatever Python opens for writing, makes, moves or removes outside of a folder."""
    changes = {"os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link"}
    places = str(root), str(root.resolve()), "/dev/", "/proc/"

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if not writes or isinstance(path, int):
                return
            paths = [path]
        elif event in changes:
            paths = [a for a in arguments[:2] if isinstance(a, (str, bytes))]
        else:
            return
        for path in paths:
            place = os.path.abspath(os.fsdecode(path))  # type: ignore[arg-type]
            if not place.startswith(places):
                written.append(f"{event} {place}")

    sys.addaudithook(hear)


if __name__ == "__main__":
    sys.exit(main())
