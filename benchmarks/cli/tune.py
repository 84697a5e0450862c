"""Tries settings of recipes on training objects that are held out of the fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict

from benchmarks.cli.arguments import (
    RESULTS,
    Device,
    Results,
    Suites,
    TrainingData,
    find,
    resolve_device,
    split_names,
)
from benchmarks.cli.models import RecipeModel
from benchmarks.cli.output import Output
from benchmarks.cli.run import Models
from benchmarks.cli.train import weights_path
from benchmarks.core.context import RunContext
from benchmarks.core.environment import environment
from benchmarks.core.evaluate import evaluate
from benchmarks.core.suite import DataSource, Suite, TrainingDomain
from benchmarks.data.generators import GENERATED_SETS, training_preset
from benchmarks.data.paths import cache_dir, check_place, image_cache_dir
from benchmarks.data.rendered import training_cached
from benchmarks.data.training import TrainingSets
from benchmarks.report.tables import tuning_table
from benchmarks.tuning import FILE, Try, append_tries, compare_settings, held_out, read_tries
from cgn.data.image_set import ImageSet
from cgn.models.cgn import CGN
from cgn.training.checkpoints import alone_at
from cgn.training.end_to_end import END_TO_END, EndToEndConfig, train_end_to_end
from cgn.training.small import train
from classifiers import MODELS
from classifiers.recipes import BIASED_VALIDATION, FREE_FACTORS, Recipe
from classifiers.tuning import Candidate, candidates


def tune(
    *,
    suite: Suites,
    model: Models,
    tries: int = 6,
    seeds: int = 1,
    no_run: bool = False,
    data: TrainingData = TrainingData(),
    device: Device = "auto",
    results: Results = RESULTS,
    output: Output = Output(),
) -> None:
    """Try settings of recipes on held-out training objects; no test image takes part.

    Each try is fitted to the training images without the held-out objects, and read on these
    twice: painted with free factors, and as biased as the training images. A CGN or GAN is trained
    without them, too.

    Args:
        suite: Suites or groups of suites, whose worlds are meant.
        model: Recipes, or all.
        tries: How many settings of each recipe, its own first.
        seeds: How many seeds each is fitted with: 0 to N-1.
        no_run: Only print what is there.
    """
    recipes = find(split_names(model), MODELS, "model", {"all": list(MODELS)})
    tried = {recipe.name: candidates(recipe, tries) for recipe in recipes}
    pairs = [(each, data.source(each)) for each in suite]
    for each in suite:
        require_free_factors(each)
    check_place(results / FILE)
    read_tries(results)
    if not no_run:
        with output.progress() as progress:
            context = RunContext(resolve_device(device), results, cache_dir(), progress)
            for each, source in pairs:
                try_settings(each, source, recipes, tried, range(seeds), context)
    rows = read_tries(results)
    of = [(each.name, source.name, source.correlation) for each, source in pairs]
    index = rows[["suite", "source", "correlation"]].apply(tuple, axis=1)
    rows = rows[index.isin(of)] if len(rows) else rows
    for name in tried:
        if len(own := rows[rows["recipe"] == name]):
            output.tables(tuning_table(name, compare_settings(own), tuple(own["rule"].unique())))
        else:
            output.note(f"{results} holds no tries of {name} on this data")


def require_free_factors(suite: Suite) -> None:
    """Refuse suites whose training objects cannot be painted with free factors.

    Raises:
        ValueError: If the suite has photographs.
    """
    if suite.world.masks_are_predicted or suite.official:
        raise ValueError(
            f"{suite.name} is of photographs, of which none have free factors to choose settings "
            "by; take a suite of drawn images, such as colored-mnist"
        )


def try_settings(
    suite: Suite,
    source: DataSource,
    recipes: Sequence[Recipe],
    tried: dict[str, list[Candidate]],
    seeds: Sequence[int],
    context: RunContext,
) -> None:
    """Fit all candidates of recipes on one suite's world, and keep what they come to."""
    world = suite.world
    with context.progress.task(f"{world.name}: training images"):
        unbiased = training_cached(world, "unbiased", source, image_cache_dir())
        biased = training_cached(world, "train", source, image_cache_dir())
    tests = {FREE_FACTORS: unbiased, BIASED_VALIDATION: biased}
    tests = {rule: images.select(held_out(images)) for rule, images in tests.items()}
    sets = TrainingSets(without_held_out)
    for recipe in recipes:
        for method in cgn_methods(recipe):
            train_missing_cgn(world, method, without_held_out(biased), context)
        for candidate in tried[recipe.name]:
            model = RecipeModel(candidate.recipe, sets)
            for seed in seeds:
                rows = read_candidate(suite, source, model, candidate, tests, seed, context)
                append_tries(rows, context.results)


def read_candidate(
    suite: Suite,
    source: DataSource,
    model: RecipeModel,
    candidate: Candidate,
    tests: dict[str, ImageSet],
    seed: int,
    context: RunContext,
) -> list[Try]:
    """Fit one candidate with one seed, and read it by each rule."""
    fitted, _ = model.fit(suite.world, source, seed, context)
    predictions, _ = evaluate(
        fitted.module,
        model.inputs(tests),
        device=context.device,
        n_classes=len(suite.world.classes),
    )
    hits = (predictions["prediction"] == predictions["shape"]).groupby(predictions["variant"])
    return [
        Try(
            suite=suite.name,
            source=source.name,
            correlation=source.correlation,
            recipe=model.name,
            settings=candidate.settings,
            rule=str(rule),
            seed=seed,
            value=float(own.mean()),
            n=len(own),
            **environment(context.device),
        )
        for rule, own in hits
    ]


def without_held_out(images: ImageSet) -> ImageSet:
    """Leave out the objects that settings are chosen on."""
    return images.select(~held_out(images))


def cgn_methods(recipe: Recipe) -> list[str]:
    """List the methods by which the CGNs are trained whose images a recipe sees.

    Example:
        >>> cgn_methods(MODELS["cgn-abduct"]), cgn_methods(MODELS["erm"])
        ([''], [])
    """
    names = [GENERATED_SETS.get(kind, kind) for kind in recipe.trains_on]
    own = [name for name in names if name.startswith("cgn") and name != "cgn-released"]
    return list(dict.fromkeys(END_TO_END if END_TO_END in name else "" for name in own))


def train_missing_cgn(
    world: TrainingDomain, method: str, images: ImageSet, context: RunContext
) -> None:
    """Train a CGN on a part of a world's images, unless there is one, with the world's settings."""
    n_classes, sha256 = len(world.classes), images.sha256()
    config = EndToEndConfig() if method == END_TO_END else training_preset(world)
    train_one: Callable[..., CGN] = train_end_to_end if method == END_TO_END else train
    path = weights_path(world, sha256, config.seed, method)
    checkpoint = path.with_suffix(".checkpoint")
    with alone_at(path), context.progress.task(f"{world.name}: CGN") as update:
        if path.exists():
            return
        cgn = train_one(
            images, n_classes, config, device=context.device, checkpoint=checkpoint, progress=update
        )
        about = {"config": asdict(config), "method": method, "world": world.name}
        cgn.save(path, about | {"train_sha256": sha256} | environment(context.device))
        checkpoint.unlink(missing_ok=True)
