"""The command line: runs one command, and explains what went wrong."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper

from benchmarks.cli.arguments import command_line
from benchmarks.cli.errors import explained
from benchmarks.cli.fit import fit_ensemble
from benchmarks.cli.imagenet import draw_counterfactuals
from benchmarks.cli.listing import official_data, show_lists
from benchmarks.cli.quality import measure_cgn
from benchmarks.cli.results import check_results, compare_models, report, reproduce, rescore
from benchmarks.cli.run import run
from benchmarks.cli.terminal import say
from benchmarks.cli.throughput import measure_throughput
from benchmarks.cli.train import ship_classifiers, train_cgn
from classifiers.recipes import EnsembleConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: As on the command line; None takes those of this process.

    Returns:
        The exit code: 0, 1 if results do not hold, 2 for bad input and too much work for the
        memory, 3 for a fault of this program, 130 if interrupted, 141 if nobody reads on.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # which may know fewer characters than names have
            stream.reconfigure(errors="backslashreplace")
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0].startswith("--") and given[0] != "--help":
        given = ["run", *given]
    options = None
    try:
        options = command_line(EnsembleConfig).parse_args(given or ["--help"])
        options.given = given
        code = COMMANDS[options.command](options) or 0
        sys.stdout.flush()
        return code
    except SystemExit:  # after the help
        raise
    except KeyboardInterrupt:
        say(f"interrupted; {after_interruption(options)}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # as of `head`, which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except BaseException as error:  # those of Rust are no Exception
        line, code = explained(error, given, options)
        say(f"bench.py: {line}", file=sys.stderr)
        return code


def after_interruption(options: argparse.Namespace | None) -> str:
    """Tell what running a command again does; only what keeps finished work promises to go on."""
    if options is not None and options.command in GOES_ON:
        return "run the same command again to resume"
    return "nothing of it is kept: run the same command again to start anew"


# Those that keep what they have finished.
GOES_ON = {"run", "reproduce", "data", "train cgn", "train classifier", "fit", "counterfactuals"}
COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "run": run,
    "list": show_lists,
    "data": official_data,
    "check": check_results,
    "rescore": rescore,
    "reproduce": reproduce,
    "report": report,
    "compare": compare_models,
    "train cgn": train_cgn,
    "train classifier": ship_classifiers,
    "fit": fit_ensemble,
    "quality": measure_cgn,
    "throughput": measure_throughput,
    "counterfactuals": draw_counterfactuals,
}
