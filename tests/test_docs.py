"""The documentation agrees with the product: commands parse, links lead somewhere."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import UnknownOptionError
from support import ROOT

from benchmarks.cli.app import command_line, full_words

README = ROOT / "README.md"
PAGES = sorted(
    [README, ROOT / "CONTRIBUTING.md", ROOT / "results/README.md", *(ROOT / "docs").glob("*.md")]
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`python (bench\.py [^`]+)`")
LINK = re.compile(r"(?<!`)\]\(([^)\s]+)\)")


def code_blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language on a page."""
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [text for tag, text in found if tag == language]


def commands(page: Path) -> Iterator[str]:
    """The arguments of each call of `bench.py` on a page."""
    lines = INLINE.findall(page.read_text(encoding="utf-8"))
    for block in code_blocks(page, "bash"):
        lines += block.replace("\\\n", " ").splitlines()
    for line in lines:
        for call in line.split("&&"):
            if "bench.py " in call:
                yield call.split("bench.py ", 1)[1].strip()


def words(command: str) -> list[str]:
    """The words of a command; variables of the shell are left out."""
    every = shlex.split(command.replace("$seed", "0"), comments=True)
    return [word for word in every if not re.fullmatch(r"\$\w+", word)]


def make_placeholders(arguments: list[str]) -> None:
    """Make the files and folders that a command names, in the current folder."""
    for word in arguments:
        if re.fullmatch(r"[A-Z_]{3,}(/\w+)?|(\w+/)+\w+", word):
            Path(word).mkdir(parents=True, exist_ok=True)
        elif re.fullmatch(r"[\w-]+\.(pth|safetensors|md)", word, re.IGNORECASE):
            Path(word).touch()


CALLS = [
    pytest.param(command, id=f"{page.relative_to(ROOT)}: {command}")
    for page in PAGES
    for command in dict.fromkeys(commands(page))
    if "--help" not in command and "…" not in command
]


def parse(arguments: list[str]) -> None:
    """Turn words into the arguments of a command, and do nothing with them."""
    command_line().parse_args(full_words(arguments), print_error=False, exit_on_error=False)


@pytest.mark.parametrize("command", CALLS)
def test_every_command_of_the_documentation_parses(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = words(command)
    make_placeholders(arguments)
    parse(arguments)


def test_a_command_with_a_wrong_flag_does_not_parse() -> None:
    with pytest.raises(UnknownOptionError, match="--suites"):
        parse(words("run --suite in9 --model erm --suites x"))


def test_commands_are_found_on_the_pages_that_have_some() -> None:
    assert len(CALLS) > 50
    assert any("train cgn" in call.values[0] for call in CALLS)  # type: ignore[operator]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in LINK.findall(text):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path) if path else page
        assert place.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(place), f"{page.name} links to {target}"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as MkDocs and GitHub make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return {re.sub(r"[\s]+", "-", heading) for heading in plain}


def test_the_readme_is_read_in_one_sitting() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


def test_the_picture_of_the_readme_is_small_enough_for_a_slow_line() -> None:
    assert (ROOT / "docs/images/cgn.png").stat().st_size < 300_000


def test_every_page_of_the_documentation_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f": {page.name}" in navigation
