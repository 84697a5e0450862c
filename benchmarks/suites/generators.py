"""Suites in which objects cannot simply be cut out: a generator may help more than copy-and-paste.

Colours do not tell objects from backgrounds, or objects reach over the image's edge.
"""

from __future__ import annotations

from benchmarks.suites.mnists import paired_suite
from benchmarks.worlds.posed_digits import (
    CROPPED_MNIST,
    GRAY_WILDLIFE_MNIST,
    cropped,
    gray_wildlife,
)
from benchmarks.worlds.silhouettes import SILHOUETTES, painted

GENERATORS = (
    paired_suite(
        GRAY_WILDLIFE_MNIST,
        gray_wildlife,
        "Does it read the digit when the structure of neither object nor background tells the "
        "class?",
    ),
    paired_suite(
        CROPPED_MNIST,
        cropped,
        "Does it read a digit that the image's edge cuts when neither colour tells the class?",
    ),
    paired_suite(
        SILHOUETTES,
        painted,
        "Does it know a new silhouette that the image's edge cuts when neither colour tells the "
        "class?",
        embedded=False,
        unit="silhouette",
    ),
)
