"""What sealed rounds forbid: whatever needs a single member's delta, or sends one unmasked."""

from __future__ import annotations

from gobelin.server.home import FederationSettings
from gobelin.shared.codec import LOSSLESS
from gobelin.shared.errors import ConfigError
from gobelin.shared.recipe import Recipe
from gobelin.shared.sealing import bits_for

LEAST = 3  # members: of a sum of two, each knows the other's delta


def require_sealable(settings: FederationSettings, recipe: Recipe) -> None:
    """Raise ConfigError where rounds are sealed and something else is set that they forbid."""
    rounds = settings.rounds
    if not rounds.sealed:
        return
    for forbidden, found, remedy in _forbidden(settings, recipe):
        if forbidden:
            raise ConfigError(f"sealed rounds see nothing but a sum: {found}", remedy)
    try:
        bits_for(rounds.sealed_members, rounds.sealed_bound)
    except ValueError as error:
        raise ConfigError(
            f"rounds.sealed_bound does not fit: {error}",
            "choose a power of two such as 0.5, 1.0 or 2.0, or lower rounds.sealed_members",
        ) from None


def _forbidden(settings: FederationSettings, recipe: Recipe) -> list[tuple[bool, str, str]]:
    """What may be set that sealed rounds forbid: whether it is, and how to mend it."""
    rounds, policy = settings.rounds, settings.policy
    rule = settings.aggregation.rule
    return [
        (
            rule != "mean",
            f"the rule {rule} compares single deltas",
            'set aggregation.rule = "mean"',
        ),
        (
            policy.cap < 1,
            "under a cap, deltas are clipped to their median norm",
            "set policy.cap = 1.0; rounds.sealed_norm lets nodes shorten their own",
        ),
        (
            policy.weights != "equal" or policy.probe is not None,
            "evidence and the quality floor score single deltas",
            'set policy.weights = "equal" and unset policy.probe',
        ),
        (
            policy.collapse_gate,
            "the collapse gate looks at every contributed model",
            "set policy.collapse_gate = false",
        ),
        (
            rounds.codec != LOSSLESS,
            f"masks fill the ring, so {rounds.codec} would save nothing",
            'set rounds.codec = "fp32"',
        ),
        (
            rounds.cross_node,
            "moments would leave every node in the clear",
            "set rounds.cross_node = false",
        ),
        (
            rounds.archive,
            "masked contributions cannot be kept and replayed one by one",
            "set rounds.archive = false",
        ),
        (
            rounds.max_staleness > 0,
            "a late contribution is in no sum",
            "set rounds.max_staleness = 0",
        ),
        (
            settings.outer.fragments > 1,
            "nodes of fragments go on from models of their own",
            "set outer.fragments = 1",
        ),
        (
            len(recipe.modalities) > 1,
            "members of different modalities have no common sum",
            "use a recipe of one modality",
        ),
        (
            rounds.min_members < LEAST,
            f"of a sum of {rounds.min_members} members each knows too much of the others",
            f"set rounds.min_members = {LEAST} or more",
        ),
    ]
