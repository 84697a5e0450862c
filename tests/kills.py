"""Kill work at random moments, run it again, and see what is lost, doubled or left behind.

    PYTHONPATH=. python tests/kills.py --n 200

Each kind of work is done in a process of its own, which is killed without warning, as a power
failure or an impatient user would; then the same work is done again in another one. What is there
at the end must be, file by file, what uninterrupted work makes; and what had been reported as
finished must not have been done twice. With `--together`, two processes do it at once instead.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import http.server
import io
import os
import random
import shutil
import signal
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import datasets  # noqa: F401  # seconds to import, and not by each process
import pandas as pd
import torch
from imagenet_networks import tiny_cgn
from support import run_model, tiny_images, tiny_suite
from torch import Tensor, nn

from benchmarks.core import evaluate as evaluation
from benchmarks.core import partial_results as keeping
from benchmarks.core.context import RunContext
from benchmarks.core.models import FittedModel
from benchmarks.core.suite import EMBEDDED, DataSource
from benchmarks.data.download import DataSet, Download, fetch
from benchmarks.records.leaderboard import write_leaderboards
from benchmarks.report.page import write_report
from benchmarks.runner import evaluate_and_record, load_test_set
from benchmarks.suites.backgrounds_challenge import Outcome, outcomes_kept
from cgn.counterfactuals.shards import SetConfig, generate
from cgn.data.factors import Factors
from cgn.data.image_set import ImageSet
from cgn.io.cache import open_or_make, weights_sha256
from cgn.training.small import TrainConfig, train
from classifiers import fit as fitting
from classifiers.fit import fit_cached
from classifiers.recipes import ERM

Told = Callable[[], None]
Work = Callable[[Path, Told], object]

OF_THE_MOMENT = ["images_per_second", "time", "commit"]  # columns that differ from run to run
N_OUTCOMES, N_ANIMALS = 150, 12


class FirstRow(nn.Module):
    """Reads the class off the first row of pixels, not too fast."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor) -> Tensor:
        time.sleep(0.005)
        bright = images[:, 0, 0, 0] * 255 / 100
        return -(bright[:, None] - torch.arange(3)).abs() * self.weight


def rows(folder: Path, told: Told, name: str = "first-row") -> None:
    """Evaluate a model and write its rows."""
    keeping.KEEP_SECONDS = 0.0
    evaluation._at_once = lambda *_: 4
    os.environ["CGN_BENCH_CACHE"] = str(folder / "cache")
    place = RunContext(torch.device("cpu"), folder / "results", folder / "cache")
    exam = load_test_set(tiny_suite(), EMBEDDED, place.progress)
    module = FirstRow()

    def answer(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
        told()
        return {"": network(images)}

    fit = FittedModel(name, module, weights_sha256(module), outputs=answer)
    evaluate_and_record(exam, fit, place)
    write_leaderboards(place.results, [exam.suite])


def cache(folder: Path, told: Told) -> None:
    """Make an entry of the cache."""

    def make(path: Path) -> None:
        tiny_images(0, 20_000).save(path)

    open_or_make(folder / "images.safetensors", ImageSet.load, make)


def cgn(folder: Path, told: Told) -> None:
    """Train a CGN."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (30, 3, 16, 16), generator=generator, dtype=torch.uint8)
    images = ImageSet(pixels, Factors.aligned(torch.arange(30) % 3), torch.arange(30))
    config = TrainConfig(steps=6, batch_size=8, width=8, tile_px=16, checkpoint_steps=2)
    checkpoint = folder / "cgn.checkpoint"
    trained = train(images, 3, config, checkpoint=checkpoint)
    trained.save(folder / "cgn.safetensors", {"config": {}})
    checkpoint.unlink(missing_ok=True)


def fit(folder: Path, told: Told) -> None:
    """Fit a classifier."""
    fitting.CHECKPOINT_STEPS = 3
    recipe = replace(ERM, steps=30, epochs=0, batch_size=8, network=small)
    fit_cached(recipe, {"biased": tiny_images(3)}, n_classes=3, seed=0, cache=folder)


def small(n_classes: int, size_px: int) -> nn.Module:
    """A network of a few weights."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * size_px**2, n_classes))


def shards(folder: Path, told: Told) -> None:
    """Draw a set of counterfactuals."""
    config = SetConfig(n=12, shard_size=3, image_format="png")
    generate(tiny_cgn()[0].eval(), config, folder / "set", dtype=torch.float32, batch_size=3)


def challenge(folder: Path, told: Told) -> None:
    """Take the Backgrounds Challenge."""

    def go_on(earlier: object) -> Iterator[Outcome]:
        for number in range(len(earlier), N_OUTCOMES):  # type: ignore[arg-type]
            time.sleep(0.001)
            told()
            yield Outcome(number, number % 9, 1 / (number + 1), number, number % 16)

    for _ in outcomes_kept(folder / "outcomes.jsonl", go_on):
        pass


def zoo_variants(source: DataSource) -> dict[str, ImageSet]:
    """Find the animals, which are not looked at."""
    assert source.folder is not None
    n = len([*source.folder.rglob("*.png")])
    pixels, labels = torch.zeros(n, 3, 1, 1, dtype=torch.uint8), torch.zeros(n, dtype=torch.int64)
    return {"all": ImageSet(pixels, Factors.aligned(labels), torch.arange(n))}


@functools.cache  # the time stands in it
def archive() -> bytes:
    """An archive of 4 MB that does not compress."""
    stream, generator = io.BytesIO(), random.Random(0)
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for number in range(N_ANIMALS):
            member, content = tarfile.TarInfo(f"zoo/{number}.png"), generator.randbytes(300_000)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def download(folder: Path, told: Told, *, url: str, known: bool) -> None:
    """Fetch official data, whose checksum is known or not."""
    suite = replace(tiny_suite(), variants=zoo_variants, n_images={"all": N_ANIMALS})
    sha256 = hashlib.sha256(archive()).hexdigest() if known else None
    each = Download(urls=(url,), sha256=sha256)
    data = DataSet(name="zoo", about="", downloads=(each,), licence="", source="", suite=suite)
    fetch(data, folder)


def report(folder: Path, told: Told, *, results: Path) -> None:
    """Write the report."""
    suite = tiny_suite()
    images = {"tiny": suite.variants(EMBEDDED)}
    write_report(folder / "report.html", results, [suite], images, {})


@contextmanager
def served(content: bytes) -> Iterator[str]:
    """Serve a file, slowly, from a process of its own; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers["Range"]
            begin = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
            self.send_response(206 if begin else 200)
            self.send_header("Content-Length", str(len(content) - begin))
            self.send_header("ETag", '"1"')
            self.end_headers()
            for place in range(begin, len(content), 1 << 18):
                time.sleep(0.005)
                self.wfile.write(content[place : min(place + (1 << 18), len(content))])

        def log_message(self, format: str, *arguments: object) -> None:
            """Stay silent."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    child = os.fork()
    if child == 0:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            server.serve_forever()
    try:
        yield f"http://127.0.0.1:{server.server_port}/zoo.tar.gz"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        server.server_close()


def note(file: io.RawIOBase) -> None:
    """Note that a step was begun."""
    file.write(b".")


def begin(work: Work, folder: Path, notes: Path) -> int:
    """Start work in a process of its own; its number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.environ["CGN_BENCH_CACHE"] = str(folder / "cache")
        with notes.open("ab", buffering=0) as file:
            work(folder, lambda: note(file))
        code = 0
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
    finally:
        os._exit(code)


def end(child: int) -> bool:
    """Wait for a process; whether it did its work."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def content(path: Path) -> bytes:
    """What a file says, but for what is of the moment."""
    if path.name == "runs.csv":
        table = pd.read_csv(path, keep_default_na=False).drop(columns=OF_THE_MOMENT)
        return table.to_csv(index=False).encode()
    return b"" if path.name == ".runs.index" else path.read_bytes()  # it holds the time of its file


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder, hidden ones too, by their place in it, and folders without any."""
    return {
        path.relative_to(folder).as_posix(): content(path) if path.is_file() else b""
        for path in folder.rglob("*")
    }


def differences(found: dict[str, bytes], expected: dict[str, bytes]) -> list[str]:
    """Say which files lack, are left over, or differ."""
    return [
        *(f"lost {name}" for name in expected.keys() - found.keys()),
        *(f"left behind {name}" for name in found.keys() - expected.keys()),
        *(
            f"another {name}"
            for name in expected.keys() & found.keys()
            if found[name] != expected[name]
        ),
    ]


@dataclass
class Trial:
    """One kind of work, and what it makes when nobody interrupts it."""

    name: str
    work: Work
    root: Path
    doubled: int | None = None  # finished steps that one kill may cost; None: they aren't told

    def __post_init__(self) -> None:
        self.expected, self.steps, self.seconds = self._undisturbed()

    def _undisturbed(self) -> tuple[dict[str, bytes], int, float]:
        """Do the work; what it makes, the steps it tells of, and how long it takes."""
        folder, notes = self._fresh()
        started = time.monotonic()
        if not end(begin(self.work, folder, notes)):
            raise SystemExit(f"{self.name} fails when nobody kills it")
        seconds = time.monotonic() - started
        return contents(folder), notes.stat().st_size, seconds

    def _fresh(self) -> tuple[Path, Path]:
        """A new folder, and a file beside it for what is told."""
        folder = Path(tempfile.mkdtemp(dir=self.root, prefix=f"{self.name}-"))
        return folder, folder.with_suffix(".notes")

    def kill(self, share: float) -> list[str]:
        """Kill the work after a share of its time, do it again, and say what is off."""
        folder, notes = self._fresh()
        child = begin(self.work, folder, notes)
        time.sleep(share * self.seconds)
        os.kill(child, signal.SIGKILL)
        end(child)
        if not end(begin(self.work, folder, notes)):
            return ["it fails when it is done again"]
        found = differences(contents(folder), self.expected)
        twice = notes.stat().st_size - self.steps
        # Whoever repeats what had been finished as a whole does all of it again.
        allowed = {self.steps, *range((self.doubled or 0) + 1)}
        if self.doubled is not None and twice not in allowed:
            found.append(f"{twice} finished steps were done again")
        shutil.rmtree(folder)
        return found

    def together(self, n: int) -> list[str]:
        """Let several processes do the work at once, and say what is off."""
        folder, notes = self._fresh()
        children = [begin(self.work, folder, notes) for _ in range(n)]
        failed = [child for child in children if not end(child)]
        return [
            *(["one of them fails"] if failed else []),
            *differences(contents(folder), self.expected),
        ]


@contextmanager
def trials() -> Iterator[list[Trial]]:
    """All kinds of work, each done once undisturbed."""
    with tempfile.TemporaryDirectory() as root, served(archive()) as url:
        results = Path(root) / "results"
        child = os.fork()
        if child == 0:
            predictions = evaluation.evaluate(FirstRow(), tiny_suite().variants(EMBEDDED))[0]
            run_model(results, predictions)
            os._exit(0)
        end(child)
        works: dict[str, tuple[Work, int | None]] = {
            "rows": (rows, 1),
            "cache": (cache, None),
            "cgn": (cgn, None),
            "fit": (fit, None),
            "shards": (shards, None),
            "challenge": (challenge, 1),
            "download": (functools.partial(download, url=url, known=True), None),
            "download-unknown": (functools.partial(download, url=url, known=False), None),
            "report": (functools.partial(report, results=results), None),
        }
        yield [Trial(name, work, Path(root), most) for name, (work, most) in works.items()]


def main() -> int:
    """Kill each kind of work in turn; 1 if anything was lost, doubled or left behind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=200, help="kills, of all kinds together")
    parser.add_argument("--seed", type=int, default=0, help="decides when")
    parser.add_argument("--together", type=int, help="so many processes at once, and no kills")
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator, problems = random.Random(options.seed), 0
    with trials() as kinds:
        for number in range(len(kinds) if options.together else options.n):
            trial = kinds[number % len(kinds)]
            share = generator.random()
            off = trial.together(options.together) if options.together else trial.kill(share)
            problems += bool(off)
            for line in off:
                sys.stdout.write(f"{trial.name} at {share:.2f} of {trial.seconds:.2f} s: {line}\n")
    done = f"{options.together} at once" if options.together else f"{options.n} kills"
    sys.stdout.write(f"{done}: {problems} with problems\n")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
