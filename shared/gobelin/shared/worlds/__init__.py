"""Worlds: small ones with exact dynamics, to train and judge world models and planners on."""

from gobelin.shared.worlds.reacher import Reacher
from gobelin.shared.worlds.two_room import REGIONS, WORLD, Box, Episodes, TwoRoom

__all__ = ["REGIONS", "WORLD", "Box", "Episodes", "Reacher", "TwoRoom"]
