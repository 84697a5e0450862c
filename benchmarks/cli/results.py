"""Commands on results that are there: compare, plan, check, rescore, export, report."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import torch
from cyclopts import Parameter

from benchmarks.cli.arguments import (
    RESULTS,
    NewFile,
    NewFolder,
    NewPage,
    Results,
    Suites,
    find_suites,
)
from benchmarks.cli.models import BundledModel
from benchmarks.cli.output import Output
from benchmarks.cli.run import require_results, show_what_follows
from benchmarks.comparison.files import ENDINGS, accuracy_of_predictions, compare_predictions
from benchmarks.comparison.plan import make_plans, pilot
from benchmarks.comparison.power import POWER
from benchmarks.core.context import Progress, RunContext
from benchmarks.core.suite import EMBEDDED, Suite, TestSet, parse_model_id
from benchmarks.data.paths import cache_dir, check_place, image_cache_dir, user_weights_dir
from benchmarks.exports.croissant import write_croissant
from benchmarks.exports.eval_results import write_eval_results
from benchmarks.exports.every_eval_ever import write_every_eval_ever
from benchmarks.exports.tables import write_tables
from benchmarks.records.answers import check_answers
from benchmarks.records.check import check, check_weights, summary
from benchmarks.records.compare import compare_stored
from benchmarks.records.gate import check_regression
from benchmarks.records.history import check_history, results_at_revision
from benchmarks.records.leaderboard import (
    ENOUGH_SEEDS,
    leaderboards,
    with_few_seeds,
    write_leaderboards,
)
from benchmarks.records.predictions import Run
from benchmarks.records.rescore import missing_rows
from benchmarks.records.runs import append, exclusive, read_runs
from benchmarks.records.sensitivity import write_sensitivity
from benchmarks.records.stored_runs import load_stored_runs
from benchmarks.report.comparison_tables import plans_table, predictions_table, variances_table
from benchmarks.report.tables import differences_table, primary_scores_table
from benchmarks.runner import load_test_set, predict, run_metadata
from benchmarks.suites import ALL_SUITES, SUITES
from benchmarks.suites.protocols import PINNED, check_protocols, record_fingerprint
from cgn.counterfactuals.sampling import find_weights
from cgn.counterfactuals.sheets import sheet
from cgn.io.schema import user_path
from cgn.io.writing import write_text
from cgn.models.cgn import CGN
from classifiers.checkpoints import is_shipped


def suites_with_rows(results: Path) -> list[Suite]:
    """Suites that have a leaderboard in a folder of results."""
    return [suite for suite in ALL_SUITES.values() if (results / f"{suite.name}.csv").exists()]


def compare_models(
    first: str,
    second: str,
    /,
    *,
    suite: Suites | None = None,
    source: str = "embedded",
    margin: float | None = None,
    results: Results = RESULTS,
    output: Output = Output(),
) -> None:
    """Compare two models on every suite on which both have predictions, or two files of yours.

    A file (*.csv, *.parquet, *.npz) has the predictions of any model on any benchmark: columns id,
    label, and prediction or logits (logit_0, logit_1, …), and if images depend on one another
    cluster, and if there are several runs seed.

    Args:
        first: Name of a model, as in the leaderboards; or a file of predictions.
        second: Name of another, or another file on the same images.
        suite: Suites or groups of suites; without it all of them.
        source: Of the data, as in the leaderboards.
        margin: In points: the verdict says whether a model is worse by no more than so many.
    """
    models = first, second
    if any(name.lower().endswith(ENDINGS) for name in models):
        if not all(name.lower().endswith(ENDINGS) for name in models):
            raise ValueError(
                f"a file of predictions is compared with another one, not {first} with {second}"
            )
        difference = compare_predictions(user_path(first), user_path(second))
        names = Path(first).stem, Path(second).stem
        shown = names if names[0] != names[1] else models
        output.tables(predictions_table(*shown, accuracy_of_predictions(), difference, margin))
        return
    differences = []
    for each in suite if suite is not None else find_suites("all"):
        with exclusive(results):
            runs = load_stored_runs(results, each, source, models)
        if all(runs):
            differences += [(each, *found) for found in compare_stored(each, *runs)]
    if not differences:
        raise ValueError(
            f"{results} holds no {source} predictions of both {first} and {second} on one suite; "
            f"make them with {format_run_commands(models)}"
        )
    output.tables(differences_table(first, second, differences, margin))


def format_run_commands(models: Sequence[str]) -> str:
    """Name the commands that score models.

    Args:
        models: Names as they stand in the leaderboards.

    Example:
        >>> format_run_commands(["cgn/shape", "erm@0.99"])
        '`bench.py --suite … --model cgn` and `bench.py --suite … --model erm --correlation 0.99`'
    """
    names: dict[float, list[str]] = {}
    for model in models:
        plain, correlation = parse_model_id(model.partition("/")[0])
        names.setdefault(correlation, []).append(plain)
    return " and ".join(
        f"`bench.py --suite … --model {','.join(dict.fromkeys(plain))}"
        f"{'' if correlation == 1 else f' --correlation {correlation}'}`"
        for correlation, plain in names.items()
    )


def plan(
    first: str,
    second: str,
    /,
    *,
    suite: Suites,
    points: float = 2.0,
    power: float = POWER,
    images: int | None = None,
    seeds: int | None = None,
    generators: int | None = None,
    source: str = "embedded",
    results: Results = RESULTS,
    output: Output = Output(),
) -> None:
    """Say how many images, seeds and generators show a difference between two models.

    The variances are those of stored runs of the same models, for the suite's primary score.

    Args:
        first: Name of a model, as in the leaderboards.
        second: Name of another.
        suite: Suites or groups of suites.
        points: The difference to be found, in points of percent.
        power: How likely it is to be found, in (0.05, 1).
        images: How many images a run has; without it as many as the suite.
        seeds: How many seeds of each model; without it 3, 5, 10 and 20.
        generators: How many generators a model has that trains on images of one; without it as
            stored, and one a seed where it was so there.
        source: Of the data, as in the leaderboards.
    """
    tables = []
    for each in suite:
        with exclusive(results):
            runs = load_stored_runs(results, each, source, (first, second))
        if not all(runs):
            continue
        (primary,) = (score for score in each.scores if score.key == each.primary)
        stored = pilot(primary, (first, second), *runs)
        plans = make_plans(
            stored, points / 100, images=images, seeds=seeds, generators=generators, wanted=power
        )
        tables += [variances_table(each.name, stored), plans_table(points / 100, power, plans)]
    if not tables:
        raise ValueError(
            f"{results} holds no {source} predictions of both {first} and {second} on these "
            f"suites; make them with {format_run_commands((first, second))}"
        )
    output.tables(*tables)


def check_results(
    *,
    against: Annotated[str | None, Parameter(metavar="REV")] = None,
    summary_file: Annotated[NewFile | None, Parameter(name="--summary")] = None,
    pin: bool = False,
    protocols: Annotated[NewFile, Parameter(show_default=False)] = PINNED,
    results: Results = RESULTS,
    output: Output = Output(),
) -> int:
    """Find rows that do not hold against predictions, test images, weights and the past.

    Args:
        against: A git revision: its rows must still be there, and no score may be worse.
        summary_file: Where to write the problems and leaderboards as Markdown.
        pin: Write down what new versions of protocols decide.
        protocols: File of what each version of a protocol decides.

    Returns:
        1 if there is a row that does not hold.
    """
    with exclusive(results):
        runs, suites = read_runs(results), suites_with_rows(results)
    if runs.empty:
        raise ValueError(f"{results} holds no rows to check; name another folder with `results`")
    with output.progress() as progress, exclusive(results):
        tests = [
            load_test_set(each, EMBEDDED, progress, cache=image_cache_dir())
            for each in suites
            if each.embedded
        ]
        hashes = {test.suite.name: test.data_sha256 for test in tests}
        versions = [each.with_protocol(name) for each in suites for name in each.protocol_names]
        if pin and (added := record_fingerprint(versions, hashes, protocols)):
            output.note(f"written down: {', '.join(added)}")
        with progress.task("rows and predictions") as update:
            problems = check(results, ALL_SUITES, hashes, update)
        problems += check_answers(results, ALL_SUITES, {each.suite.name: each for each in tests})
        problems += check_protocols(versions, hashes, protocols)
        problems += check_bundled(tests, results, progress)
        if against is not None:
            problems += check_past(results, against, progress)
    output.lines("problems", problems)
    for few in filter(None, (with_few_seeds(runs, suite) for suite in suites)):
        output.note(f"fewer than {ENOUGH_SEEDS} seeds, which is no problem yet: {', '.join(few)}")
    if summary_file:
        table = primary_scores_table(leaderboards(results, SUITES.values()), "embedded")
        write_text(summary_file, summary(problems, table.to_markdown()))
    output.note(f"problems: {len(problems)}" if problems else "all rows hold")
    return int(bool(problems))


def check_bundled(tests: Sequence[TestSet], results: Path, progress: Progress) -> list[str]:
    """Evaluate bundled classifiers again on the test sets that they have rows of."""
    runs = read_runs(results)
    runs = runs[runs["model"].map(is_shipped) & ~runs["model"].str.contains("/", regex=False)]
    context = RunContext(torch.device("cpu"), results, cache_dir(), progress)
    again: list[tuple[Run, pd.DataFrame]] = []
    try:
        for test in tests:
            of_test = (runs["suite"] == test.suite.name) & (runs["source"] == test.source.name)
            of_test &= runs["protocol"] == test.suite.protocol
            for name in dict.fromkeys(runs[of_test]["model"]):
                fitted = BundledModel(name).load(test.suite)
                tables, _ = predict(test, fitted, name, context)
                again.append((run_metadata(test, fitted, name), tables[""]))
        return check_weights(results, again)
    except ValueError as error:  # weights that have rows are gone, or fit no network any more
        return [str(error)]


def check_past(results: Path, revision: str, progress: Progress) -> list[str]:
    """Compare results with those of a git revision."""
    with results_at_revision(results, revision) as before, progress.task("history") as update:
        problems = check_history(before, results)
        return problems + check_regression(before, results, ALL_SUITES, update)


def rescore(
    *, suite: Suites | None = None, results: Results = RESULTS, output: Output = Output()
) -> None:
    """Add the scores that rows lack, from stored predictions, and rewrite the leaderboards.

    Args:
        suite: Suites or groups of suites; without it all with rows.
    """
    suites = suite if suite is not None else suites_with_rows(results)
    require_results(results)
    with exclusive(results):
        with output.progress() as progress, progress.task("scores") as update:
            rows = missing_rows(results, {each.name: each for each in suites}, update)
        n_added = append(rows, results)
        write_leaderboards(results, suites)
        write_sensitivity(results, ALL_SUITES.values())
    show_what_follows(results, {each.name for each in suites}, output)
    output.note(f"rows added: {n_added}")


def export(
    form: Annotated[
        Literal["every-eval-ever", "eval-results", "croissant", "latex", "markdown"],
        Parameter(metavar="FORMAT"),
    ],
    /,
    *,
    out: NewFolder,
    suite: Suites | None = None,
    dataset: Annotated[str | None, Parameter(metavar="OWNER/NAME")] = None,
    results: Results = RESULTS,
    output: Output = Output(),
) -> None:
    """Write results, or the embedded test images, in the format of another tool.

    Args:
        form: every-eval-ever: leaderboards as records of its schema. eval-results: leaderboards for
            model repositories on the Hugging Face Hub. croissant: embedded test images with
            metadata. latex, markdown: leaderboards as tables.
        out: The folder to write to.
        suite: Suites or groups of suites; without it all with rows, or for croissant `all`.
        dataset: For eval-results: the benchmark's data set on the Hub.
    """
    if form == "croissant":
        with output.progress() as progress:
            chosen = [each for each in suite or find_suites("all") if each.embedded]
            for each in chosen:
                test = load_test_set(each, EMBEDDED, progress, cache=image_cache_dir())
                write_croissant(test, out, datetime.now(UTC).date())
        output.note(f"wrote {len(chosen)} data sets to {out}")
        return
    require_results(results)
    boards = [
        (each, board)
        for each, board in leaderboards(results, suite or suites_with_rows(results))
        if len(board)
    ]
    if not boards:
        raise ValueError(f"{results} holds no leaderboard of these suites under their protocols")
    runs = read_runs(results)
    if form == "every-eval-ever":
        files = write_every_eval_ever(boards, runs, out)
    elif form == "eval-results":
        if dataset is None:
            raise ValueError("eval-results are of a data set on the Hub: name it in `dataset`")
        files = write_eval_results(boards, runs, dataset, out)
    else:
        files = write_tables(boards, form, out)
    output.note(f"wrote {len(files)} files to {out}")


def report(
    *, out: NewPage | None = None, results: Results = RESULTS, output: Output = Output()
) -> None:
    """Write all results as one HTML page.

    Args:
        out: The page; without it report.html in the folder of results.
    """
    from benchmarks.report.figures import correlation_sweep, correlation_sweep_rows
    from benchmarks.report.page import write_report  # both take half a second to import

    suites = suites_with_rows(results)
    page = out or results / "report.html"
    if not suites:
        raise ValueError(f"{results} holds no rows to report; run a model first")
    check_place(page, "out")
    with output.progress() as progress:
        images = {
            each.name: load_test_set(each, EMBEDDED, progress, cache=image_cache_dir()).variants
            if each.embedded
            else {}
            for each in suites
        }
    worlds = dict.fromkeys(each.world.name for each in suites if each.embedded)
    write_report(page, results, suites, images, sample_sheets(worlds))
    output.note(f"wrote {page}")
    boards = leaderboards(results, suites)
    models = dict.fromkeys(
        name for _, board in boards for name in correlation_sweep_rows(board)["plain"]
    )
    for shade, drawing in (
        correlation_sweep(boards, list(models))._asdict().items() if models else ()
    ):
        figure = page.with_name(f"correlation-{shade}.svg")
        write_text(figure, drawing)
        output.note(f"wrote {figure}")


def sample_sheets(worlds: Iterable[str]) -> dict[str, bytes]:
    """Draw samples of the CGN of each world that has one, as PNG."""
    sheets = {}
    with tempfile.TemporaryDirectory() as folder:
        for world in worlds:
            try:
                weights = find_weights(world, "", user_weights_dir(), "embedded")
            except ValueError:  # it does not come with the package, and nobody has trained it
                continue
            cgn, _ = CGN.load(weights.path)
            picture = Path(folder) / "sheet.png"
            sheet(cgn, picture)
            sheets[world] = picture.read_bytes()
    return sheets
