"""Command lines made up from what the parser says it takes, run where all real work is stood in."""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import re
import shlex
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NoReturn

from support import tiny_suite

import benchmarks.cli.main as bench
from benchmarks.cli import arguments
from benchmarks.cli import resolve as choices
from benchmarks.cli.arguments import command_line
from classifiers.recipes import EnsembleConfig

# Each is odd where one of the flags takes a word; the last ones cannot be seen, or are too long.
HOSTILE = [
    "-1",
    "0",
    "1",
    "2",
    "1.5",
    "nan",
    "inf",
    "-inf",
    "1e309",
    "..",
    ".",
    "/dev/null",
    "/proc/self/mem",
    "~",
    "~nobody-at-all/x",
    "nope",
    "-",
    "--",
    "é犬",
    "../../outside",
    "a/../../outside",
    "a,b",
    ",",
    "a,,b",
    "a#b",
    "#",
    "=1+1",
    "--output=outside",
    "hub:",
    "hub:a/b/../../c",
    "file:",
    "file:x#arch=",
    "file:/dev/zero#arch=timm:resnet18",
    "ensemble:/",
    "shipped:../../x",
    "shipped:",
    "timm:",
    "tv:resnet18",
    "geirhos:x",
    "random:0:0",
    "random:x",
    "random:16:4",
    "http://localhost:1/x",
    "file:///etc/passwd",
    "[bold]",
    "$(id)",
    "%s",
    "{0}",
    "@",
    "'",
    '"',
    "\\",
    "HEAD",
    "HEAD:x",
    "tiny",
    "erm",
    "all",
    "embedded",
    "official",
]
HOSTILE += ["", " ", "\x1b[2J\x1b]0;x\x07", "a\nb", "a\r", "\u202e", "\udcff"]
HOSTILE += [30 * "9", 5_000 * "9", 300 * "x", 200 * "x/"]


# What Python says to programmers, and no user can make anything of.
INTERNAL = re.compile(
    r"unpack|object (has|is not|of type|cannot)|NoneType|subscriptable|invalid literal|"
    r"index out of|positional argument|keyword argument|unhashable|not supported between"
)


class StartedError(ValueError):
    """Real work would begin."""


def begin(*_: object, **__: object) -> NoReturn:
    """Stand in for what takes long."""
    raise StartedError("work begins here")


def offline(*_: object, **__: object) -> NoReturn:
    """Stand in for the network."""
    raise OSError("there is no network")


def stand_in(results: Path) -> None:
    """Put small suites in place of the real ones, and nothing in place of what takes long."""
    suites = {suite.name: suite for suite in (tiny_suite("tiny"), tiny_suite("other-mnist"))}
    vars(bench)["SUITES"] = vars(choices)["ALL_SUITES"] = suites
    vars(choices)["GROUPS"] = {"all": tuple(suites)}
    for name in (
        *("fit", "fit_cached", "generate", "draw_picture", "train", "train_imagenet", "measured"),
        *("InceptionProbabilities", "segmenter", "VGGFeatures", "load_biggan", "initial"),
    ):
        vars(bench)[name] = begin
    vars(arguments)["RESULTS"] = results
    vars(arguments)["WEIGHTS"] = results / "weights"
    vars(socket)["create_connection"] = vars(socket)["getaddrinfo"] = offline


def leaves(
    parser: argparse.ArgumentParser, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """All commands of a parser, with the words that lead there."""
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not below:
        yield words, parser
    for action in below:
        for name, inner in action.choices.items():
            yield from leaves(inner, (*words, name))


def value(action: argparse.Action, folder: Path, rng: random.Random) -> str:
    """A word for a flag, one that may be meant or one that cannot."""
    if rng.random() < 0.35:
        return rng.choice(HOSTILE)
    if action.choices is not None:
        return str(rng.choice(list(action.choices)))
    paths = [folder / name for name in ("file.safetensors", "images", "new", "new.png", "runs.csv")]
    by_metavar = {
        "FILE": [*map(str, paths), str(folder / "new.safetensors"), str(folder / "new.html")],
        "FOLDER": [*map(str, paths)],
        "PATH": [*map(str, paths)],
        "INT": ["1", "2", "8", "64", "0"],
        "FLOAT": ["0.5", "1", "0", "1e-4"],
        "REV": ["HEAD", "main", "nowhere"],
    }
    by_flag = {
        "suite": ["tiny", "tiny", "all", "mnists", "tiny,other-mnist"],
        "model": ["erm", "cgn", "all", "erm,cgn", "shipped:erm", "efficientnet-lite0"],
        "models": ["erm", "cgn"],
        "results": [str(folder / "results"), str(folder / "new")],
        "names": ["mnist", "in9", "imagenet"],
        "images": [str(folder / "images")],
        "weights": [str(folder / "file.safetensors")],
        "u2net": ["random:8"],
        "biggan": ["random:16:4"],
    }
    names = ["tiny", "erm", "all", "in9", "cgn-ensemble", "mnist", "7"]
    usual = by_metavar.get(str(action.metavar), names)
    return rng.choice(by_flag.get(action.dest, usual) if rng.random() < 0.9 else usual)


def invented(folder: Path, rng: random.Random) -> list[str]:
    """Make up a command line: what is required, mostly, and some of what is not."""
    words, parser = rng.choice(list(leaves(command_line(EnsembleConfig))))
    given = list(words)
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        needed = action.required and rng.random() < 0.95
        if not needed and rng.random() > 3 / len(parser._actions):
            continue
        flags = action.option_strings
        n = 0 if action.nargs == 0 else action.nargs if isinstance(action.nargs, int) else 1
        values = [value(action, folder, rng) for _ in range(n)]
        if flags and len(values) == 1 and rng.random() < 0.5:
            given.append(f"{rng.choice(flags)}={values[0]}")
        else:
            given += [*([rng.choice(flags)] if flags else []), *values]
    if rng.random() < 0.1:
        given.insert(rng.randrange(len(given) + 1), rng.choice(HOSTILE))
    return given[1:] if words == ("run",) and rng.random() < 0.5 else given


def tried(
    rng: random.Random, folder: Path, limited: Callable[[], AbstractContextManager[Any]]
) -> str:
    """Run one made-up command; what went wrong, empty if nothing did."""
    shutil.rmtree(folder)
    (folder / "images" / "class").mkdir(parents=True)
    (folder / "file.safetensors").write_bytes(b"nothing")
    (folder / "runs.csv").write_text("nothing\n")
    stand_in(folder / "results")
    words = invented(folder, rng)
    out, err = io.StringIO(), io.StringIO()
    code: object
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            with limited():
                code = bench.main(words)
        except SystemExit as left:
            code = left.code
        except BaseException as error:
            code = f"{type(error).__name__}: {error}"
    if why := wrong(code, out.getvalue(), err.getvalue()):
        return f"{why}: {shlex.join(words)[:600]}: {err.getvalue()[:400]!a}"
    return ""


def wrong(code: object, out: str, err: str) -> str:
    """Say what is wrong with how a command ended; empty if nothing is."""
    if code not in (0, 1, 2):
        return f"ended with {code}"
    if "Traceback" in out + err:
        return "shows a traceback"
    if odd := {each for each in out + err if not each.isprintable() and each != "\n"}:
        return f"prints {''.join(odd)!a}"
    if INTERNAL.search(err):
        return "speaks of its own code"
    if code == 2 and (err.count("\n") != 1 or len(err) < 15):
        return "does not say in one line what is wrong"
    return ""
