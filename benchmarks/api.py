"""The Python API: score a module, run models, compare what was run."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from benchmarks.core.context import SILENT, Progress, RunContext
from benchmarks.core.evaluate import evaluate, evaluation_mode, probabilities, score_suite, trains
from benchmarks.core.models import Model, ModuleModel, prepared_as_protocol
from benchmarks.core.sanity_checks import labels_in_another_order, suspicions
from benchmarks.core.statistics import Estimate
from benchmarks.core.suite import DataSource, Suite, TestSet
from benchmarks.data.paths import cache_dir, image_cache_dir
from benchmarks.data.sources import choose_source
from benchmarks.records.compare import compare_stored
from benchmarks.records.sensitivity import write_sensitivity
from benchmarks.records.stored_runs import load_stored_runs
from benchmarks.report.table import Table, interval
from benchmarks.runner import load_test_set
from benchmarks.runner import run as run_models
from benchmarks.suites import ALL_SUITES, get_suite, official_variant
from cgn.device.distributed import own_device
from cgn.device.precision import PRECISIONS

Data = DataSource | str | os.PathLike[str] | None


@dataclass(frozen=True)
class Scores(Mapping[str, Estimate]):
    """All scores of one model on one suite, by name; printed, they are a table in percent.

    Attributes:
        suite: Name of the suite.
        protocol: Name and version of the protocol.
        source: Name of the data source.
        estimates: Value, 95 % interval and number of images of each score; fractions.
    """

    suite: str
    protocol: str
    source: str
    estimates: Mapping[str, Estimate]

    def __getitem__(self, name: str) -> Estimate:
        if name not in self.estimates:
            raise KeyError(f"{self.suite} has no score {name!r}, only {', '.join(self.estimates)}")
        return self.estimates[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.estimates)

    def __len__(self) -> int:
        return len(self.estimates)

    def __str__(self) -> str:
        title = f"{self.suite}: {self.source} data, protocol {self.protocol}"
        table = Table(["score", "percent, 95 % interval", "n"], title)
        for name, (value, low, high, n) in self.estimates.items():
            table.add(name, interval(value, low, high), n)
        return table.to_text(80)

    __repr__ = __str__

    def to_frame(self) -> pd.DataFrame:
        """Lay the scores out as a table: columns score, value, low, high and n; fractions."""
        rows = [{"score": name, **each._asdict()} for name, each in self.items()]
        return pd.DataFrame(rows)


def score(
    module: nn.Module,
    suite: str | Suite,
    *,
    data: Data = None,
    protocol: str | None = None,
    device: str | torch.device | None = None,
    precision: str = "float32",
    batch_size: int | None = None,
    progress: Progress = SILENT,
) -> Scores:
    """Score your own module on a suite; nothing is written.

    Args:
        module: From images (B, 3, H, W) in [0, 1] to logits (B, C), C the suite's classes, or
            ImageNet's 1,000 for an official suite. It normalises images itself. It is moved to
            the device, and keeps its mode.
        suite: Its name, or a suite of your own.
        data: "embedded", "official", or a folder in the official layout; None takes the official
            data if it lies in the data folder, else the embedded data.
        protocol: Another of the suite's protocols.
        device: None takes the GPU if there is one.
        precision: "float32" or "bfloat16".
        batch_size: Images a batch; None takes what suits the device.
        progress: Shows how far it is.

    Raises:
        ValueError: If the data does not fit the suite, or the logits do not.

    Warns:
        UserWarning: If something looks like a mistake, such as a module that normalises twice.

    Example:
        >>> linear = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
        >>> scores = score(linear, "colored-mnist", data="embedded")
        >>> 0 <= scores["unbiased_accuracy"].low <= scores["unbiased_accuracy"].high <= 1
        True
    """
    test = read_test_set(suite, data, protocol, progress)
    test = prepared_as_protocol(test)
    rule, where = test.suite.decision_rule or probabilities, choose_device(device)
    if test.suite.evaluation:
        context = RunContext(where, Path(), cache_dir(), progress, precision)
        predictions, _ = test.suite.evaluation(test, module, type(module).__name__, context)
    else:
        predictions, _ = evaluate(
            module,
            test.variants,
            device=where,
            batch_size=batch_size,
            n_classes=len(test.suite.world.classes),
            decision_rule=rule,
            reference_variant=test.suite.reference_variant,
            columns=test.suite.columns,
            precision=PRECISIONS[precision],
        )
        warn_of_mistakes(module, test, predictions, where)
    estimates = score_suite(test.shown, predictions)
    named = {one.key: estimate for one, estimate in estimates.items()}
    return Scores(test.suite.name, test.protocol, test.source_name, named)


def run(
    models: Mapping[str, nn.Module] | Sequence[Model],
    suites: Sequence[str | Suite],
    *,
    seeds: Sequence[int] = (0,),
    data: Data = None,
    protocol: str | None = None,
    results: str | os.PathLike[str] = "results",
    device: str | torch.device | None = None,
    precision: str = "float32",
    progress: Progress = SILENT,
) -> pd.DataFrame:
    """Score models on suites, and keep rows, predictions and leaderboards.

    Args:
        models: Modules of your own by name, as for `score`; or models, such as those that
            `benchmarks.cli.models.resolve_models` makes of names.
        suites: Names of suites, or suites of your own.
        seeds: Of the fits of models that are fitted.
        data: As for `score`.
        protocol: As for `score`.
        results: The folder.
        device: As for `score`.
        precision: As for `score`.
        progress: As for `score`.

    Returns:
        The rows, a table.

    Raises:
        ValueError: If a model is not for a suite.
    """
    if isinstance(models, Mapping):
        models = [ModuleModel(name, module) for name, module in models.items()]
    context = RunContext(choose_device(device), Path(results), cache_dir(), progress, precision)
    tests = [read_test_set(suite, data, protocol, progress) for suite in suites]
    rows = run_models(tests, models, seeds, context)
    write_sensitivity(context.results, ALL_SUITES.values())
    return pd.DataFrame(rows)


def compare(
    first: str,
    second: str,
    suites: Sequence[str | Suite] | None = None,
    *,
    source: str = "embedded",
    results: str | os.PathLike[str] = "results",
) -> pd.DataFrame:
    """Compare two models by their stored predictions on the same images.

    Args:
        first: Name of a model in the results.
        second: Name of another.
        suites: Names of suites, or suites; None takes all on which both have predictions.
        source: Name of the data source.
        results: The folder.

    Returns:
        A row a suite and score: the scores of both, their difference with its 95 % interval,
        p_value, minimum_detectable_effect, n, and the parts of its standard deviation. Not
        corrected for the number of comparisons.

    Raises:
        ValueError: If there is no suite on which both have predictions.
    """
    rows = []
    for suite in map(as_suite, ALL_SUITES.values() if suites is None else suites):
        runs = load_stored_runs(Path(results), suite, source, [first, second])
        if all(runs):
            rows += [
                {"suite": suite.name, "score": one.key, **difference._asdict()}
                for one, difference in compare_stored(suite, *runs)
            ]
    if not rows:
        raise ValueError(f"{results} holds no {source} predictions of both {first} and {second}")
    return pd.DataFrame(rows)


def read_test_set(
    suite: str | Suite, data: Data, protocol: str | None, progress: Progress
) -> TestSet:
    """Read a suite's test images, of its official edition if these are chosen."""
    suite = as_suite(suite)
    source = data if isinstance(data, DataSource) else choose_source(suite, data)
    suite = official_variant(suite, source)
    known = ALL_SUITES.get(suite.name) is suite
    cache = image_cache_dir() if known else None
    return load_test_set(suite, source, progress, protocol, cache=cache)


def as_suite(suite: str | Suite) -> Suite:
    """Look a suite up, if it is a name."""
    return get_suite(suite) if isinstance(suite, str) else suite


def choose_device(name: str | torch.device | None) -> torch.device:
    """Choose the GPU of this process if there is one, and no other device is asked for.

    Raises:
        ValueError: If a GPU is asked for, and there is none.
    """
    if isinstance(name, torch.device):
        return name
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ValueError("PyTorch sees no GPU here; leave the device out to use the CPU")
    return own_device(torch.device("cuda")) if there and name != "cpu" else torch.device("cpu")


def warn_of_mistakes(
    module: nn.Module, test: TestSet, predictions: pd.DataFrame, device: torch.device
) -> None:
    """Warn of what makes a plausible score a wrong one."""
    found = ["it came in training mode, and was evaluated in evaluation mode"] * trains(module)
    with evaluation_mode(module):
        rule = test.suite.decision_rule or probabilities
        found += suspicions(module, test.variants, rule, device)
    found.append(labels_in_another_order(predictions, int(predictions["shape"].max()) + 1))
    for sentence in filter(None, found):
        warnings.warn(f"{test.suite.name}, {type(module).__name__}: {sentence}", stacklevel=3)
