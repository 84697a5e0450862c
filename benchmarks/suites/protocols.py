"""What each version of a protocol decides, recorded so that none can change unnoticed.

`protocols.csv` has one row a version: the hash of the embedded test images, and the hash of what
the suite makes of logits and labels that are always the same. Rows are appended and never changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from benchmarks.core.calibration import VERSION
from benchmarks.core.evaluate import probabilities, score_suite
from benchmarks.core.suite import Suite
from benchmarks.suites.backgrounds_challenge import AT_RANDOM
from cgn.data.factors import Factors
from cgn.io.locks import locked
from cgn.io.writing import write_text

PINNED = Path(__file__).with_name("protocols.csv")
COLUMNS = ["suite", "protocol", "images_sha256", "scores_sha256"]
N_IMAGES = 90  # made-up ones in each variant
N_IMAGENET = 1_000
DIGITS = 6  # that count; the last ones differ between processors


def scores_sha256(suite: Suite) -> str:
    """Hash what a suite makes of made-up logits and labels: decisions, and scores with intervals.

    Args:
        suite: The suite; its images are not needed.

    Returns:
        64 hexadecimal digits that move with the rule of decision, the scores and their intervals,
        what ranks, how images are prepared and how many there have to be.
    """
    variants = sorted({part for score in suite.scores for part in score.variants})
    predictions = pd.concat(
        [_random_predictions(suite, name, i) for i, name in enumerate(variants)]
    )
    settings: dict[str, Any] = {
        "classes": suite.world.classes,
        "primary": suite.primary,
        "standard": suite.standard,
        "own_preprocessing": suite.own_preprocessing,
        "n_images": dict(suite.n_images),
        "unchanged": suite.reference_variant,
        "predictions": predictions.drop(columns="variant").round(DIGITS).to_numpy().tolist(),
        "scores": {
            score.key: [
                score.higher_is_better,
                *(None if np.isnan(x) else round(float(x), DIGITS) for x in estimate),
            ]
            for score, estimate in score_suite(suite, predictions).items()
        },
    }
    if suite.view is not None:
        settings["view"] = asdict(suite.view)
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def check_protocols(
    suites: Iterable[Suite], images_sha256: Mapping[str, str], pinned: Path = PINNED
) -> list[str]:
    """Find suites that no longer are what the version of their protocol was.

    Args:
        suites: What to check.
        images_sha256: Hash of each suite's embedded test images, as the code draws them now.
        pinned: The file.

    Returns:
        One line a problem, naming suite and protocol.
    """
    known = {(row["suite"], row["protocol"]): row for row in _read(pinned).to_dict("records")}
    problems = []
    for suite in with_diagnostics(suites):
        named = f"{suite.name}, protocol {suite.protocol}"
        row = known.get((suite.name, suite.protocol))
        if row is None:
            problems.append(
                f"{named}: what it decides is not written down; `bench.py check --pin` does it"
            )
            continue
        now = _row(suite, images_sha256)
        for column, what in (("images_sha256", "test images"), ("scores_sha256", "numbers")):
            if row[column] != now[column]:
                problems.append(f"{named}: it gives other {what} now; give it a new version")
    return problems


def record_fingerprint(
    suites: Iterable[Suite], images_sha256: Mapping[str, str], pinned: Path = PINNED
) -> list[str]:
    """Write down what versions decide that are not in the file yet; old rows stay as they are.

    Arguments are those of `check_protocols`.

    Returns:
        The versions that were added.
    """
    with locked(pinned):
        table = _read(pinned)
        known = set(zip(table["suite"], table["protocol"], strict=True))
        every = with_diagnostics(suites)
        missing = [suite for suite in every if (suite.name, suite.protocol) not in known]
        new = [_row(suite, images_sha256) for suite in missing]
        whole = pd.concat([table, pd.DataFrame(new, columns=COLUMNS)])
        write_text(pinned, whole.to_csv(index=False, lineterminator="\n"))
    return [row["protocol"] for row in new]


def with_diagnostics(suites: Iterable[Suite]) -> Iterator[Suite]:
    """Yield suites without their diagnostics, and the diagnostics as suites with a version.

    Example:
        >>> from benchmarks.suites.mnists import COLORED
        >>> [suite.protocol for suite in with_diagnostics([COLORED])]
        ['colored-mnist@v1', 'colored-mnist@v1+calibration-v1']
    """
    for suite in suites:
        yield replace(suite, diagnostics=())
        if suite.diagnostics:
            first, *_ = suite.diagnostics
            yield replace(
                suite,
                protocol=f"{suite.protocol}+{VERSION}",
                scores=suite.diagnostics,
                diagnostics=(),
                primary=first.key,
                standard=None,
            )


def _row(suite: Suite, images_sha256: Mapping[str, str]) -> dict[str, str]:
    """Say what a suite is now."""
    cells = (suite.name, suite.protocol, images_sha256.get(suite.name, ""), scores_sha256(suite))
    return dict(zip(COLUMNS, cells, strict=True))


def _read(pinned: Path) -> pd.DataFrame:
    """Read the file; empty if there is none yet."""
    if not pinned.is_file():
        return pd.DataFrame(columns=COLUMNS, dtype=str)
    return pd.read_csv(pinned, dtype=str, keep_default_na=False)


def _random_predictions(suite: Suite, variant: str, seed: int) -> pd.DataFrame:
    """Predictions from random logits, with labels that some of them agree with."""
    n_logits = N_IMAGENET if suite.official else len(suite.world.classes)
    generator = np.random.default_rng(seed)
    logits = torch.from_numpy(3 * generator.standard_normal((N_IMAGES, n_logits)))
    scores = (suite.decision_rule or probabilities)(logits).numpy()
    index, decisions = np.arange(N_IMAGES), scores.argmax(axis=1)
    labels = {
        factor: (decisions + index % period) % scores.shape[1]
        for factor, period in (("shape", 3), ("texture", 4), ("background", 5))
    }
    ids = _ids_of_clusters(suite, index)
    table = {"variant": variant, "id": ids, **labels, "prediction": decisions}
    # Beside the highest score, those of the labels' classes: they move with the decision rule too.
    table |= {"confidence": scores.max(axis=1)}
    table |= {f"p_{factor}": scores[index, label] for factor, label in labels.items()}
    factors = Factors(*map(torch.from_numpy, labels.values()))
    table |= {name: column(logits, factors).numpy() for name, column in suite.columns.items()}
    if suite.evaluation is not None:  # a search
        table |= {"misled": index % (AT_RANDOM + 1), "drawn": np.full(N_IMAGES, AT_RANDOM)}
    return pd.DataFrame(table)


def _ids_of_clusters(suite: Suite, index: NDArray[np.int64]) -> NDArray[np.int64]:
    """Choose ids that are of several clusters, as the suite makes clusters of ids."""
    steps = (index * 10**power for power in range(len(index)))
    return next(ids for ids in steps if len(set(suite.clustering.clusters(pd.Index(ids)))) > 1)
