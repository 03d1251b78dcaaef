"""A federation is founded whole or not at all, and nodes are admitted once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cryptography import x509

from gobelin.server.founding import Charter, admit_node, found
from gobelin.server.home import AggregatorHome
from gobelin.server.outer import Adam, Nesterov, OuterOptimizer, Sgd, make_outer
from gobelin.shared.address import parse_address
from gobelin.shared.errors import ConfigError, DataError, StateError
from gobelin.shared.keys import fingerprint, load_private_key
from gobelin.shared.model import build_jepa
from gobelin.shared.recipe import load_recipe
from gobelin.shared.vector import ParameterVector
from tests.keys import node_pub


def charter(**changes: Any) -> Charter:
    values: dict[str, Any] = {"name": "fed", "recipe": "toy", "address": "127.0.0.1:0", "seed": 5}
    return Charter(**{**values, **changes})


@pytest.fixture
def home(tmp_path: Path) -> AggregatorHome:
    found(tmp_path / "home", charter())
    return AggregatorHome(tmp_path / "home")


def key_file(folder: Path, number: int) -> Path:
    file = folder / f"node-{number}.pub"
    file.write_bytes(node_pub(number))
    return file


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_founding_writes_all_a_federation_needs(tmp_path: Path) -> None:
    facts = found(
        tmp_path / "home",
        charter(
            rounds={"rounds": 3, "local_steps": 7, "min_members": 4},
            outer={"kind": "nesterov", "lr": 0.7, "momentum": 0.9},
        ),
    )
    home = AggregatorHome(tmp_path / "home")
    home.require()
    settings = home.settings()
    assert (settings.name, settings.seed) == ("fed", 5)
    assert (settings.rounds.rounds, settings.rounds.local_steps) == (3, 7)
    assert settings.rounds.min_members == 4
    assert settings.outer.model_dump() == {
        "kind": "nesterov",
        "lr": 0.7,
        "momentum": 0.9,
        "beta2": None,
        "tau": None,
        "fragments": 1,
        "alpha": 1.0,
    }
    assert home.recipe() == load_recipe("toy")
    assert home.roster().nodes == ()
    assert facts["ca"] == str(home.tls / "ca.pem")
    assert Path(facts["ca"]).is_file()
    assert load_private_key(home.tls / "server.key")
    assert everything(tmp_path) == {"home", *(f"home/{name}" for name in everything(home.folder))}


@pytest.mark.parametrize(
    ("kind", "outer"), [("sgd", Sgd(1.0)), ("nesterov", Nesterov(0.7, 0.9)), ("adam", Adam())]
)
def test_what_an_outer_optimizer_is_not_told_is_its_own_default(
    kind: str, outer: OuterOptimizer, tmp_path: Path
) -> None:
    found(tmp_path / "home", charter(outer={"kind": kind, "lr": None, "momentum": None}))
    settings = AggregatorHome(tmp_path / "home").settings().outer
    told = settings.model_dump(exclude={"fragments", "alpha"})
    assert {name: value for name, value in told.items() if value is not None} == {"kind": kind}
    assert make_outer(**told) == outer


def test_more_fragments_than_the_model_has_parts_are_refused(tmp_path: Path) -> None:
    for outer in ({"fragments": 99}, {"fragments": 0}, {"alpha": 0.5}):
        with pytest.raises(ConfigError, match=r"fragments"):
            found(tmp_path / "home", charter(outer=outer))
        assert not (tmp_path / "home").exists()


def test_a_warmup_that_leaves_no_round_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"warmup_rounds = 3 leave none of 3 rounds"):
        found(tmp_path / "home", charter(rounds={"rounds": 3, "warmup_rounds": 3}))
    assert not (tmp_path / "home").exists()


def test_the_first_checkpoint_is_the_seeds_model(home: AggregatorHome) -> None:
    number, checkpoint = home.latest()
    assert number == 0
    expected = ParameterVector.of(build_jepa(load_recipe("toy"), 5))
    assert torch.equal(checkpoint.vector.values, expected.values)
    assert checkpoint.facts == {"federation": "fed", "round": 0, "seed": 5}


def test_the_same_charter_gives_the_same_model_and_another_seed_another(tmp_path: Path) -> None:
    digests = [
        found(tmp_path / str(i), charter(seed=seed))["vector_digest"]
        for i, seed in enumerate([5, 5, 6])
    ]
    assert digests[0] == digests[1] != digests[2]


def test_port_0_becomes_a_real_one(tmp_path: Path) -> None:
    address = found(tmp_path / "home", charter())["address"]
    network = AggregatorHome(tmp_path / "home").settings().network
    assert network.port > 0
    assert address == f"127.0.0.1:{network.port}"


def test_the_servers_certificate_names_the_address(tmp_path: Path) -> None:
    found(tmp_path / "home", charter(address="aggregator.example:9092"))
    pem = (tmp_path / "home" / "tls" / "server.pem").read_bytes()
    names = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    assert "aggregator.example" in names.value.get_values_for_type(x509.DNSName)


def test_only_the_owner_reads_the_private_keys(home: AggregatorHome) -> None:
    for file in home.tls.glob("*.key"):
        assert file.stat().st_mode & 0o077 == 0


def test_a_home_is_not_founded_twice(home: AggregatorHome) -> None:
    before = (home.tls / "ca.pem").read_bytes()
    with pytest.raises(StateError, match="aggregator home already"):
        found(home.folder, charter(seed=6))
    assert (home.tls / "ca.pem").read_bytes() == before
    assert home.settings().seed == 5


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("mine")
    with pytest.raises(StateError, match="not empty"):
        found(tmp_path / "home", charter())
    assert everything(tmp_path) == {"home", "home/thesis.tex"}


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    found(tmp_path / "home", charter())
    AggregatorHome(tmp_path / "home").require()


BAD_CHARTERS: list[dict[str, Any]] = [
    {"recipe": "tyni"},
    {"recipe": "nowhere.toml"},
    {"name": ""},
    {"name": "two words"},
    {"name": "x" * 49},
    {"address": "nowhere"},
    {"address": ":9092"},
    {"address": "host:port"},
    {"address": "host:65536"},
    {"address": "host:-1"},
    {"seed": -1},
    {"rounds": {"rounds": 0}},
    {"rounds": {"raunds": 3}},
    {"outer": {"kind": "lion"}},
    {"outer": {"kind": "adam", "beta2": 1.0}},
    {"outer": {"kind": "adam", "epsilon": 1e-8}},
    {"outer": {"lr": 0.0}},
    {"outer": {"momentum": 1.0}},
]


@pytest.mark.parametrize("changes", BAD_CHARTERS, ids=str)
def test_a_bad_charter_leaves_nothing_behind(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        found(tmp_path / "home", charter(**changes))
    assert everything(tmp_path) == set()


@pytest.mark.parametrize(
    "address", ["no.such.host.invalid:0", "::1:0", "host:²", "münchen.example:9092", "[::1]:9092"]
)
def test_an_address_that_cannot_be_used_is_a_config_error(address: str, tmp_path: Path) -> None:
    try:
        found(tmp_path / "home", charter(address=address))
    except ConfigError:
        return
    host = AggregatorHome(tmp_path / "home").settings().network.host
    assert host == "::1"  # an IPv6 address may do as well, without its brackets


@pytest.mark.parametrize("listen", ["host.example", "0.0.0.0:9092", ""])
def test_where_an_aggregator_listens_is_an_address(listen: str, tmp_path: Path) -> None:
    found(tmp_path / "home", charter())
    file = tmp_path / "home" / "federation.toml"
    file.write_text(file.read_text().replace("[network]\n", f'[network]\nlisten = "{listen}"\n'))
    with pytest.raises(ConfigError, match=r"network\.listen: .*address"):
        AggregatorHome(tmp_path / "home").settings()


def test_a_recipe_file_with_an_unknown_key_leaves_nothing_behind(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        'name = "mine"\n[modalities.image]\nkind = "image"\npatch_sise = 7\n[trunk]\n'
    )
    with pytest.raises(ConfigError, match="did you mean 'patch_size'"):
        found(tmp_path / "home", charter(recipe=str(recipe)))
    assert everything(tmp_path) == {"mine.toml"}


def test_a_crash_in_the_middle_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gobelin.server.founding.write_checkpoint", full)
    with pytest.raises(OSError, match="No space"):
        found(tmp_path / "home", charter())
    assert everything(tmp_path) == set()


def test_an_address_is_split_at_its_last_colon() -> None:
    assert parse_address("aggregator.example:9092") == ("aggregator.example", 9092)
    assert parse_address("[::1]:9092") == ("::1", 9092)


def test_a_node_is_admitted_by_its_key(home: AggregatorHome, tmp_path: Path) -> None:
    entry = admit_node(home.folder, key_file(tmp_path, 1), "north", "north-1")
    (node,) = home.roster().nodes
    assert node == entry
    assert (node.member, node.name) == ("north", "north-1")
    assert node.id == fingerprint(key_file(tmp_path, 1).read_bytes())


def test_admitting_twice_changes_nothing(home: AggregatorHome, tmp_path: Path) -> None:
    for _ in range(2):
        admit_node(home.folder, key_file(tmp_path, 1), "north", "north-1")
    assert len(home.roster().nodes) == 1


def test_the_same_name_with_another_key_is_refused(home: AggregatorHome, tmp_path: Path) -> None:
    admit_node(home.folder, key_file(tmp_path, 1), "north", "north-1")
    before = home.roster_file.read_bytes()
    with pytest.raises(ConfigError, match="named 'north-1' exists"):
        admit_node(home.folder, key_file(tmp_path, 2), "north", "north-1")
    with pytest.raises(ConfigError, match="already node"):
        admit_node(home.folder, key_file(tmp_path, 1), "north", "north-2")
    assert home.roster_file.read_bytes() == before


def test_a_key_in_a_json_file_will_do(home: AggregatorHome, tmp_path: Path) -> None:
    file = tmp_path / "node.json"
    file.write_text(json.dumps({"public_key": key_file(tmp_path, 3).read_text()}))
    admit_node(home.folder, file, "north", "north")
    assert home.roster().nodes[0].id == fingerprint(key_file(tmp_path, 3).read_bytes())


@pytest.mark.parametrize("data", [b"", b"no key", b"\xff\x00", b"{}", b'{"public_key": 7}'])
def test_what_is_no_key_is_not_admitted(data: bytes, home: AggregatorHome, tmp_path: Path) -> None:
    (tmp_path / "bad.pub").write_bytes(data)
    with pytest.raises(ConfigError):
        admit_node(home.folder, tmp_path / "bad.pub", "north", "north")
    with pytest.raises(ConfigError, match="cannot be read"):
        admit_node(home.folder, tmp_path / "gone.pub", "north", "north")
    assert home.roster().nodes == ()


def test_nobody_is_admitted_to_a_folder_that_is_no_home(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="no aggregator home"):
        admit_node(tmp_path, key_file(tmp_path, 1), "north", "north")


def test_a_probe_without_images_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "probe").mkdir()
    for policy in ({"probe": str(tmp_path / "probe")}, {"probe": str(tmp_path / "nothing")}):
        with pytest.raises(DataError, match=r"probe|nothing"):
            found(tmp_path / "home", charter(policy=policy))
        assert not (tmp_path / "home").exists()


def test_weights_by_evidence_need_a_probe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"set policy\.probe"):
        found(tmp_path / "home", charter(policy={"weights": "evidence"}))


def test_the_service_has_the_port_after_the_rounds_unless_told_otherwise(tmp_path: Path) -> None:
    founded = found(tmp_path / "a", charter(address="127.0.0.1:9092"))
    assert founded["service"] == "127.0.0.1:9093"
    assert found(tmp_path / "b", charter(address="127.0.0.1:65535"))["service"].endswith(":65534")
    free = found(tmp_path / "c", charter(address="127.0.0.1:0"))
    assert free["service"] != free["address"]
    assert found(tmp_path / "d", charter(address="127.0.0.1:9092"), 7)["service"].endswith(":7")
    with pytest.raises(ConfigError, match="the rounds' own"):
        found(tmp_path / "e", charter(address="127.0.0.1:9092"), 9092)
    assert not (tmp_path / "e").exists()
