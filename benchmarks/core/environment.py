"""Under what a result was computed: device, versions, commit and time."""

from __future__ import annotations

import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import torch

from cgn.device.precision import described

ROOT = Path(__file__).parents[2]


def environment(device: torch.device | str) -> dict[str, str]:
    """Describe device, versions, commit and time, under the names of a row's columns.

    Example:
        >>> list(environment("cpu"))
        ['device', 'torch', 'python', 'commit', 'time']
    """
    return {
        "device": described(device),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit(),
        "time": utc_now(),
    }


def utc_now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@cache
def commit() -> str:
    """Return the commit of this checkout, with "-dirty" if files were changed since.

    Changes in `results` do not count, for every run makes some. Empty where there is no checkout
    or no git.
    """
    changes = ["status", "--porcelain", "--untracked-files=no", "--", ".", ":!results"]
    try:
        head, changed = (
            subprocess.run(
                ["git", "-C", ROOT, *command], capture_output=True, text=True, check=True
            ).stdout.strip()
            for command in (["rev-parse", "HEAD"], changes)
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return f"{head}-dirty" if changed else head
