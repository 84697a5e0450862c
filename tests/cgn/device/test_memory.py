"""What is given back to the system, and what lies on disk until it is read."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support import ROOT
from torch import nn

from cgn.device.memory import offload_to_disk, peak_bytes

# Blocks too small for maps of their own; each second one stays in use, so that the heap cannot
# shrink from its end.
FRAGMENT = """
import os
from pathlib import Path
import torch
from cgn.device.memory import trim_heap

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

blocks = [torch.ones(16 * 1024) for _ in range(4_000)]
del blocks[::2]
before = resident()
trim_heap(torch.device("DEVICE"))
print((before - resident()) / (2_000 * 64 * 1024))
"""
needs_glibc = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not Path("/proc/self/statm").exists(),
    reason="only glibc keeps what was freed, and only Linux says so in /proc",
)


def share_given_back(device: str) -> float:
    """Of what a fresh process freed between blocks in use, in [0, 1]."""
    told = subprocess.run(
        [sys.executable, "-c", FRAGMENT.replace("DEVICE", device)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return float(told.stdout)


@needs_glibc
def test_what_was_freed_between_blocks_in_use_goes_back_to_the_system() -> None:
    assert share_given_back("cpu") > 0.8


@needs_glibc
def test_memory_of_the_cpu_is_left_alone_where_the_work_is_elsewhere() -> None:
    assert share_given_back("meta") < 0.1


def test_weights_on_disk_are_a_copy_that_training_leaves_alone() -> None:
    layer = nn.Linear(2, 1)
    before = layer.weight.clone()
    copy = offload_to_disk(layer)
    nn.init.zeros_(layer.weight)
    assert torch.equal(copy.weight, before)


def test_the_peak_of_memory_is_at_least_what_one_tensor_takes() -> None:
    taken = torch.ones(50_000_000)
    assert peak_bytes(torch.device("cpu")) > taken.nbytes
