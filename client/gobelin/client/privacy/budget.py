"""The privacy budget: what contributions have spent, by the egress ledger, and what one more would.

A contribution's `leaving` record says what the steps behind it spent; it is flushed before a byte
leaves, so a kill can cost budget and never hide that some is spent. Sent again it is the same
message and spends nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gobelin.client.egress_ledger import CONTRIBUTION, LEAVING, EgressLedger
from gobelin.client.home import NodeHome, NodeSettings, PrivacySettings
from gobelin.client.plan import parse_recipe
from gobelin.client.privacy.accounting import Spend, epsilon
from gobelin.protocols.messages import RoundPlan
from gobelin.shared.errors import PrivacyError
from gobelin.shared.objective.per_example import require_per_example
from gobelin.shared.recipe import Recipe
from gobelin.shared.schedule import Schedule

NO_PRIVACY = "No differential privacy: `gobelin audit leakage` measures what that leaks."
UNIT = "one sample, added or removed"  # what ε is about: never a member, nor a person with several


@dataclass(frozen=True)
class Spent:
    """What has left this node."""

    private: Mapping[str, Spend]  # by the contribution's digest
    bare: int  # contributions that left without privacy

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]]) -> Spent:
        """Of an egress ledger's records."""
        private: dict[str, Spend] = {}
        bare = set()
        for row in records:
            if row["kind"] != LEAVING or row["purpose"] != CONTRIBUTION:
                continue
            if row.get("privacy") is None:
                bare.add(row["digest"])
            else:
                private[row["digest"]] = Spend(**row["privacy"])
        return cls(private, len(bare))

    def with_one(self, digest: str, spend: Spend | None) -> Spent:
        """And a contribution; one that has left before is the same one."""
        if spend is None:
            return Spent(self.private, self.bare + 1)
        return Spent({**self.private, digest: spend}, self.bare)

    def epsilon(self, delta: float) -> float:
        """ε at δ of all of it; infinite where anything left without privacy."""
        return math.inf if self.bare else epsilon(self.private.values(), delta)

    def facts(self, delta: float) -> dict[str, Any]:
        """As plain data; ε is of the private contributions, and None where there are none."""
        known = {"delta": delta, "unit": UNIT, "private": len(self.private), "bare": self.bare}
        spent = epsilon(self.private.values(), delta) if self.private else None
        return {"epsilon": spent, **known}

    def text(self, delta: float) -> str:
        """For an operator: what was spent, of what unit, against whom."""
        if not self.private:
            return NO_PRIVACY
        told = (
            f"ε = {epsilon(self.private.values(), delta):.3g} at δ = {delta:g} ({UNIT}; Poisson "
            f"sampling, PLD) over {len(self.private)} private contributions, to who sees them all"
        )
        if self.bare:
            return f"{told}. {self.bare} more left without privacy: no ε covers those."
        return f"{told}."


@dataclass(frozen=True)
class Prospect:
    """What a plan would be trained by, and what that would have spent."""

    asks: str
    why_not: str = ""  # empty unless it cannot be done
    epsilon: float = math.inf  # of all that has left, this plan's answer included


BARE = Prospect("training without differential privacy")


def spent_by(home: NodeHome) -> Spent:
    """What a node's egress ledger says; raises EgressError where it is damaged."""
    return Spent.of(EgressLedger(home.egress_file).records())


def prospect_of(
    home: NodeHome, settings: NodeSettings, plan: RoundPlan, samples: int, delta: float
) -> Prospect:
    """What a node of so many samples would make of a plan. Raises ConfigError on its recipe."""
    if settings.privacy is None:
        return BARE
    recipe = parse_recipe(plan.recipe)
    steps = Schedule.of(plan).steps_of(plan.round)
    spend = spend_of(settings.privacy, recipe, samples, steps)
    asks = (
        f"DP-SGD: noise {spend.noise_multiplier:g}, {steps} steps of "
        f"{spend.sampling_probability:.3g} of the samples"
    )
    try:
        modality = settings.data.modality
        require_per_example(recipe.objective_of(modality), recipe, modality)
    except PrivacyError as error:
        return Prospect(asks, str(error))
    spent = spent_by(home).with_one("this plan's", spend)
    return Prospect(asks, epsilon=spent.epsilon(delta))


def spend_of(settings: PrivacySettings, recipe: Recipe, samples: int, steps: int) -> Spend:
    """What so many steps cost a node of so many samples."""
    expected = settings.batch_size or recipe.inner.batch_size
    return Spend(settings.noise_multiplier, min(1.0, expected / max(1, samples)), steps)


def sane_delta(samples: int, delta: float) -> None:
    """Raise PrivacyError where δ would let a mechanism publish a sample as it is."""
    if samples * delta >= 1:
        raise PrivacyError(
            f"δ = {delta:g} over {samples} samples promises nothing",
            f"set delta in policy.toml below 1 / {samples}, and well below",
        )
