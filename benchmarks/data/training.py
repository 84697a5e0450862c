"""Training sets of classifiers: those of a training domain, and those of generators."""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import Literal

from benchmarks.core.context import RunContext
from benchmarks.core.suite import DataSource, TrainingDomain
from benchmarks.data.generators import GENERATED_SETS, Generation
from benchmarks.data.paths import image_cache_dir
from benchmarks.data.rendered import training_cached
from cgn.counterfactuals.generators import Generator
from cgn.data.image_set import ImageSet


class TrainingSets:
    """Training sets of domains; images and generators of the last one stay in memory.

    Args:
        part: Chooses the images of a domain's own sets that are used, and from which generators
            draw; without it all are.
    """

    def __init__(self, part: Callable[[ImageSet], ImageSet] = lambda images: images) -> None:
        self._part = part
        self._of: tuple[TrainingDomain, DataSource] | None = None
        self._base: dict[str, ImageSet] = {}
        self._fitted: dict[tuple[str, int], Generator] = {}

    def load(
        self,
        world: TrainingDomain,
        source: DataSource,
        kinds: Set[str],
        seed: int,
        context: RunContext,
    ) -> tuple[dict[str, ImageSet], dict[str, int]]:
        """Read or make the sets of some kinds.

        Args:
            world: The training domain.
            source: Where its images come from.
            kinds: "biased", "unbiased", and what `Generation.draw` knows.
            seed: Of the classifier; each has a generator and images of its own, where there are
                several.
            context: Where generators run.

        Returns:
            All sets by name; and the seeds of generators by the name of the set that they drew.

        Raises:
            ValueError: If the source does not fit the domain, or there is no generator of its
                images.
        """
        self._enter(world, source)
        drawn = sorted(kinds - {"biased", "unbiased"})
        for kind in sorted(({"biased"} if drawn else set()) | kinds & {"biased", "unbiased"}):
            self._read(kind, context)
        if not drawn:
            return dict(self._base), {}
        generation = self.generation(world, source, seed, context)
        seeds = {kind: generation.generator_seed(GENERATED_SETS.get(kind, kind)) for kind in drawn}
        sets = self._base | {kind: generation.draw(kind) for kind in drawn}
        return sets, {kind: seed for kind, seed in seeds.items() if seed is not None}

    def generation(
        self, world: TrainingDomain, source: DataSource, seed: int, context: RunContext
    ) -> Generation:
        """Return what the generators of one seed are fitted to; it shares them with `load`."""
        self._enter(world, source)
        biased = self._read("biased", context)
        return Generation(world, source, biased, seed, context, self._fitted)

    def _enter(self, world: TrainingDomain, source: DataSource) -> None:
        """Forget what is of another domain."""
        if self._of != (world, source):
            self._of, self._base, self._fitted = (world, source), {}, {}

    def _read(self, kind: str, context: RunContext) -> ImageSet:
        """Read the biased or the unbiased images, once."""
        assert self._of is not None
        world, source = self._of
        if kind not in self._base:
            which: Literal["train", "unbiased"] = "train" if kind == "biased" else "unbiased"
            with context.progress.task(f"{world.name}: training images"):
                images = training_cached(world, which, source, image_cache_dir())
                self._base[kind] = self._part(images)
        return self._base[kind]
