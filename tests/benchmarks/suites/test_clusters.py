"""Images that show the same object are of one cluster, in every suite."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks.core.suite import EMBEDDED, Suite
from benchmarks.suites import ALL_SUITES
from benchmarks.worlds.glyphs import GLYPHS, glyph_labels
from benchmarks.worlds.openmoji import OPENMOJI9

DRAWN = {
    name: suite
    for name, suite in ALL_SUITES.items()
    if suite.world is OPENMOJI9 and suite.clustering.unit == "drawing"
}


def clusters_and_labels(suite: Suite) -> pd.DataFrame:
    """Cluster and label of every image of the variants that show the objects as they were."""
    tables = [
        pd.DataFrame(
            {
                "cluster": suite.clustering.clusters(pd.Index(images.ids.numpy())),
                "label": images.factors.shape.numpy(),
            }
        )
        for name, images in suite.variants(EMBEDDED).items()
        if "shape" not in name
    ]
    return pd.concat(tables)


def test_every_suite_says_what_its_clusters_are() -> None:
    silent = [name for name, suite in ALL_SUITES.items() if suite.clustering.unit == "object"]
    assert silent == []


@pytest.mark.parametrize("name", DRAWN)
def test_a_cluster_of_drawn_images_is_one_of_the_drawings(name: str) -> None:
    """There are 82 drawings: more clusters would take images of one for independent."""
    seen = clusters_and_labels(DRAWN[name])
    assert seen["cluster"].between(0, len(GLYPHS) - 1).all()
    expected = glyph_labels().numpy()[seen["cluster"]]
    np.testing.assert_array_equal(seen["label"], expected)


@pytest.mark.parametrize("name", ALL_SUITES)
def test_scores_take_the_clusters_of_their_suite(name: str) -> None:
    suite = ALL_SUITES[name]
    assert {score.clustering for score in suite.scores} == {suite.clustering}
