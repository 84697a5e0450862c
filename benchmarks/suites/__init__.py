"""All suites: fixed test variants, protocols and scores."""

from __future__ import annotations

from difflib import get_close_matches

from benchmarks.core.suite import DataSource, Suite
from benchmarks.suites.attribution import ATTRIBUTIONS
from benchmarks.suites.backgrounds_challenge import CHALLENGE
from benchmarks.suites.cue_conflict import CUE_CONFLICT, CUE_CONFLICT_OFFICIAL
from benchmarks.suites.generators import GENERATORS
from benchmarks.suites.imagenet import (
    IMAGENET_A,
    IMAGENET_A_OFFICIAL,
    IMAGENET_SKETCH,
    IMAGENET_SKETCH_OFFICIAL,
    IMAGENET_VALIDATION,
)
from benchmarks.suites.imagenet9 import IN9, IN9_OFFICIAL
from benchmarks.suites.mnists import COLORED, DOUBLE_COLORED, T10K, WILDLIFE
from benchmarks.suites.tiny_imagenet9 import NATURAL

MNISTS = (COLORED, DOUBLE_COLORED, WILDLIFE)

SUITES = {suite.name: suite for suite in (*MNISTS, IN9, CUE_CONFLICT, IMAGENET_A, IMAGENET_SKETCH)}
"""The seven suites that run on embedded data."""

OFFICIAL_SUITES = {
    "in9": IN9_OFFICIAL,
    "cue-conflict": CUE_CONFLICT_OFFICIAL,
    "imagenet-a": IMAGENET_A_OFFICIAL,
    "imagenet-sketch": IMAGENET_SKETCH_OFFICIAL,
    "imagenet": IMAGENET_VALIDATION,
}
"""Editions on ImageNet's official files, by the name of the suite that they take the place of."""

ALL_SUITES = {
    suite.name: suite
    for suite in (
        *SUITES.values(),
        *T10K,
        *OFFICIAL_SUITES.values(),
        CHALLENGE,
        *ATTRIBUTIONS,
        *NATURAL,
        *GENERATORS,
    )
}

GROUPS = {
    "all": tuple(SUITES),
    "mnists": tuple(suite.name for suite in MNISTS),
    "t10k": tuple(suite.name for suite in T10K),
    "attributions": tuple(suite.name for suite in ATTRIBUTIONS),
    "natural": tuple(suite.name for suite in NATURAL),
    "generators": tuple(suite.name for suite in GENERATORS),
}
"""Names of suites by the name of their group."""


def get_suite(name: str) -> Suite:
    """Look a suite up.

    Raises:
        ValueError: If there is none of that name; the message has the nearest.

    Example:
        >>> get_suite("in9").protocol
        'in9@openmoji-v2'
        >>> get_suite("in-9")
        Traceback (most recent call last):
        ValueError: unknown suite 'in-9'; did you mean 'in9'?
    """
    if name in ALL_SUITES:
        return ALL_SUITES[name]
    near = get_close_matches(name, ALL_SUITES, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(ALL_SUITES)}"
    raise ValueError(f"unknown suite {name!r}; {hint}")


def official_variant(suite: Suite, source: DataSource) -> Suite:
    """Choose the official edition of a suite if the user has its images, and it has one."""
    return suite if source.folder is None else OFFICIAL_SUITES.get(suite.name, suite)
