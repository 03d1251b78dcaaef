"""A node's own seed: of its data's order and of augmentation, never of SIGReg's slices."""

from __future__ import annotations

from gobelin.client.home import NodeHome
from gobelin.client.privacy.noise import Secret
from gobelin.protocols.messages import RoundPlan
from gobelin.shared.seeds import derive_seed


def node_seed(home: NodeHome, plan: RoundPlan) -> int:
    """The seed of a plan's federation on this node.

    Of the order "plan" anybody can derive it, and so repeat the node's local steps from its data;
    who inverts an update then knows which sample came when, and cropped how. Of the order "private"
    it takes the node's secret, too, and only who has the home can repeat them.
    """
    settings = home.settings()
    seed = derive_seed(plan.seed, "node", settings.node)
    if settings.data.order == "plan":
        return seed
    return Secret(home.secret()).seed("data order", plan.federation, seed)
