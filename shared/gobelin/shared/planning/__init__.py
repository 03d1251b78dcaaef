"""Planning by search through a world model, with guardrails that every returned plan keeps."""

from gobelin.shared.planning.control import Controller
from gobelin.shared.planning.costs import Cost, Effort, Sum, ToGoal
from gobelin.shared.planning.dynamics import Cast, Dynamics, FlatDynamics, Held
from gobelin.shared.planning.gradient import Gradient
from gobelin.shared.planning.guardrails import Constraint, KeepOut, KeepWithin, SpendAtMost
from gobelin.shared.planning.hierarchy import Hierarchy, SlowModel
from gobelin.shared.planning.problem import Plan, Planner, Problem, plan
from gobelin.shared.planning.readout import LinearReadout
from gobelin.shared.planning.sampling import Cem, Icem, Mppi
from gobelin.shared.planning.space import ActionSpace

PLANNERS: dict[str, type[Planner]] = {"cem": Cem, "icem": Icem, "mppi": Mppi, "gradient": Gradient}

__all__ = [
    "PLANNERS",
    "ActionSpace",
    "Cast",
    "Cem",
    "Constraint",
    "Controller",
    "Cost",
    "Dynamics",
    "Effort",
    "FlatDynamics",
    "Gradient",
    "Held",
    "Hierarchy",
    "Icem",
    "KeepOut",
    "KeepWithin",
    "LinearReadout",
    "Mppi",
    "Plan",
    "Planner",
    "Problem",
    "SlowModel",
    "SpendAtMost",
    "Sum",
    "ToGoal",
    "plan",
]
