"""Command lines made up from what the parser says it takes, run where all real work is stood in."""

from __future__ import annotations

import contextlib
import io
import pkgutil
import random
import re
import shlex
import shutil
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from cyclopts import Argument
from support import tiny_suite

import benchmarks.cli
from benchmarks.cli import main
from benchmarks.cli.app import COMMANDS, command_line

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
    values = {"SUITES": suites, "ALL_SUITES": suites, "GROUPS": {"all": tuple(suites)}}
    values |= dict.fromkeys(
        (
            *("fit", "fit_cached", "generate", "train", "train_imagenet", "measure"),
            "measure_all",
            *("InceptionProbabilities", "segmenter", "VGGFeatures", "load_biggan", "from_biggan"),
        ),
        begin,
    )
    for each in pkgutil.iter_modules(benchmarks.cli.__path__, "benchmarks.cli."):
        module = vars(import_module(each.name))
        module.update((name, value) for name, value in values.items() if name in module)
    vars(socket)["create_connection"] = vars(socket)["getaddrinfo"] = offline


def value(argument: Argument, folder: Path, rng: random.Random) -> str:
    """A word for an argument, one that may be meant or one that cannot."""
    if rng.random() < 0.35:
        return rng.choice(HOSTILE)
    if choices := argument.get_choices():
        return rng.choice(choices)
    names = ("file.safetensors", "images", "new", "new.png", "runs.csv", "new.safetensors")
    paths = [str(folder / name) for name in (*names, "new.html")]
    by_kind = {
        "FILE": paths,
        "FOLDER": paths,
        "REV": ["HEAD", "main", "nowhere"],
        int: ["1", "2", "8", "64", "0"],
        float: ["0.5", "1", "0", "1e-4"],
    }
    by_name = {
        "suite": ["tiny", "tiny", "all", "mnists", "tiny,other-mnist"],
        "model": ["erm", "cgn", "all", "erm,cgn", "shipped:erm", "efficientnet-lite0"],
        "first": ["erm", "cgn"],
        "second": ["erm", "cgn"],
        "results": [str(folder / "results"), str(folder / "new")],
        "names": ["mnist", "in9", "imagenet"],
        "images": [str(folder / "images")],
        "weights": [str(folder / "file.safetensors")],
        "u2net": ["random:8"],
        "biggan": ["random:16:4"],
    }
    known = ["tiny", "erm", "all", "in9", "cgn-ensemble", "mnist", "7"]
    usual = by_kind.get(str(argument.parameter.metavar), by_kind.get(argument.hint, known))
    return rng.choice(by_name.get(argument.field_info.name, usual) if rng.random() < 0.9 else usual)


def invented(folder: Path, rng: random.Random) -> list[str]:
    """Make up a command line: what is required, mostly, and some of what is not."""
    command = rng.choice(list(COMMANDS)).split(" ")
    app = command_line()
    for word in command:
        app = app[word]
    arguments = [each for each in app.assemble_argument_collection() if each.parse and each.names]
    arguments = [each for each in arguments if each.name != "*" and not each.children]
    given = list(command)
    for argument in arguments:
        if argument.name == "--results" and rng.random() < 0.9:
            given += ["--results", str(folder / "results")]
            continue
        needed = argument.required and rng.random() < 0.95
        if not needed and rng.random() > 3 / len(arguments):
            continue
        flag = rng.choice(argument.names)
        if argument.hint is bool:
            given.append(flag)
        elif not flag.startswith("--"):
            given.append(value(argument, folder, rng))
        elif rng.random() < 0.5:
            given.append(f"{flag}={value(argument, folder, rng)}")
        else:
            given += [flag, value(argument, folder, rng)]
    if rng.random() < 0.1:
        given.insert(rng.randrange(len(given) + 1), rng.choice(HOSTILE))
    return given[1:] if command == ["run"] and rng.random() < 0.5 else given


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
                code = main(words)
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
