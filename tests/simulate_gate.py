"""How often the gate fails re-runs that are honest, and whether it finds rows that are not.

    python tests/simulate_gate.py RESULTS

Re-runs are simulated on the rows and predictions of a folder of results:
    - the same weights elsewhere: half a percent of all answers turn;
    - every model trained anew: seeds draw other scores, as far apart as the stored ones;
    - one row falls by five points: as many right answers of one run become wrong ones.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtr
from scipy.stats import binom

from benchmarks.records import gate
from benchmarks.records.compare import holm
from benchmarks.records.predictions import Run, load
from benchmarks.records.runs import newest, read_runs
from benchmarks.suites import ALL_SUITES

Floats = NDArray[np.float64]

TURNED = 0.005
N_RERUNS = 200
N_SABOTAGES = 150


def false_alarms_of_same_weights(results: Path) -> float:
    """Bound the chance that any variant of any run has more turned answers than the gate allows."""
    chance = 0.0
    for path in results.glob("predictions/*/*/*/*.parquet"):
        sizes = load(path)[0]["variant"].value_counts()
        allowed = np.maximum(1, np.floor(gate.SAME_WEIGHTS * sizes))
        chance += float(np.sum(binom.sf(allowed, sizes, TURNED)))
    return chance


def false_alarms_of_new_weights(results: Path, generator: np.random.Generator) -> float:
    """Share of re-runs with new seeds that fail; as if images varied nothing, so too many."""
    rows = newest(read_runs(results))
    current = {(s.name, name) for s in ALL_SUITES.values() for name in s.protocol_names}
    rows = rows[[pair in current for pair in zip(rows["suite"], rows["protocol"], strict=True)]]
    rows = rows[~rows["metric"].isin(["shape_share", "worst_group_accuracy"])]
    slot = ["suite", "protocol", "source", "model", "variant", "metric"]
    drops: dict[tuple[object, ...], list[Floats]] = {}
    for name, of_row in rows.groupby(slot):
        values = of_row["value"].to_numpy(float)
        if len(values) > 1 and values.std() > 0:
            drops.setdefault(tuple(name)[:4], []).append(drops_and_p_values(values, generator))
    failed = np.zeros(N_RERUNS, dtype=bool)
    for family in drops.values():
        for rerun, (drop, p_values) in enumerate(zip(*np.stack(family, axis=2), strict=True)):
            failed[rerun] |= fails(drop, p_values, len(drops))
    return float(failed.mean())


def drops_and_p_values(values: Floats, generator: np.random.Generator) -> Floats:
    """How far the mean of new seeds is below that of these, and Welch's p-value, (2, re-runs)."""
    n = len(values)
    now = generator.normal(values.mean(), values.std(ddof=1), size=(N_RERUNS, n))
    errors = np.stack([np.full(N_RERUNS, values.var(ddof=1)), now.var(axis=1, ddof=1)]) / n
    freedom = errors.sum(axis=0) ** 2 / (errors**2 / (n - 1)).sum(axis=0)
    drop = values.mean() - now.mean(axis=1)
    p_values = 2 * stdtr(freedom, -np.abs(drop) / np.sqrt(errors.sum(axis=0)))
    return np.stack([drop, p_values])


def fails(drops: Floats, p_values: Floats, n_families: int) -> bool:
    """Apply the rules of the gate to the scores of a model on a suite."""
    corrected = np.array(holm(list(p_values))) * n_families
    beyond = (drops > gate.FLOOR) & (p_values < gate.FLOOR_LEVEL)
    return bool(((drops > 0) & (corrected < gate.LEVEL) | beyond | (drops > gate.CEILING)).any())


def found_sabotages(results: Path, generator: np.random.Generator) -> tuple[int, int]:
    """Count rows that fall by five points alone, and those of them that the gate names."""
    paths = sorted(results.glob("predictions/*/*/*/seed*.parquet"))
    n_found = n_tried = 0
    for place in generator.permutation(len(paths)):
        suite = ALL_SUITES[paths[place].relative_to(results).parts[1]]
        table, run = load(paths[place])
        accuracies = [s for s in suite.scores if s.metric.endswith("accuracy") and not s.estimate]
        fallen = [score.variant for score in accuracies if can_fall(table, score.variant)]
        if fallen and run.protocol == suite.kept_as:
            variant = str(generator.choice(fallen))
            n_found += is_found(table, run, variant, generator)
            n_tried += 1
        if n_tried == N_SABOTAGES:
            break
    return n_found, n_tried


def can_fall(table: pd.DataFrame, variant: str) -> bool:
    """Whether five points or more of a variant's images are answered rightly."""
    rows = table[table["variant"] == variant]
    return len(rows) > 0 and float((rows["prediction"] == rows["shape"]).mean()) > 0.05


def is_found(table: pd.DataFrame, run: Run, variant: str, generator: np.random.Generator) -> bool:
    """Turn five points of right answers of a variant into wrong ones, and ask the gate."""
    of_variant = table["variant"] == variant
    right = table.index[of_variant & (table["prediction"] == table["shape"])]
    wrong = generator.choice(right, size=int(np.ceil(0.05 * of_variant.sum())), replace=False)
    forged = table.copy()
    forged.loc[wrong, "prediction"] += 1
    states = ({"seed.parquet": (each, run)} for each in (table, forged))
    lines = gate.of_same_weights("row", ALL_SUITES[run.suite], *states)
    return any(f" {variant}" in line for line in lines)


def main() -> None:
    results = Path(sys.argv[1])
    generator = np.random.default_rng(0)
    lines = [
        f"same weights: at most {false_alarms_of_same_weights(results):.4f} of re-runs fail",
        f"new weights: {false_alarms_of_new_weights(results, generator):.3f} of re-runs fail",
        "fallen rows: {} of {} are named".format(*found_sabotages(results, generator)),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
