"""Results against an earlier state of their folder, which git keeps: rows that vanished."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path

from benchmarks.records.runs import FILE

N_NAMES = 9  # columns of a row that tell which it is


def check_history(before: Path, now: Path) -> list[str]:
    """Find rows that were there before and are not there now, or not in their place.

    Args:
        before: An earlier state of the folder of `runs.csv`.
        now: The folder.

    Returns:
        One line a problem. Rows are only ever appended, so what was there must still stand at
        the beginning of the file, byte for byte.
    """
    old, new = (_lines(folder / FILE) for folder in (before, now))
    old = _with_later_columns(old, new)
    if new[: len(old)] == old:
        return []
    vanished = Counter(old) - Counter(new)
    if not vanished:
        place = next(i for i, (a, b) in enumerate(zip_longest(old, new)) if a != b)
        first = row_name(old[place])
        return [f"{FILE} line {place + 1}: rows changed their order, from {first} on"]
    return [f"{FILE}: a row vanished or was changed: {row_name(line)}" for line in vanished]


@contextmanager
def results_at_revision(results: Path, revision: str) -> Iterator[Path]:
    """Unpack the folder of results as it was at a revision of the repository it lies in.

    Args:
        results: The folder.
        revision: Anything that git understands.

    Yields:
        A temporary folder.

    Raises:
        ValueError: If git does not know the revision, or the folder was not in it.
    """

    def git(*arguments: str) -> bytes:
        try:
            done = subprocess.run(["git", "-C", str(results), *arguments], capture_output=True)
        except FileNotFoundError:
            raise ValueError("an earlier state comes from git, which is not installed") from None
        if done.returncode:
            reason = done.stderr.decode(errors="replace").strip()
            raise ValueError(f"git has no {results} at {revision!r}: {reason}")
        return done.stdout

    commit = git("rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    # The revision itself is not passed on: one that begins with "-" would be an option.
    archive = git("archive", "--format=tar", commit.decode().strip(), "--", ".")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(folder, filter="data")
        yield Path(folder)


def row_name(line: str) -> str:
    """Shorten a line of a table to the columns that tell which it is."""
    return ",".join(line.split(",")[:N_NAMES])


def _lines(path: Path) -> list[str]:
    """Lines of a file, none if it is missing."""
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


def _with_later_columns(old: list[str], new: list[str]) -> list[str]:
    """Write older lines as a file with more columns at the end repeats them: empty there."""
    if not (old and new and new[0].startswith(f"{old[0]},")):
        return old
    n_later = new[0].count(",") - old[0].count(",")
    return [new[0], *(line + "," * n_later for line in old[1:])]
