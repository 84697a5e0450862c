"""What is said when a command cannot go on: bad input, too little memory, what nobody foresaw.

Nothing is printed here: see `bench.py`.
"""

from __future__ import annotations

import argparse
import errno
import platform
import re
import shlex
import tempfile
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from benchmarks.data.paths import cache_dir
from cgn.io.text import printable

BAD_INPUT = 2
UNFORESEEN = 3  # exit codes
MOST_CHARACTERS = 1_000  # of a line; whatever was given may be part of it
# PyTorch's CPU allocator, its arithmetic of sizes and CUDA's libraries have no class of their own.
_NO_MEMORY = re.compile(
    r"not enough memory: you tried to allocate|DefaultCPUAllocator|can't allocate memory|"
    r"out of memory|Storage size calculation overflowed|multiplication overflow|"
    r"numel: integer|CU\w+_STATUS_ALLOC_FAILED|unable to mmap",
    re.IGNORECASE,
)
# What decides how much memory a command takes, the first before the others.
LOWER = {
    "train cgn": ("--batch-size", "--width", "--tile-px"),
    "train cgn imagenet": ("--batch-size",),
    "fit": ("--batch-size", "--size", "--n-counterfactuals"),
    "quality imagenet": ("--batch-size", "--n"),
    "counterfactuals": ("--batch-size", "--shard-size", "--combine"),
}
ELSE = "name fewer suites in --suite or models in --model at once; if it is the GPU's, --device cpu"


def explained(
    error: BaseException, given: Sequence[str], options: argparse.Namespace | None
) -> tuple[str, int]:
    """Turn what ended a command into one line for the user, and an exit code.

    Args:
        error: What was raised.
        given: The words of the command line.
        options: The same, parsed; None if that failed.

    Returns:
        The line, at most `MOST_CHARACTERS` long. The code is 2 for what the user can mend: bad
        input, or too much work for this memory; 3 for what nobody foresaw, whose traceback is
        written to a file, which the line names.

    Example:
        >>> explained(MemoryError(), [], argparse.Namespace(command="fit"))[0]
        'out of memory; lower --batch-size, --size or --n-counterfactuals'
    """
    if ran_out_of_memory(error):
        return f"{_shortened('out of memory', _first_line(error))}; {_cure(options)}", BAD_INPUT
    words = " ".join(str(error).split())
    if isinstance(error, (ValueError, OSError)) and words:
        return _shortened(words), BAD_INPUT
    about = _shortened(type(error).__name__, words, most=300)
    log = keep_traceback(error, given)
    where = f"its traceback is in {log}" if log else "no log of it could be written"
    return f"this should not have happened: {about}; {where}", UNFORESEEN


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether memory was asked for, of the CPU or a GPU, that there is not.

    Example:
        >>> ran_out_of_memory(RuntimeError("CUDA error: out of memory")), ran_out_of_memory(
        ...     ValueError("there is no file out of memory.txt"))
        (True, False)
    """
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error)))


def keep_traceback(error: BaseException, given: Sequence[str]) -> Path | None:
    """Write all that is known of an error to a new file of the cache.

    Args:
        error: What was raised.
        given: The words of the command line.

    Returns:
        The file, in the folder for temporary ones if the cache cannot be written to; None if none
        can.
    """
    now = datetime.now(UTC)
    python = f"Python {platform.python_version()}, PyTorch {torch.__version__}"
    lines = [
        f"{now.isoformat(timespec='seconds')}, {python}, {platform.platform()}",
        shlex.join(["python", "bench.py", *given]),
        *"".join(traceback.format_exception(error)).splitlines(),
    ]
    text = "".join(f"{printable(line)}\n" for line in lines)
    for folder in (cache_dir() / "logs", Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w",
                encoding="utf-8",
                dir=folder,
                prefix=f"{now:%Y-%m-%dT%H-%M-%S}-",
                suffix=".log",
                delete=False,
            ) as file:
                file.write(text)
            return Path(file.name)
        except OSError:
            continue
    return None


def _cure(options: argparse.Namespace | None) -> str:
    """Which settings to lower, with what they are if they were given."""
    command = getattr(options, "command", "")
    scale = getattr(options, "scale", "small")
    flags = LOWER.get(command if scale == "small" else f"{command} {scale}")
    if flags is None:
        return ELSE
    *first, last = (_with_value(flag, options) for flag in flags)
    return f"lower {', '.join(first)} or {last}" if first else f"lower {last}"


def _with_value(flag: str, options: argparse.Namespace | None) -> str:
    """Name a flag, and what it is if it was given."""
    value = getattr(options, flag.strip("-").replace("-", "_"), None)
    return flag if value is None else f"{flag} (now {value})"


def _first_line(error: BaseException) -> str:
    """The first line of what an error says, which may be nothing."""
    return str(error).strip().partition("\n")[0].rstrip(".")


def _shortened(*parts: str, most: int = MOST_CHARACTERS) -> str:
    """Join what is not empty, and leave out the middle of what is too long."""
    text = ": ".join(filter(None, parts))
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :]}"
