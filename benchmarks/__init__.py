"""A robustness benchmark suite around Counterfactual Generative Networks.

Names are imported when they are first used: PyTorch takes seconds to import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.api import Scores, compare, run, score
    from benchmarks.core.suite import DataSource, Suite
    from benchmarks.suites import SUITES, get_suite

_MODULES = {
    "DataSource": "benchmarks.core.suite",
    "SUITES": "benchmarks.suites",
    "Scores": "benchmarks.api",
    "Suite": "benchmarks.core.suite",
    "compare": "benchmarks.api",
    "get_suite": "benchmarks.suites",
    "run": "benchmarks.api",
    "score": "benchmarks.api",
}

__all__ = ["SUITES", "DataSource", "Scores", "Suite", "compare", "get_suite", "run", "score"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
