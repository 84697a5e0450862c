"""Compare two models on the same images, from stored predictions; no model is run.

Run `python examples/compare_two_models.py cgn-ensemble erm in9` in a checkout of the repository,
or give the folder of your own results as a fourth argument.
"""

import sys
from pathlib import Path

from benchmarks import compare

RESULTS = Path(__file__).parents[1] / "results"


def main(first: str, second: str, suite: str, results: Path = RESULTS) -> None:
    table = compare(first, second, [suite], results=results)
    columns = ["score", "first", "second", "value", "low", "high", "p_value"]
    print(f"{first} (first) and {second} (second) on {suite}; value is first - second")
    print(table[columns].to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    first, second, suite, *folder = sys.argv[1:] or ["cgn-ensemble", "erm", "in9"]
    main(first, second, suite, *map(Path, folder))
