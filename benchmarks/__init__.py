"""Suites, their data and protocols, predictions, scores and leaderboards."""

from benchmarks.attribution import ATTRIBUTIONS as ATTRIBUTIONS
from benchmarks.cue_conflict import CUE_CONFLICT
from benchmarks.imagenet9 import IN9
from benchmarks.imagenet_shifts import IMAGENET_A, IMAGENET_SKETCH
from benchmarks.mnists import COLORED, DOUBLE_COLORED, WILDLIFE
from benchmarks.mnists import T10K as T10K
from benchmarks.official import OFFICIAL_SUITES as OFFICIAL_SUITES
from benchmarks.tiny_imagenet9 import NATURAL as NATURAL

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
