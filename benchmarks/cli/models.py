"""Models whose weights come from a recipe, from elsewhere, or with the package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

from benchmarks.cli.arguments import find, split_names
from benchmarks.core.context import RunContext
from benchmarks.core.evaluate import probabilities
from benchmarks.core.models import FittedModel, Model, prepared_as_protocol
from benchmarks.core.sanity_checks import suspicions
from benchmarks.core.suite import EMBEDDED, DataSource, Suite, TestSet, TrainingDomain
from benchmarks.data.generators import GENERATED_SETS, NOT_BUNDLED
from benchmarks.data.training import TrainingSets
from benchmarks.suites.decisions import wnid_outputs
from benchmarks.worlds.imagenet import N_OUTPUTS
from cgn.data.image_set import ImageSet
from cgn.device.distributed import dist_info
from classifiers import MODELS, is_spec, load_model
from classifiers.checkpoints import FOLDER as CLASSIFIERS
from classifiers.checkpoints import is_shipped, load_shipped
from classifiers.fit import fit_cached
from classifiers.networks.pretrained import Pretrained
from classifiers.networks.small import embed_in_label_space, outputs
from classifiers.recipes import Recipe


@dataclass(frozen=True)
class RecipeModel:
    """A model that is fitted here.

    Attributes:
        recipe: How it is fitted.
        sets: What it is fitted to; recipes that share it read images once.
    """

    recipe: Recipe
    sets: TrainingSets = field(default_factory=TrainingSets)

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.recipe.name

    def require(self, tests: Sequence[TestSet], context: RunContext) -> None:
        """Refuse official suites, other precisions, several processes, and what is missing."""
        require_own_classes(self.name, tests, context)
        for world, source in dict.fromkeys((test.suite.world, test.source) for test in tests):
            for kind in NOT_BUNDLED.intersection(self.recipe.trains_on):
                generation = self.sets.generation(world, source, 0, context)
                generation.generator_seed(GENERATED_SETS[kind])
        if self.recipe.input_kind != "masks":
            return
        for test in tests:
            if unknown := [name for name, images in test.variants.items() if images.masks is None]:
                raise ValueError(
                    f"{self.name} sees true object masks, which {test.suite.name} does not have "
                    f"for {', '.join(unknown)}; leave out either"
                )

    def evaluations(
        self, tests: Sequence[TestSet], seeds: Sequence[int], context: RunContext
    ) -> Iterator[tuple[FittedModel, TestSet]]:
        """Fit once a world and seed; yield the fit with each test set of the world."""
        worlds = dict.fromkeys((test.suite.world, test.source) for test in tests)
        for world, source in worlds:
            own = [test for test in tests if (test.suite.world, test.source) == (world, source)]
            for seed in seeds:
                fitted = self.fit(world, source, seed, context)[0]
                for test in own:
                    yield fitted, replace(test, variants=self.inputs(test.variants))

    def fit(
        self, world: TrainingDomain, source: DataSource, seed: int, context: RunContext
    ) -> tuple[FittedModel, dict[str, ImageSet]]:
        """Fit the recipe, or take it from the cache; the model, and the sets it was fitted to."""
        kinds = set(self.recipe.trains_on)
        sets, generators = self.sets.load(world, source, kinds, seed, context)
        own = {kind: sets[kind] for kind in self.recipe.trains_on if kind in sets}
        counted = {"biased": sets["biased"]} if "biased" in sets else {}
        with context.progress.task(f"{self.name}: fit, seed {seed}") as update:
            module, weights_sha256 = fit_cached(
                self.recipe,
                self.inputs(counted | own),
                n_classes=len(world.classes),
                seed=seed,
                device=context.device,
                cache=context.cache / "classifiers",
                progress=update,
            )
        drew = {str(generators[kind]) for kind in own if kind in generators}
        fitted = FittedModel(
            self.name,
            module,
            weights_sha256,
            seed,
            " ".join(sorted(drew)),
            outputs,
            self.recipe.selected_on,
        )
        return fitted, own

    def inputs(self, sets: Mapping[str, ImageSet]) -> dict[str, ImageSet]:
        """Show the recipe the images, or their true masks in place of them."""
        if self.recipe.input_kind == "images":
            return dict(sets)
        return {name: images.as_masks() for name, images in sets.items()}


@dataclass(frozen=True)
class PretrainedModel:
    """A network that was trained elsewhere.

    Attributes:
        name: Its spec.
    """

    name: str

    def require(self, tests: Sequence[TestSet], context: RunContext) -> None:
        """Refuse suites that do not ask for ImageNet's outputs."""
        for test in tests:
            if not test.suite.official:
                raise ValueError(
                    f"{self.name} knows ImageNet's 1,000 classes, for which {test.suite.name} has "
                    "no images here; name the folder of the official ones with `data`, or take "
                    "another suite"
                )

    def evaluations(
        self, tests: Sequence[TestSet], seeds: Sequence[int], context: RunContext
    ) -> Iterator[tuple[FittedModel, TestSet]]:
        """Yield the network with each test set, prepared as the protocol or the network asks."""
        with context.progress.task(f"{self.name}: weights"), dist_info().main_process_first():
            network = load_model(self.name)
        if network.note and dist_info().is_main_process:
            context.progress.note(network.note)
        adapted = [(with_outputs_of(network, test.suite), test) for test in tests]
        for own, test in adapted:
            seen, shown = prepared(own, test)
            fitted = FittedModel(shown.spec, shown.module, network.weights_sha256, outputs=outputs)
            yield fitted, seen
            if self.name.startswith("file:") and dist_info().is_main_process:
                decision_rule = test.suite.decision_rule or probabilities
                for line in suspicions(shown.module, seen.variants, decision_rule, context.device):
                    context.progress.note(f"warning: {line}")


@dataclass(frozen=True)
class BundledModel:
    """A classifier that comes with the package.

    Attributes:
        name: Its spec.
        folder: Where the weights lie.
    """

    name: str
    folder: Path = CLASSIFIERS

    def require(self, tests: Sequence[TestSet], context: RunContext) -> None:
        """Refuse official suites, and images that it may have been fitted to."""
        require_own_classes(self.name, tests, context)
        if {test.source for test in tests} - {EMBEDDED}:
            raise ValueError(
                f"{self.name} was fitted on the embedded data and is for its test images alone; "
                "take embedded data, without textures and correlation"
            )

    def evaluations(
        self, tests: Sequence[TestSet], seeds: Sequence[int], context: RunContext
    ) -> Iterator[tuple[FittedModel, TestSet]]:
        """Yield the classifier of each test set's world."""
        fits = [self.load(test.suite) for test in tests]
        yield from zip(fits, tests, strict=True)

    def load(self, suite: Suite) -> FittedModel:
        """Read the weights for the world of a suite."""
        module, weights_sha256, about = load_shipped(self.name, suite.world.name, self.folder)
        seeds = int(about["seed"]), str(about["generator_seed"])
        rule = str(about.get("selected_on", ""))
        return FittedModel(self.name, module, weights_sha256, *seeds, outputs, rule)


def require_own_classes(name: str, tests: Sequence[TestSet], context: RunContext) -> None:
    """Refuse what only goes with pretrained networks: other classes, precisions and processes.

    Raises:
        ValueError: If a model that is fitted here is asked for it.
    """
    asked = {"`precision`": context.dtype.itemsize < 4, "torchrun": dist_info().size > 1}
    for option in (option for option, is_asked in asked.items() if is_asked):
        raise ValueError(
            f"{option} is for pretrained networks, and {name} is trained here; leave out either"
        )
    if any(test.suite.official for test in tests):
        raise ValueError(
            f"{name} is trained here, on other classes than the official images have; take a "
            "pretrained network, such as efficientnet-lite0, or embedded data"
        )


def with_outputs_of(network: Pretrained, suite: Suite) -> Pretrained:
    """Let a network that knows a suite's classes by name answer as those that know all outputs.

    Raises:
        ValueError: If it knows others.
    """
    places = {**wnid_outputs(), **suite.class_outputs}
    if odd := [name for name in network.classes if name not in places]:
        raise ValueError(
            f"{network.spec} knows classes that {suite.name} does not, such as {odd[0]}; name the "
            "folders that it is fitted to as ImageNet's wnids or, for in9, as 00_dog to 08_fish"
        )
    if not network.classes:
        return network
    outputs_of_classes = [places[name] for name in network.classes]
    return replace(
        network, module=embed_in_label_space(network.module, outputs_of_classes, N_OUTPUTS)
    )


def prepared(network: Pretrained, test: TestSet) -> tuple[TestSet, Pretrained]:
    """Prepare images as the protocol or, if it leaves that to it, the network asks for."""
    override = test.shown.view
    if override and override.normalisation:
        network = network.with_normalisation(*override.normalisation)
    own = network.preprocessing if test.suite.own_preprocessing else None
    test = prepared_as_protocol(test, own)
    first = next(iter(test.variants.values()), None)
    if first is not None:
        network = network.for_size(first.size_px[0])
    return test, network


def resolve_models(text: str, suites: Sequence[Suite]) -> list[Model]:
    """Look models up.

    Args:
        text: Names of recipes, specs of networks, `all`; with commas between them.
        suites: What they are for: on official images an unknown name is a pretrained network's.

    Raises:
        ValueError: If a name is unknown.
    """
    official, sets = any(suite.official for suite in suites), TrainingSets()
    models: list[Model] = []
    names = model_names(text)
    for foreign, group in groupby(names, lambda name: is_foreign(name, official)):
        if foreign:
            models += [BundledModel(n) if is_shipped(n) else PretrainedModel(n) for n in group]
        else:
            known = find(group, MODELS, "model", {"all": bundled_recipes()})
            models += [RecipeModel(recipe, sets) for recipe in known]
    return list({model.name: model for model in models}.values())


def bundled_recipes() -> list[str]:
    """Name the recipes that need no weights beyond those of the package: "all" of them."""
    return [name for name, each in MODELS.items() if not NOT_BUNDLED.intersection(each.trains_on)]


def is_foreign(name: str, official: bool) -> bool:
    """Whether a name is of weights that are not fitted here."""
    return is_shipped(name) or is_spec(name) or (official and name not in MODELS and name != "all")


def model_names(text: str) -> list[str]:
    """Part names of models at their commas, but for those within the path of a file.

    Example:
        >>> model_names("file:a,b.pt#arch=timm:vit,cgn,cgm")
        ['file:a,b.pt#arch=timm:vit', 'cgn', 'cgm']
    """
    names: list[str] = []
    for word in split_names(text):
        before = names[-1] if names else ""
        of_path = before.startswith("file:") and "#arch=" not in before
        of_path |= before.startswith("ensemble:") and not before.endswith(".safetensors")
        if of_path and not (word in MODELS or is_spec(word) or is_shipped(word)):
            names[-1] += f",{word}"
        else:
            names.append(word)
    return names
