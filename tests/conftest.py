"""Settings of every test process, and fixtures that several test modules share."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from support import ROOT, SHARED, tiny_suite

from benchmarks.core.suite import Suite

if "PYTEST_XDIST_WORKER" in os.environ:  # the processes share the cores as it is
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("shared"):
        for name in mark.args:
            if not (SHARED / name).exists():
                pytest.skip(f"needs ../shared/data/{name}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    n = sum("needs ../shared" in str(report.longrepr) for report in skipped)
    if n:
        terminalreporter.write_line(f"{n} tests were skipped: they need the data of ../shared")


@pytest.fixture(scope="session")
def committed_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of results as committed: whoever runs a model adds rows to the other one."""
    folder = tmp_path_factory.mktemp("committed")
    command = ["git", "-C", str(ROOT), "archive", "--format=tar", "HEAD", "results"]
    archive = subprocess.run(command, capture_output=True)
    if archive.returncode:
        pytest.skip("there is no git repository here")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder / "results"


@pytest.fixture
def suite() -> Suite:
    return tiny_suite()


@pytest.fixture
def seen() -> Callable[..., pd.DataFrame]:
    """Makes a table of predictions of one variant from lists of labels."""

    def make(variant: str = "v", **columns: object) -> pd.DataFrame:
        table = pd.DataFrame(columns)
        table.insert(0, "variant", variant)
        if "id" not in table:
            table["id"] = range(len(table))
        return table

    return make
