"""A node's home holds a key made there and what the node has bound itself to."""

from __future__ import annotations

from pathlib import Path

import pytest

from gobelin.client import home as module
from gobelin.client.founding import found_from_options
from gobelin.client.home import NodeHome, NodeSettings, found_node
from gobelin.shared.errors import ConfigError, DataError, StateError
from gobelin.shared.keys import fingerprint, load_private_key, public_pem, write_authority
from gobelin.shared.signing import SigningKey, find_signing_key


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    write_authority(tmp_path / "tls", "fed", ["localhost"])
    return tmp_path / "tls" / "ca.pem"


def settings(data: Path, **changes: object) -> NodeSettings:
    values = {"member": "north", "node": "north-1", "aggregator": "host:9092"}
    return NodeSettings.model_validate({**values, "data": {"path": str(data)}, **changes})


@pytest.fixture
def home(tmp_path: Path, ca: Path) -> NodeHome:
    return found_node(tmp_path / "home", settings(tmp_path), ca)


def test_founding_writes_settings_ca_and_a_key_of_its_own(
    home: NodeHome, ca: Path, tmp_path: Path
) -> None:
    assert home.settings() == settings(tmp_path)
    assert home.ca_file.read_bytes() == ca.read_bytes()
    key = load_private_key(home.key_file)
    public = home.public_key_file.read_bytes()
    assert fingerprint(public) == fingerprint(public_pem(key.public_key()))
    assert find_signing_key(public, "here") == SigningKey.load(home.signing_key_file).public
    names = {path.name for path in home.folder.iterdir()}
    assert names == {"node.toml", "node.key", "signing.key", "node.pub", "ca.pem"}
    assert {path.name for path in tmp_path.iterdir()} == {"home", "tls"}


def test_only_the_owner_reads_the_key(home: NodeHome) -> None:
    for key in (home.key_file, home.signing_key_file):
        assert key.stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" not in home.public_key_file.read_bytes()


def test_two_nodes_have_two_keys(tmp_path: Path, ca: Path) -> None:
    pems = [
        found_node(tmp_path / name, settings(tmp_path), ca).public_key_file.read_bytes()
        for name in ("a", "b")
    ]
    assert fingerprint(pems[0]) != fingerprint(pems[1])


def test_a_folder_with_files_is_refused_and_left_alone(home: NodeHome, ca: Path) -> None:
    before = home.key_file.read_bytes()
    with pytest.raises(StateError, match="not empty"):
        found_node(home.folder, home.settings(), ca)
    assert home.key_file.read_bytes() == before


def test_of_two_who_found_a_node_at_once_the_first_keeps_its_keys(
    tmp_path: Path, ca: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, first = module.make_key, list[NodeHome]()

    def meanwhile() -> object:
        monkeypatch.setattr(module, "make_key", make)
        first.append(found_node(tmp_path / "home", settings(tmp_path), ca))
        return make()

    monkeypatch.setattr(module, "make_key", meanwhile)
    with pytest.raises(StateError, match="not empty"):
        found_node(tmp_path / "home", settings(tmp_path), ca)
    assert NodeHome(tmp_path / "home").settings().node == "north-1"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".home")] == []


def test_an_empty_folder_will_do(tmp_path: Path, ca: Path) -> None:
    (tmp_path / "home").mkdir()
    assert found_node(tmp_path / "home", settings(tmp_path), ca).settings().node == "north-1"


def test_a_ca_that_is_none_is_refused_and_nothing_is_written(tmp_path: Path, ca: Path) -> None:
    (tmp_path / "text.pem").write_text("not a certificate")
    key = ca.with_name("ca.key")  # the mistake one must not make, and must not pass on
    for wrong in (tmp_path / "text.pem", tmp_path / "gone.pem", tmp_path, key):
        with pytest.raises(ConfigError, match="ca") as caught:
            found_node(tmp_path / "home", settings(tmp_path), wrong)
        assert str(wrong) in caught.value.what
    assert not (tmp_path / "home").exists()


def test_a_ca_that_is_cut_off_is_refused(tmp_path: Path, ca: Path) -> None:
    (tmp_path / "cut.pem").write_bytes(ca.read_bytes()[:200])
    with pytest.raises(ConfigError):
        found_node(tmp_path / "home", settings(tmp_path), tmp_path / "cut.pem")


def test_a_folder_that_is_no_home_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="gobelin node init"):
        NodeHome(tmp_path).settings()


def test_a_pin_binds_for_ever(home: NodeHome) -> None:
    assert home.pinned("federation") is None
    home.pin("federation", "fed")
    home.pin("federation", "fed")
    with pytest.raises(StateError, match=r"'fed'.*'other'"):
        home.pin("federation", "other")
    assert NodeHome(home.folder).pinned("federation") == "fed"
    with pytest.raises(StateError):
        NodeHome(home.folder).pin("federation", "other")


def test_pins_do_not_touch_one_another(home: NodeHome) -> None:
    home.pin("federation", "fed")
    home.pin("member", "7")
    assert (home.pinned("federation"), home.pinned("member")) == ("fed", "7")


def test_what_is_remembered_may_change_and_pins_stay(home: NodeHome) -> None:
    home.pin("federation", "fed")
    for node_id in ("7", "8"):
        home.remember("flower_node_id", node_id)
    assert (home.pinned("federation"), home.pinned("flower_node_id")) == ("fed", "8")


def test_damaged_pins_are_an_error_and_never_forgotten(home: NodeHome) -> None:
    home.pins_file.write_text("{")
    with pytest.raises(StateError, match=r"pins\.json"):
        home.pin("federation", "other")
    assert home.pins_file.read_text() == "{"


OPTIONS = {"member": "north", "node": "north-1", "aggregator": "host:9092"}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"aggregator": "host"}, "aggregator"),
        ({"aggregator": "ho st:1"}, "aggregator"),
        ({"member": ""}, "member"),
        ({"node": "../escape"}, "node"),
        ({"node": "x" * 49}, "node"),
        ({"compute": {"precision": "fp8"}}, "compute.precision"),
        ({"compute": {"threads": -1}}, "compute.threads"),
    ],
)
def test_a_bad_option_is_named_and_nothing_is_written(
    changes: dict[str, object], key: str, tmp_path: Path, ca: Path
) -> None:
    values = {**OPTIONS, "data": {"path": str(tmp_path)}, **changes}
    with pytest.raises(ConfigError, match=rf"\b{key}: "):
        found_from_options(tmp_path / "home", ca, values)
    assert not (tmp_path / "home").exists()


def test_moments_are_sent_unless_an_operator_says_no(tmp_path: Path, ca: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").write_bytes(b"")
    for name, egress, sends in (("a", {}, True), ("b", {"egress": {"moments": False}}, False)):
        values = {**OPTIONS, "data": {"path": str(tmp_path / "data")}, **egress}
        found_from_options(tmp_path / name, ca, values)
        assert NodeHome(tmp_path / name).settings().egress.moments == sends
        text = (tmp_path / name / "node.toml").read_text()
        assert f"[egress]\nmoments = {str(sends).lower()}" in text  # where it can be changed


@pytest.mark.parametrize("data", ["gone", "empty", "notes"])
def test_a_folder_without_data_is_refused_and_nothing_is_written(
    data: str, tmp_path: Path, ca: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("no data")
    values = {**OPTIONS, "data": {"path": str(tmp_path / data)}}
    with pytest.raises(DataError, match=data):
        found_from_options(tmp_path / "home", ca, values)
    assert not (tmp_path / "home").exists()
