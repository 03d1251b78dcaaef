"""Founding a federation and admitting nodes to its roster."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gobelin.protocols.enrolment import CONTRIBUTOR
from gobelin.server.home import AggregatorHome, FederationSettings
from gobelin.server.places import Places
from gobelin.server.roster import NodeEntry, require_name
from gobelin.server.sealed_policy import require_sealable
from gobelin.server.transplants import open_labelled
from gobelin.shared.address import format_address, parse_address
from gobelin.shared.checkpoint import write_checkpoint
from gobelin.shared.data import kind_of
from gobelin.shared.errors import ConfigError, StateError
from gobelin.shared.files import folder_atomic, read_json
from gobelin.shared.fragments import fragments_of
from gobelin.shared.keys import write_authority
from gobelin.shared.recipe import load_recipe
from gobelin.shared.settings import check_settings, write_settings
from gobelin.shared.vector import ParameterVector

MAX_PORT = 65535


@dataclass(frozen=True)
class Charter:
    """What a founder decides."""

    name: str
    recipe: str
    address: str
    seed: int = 0
    rounds: Mapping[str, Any] = field(default_factory=dict)
    outer: Mapping[str, Any] = field(default_factory=dict)
    aggregation: Mapping[str, Any] = field(default_factory=dict)
    policy: Mapping[str, Any] = field(default_factory=dict)
    releases: Mapping[str, Any] = field(default_factory=dict)


def found(folder: Path, charter: Charter, service_port: int = 0) -> dict[str, Any]:
    """Write a new aggregator home, whole or not at all.

    `service_port` 0 is the one after the address's, or a free one where that is to be free.
    Raises StateError when one is there, ConfigError or DataError on a charter that cannot be kept.
    """
    from gobelin.shared.model import build_jepa  # torch: only when a model is really built

    home = AggregatorHome(folder)
    if home.settings_file.exists():
        raise StateError(f"{folder} is an aggregator home already", "choose another --home")
    if folder.exists() and any(folder.iterdir()):
        raise StateError(f"{folder} is not empty", "choose an empty or new --home")
    host, port = choose_address(charter.address)
    recipe = load_recipe(charter.recipe)
    service = service_port or second_port(charter.address, host, port)
    if service == port:
        raise ConfigError(f"port {port} is the rounds' own", "choose another --service-port")
    settings = _settings(charter, host, port, service)
    settings.require_fit(recipe)
    require_sealable(settings, recipe)
    if settings.policy.probe is not None:
        kind_of(settings.policy.probe)  # refuses what holds no images
    if settings.releases.probe is not None:
        open_labelled(settings.releases, recipe)  # refuses what no head can be fitted on
    vector = ParameterVector.of(build_jepa(recipe, charter.seed))
    fragments_of(vector.schema, settings.outer.fragments)  # refuses more than the model has parts
    with folder_atomic(folder, new=True) as tmp:
        place = AggregatorHome(tmp)
        write_authority(place.tls, charter.name, {host, "localhost", "127.0.0.1"})
        write_settings(place.recipe_file, recipe)
        facts = {"federation": charter.name, "round": 0, "seed": charter.seed}
        write_checkpoint(place.round_folder(0), recipe, vector, facts)
        write_settings(place.settings_file, settings)
        place.book.found()
    return {
        "home": str(folder),
        "ca": str(home.tls / "ca.pem"),
        "address": format_address(host, port),
        "service": format_address(host, service),
        "recipe_digest": recipe.digest,
        "vector_digest": vector.digest,
        "parameters": vector.schema.size,
        "seed": charter.seed,
    }


def admit_node(
    folder: Path, key: Path, member: str, node: str, role: str = CONTRIBUTOR
) -> NodeEntry:
    """Add a node to the roster; idempotent."""
    home = Places(folder)
    home.require()
    try:
        pem = key.read_bytes()
    except OSError as error:
        raise ConfigError(f"{key} cannot be read: {error.strerror}", "pass the node.pub") from None
    if key.suffix == ".json" or pem.lstrip().startswith(b"{"):
        pem = str(read_json(key).get("public_key", "")).encode()
    for name in (member, node):
        require_name(name)
    entry = NodeEntry.of(member, node, pem, str(key), role)
    with home.book.change(home.signing_key_file) as change:
        change.admit(entry)
    return entry


def choose_address(address: str) -> tuple[str, int]:
    """Host and port of an address; port 0 becomes one that is free on this machine now."""
    host, port = parse_address(address)
    if port:
        return host, port
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.bind((host, 0))
            return host, int(probe.getsockname()[1])
    except OSError as error:
        raise ConfigError(
            f"{host!r} is no address of this machine: {error.strerror}", "name the port as well"
        ) from None


def second_port(address: str, host: str, port: int) -> int:
    """The service's port: the next one, or a free one where the address's was to be free."""
    if parse_address(address)[1]:
        return port + 1 if port < MAX_PORT else port - 1
    while (free := choose_address(format_address(host, 0))[1]) == port:
        pass
    return free


def _settings(charter: Charter, host: str, port: int, service: int) -> FederationSettings:
    values = {
        "name": charter.name,
        "seed": charter.seed,
        "network": {"host": host, "port": port, "service_port": service},
        "rounds": dict(charter.rounds),
        "outer": dict(charter.outer),
        "aggregation": dict(charter.aggregation),
        "policy": dict(charter.policy),
        "releases": dict(charter.releases),
    }
    return check_settings(FederationSettings, values, where="the options")
