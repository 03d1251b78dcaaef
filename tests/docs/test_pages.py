"""Whoever follows a page types all of it, and notices when it does not do what it says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from examples.pages import PageError, Reader, commands_of, matched


def page(folder: Path, *blocks: str) -> Path:
    """A page of console blocks, each "TERMINAL: lines"."""
    told = [block.partition(": ") for block in blocks]
    text = "\n".join(f'```console title="{name}"\n{lines}\n```\n' for name, _, lines in told)
    file = folder / "page.md"
    file.write_text(f"# A page\n\n## Part\n\n{text}")
    return file


def follow(folder: Path, *blocks: str) -> Reader:
    with Reader(folder, os.environ, timeout_s=20) as reader:
        reader.follow(page(folder, *blocks))
    return reader


def test_commands_stand_with_what_they_print(tmp_path: Path) -> None:
    first, second = commands_of(page(tmp_path, "a: $ echo one \\\n    two\none two\n$ true"))
    assert (first.text, first.printed) == ("echo one \\\n    two", ("one two",))
    assert (second.text, second.printed) == ("true", ())
    assert {first.section, second.section} == {"Part"}


@pytest.mark.parametrize(
    ("expected", "said", "names"),
    [
        (["a … c"], ["a b c"], {}),
        (["a … c"], ["a b"], None),
        (["…", "c"], ["a", "b", "c"], {}),
        (["a", "…"], ["a"], {}),
        (["a"], ["a", "b"], None),
        (["say <some words>!"], ["say x y!"], {"some words": "x y"}),
        (["<a>", "<b>"], ["1", "2"], {"a": "1", "b": "2"}),
        (["a.c"], ["abc"], None),
    ],
)
def test_what_is_printed_is_compared(
    expected: list[str], said: list[str], names: dict[str, str] | None
) -> None:
    assert matched(expected, said) == names


def test_what_is_printed_in_one_terminal_is_typed_in_another(tmp_path: Path) -> None:
    reader = follow(tmp_path, "a: $ echo word: $((6 * 7))\nword: <word>", "b: $ echo <word>\n42")
    assert reader.names == {"word": "42"}


def test_another_output_a_failure_and_an_end_too_early_are_told(tmp_path: Path) -> None:
    with pytest.raises(PageError, match="does not print what the page says"):
        follow(tmp_path, "a: $ echo 1\n2")
    with pytest.raises(PageError, match="ended with 1"):
        follow(tmp_path, "a: $ false")
    with pytest.raises(PageError, match="ended with 0"):
        follow(tmp_path, "a: $ echo 'gobelin: [config] x'\ngobelin: [config] x")
    with pytest.raises(PageError, match="ended without"):
        follow(tmp_path, "a: $ echo 1\n2\n…")


def test_what_goes_on_is_left_running_watched_and_interrupted(tmp_path: Path) -> None:
    # When 3 is out, no shell waits for a child: it would survive ^C where that has just ended well.
    loop = "for n in 1 2; do echo $n; sleep 0.1; done; echo 3; exec sleep 60"
    follow(
        tmp_path,
        f"a: $ bash -c '{loop}'\n1\n…",
        "b: $ echo meanwhile\nmeanwhile",
        "a: 3",
        "a: ^C",
        "a: $ echo after\nafter",
    )


def test_a_terminal_keeps_its_folder_and_its_variables(tmp_path: Path) -> None:
    follow(tmp_path, "a: $ mkdir x && cd x\n$ WHO=me\n$ echo $WHO in $(basename $PWD)\nme in x")
