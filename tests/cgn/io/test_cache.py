from collections.abc import Callable
from pathlib import Path

import pytest

from cgn.io.cache import cache_key, open_or_make


def read(path: Path) -> str:
    """Open a file of the cache; any but "whole" counts as damaged."""
    if path.read_text() != "whole":
        raise ValueError(f"{path} is damaged")
    return path.read_text()


def write(path: Path) -> None:
    path.write_text("whole")


@pytest.fixture
def code(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a.py", tmp_path / "b.py"]
    for path in paths:
        path.write_text(path.name)
    return paths


def test_the_key_does_not_depend_on_the_order_in_which_code_is_listed(code: list[Path]) -> None:
    assert cache_key("x", code) == cache_key("x", code[::-1])


def test_changed_code_and_changed_parts_have_other_keys(code: list[Path]) -> None:
    keys = {cache_key("x", code), cache_key("y", code), cache_key("x", code[:1])}
    code[1].write_text("changed")
    assert len(keys | {cache_key("x", code)}) == 4


def test_a_file_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    write(tmp_path / "file")
    made: list[Path] = []
    assert open_or_make(tmp_path / "file", read, made.append) == "whole"
    assert made == []


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("half")])
def test_a_missing_or_damaged_file_is_made(spoil: Callable[[Path], object], tmp_path: Path) -> None:
    write(tmp_path / "file")
    spoil(tmp_path / "file")
    assert open_or_make(tmp_path / "file", read, write) == "whole"
    assert (tmp_path / "file").read_text() == "whole"


def test_an_error_while_making_reaches_the_caller(tmp_path: Path) -> None:
    def make(path: Path) -> None:
        raise ValueError("there is nothing to make it of")

    with pytest.raises(ValueError, match="nothing to make it of"):
        open_or_make(tmp_path / "file", read, make)
