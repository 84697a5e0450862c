"""Fit a recipe and see what it learned.

Run `python examples/fit_a_recipe.py`.

Plain training on colored MNIST: in the training images the colour gives the class away. After a
few steps the classifier is nearly perfect where this holds and fails where it does not.
"""

from dataclasses import replace

from benchmarks import get_suite, score
from benchmarks.core.suite import EMBEDDED
from classifiers import MODELS
from classifiers.fit import fit


def main() -> None:
    suite = get_suite("colored-mnist")
    recipe = replace(MODELS["erm"], steps=80, epochs=0)  # 625 as in the leaderboards
    biased = suite.world.train(EMBEDDED)
    model = fit(recipe, {"biased": biased}, n_classes=len(suite.world.classes), seed=0)
    scores = score(model, suite)
    for key in ("biased_accuracy", "unbiased_accuracy"):
        print(f"{key}: {scores[key].value:.1%}")


if __name__ == "__main__":
    main()
