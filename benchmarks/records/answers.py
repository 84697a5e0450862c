"""Stored predictions against the images they are of: none left out, none twice, labels as they are.

Where the images cannot be drawn, runs on the same images are held against one another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.core.suite import Suite, TestSet
from benchmarks.records.gate import SAME_WEIGHTS
from benchmarks.records.predictions import Run, load
from benchmarks.records.runs import history_of_scores, last_of_runs, read_runs, run_of

IMAGE = ["variant", "index"]
LABELS = ["id", "shape", "texture", "background"]


def check_answers(
    results: Path, suites: Mapping[str, Suite], tests: Mapping[str, TestSet]
) -> list[str]:
    """Find predictions that cannot be what a model said of a suite's images.

    Args:
        results: The folder of `runs.csv` and `predictions`.
        suites: All suites by name.
        tests: Test sets by suite, as the code draws them now.

    Returns:
        One line a run whose predictions have other images or labels than the suite, and one a row
        whose score is far from an earlier one of the same weights on the same images.
    """
    runs = read_runs(results, suites)
    return [*_of_other_images(results, runs, suites, tests), *_contradictions(runs, suites)]


def _of_other_images(
    results: Path, runs: pd.DataFrame, suites: Mapping[str, Suite], tests: Mapping[str, TestSet]
) -> Iterator[str]:
    """Runs whose predictions are not one for each image, with the image's labels."""
    expected = {(name, test.data_sha256): _labels(test) for name, test in tests.items()}
    seen = set()
    for row in last_of_runs(runs).to_dict("records"):
        run, suite = run_of(row), suites[row["suite"]]
        if run.protocol not in suite.protocol_names:
            continue
        path = run.path(results, suite.with_protocol(run.protocol).view_name)
        if path in seen or not path.exists():
            continue
        seen.add(path)
        try:
            predictions = load(path)[0]
        except ValueError:  # which `check` reports
            continue
        found = _images(predictions, suite)
        images = (run.suite, run.data_sha256)
        if images not in expected and (problem := _miscount(found, suite, run)):
            yield f"{_name(run)}: {problem}"
            continue
        wanted = expected.setdefault(images, found)
        if found.equals(wanted):  # in the same order, as runs leave them: a tenth of the time
            continue
        if problem := _differs(_indexed(found), _indexed(wanted)):
            yield f"{_name(run)}: its predictions {problem}"


def _labels(test: TestSet) -> pd.DataFrame:
    """Images and labels of a test set, laid out as predictions are."""
    tables = [
        pd.DataFrame(
            {
                "variant": name,
                "index": np.arange(len(images)),
                "id": images.ids.numpy(),
                **{factor: labels.numpy() for factor, labels in images.factors._asdict().items()},
            }
        )
        for name, images in test.variants.items()
    ]
    return _images(pd.concat(tables), test.suite)


def _images(predictions: pd.DataFrame, suite: Suite) -> pd.DataFrame:
    """What predictions say of images alone; a search says of the background what broke it."""
    labels = [name for name in LABELS if suite.evaluation is None or name in ("id", "shape")]
    kinds = {"variant": str, "index": np.int64, "id": str} | dict.fromkeys(labels[1:], np.int64)
    return predictions[[*IMAGE, *labels]].astype(kinds).reset_index(drop=True)


def _indexed(images: pd.DataFrame) -> pd.DataFrame:
    """Sort images by variant and place."""
    return images.set_index(IMAGE).sort_index()


def _miscount(found: pd.DataFrame, suite: Suite, run: Run) -> str:
    """How the number of images differs from that of the official variants, if all are shown."""
    if run.source != "official" or suite.evaluation is not None:
        return ""
    counts = found["variant"].value_counts()
    for variant, n in suite.n_images.items():
        if counts.get(variant, 0) != n:
            return f"it has predictions of {counts.get(variant, 0)} of {n} images of {variant}"
    return ""


def _differs(found: pd.DataFrame, expected: pd.DataFrame) -> str:
    """How predictions differ from the images they are of; empty if they do not."""
    if found.index.has_duplicates:
        variant, index = found.index[found.index.duplicated()][0]
        return f"have image {index} of {variant} twice"
    lost = expected.index.difference(found.index)
    if len(lost):
        variant = lost[0][0]
        return f"lack {len(lost)} images, such as image {lost[0][1]} of {variant}"
    if len(found) > len(expected):
        variant, index = found.index.difference(expected.index)[0]
        return f"have image {index} of {variant}, which the suite has not"
    for name in expected:
        wrong = (found[name] != expected[name]).to_numpy()
        if wrong.any():
            variant, index = found.index[int(wrong.argmax())]
            return f"have another {name} of image {index} of {variant} than the suite"
    return ""


def _contradictions(runs: pd.DataFrame, suites: Mapping[str, Suite]) -> Iterator[str]:
    """Rows whose score is far from what the same weights gave on the same images before."""
    bounded = {
        (suite.name, score.variant, score.metric)
        for suite in suites.values()
        for score in suite.scores
        if np.isfinite(score.lowest)
    }
    before, now = history_of_scores(runs)
    far = (now["value"] - before["value"]).abs() > SAME_WEIGHTS
    rows = (side[far].to_dict("records") for side in (before, now))
    for old, new in zip(*rows, strict=True):
        if (new["suite"], new["variant"], new["metric"]) in bounded:
            yield (
                f"{_name(run_of(new))} {new['variant']} {new['metric']}: "
                f"{100 * new['value']:.1f} %, and the same weights gave {100 * old['value']:.1f} % "
                "before"
            )


def _name(run: Run) -> str:
    return f"{run.suite} {run.source} {run.model} seed {run.seed}"
