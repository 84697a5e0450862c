"""Suites, their data and protocols, predictions, scores and leaderboards."""

from benchmarks.suites.attribution import ATTRIBUTIONS as ATTRIBUTIONS
from benchmarks.suites.cue_conflict import CUE_CONFLICT
from benchmarks.suites.imagenet9 import IN9
from benchmarks.suites.imagenet_shifts import IMAGENET_A, IMAGENET_SKETCH
from benchmarks.suites.mnists import COLORED, DOUBLE_COLORED, WILDLIFE
from benchmarks.suites.mnists import T10K as T10K
from benchmarks.suites.official import OFFICIAL_SUITES as OFFICIAL_SUITES
from benchmarks.suites.tiny_imagenet9 import NATURAL as NATURAL

SUITES = {
    suite.name: suite
    for suite in (
        COLORED,
        DOUBLE_COLORED,
        WILDLIFE,
        IN9,
        CUE_CONFLICT,
        IMAGENET_A,
        IMAGENET_SKETCH,
    )
}
