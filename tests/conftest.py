"""Settings of every test process, and fixtures that several test modules share."""

from __future__ import annotations

import os
from collections.abc import Callable

import pandas as pd
import pytest
import torch
from support import tiny_suite

from benchmarks.core.suite import Suite

if "PYTEST_XDIST_WORKER" in os.environ:  # the processes share the cores as it is
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


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
