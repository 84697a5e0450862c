"""The commands, and how each of them ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NamedTuple

from cyclopts import App, Parameter

from benchmarks.cli.errors import Invocation, explain
from benchmarks.cli.output import PlainConsole, say

HELP_FLAGS = ("--help", "-h")
# An older spelling of the commands for ImageNet: what follows the name of the command.
SCALES = {
    ("--scale", "imagenet"): "-imagenet",
    ("--scale=imagenet",): "-imagenet",
    ("--scale", "small"): "",
    ("--scale=small",): "",
}
EXAMPLES = {
    "--suite in9 --model cgn-ensemble": "does it look at the object or behind it?",
    "--suite in9 --model shipped:cgn-ensemble": "the same with weights of this package",
    "--suite mnists --model erm,cgn --seeds 3": "three suites, two models, means over seeds",
    "list": "all suites and models",
    "compare cgn-ensemble erm --suite in9": "is the difference more than chance?",
    "data cue-conflict": "fetch official images",
    "report --out report.html": "everything on one page, with pictures",
}
EPILOGUE = """
`bench.py COMMAND --help` explains a command. Every run adds rows to `results/runs.csv`, keeps the
prediction of each image in `results/predictions`, and rewrites the suite's leaderboard. Interrupt
it at any time and run the same command again.
"""


class Command(NamedTuple):
    """A command, which is imported when it is called.

    Attributes:
        function: Module and name of the function, as "module:name".
        about: What it does, in one line.
        examples: Command lines, each with what it is for.
        resumes: Whether a second call continues where an interrupted one stopped.
    """

    function: str
    about: str
    examples: Mapping[str, str]
    resumes: bool = False


COMMANDS = {
    "run": Command(
        "benchmarks.cli.run:run",
        "Score models on suites; the default command.",
        {
            "--suite in9 --model cgn-ensemble": "`run` can be left out",
            "--suite colored-mnist --model cgn --data ~/mnist": "the official digits",
            "--suite attribution-openmoji-9 --model cgn,erm": "which factor, changed alone, moves "
            "them?",
            "--suite cue-conflict --model timm:resnet50.a1_in1k": "a pretrained network",
            "--suite in9 --model ensemble:my.safetensors": "what `fit` wrote",
            "--suite colored-mnist --model erm --correlation 0.99": "less biased training images",
        },
        resumes=True,
    ),
    "list": Command(
        "benchmarks.cli.listing:show_lists",
        "Show all suites and models.",
        {
            "list": "suites with their questions, models with their sources",
            "list --json": "the same for a program",
            "list --readme README.md": "write the tables between marks of a file anew",
        },
    ),
    "data": Command(
        "benchmarks.cli.listing:official_data",
        "Fetch official data to where the other commands look for it, or check it.",
        {
            "data": "what there is, its size and licence, and whether it is here",
            "data mnist cue-conflict": "fetch, check and unpack",
            "data --verify": "are all files still as published?",
        },
        resumes=True,
    ),
    "compare": Command(
        "benchmarks.cli.results:compare_models",
        "Test what differs between two models, or two files of anyone's predictions.",
        {
            "compare cgn-ensemble erm --suite in9": "is the difference more than chance?",
            "compare cgn@0.99 erm@0.99 --suite colored-mnist": "models of another correlation",
            "compare ours.csv theirs.csv": "any benchmark: columns id, label and prediction or "
            "logit_0, logit_1, …; optional cluster and seed",
        },
    ),
    "plan": Command(
        "benchmarks.cli.results:plan",
        "Say how many images, seeds and generators show a difference.",
        {
            "plan cgn erm --suite in9 --points 2": "what does it take to see 2 points?",
            "plan cgn erm --suite in9 --images 4050 --seeds 10": "what would that run see?",
        },
    ),
    "check": Command(
        "benchmarks.cli.results:check_results",
        "Find rows of results that do not hold; the exit code is 1 if there are any.",
        {
            "check": "rows against predictions, test images and shipped weights",
            "check --against main": "and against the rows of a git revision",
        },
    ),
    "rescore": Command(
        "benchmarks.cli.results:rescore",
        "Add the scores that rows lack, from stored predictions.",
        {"rescore --suite in9": "no model is run"},
    ),
    "export": Command(
        "benchmarks.cli.results:export",
        "Write results or embedded images in the format of another tool.",
        {
            "export latex --suite in9 --out tables": "leaderboards for a paper; or markdown",
            "export every-eval-ever --out records": "records of Every Eval Ever's schema",
            "export eval-results --dataset OWNER/NAME --out models": "for model repositories on "
            "the Hugging Face Hub",
            "export croissant --suite in9 --out datasets": "test images with Croissant metadata",
        },
    ),
    "report": Command(
        "benchmarks.cli.results:report",
        "Write all results as one HTML page, with pictures.",
        {"report --out report.html": "tables, figures and sample images"},
    ),
    "reproduce": Command(
        "benchmarks.cli.reproduce:reproduce",
        "Compare published scores with ours, and run what is missing.",
        {
            "reproduce mnists --data ~/mnist --textures ~/wildlife": "ten seeds of each model",
            "reproduce mnists --quick --data ~/mnist": "two seeds, for a first look",
            "reproduce cue-conflict --no-run": "only print what is there",
        },
        resumes=True,
    ),
    "train cgn": Command(
        "benchmarks.cli.train:train_cgn",
        "Train the CGN of a suite's images.",
        {
            "train cgn --suite in9 --out my.safetensors": "weights, quality and a sample sheet",
            "train cgn --suite colored-mnist --data ~/mnist --seed 1": "on the official digits",
            "train cgn --suite in9 --config settings.toml": "settings from a file, such as "
            "weights.style = 0.2",
            "train cgn --suite in9 --scale imagenet --help": "the paper's own CGN",
        },
        resumes=True,
    ),
    "train cgn-end-to-end": Command(
        "benchmarks.cli.train:train_cgn_end_to_end",
        "Train a CGN that learns its masks, without segmenting any image.",
        {
            "train cgn-end-to-end --suite double-colored-mnist": "weights, quality and a sheet",
            "train cgn-end-to-end --suite in9 --largest-object 0.5": "larger objects",
        },
        resumes=True,
    ),
    "train cgn-imagenet": Command(
        "benchmarks.cli.imagenet:train_imagenet_cgn",
        "Train the CGN of ImageNet; also `train cgn --scale imagenet`.",
        {
            "train cgn-imagenet --u2net u2net.pth --dry-run": "what will it need?",
            "train cgn-imagenet --u2net u2net.pth --out cgn.safetensors": "in one process",
        },
        resumes=True,
    ),
    "tune": Command(
        "benchmarks.cli.tune:tune",
        "Try settings of recipes on held-out training objects.",
        {
            "tune --suite mnists --model irm,erm": "six settings each, on the same objects",
            "tune --suite colored-mnist --model irm --correlation 0.99 --tries 3": "fewer",
            "tune --suite mnists --model all --no-run": "what was tried before",
        },
        resumes=True,
    ),
    "train classifier": Command(
        "benchmarks.cli.train:train_classifiers",
        "Fit a model with seed 0 on embedded images, write its weights and score them.",
        {"train classifier --suite all --model cgn-ensemble": "one file a world"},
        resumes=True,
    ),
    "fit": Command(
        "benchmarks.cli.train:fit_ensemble",
        "Fit an ensemble to photographs of your own.",
        {
            "fit --images TRAIN --masks MASKS --out my.safetensors": "recombined by their masks",
            "fit --images TRAIN --real-only --out plain.safetensors": "its baseline",
            "fit --images hub:NAME --counterfactuals SET --out my.safetensors": "from the hub",
            "--suite in9 --model ensemble:my.safetensors --data BG_CHALLENGE": "score it",
        },
        resumes=True,
    ),
    "quality": Command(
        "benchmarks.cli.quality:measure_cgn",
        "Measure the counterfactuals of a CGN.",
        {
            "quality --suite wildlife-mnist": "the CGN that `run` takes",
            "quality --suite in9 --scale imagenet --weights cgn.pth": "an ImageNet CGN",
        },
    ),
    "quality-imagenet": Command(
        "benchmarks.cli.quality:measure_imagenet",
        "Measure the images of an ImageNet CGN; also `quality --scale imagenet`.",
        {"quality-imagenet --weights cgn.pth --real IMAGENET/val": "with FID and KID"},
    ),
    "generators": Command(
        "benchmarks.cli.generators:measure_generators",
        "Measure generators of counterfactuals, and compare them with copy and paste.",
        {
            "generators --world wildlife-mnist": "all that there are weights of, three seeds each",
            "generators --world openmoji-9 --generator paste,my/vae.py:VAE": "your own beside the "
            "rival that needs no network",
        },
        resumes=True,
    ),
    "counterfactuals": Command(
        "benchmarks.cli.imagenet:draw_counterfactuals",
        "Draw a set of counterfactuals from an ImageNet CGN.",
        {
            "counterfactuals --weights cgn.pth --n 10000 --out counterfactuals": "Parquet, three "
            "labels each",
            "counterfactuals --weights cgn.pth --n 100 --classes 207,340,970 --out dogs": "golden "
            "retrievers with a zebra's texture before an alp",
        },
        resumes=True,
    ),
    "throughput": Command(
        "benchmarks.cli.listing:measure_throughput",
        "Measure how fast training, sampling and evaluation are here.",
        {
            "throughput --device cuda --seconds 180": "as much as fits",
            "throughput --table": "what was measured, by card",
        },
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Words of the command line; None takes those of this process.

    Returns:
        The exit code: 0, 1 if results do not hold, 2 for bad input and too much work for the
        memory, 3 for a fault of this program, 130 if interrupted, 141 if nobody reads on.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # which may know fewer characters than names have
            stream.reconfigure(errors="backslashreplace")
    invocation = Invocation(list(sys.argv[1:] if arguments is None else arguments))
    try:
        app = command_line(invocation.record)
        words = full_words(invocation.words)
        function, bound, internal = app.parse_args(words, print_error=False, exit_on_error=False)
        extra = {"command": invocation.text} if "command" in internal else {}
        code = function(*bound.args, **bound.kwargs, **extra) or 0
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        known = COMMANDS.get(invocation.command)
        advice = (
            "run the same command again to resume"
            if known is not None and known.resumes
            else "nothing of it is kept: run the same command again to start anew"
        )
        say(f"interrupted; {advice}", sys.stderr)
        return 130
    except BrokenPipeError:  # as of `head`, which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except BaseException as error:  # those of Rust are no Exception
        line, code = explain(error, invocation, COMMANDS)
        say(f"{program()}: {line}", sys.stderr)
        return code


def program() -> str:
    """Name the program as it was called."""
    return "cgn-bench" if Path(sys.argv[0]).stem == "cgn-bench" else "bench.py"


def full_words(words: Sequence[str]) -> list[str]:
    """Complete a command line: `run` may be left out, and `--scale` names another command.

    Example:
        >>> full_words(["--suite", "in9", "--model", "erm"])
        ['run', '--suite', 'in9', '--model', 'erm']
        >>> full_words(["train", "cgn", "--scale", "imagenet", "--dry-run"])
        ['train', 'cgn-imagenet', '--dry-run']
    """
    full = list(words) or ["--help"]
    if full[0].startswith("--") and full[0] not in HELP_FLAGS:
        full = ["run", *full]
    for start in (["train", "cgn"], ["quality"]):
        rest = full[len(start) :]
        for flag, suffix in SCALES.items() if full[: len(start)] == start else ():
            at = next((i for i in range(len(rest)) if tuple(rest[i : i + len(flag)]) == flag), None)
            if at is not None:
                del rest[at : at + len(flag)]
                return [*start[:-1], start[-1] + suffix, *rest]
    return full


def command_line(*hooks: Callable[..., Any]) -> App:
    """Make the parser of all commands, none of which is imported.

    Args:
        *hooks: Called with the app, the command and its arguments once words are assigned to them.
    """

    def prepare(app: App, command: tuple[str, ...], arguments: Any) -> None:
        from benchmarks.cli.arguments import check_words, fill_settings  # with the command itself

        fill_settings(app, command, arguments)
        check_words(arguments)

    settings: dict[str, Any] = {
        "version_flags": (),
        "help_flags": HELP_FLAGS,
        "help_format": "markdown",
    }
    app = App(
        name=program(),
        help="Does a classifier look at shape, texture or background?",
        help_epilogue=examples(EXAMPLES) + EPILOGUE.replace("bench.py", program()),
        default_parameter=Parameter(negative=(), allow_repeating=False, show_default=shown_default),
        config=(*hooks, prepare),
        console=PlainConsole(),
        **settings,
    )
    train = App(
        name="train",
        help="Train a CGN, or a model of the package.",
        help_epilogue=f"`{program()} train COMMAND --help` explains a command.",
        sort_key=list(COMMANDS).index("train cgn"),
        **settings,
    )
    app.command(train)
    for order, (name, command) in enumerate(COMMANDS.items()):
        *above, last = name.split(" ")
        (train if above else app).command(
            command.function,
            name=last,
            help=command.about,
            help_epilogue=examples(command.examples),
            sort_key=order,
        )
    return app


def shown_default(value: object) -> str | None:
    """Write a default for the help; None where it says nothing."""
    return None if value is None or value is False or value in ((), "") else str(value)


def examples(lines: Mapping[str, str]) -> str:
    """Lay out command lines under what they are for, as Markdown."""
    code = [f"# {about}\n{program()} {words}" for words, about in lines.items()]
    return "\n".join(["```", *code, "```", ""])
