"""What is said when a command cannot continue: bad input, too little memory, a fault of its own."""

from __future__ import annotations

import errno
import re
import shlex
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from cyclopts import (
    App,
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from cgn.io.text import printable

BAD_INPUT = 2
UNFORESEEN = 3  # exit codes
MOST_CHARACTERS = 1_000  # of a line; whatever was given may be part of it
# PyTorch's CPU allocator, its arithmetic of sizes and CUDA's libraries have no class of their own.
_NO_MEMORY = re.compile(
    r"not enough memory: you tried to allocate|DefaultCPUAllocator|can't allocate memory|"
    r"out of memory|Storage size calculation overflowed|multiplication overflow|"
    r"numel: integer|CU\w+_STATUS_ALLOC_FAILED|unable to mmap",
    re.IGNORECASE,
)
# Arguments that decide how much memory a command takes, the first before the others.
LARGE = ("batch_size", "width", "tile_px", "size", "n_counterfactuals", "shard_size", "n")
FEWER = (
    "name fewer suites in --suite or models in --model at once; if it is the GPU's, --device cpu"
)


@dataclass
class Invocation:
    """One call of the program.

    Attributes:
        words: Of the command line.
        command: The command, such as "train cgn"; empty until it is known.
        flags: The command's flags by the name of the argument.
        given: Values by flag, as they were given.
    """

    words: Sequence[str]
    command: str = ""
    flags: dict[str, str] = field(default_factory=dict)
    given: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The command line."""
        return shlex.join(["python", "bench.py", *self.words])

    def record(self, app: App, command: tuple[str, ...], arguments: Iterable[Any]) -> None:
        """Note the command and its arguments; called by the parser."""
        self.command = " ".join(command)
        for each in arguments:
            if each.name.startswith("--"):
                self.flags[each.field_info.name] = each.name
                if each.tokens:
                    self.given[each.name] = each.tokens[-1].value


def explain(
    error: BaseException, invocation: Invocation, commands: Iterable[str] = ()
) -> tuple[str, int]:
    """Turn what ended a command into one line for the user, and an exit code.

    Args:
        error: What was raised.
        invocation: The call that it ended.
        commands: Names of all commands.

    Returns:
        The line, at most `MOST_CHARACTERS` long. The code is 2 for what the user can mend: bad
        input, or too much work for this memory; 3 for what nobody foresaw, whose traceback is
        written to a file, which the line names.

    Example:
        >>> explain(MemoryError(), Invocation([], flags={"batch_size": "--batch-size"}))
        ('out of memory; lower --batch-size', 2)
        >>> explain(ValueError("there is no `data` x"), Invocation([], flags={"data": "--data"}))
        ('there is no --data x', 2)
    """
    if isinstance(error, CycloptsError):
        return _shortened(_parse_problem(error, commands)), BAD_INPUT
    if ran_out_of_memory(error):
        first = str(error).strip().partition("\n")[0].rstrip(".")
        return f"{_shortened('out of memory', first)}; {_cure(invocation)}", BAD_INPUT
    words = " ".join(str(error).split())
    if isinstance(error, (ValueError, OSError)) and words:
        return _shortened(with_flags(words, invocation.flags)), BAD_INPUT
    about = _shortened(type(error).__name__, words, most=300)
    log = keep_traceback(error, invocation)
    where = f"its traceback is in {log}" if log else "no log of it could be written"
    return f"this should not have happened: {about}; {where}", UNFORESEEN


def with_flags(text: str, flags: Mapping[str, str]) -> str:
    """Name flags where an error names arguments: in backticks, or before "must".

    Args:
        text: What an error says.
        flags: Flags by the name of the argument.

    Example:
        >>> with_flags("point `data` elsewhere", {"data": "--data"})
        'point --data elsewhere'
        >>> with_flags("ema_decay must lie in [0, 1)", {"ema_decay": "--ema-decay"})
        '--ema-decay must lie in [0, 1)'
    """
    return re.sub(
        r"`(\w+)`|(?:\bthe )?(?<![-\w])(\w+)(?= must\b)",
        lambda match: flags.get(match[1] or match[2], match[0]),
        text,
    )


def _parse_problem(error: CycloptsError, commands: Iterable[str]) -> str:
    """Say what is wrong with the words of a command line."""
    command = " ".join(error.command_chain or ())
    see = f"See `{' '.join(['bench.py', *command.split()])} --help`"
    match error:
        case UnknownCommandError(unused_tokens=[word, *_]):
            from benchmarks.cli.arguments import kind_of  # seconds, for a typing error alone

            known = [name.removeprefix(f"{command} ") for name in commands if command in name]
            if kind := kind_of(word):
                return f"there is no command {word!r}; it is the name of a {kind}. {see}"
            return f"there is no command {word!r}{did_you_mean(word, known) or '.'} {see}"
        case UnknownOptionError():
            word = (error.token.keyword or error.token.value).partition("=")[0]
            flags = [
                name for each in error.argument_collection if each.parse for name in each.names
            ]
            if error.token.source not in ("", "cli"):
                word = word.strip("[]").replace("][", ".")
                near = did_you_mean(f"--{word}".replace("_", "-"), flags)
                return f"{error.token.source} has an unknown setting {word}{near or '.'} {see}"
            return f"there is no flag {word}{did_you_mean(word, flags) or '.'} {see}"
        case UnusedCliTokensError(unused_tokens=[word, *_]):
            return f"unexpected word {word!r}. {see}"
        case MissingArgumentError(argument=argument) if argument is not None:
            lacks = "needs a value" if error.keyword or argument.tokens else "is required"
            return f"{argument.name} {lacks}. {see}"
        case CoercionError(argument=argument) if argument is not None and error.msg is not None:
            return f"{argument.name}: {error.msg}"
    return f"{error} {see}"


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Suggest the nearest name, if one is near.

    Example:
        >>> did_you_mean("--seed", ["--seeds", "--suite"]), did_you_mean("x", ["erm"])
        ("; did you mean '--seeds'?", '')
    """
    near = get_close_matches(word, list(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether memory was asked for, of the CPU or a GPU, that there is not.

    Example:
        >>> ran_out_of_memory(RuntimeError("CUDA error: out of memory")), ran_out_of_memory(
        ...     ValueError("there is no file out of memory.txt"))
        (True, False)
    """
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # PyTorch's own error is a RuntimeError, too.
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error)))
    )


def keep_traceback(error: BaseException, invocation: Invocation) -> Path | None:
    """Write all that is known of an error to a new file of the cache.

    Returns:
        The file, in the folder for temporary ones if the cache cannot be written to; None if none
        can.
    """
    import platform  # this and the next take time, and most commands end well
    import traceback
    from datetime import UTC, datetime

    from benchmarks.data.paths import cache_dir

    now = datetime.now(UTC)
    torch = sys.modules.get("torch")
    versions = f"Python {platform.python_version()}, PyTorch {getattr(torch, '__version__', '-')}"
    lines = [
        f"{now.isoformat(timespec='seconds')}, {versions}, {platform.platform()}",
        invocation.text,
        *"".join(traceback.format_exception(error)).splitlines(),
    ]
    text = "".join(f"{printable(line)}\n" for line in lines)
    for folder in (cache_dir() / "logs", Path(tempfile.gettempdir())):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(
                "w",
                encoding="utf-8",
                dir=folder,
                prefix=f"{now:%Y-%m-%dT%H-%M-%S}-",
                suffix=".log",
                delete=False,
            ) as file:
                file.write(text)
            return Path(file.name)
        except OSError:
            continue
    return None


def _cure(invocation: Invocation) -> str:
    """Name the settings to lower, with their values if they were given."""
    flags = [invocation.flags[name] for name in LARGE if name in invocation.flags]
    if not flags:
        return FEWER
    given = invocation.given
    *first, last = (f"{flag} (now {given[flag]})" if flag in given else flag for flag in flags)
    return f"lower {', '.join(first)} or {last}" if first else f"lower {last}"


def _shortened(*parts: str, most: int = MOST_CHARACTERS) -> str:
    """Join what is not empty, and leave out the middle of what is too long."""
    text = ": ".join(filter(None, parts))
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :]}"
