"""Settings are read whole or refused in one line that names the file, the key and the remedy."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from gobelin.shared.errors import ConfigError, MachineError
from gobelin.shared.recipe import Recipe, builtin_recipes, load_recipe
from gobelin.shared.settings import (
    Settings,
    parse_assignments,
    parse_settings,
    read_settings,
    to_toml,
    write_settings,
)
from tests.failing_disk import failing_disk


class Compute(Settings):
    """A nested table."""

    threads: int = 1
    precision: str = "fp32"


class Node(Settings):
    """A small settings file."""

    member: str
    share: float = 0.5
    note: str | None = None
    compute: Compute = Compute()


def refusal(text: str, kind: type[Settings] = Node) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_settings(kind, text, where="node.toml")
    assert "node.toml" in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_values_and_defaults_are_read() -> None:
    node = parse_settings(Node, 'member = "north"\n[compute]\nthreads = 2', where="node.toml")
    assert node == Node(member="north", compute=Compute(threads=2))


def test_an_unknown_key_at_the_top_is_answered_by_the_nearest_known_one() -> None:
    found = refusal('member = "north"\nshaer = 0.1')
    assert "unknown key 'shaer'" in found
    assert "did you mean 'share'?" in found


def test_an_unknown_key_in_a_table_is_answered_from_that_table() -> None:
    found = refusal('member = "north"\n[compute]\nthread = 2')
    assert "'compute.thread'" in found
    assert "did you mean 'threads'?" in found
    # `shar` is near a key of the top level only
    found = refusal('member = "north"\n[compute]\nshar = 2')
    assert "did you mean" not in found
    assert "known keys: precision, threads" in found


def test_an_unknown_key_like_no_other_is_answered_by_all_known_ones() -> None:
    assert "known keys: compute, member, note, share" in refusal('member = "n"\nzzzzz = 1')


def test_a_misspelt_required_key_is_answered_by_the_nearest_known_one() -> None:
    assert "did you mean 'member'?" in refusal('memebr = "north"')


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('member = "n"\nshare = "half"', "share"),
        ("member = 7", "member"),
        ('member = "n"\ncompute = 3', "compute"),
        ('member = "n"\n[compute]\nthreads = "two"', "compute.threads"),
        ('member = "n"\n[compute]\nthreads = 1.5', "compute.threads"),
        ('member = "n"\nshare = nan', "share"),
        ('member = "n"\nshare = inf', "share"),
        ("", "member"),
    ],
)
def test_a_wrong_type_or_a_missing_key_is_named(text: str, key: str) -> None:
    assert f"node.toml: {key}: " in refusal(text)


@pytest.mark.parametrize("text", ["member = ", "member north", "[compute", "a = 1\na = 2", "\0"])
def test_what_is_no_toml_is_refused(text: str) -> None:
    assert "is not valid TOML" in refusal(text)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.toml does not exist"):
        read_settings(Node, tmp_path / "gone.toml")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes('member = "münster"'.encode("latin-1"))
    (tmp_path / "folder.toml").mkdir()
    for name in ("latin.toml", "folder.toml"):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_settings(Node, tmp_path / name)


def test_a_disk_that_fails_for_now_is_no_wrong_setting(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('member = "north"\n')
    with failing_disk(file, errno.ESTALE), pytest.raises(MachineError, match="cannot be read"):
        read_settings(Node, file)


def test_settings_survive_their_file(tmp_path: Path) -> None:
    node = Node(member='no"rth\\ ü', share=0.1, compute=Compute(threads=3))
    write_settings(tmp_path / "node.toml", node)
    assert read_settings(Node, tmp_path / "node.toml") == node


def test_settings_cannot_be_changed_after_they_were_read() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Node(member="north").member = "south"


@pytest.mark.parametrize("name", builtin_recipes())
def test_a_built_in_recipe_survives_its_toml(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    again = parse_settings(Recipe, to_toml(recipe), where=name)
    assert again == recipe
    assert again.digest == recipe.digest
    write_settings(tmp_path / "mine.toml", recipe)
    assert load_recipe(str(tmp_path / "mine.toml")) == recipe


def test_two_rooms_in_parts_differ_from_two_rooms_in_how_long_the_rate_rises_alone() -> None:
    whole, parts = (load_recipe(name).model_dump() for name in ("two_room", "two_room_parts"))
    assert parts["inner"].pop("warmup") > whole["inner"].pop("warmup")
    assert parts | {"name": "two_room"} == whole


def test_the_built_in_recipes_are_all_different() -> None:
    assert {"tiny", "toy", "small", "base", "large"} <= set(builtin_recipes())
    digests = {load_recipe(name).digest for name in builtin_recipes()}
    assert len(digests) == len(builtin_recipes())


def test_an_unknown_recipe_is_answered_by_the_known_ones() -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe("tyni")
    for name in builtin_recipes():
        assert name in caught.value.remedy


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("heads = 2", "heads = 3", "does not divide"),
        ("dim = 16", "dim = 18", "no multiple of 4"),
        ("image_size = 28", "image_size = 30", "no multiple of patch_size"),
        ("lr = 0.001", "lr = 0.0", "inner.lr"),
        ("batch_size = 16", "batch_size = 1", "inner.batch_size"),
        ("knots = 17", "knots = 16", "must be odd"),
    ],
)
def test_a_recipe_whose_sizes_do_not_fit_is_refused(old: str, new: str, says: str) -> None:
    text = to_toml(load_recipe("toy"))
    assert old in text
    assert says in refusal(text.replace(old, new), Recipe)


def test_assignments_are_toml_but_for_quotes_that_may_be_left_out() -> None:
    texts = [
        "outer.kind=nesterov",
        "outer.lr=0.7",
        "rounds.rounds = 3",
        'outer.a="b c"',
        "rounds.on=true",
    ]
    assert parse_assignments(texts) == {
        "outer": {"kind": "nesterov", "lr": 0.7, "a": "b c"},
        "rounds": {"rounds": 3, "on": True},
    }
    assert parse_assignments([]) == {}


@pytest.mark.parametrize(
    "text", ["outer.lr", "", "=3", "a b=3", ".=1", "outer=1", "outer={}=", " = "]
)
def test_what_is_no_assignment_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no assignment"):
        parse_assignments([text])


@pytest.mark.parametrize("again", ["outer.lr=1", "outer.lr=0.1", "outer.lr.x=1"])
def test_nothing_is_assigned_twice(again: str) -> None:
    with pytest.raises(ConfigError, match="a second time"):
        parse_assignments(["outer.lr=1", again])
