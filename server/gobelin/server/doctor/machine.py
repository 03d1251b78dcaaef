"""Checks of the machine and the home: versions, settings, permissions, disk."""

from __future__ import annotations

import os
import shutil

import torch

from gobelin.server.home import AggregatorHome
from gobelin.server.limits import limit_of
from gobelin.server.sealed_policy import require_sealable
from gobelin.shared.checkup import Found, fail, ok, warn
from gobelin.shared.files import PRIVATE, bytes_in, open_to_others
from gobelin.shared.installed import check_versions
from gobelin.shared.locks import is_owned
from gobelin.shared.model import Jepa
from gobelin.shared.vector import ParameterSchema

SECRETS = ("ca.key", "server.key", "signing.key", "release.key")
CHECKPOINTS = 3  # that the home has place for, at least
FP32 = 4  # bytes


def versions(home: AggregatorHome) -> Found:
    """Whether what is installed is what this version of gobelin was made for."""
    return check_versions()


def settings(home: AggregatorHome) -> Found:
    """Whether federation.toml, recipe.toml and the roster fit each other."""
    known, recipe = home.settings(), home.recipe()
    known.require_fit(recipe)
    require_sealable(known, recipe)
    home.require_places(home.roster())
    for probe in (known.policy.probe, known.releases.probe):
        if probe is not None and not probe.exists():
            return fail("probe", f"{probe} does not exist", "bring it back, or unset the probe")
    return ok(f"{known.name!r}: {recipe.name}, {known.rounds.rounds} rounds")


def permissions(home: AggregatorHome) -> Found:
    """Whether the keys are there and this user's alone, and the home can be written."""
    if not os.access(home.folder, os.W_OK | os.X_OK):
        return fail("home", f"{home.folder} cannot be written", f"chown -R $(id -un) {home.folder}")
    keys = [home.tls / name for name in SECRETS]
    needed = [key for key in keys[:3] if not key.exists()]
    if needed:
        return fail("home", f"{needed[0]} is missing", "restore the home from a backup")
    if found := open_to_others([*keys, home.flower / "superexec.secret"]):
        names = " ".join(map(str, found))
        return fail("home", f"others may read {names}", f"chmod {PRIVATE:o} {names}")
    return ok("the federation's keys are this user's alone")


def disk(home: AggregatorHome) -> Found:
    """Whether there is place for three checkpoints, and for what all nodes may send at a time."""
    known, recipe = home.settings(), home.recipe()
    with torch.device("meta"):
        schema = ParameterSchema.of(Jepa(recipe))
    sealed = home.sealed_rounds()
    kept = bytes_in(home.round_folder(sealed[-1])) if sealed else FP32 * schema.size
    nodes = max(1, len(home.roster().contributors))
    dim = recipe.projector.out if known.rounds.cross_node else None
    reply = limit_of(schema, known.rounds.codec, dim).bytes
    base, delta = FP32 * schema.size, FP32 * schema.size
    # Of a node: its reply with Flower and in the journal, its delta decoded; and the base once.
    need = CHECKPOINTS * kept + nodes * (2 * reply + delta) + base
    free = shutil.disk_usage(home.folder).free
    left = known.rounds.rounds - (sealed[-1] if sealed else 0)
    told = (
        f"{free / 1e9:.1f} GB free; three checkpoints and the answers of {nodes} nodes take "
        f"{need / 1e9:.2g} GB"
    )
    facts = {"free": free, "need": need, "rounds_left": left, "checkpoint": kept}
    if free < need:
        return fail("disk", told, f"free space on the disk of {home.folder}", **facts)
    if free < need + left * kept:
        more = f"; the {left} rounds to come take {left * kept / 1e9:.2g} GB if all are kept"
        return warn("disk", told + more, "add disk before they are there", **facts)
    running = "; the aggregator is up" if is_owned(home.folder) else ""
    return ok(told + running, **facts)
