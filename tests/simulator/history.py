"""One history: a federation from its founding to its last round, through whatever its seed holds.

The real engine, the real state machine and the real journal, checkpoints and merge; a courier, a
clock and a disk that are not. A history is a function of its seed.
"""

from __future__ import annotations

import functools
import random
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gobelin.server.home import AggregatorHome, FederationSettings
from gobelin.server.places import Front
from gobelin.server.roster import Roster
from gobelin.server.rounds import RoundEngine
from gobelin.shared.checkpoint import write_checkpoint
from gobelin.shared.errors import RoundError
from gobelin.shared.recipe import Recipe, load_recipe
from gobelin.shared.settings import check_settings
from gobelin.shared.signing import SigningKey
from gobelin.shared.vector import ParameterVector
from tests.simulator.audit import Audit, Violation
from tests.simulator.disk import Disk, Killed
from tests.simulator.nodes import SCHEMA, key_of
from tests.simulator.world import Scenario, World

MOST_STARTS = 400  # of the aggregator, and
MOST_S = 5e4  # virtual seconds, before a history is said not to end
RULES = ("mean", "mean", "clipped_mean", "median", "centered_clipping")
FAULTS = {  # the greatest rate of each: at every occasion, or a second
    "lost": 0.3,
    "duplicated": 0.3,
    "reordered": 0.5,
    "delayed": 0.3,
    "spoiled reply": 0.3,
    "aggregator killed": 0.05,
    "killed while writing": 0.8,
    "killed at the journal": 0.15,
    "node killed": 0.2,
    "node cut off": 0.2,
    "disk full": 0.05,
    "clock jump": 0.05,
    "roster change": 0.1,
}
GENTLE = ("duplicated", "reordered", "delayed", "aggregator killed", "killed while writing")
GENTLE += ("killed at the journal", "node killed", "disk full")


class Home(AggregatorHome):
    """An aggregator home whose settings and roster need no parsing, and whose log is heard."""

    def __init__(self, folder: Path, scenario: Scenario) -> None:
        super().__init__(folder)
        self._settings = check_settings(FederationSettings, scenario.settings, "the scenario")
        self.world: World
        self.audit: Audit

    def settings(self) -> FederationSettings:
        """Drawn from the seed."""
        return self._settings

    def front(self) -> Front:
        """What of the settings is read without tensors."""
        return Front.model_validate(self._settings.model_dump())

    def signing_key(self) -> SigningKey:
        """The same in every history."""
        return key_of("aggregator")

    def recipe(self) -> Recipe:
        """Any recipe: what it would build is not asked for."""
        return _recipe()

    def roster(self) -> Roster:
        """As it is in the world now."""
        return self.world.roster

    def roster_head(self) -> str:
        """None: it has no log."""
        return ""

    def record(self, event: Mapping[str, Any]) -> None:
        """Into the log first."""
        super().record(event)
        self.audit.heard(event)


@functools.cache
def _recipe() -> Recipe:
    return load_recipe("toy")


def draw(seed: int) -> Scenario:
    """The scenario of a seed."""
    chance = random.Random(f"scenario {seed}")
    gentle = chance.random() < 0.25
    members = chance.randint(2, 4)
    owners = [f"m{i}" for i in range(members)]
    if not gentle:
        owners += chance.choices(owners, k=chance.randint(0, 2))
    deadline = chance.uniform(5, 20)
    kinds = GENTLE if gentle else tuple(FAULTS)
    chosen = [kind for kind in kinds if chance.random() < 0.6]
    rounds = {
        "rounds": chance.choice([2, 2, 3, 3, 4]),
        "local_steps": 3,
        "quorum": 1.0 if gentle else chance.choice([0.3, 0.5, 0.75, 1.0]),
        "min_members": chance.choice([1, 2]),
        "deadline_s": deadline,
        "max_staleness": chance.choice([0, 1, 2, 3]),
        "staleness_decay": chance.choice([0.0, 0.5, 1.0]),
        "wait_for_members_s": chance.uniform(20, 60),
        "attempts": chance.randint(1, 3),
        "release_every": chance.choice([2, 100]),
    }
    if not gentle and chance.random() < 0.5:
        rounds["grace_s"] = chance.uniform(0, 5)
    settings = {
        "name": "fed",
        "seed": seed,
        "rounds": rounds,
        "outer": {"kind": chance.choice(["sgd", "nesterov", "adam"])},
        "aggregation": {"rule": chance.choice(RULES)},
        "policy": {"cap": chance.choice([0.3, 0.6, 1.0]), "collapse_gate": False},
    }
    return Scenario(
        seed=seed,
        settings=settings,
        owners=tuple(owners),
        paces=tuple(
            chance.uniform(0.3, 4) if chance.random() < 0.8 else chance.uniform(4, 2.5 * deadline)
            for _ in owners
        ),
        rates={kind: FAULTS[kind] * chance.random() for kind in chosen},
        storm_s=chance.uniform(10, 90),
        gentle=gentle,
    )


@dataclass(frozen=True)
class Told:
    """What a history came to."""

    seed: int
    digest: str  # of the last consensus
    virtual_s: float
    starts: int  # of the aggregator
    faults: Counter[str]


def run_history(seed: int, folder: Path | None = None) -> Told:
    """Live through one history in a folder under `folder`; raises Violation, naming the seed."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="history-") as root:
        try:
            return _live(draw(seed), Path(root))
        except Violation as violation:
            raise Violation(f"seed {seed}: {violation}") from None
        except Exception as error:
            raise Violation(f"seed {seed}: {type(error).__name__}: {error}") from error


def _live(scenario: Scenario, root: Path) -> Told:
    faults: Counter[str] = Counter()
    disk = Disk(root, random.Random(f"disk {scenario.seed}"), faults)
    home = Home(root / "home", scenario)
    first = ParameterVector.zeros(SCHEMA)
    write_checkpoint(home.round_folder(0), home.recipe(), first, {"round": 0})
    disk.trust()
    world = home.world = World(scenario, disk, faults)
    audit = home.audit = Audit(home, world, first)
    world.on_offer, world.on_sleep, world.on_head = audit.offered, audit.look, audit.signed
    with disk.mounted():
        for starts in range(1, MOST_STARTS):
            if world.now > MOST_S:
                break
            world.started()
            try:
                RoundEngine(home, world, world.clock, world.sleep).run()
            except (Killed, OSError, RoundError) as end:
                if isinstance(end, Killed):
                    disk.after_death()
                audit.look()
                world.pass_time(world.now + world.chance.uniform(0.5, 10))
            else:
                audit.finished()
                digest = home.latest()[1].vector.digest
                return Told(scenario.seed, digest, world.now, starts, faults)
    raise Violation(f"does not end: {starts} starts, {world.now:.0f} s")
