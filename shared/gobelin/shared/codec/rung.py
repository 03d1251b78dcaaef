"""The rung of the ladder fp32 > bf16 > int8 > int4 > topk that keeps a byte budget."""

from __future__ import annotations

from collections.abc import Container

from gobelin.shared.codec.table import CODECS, codec_named, rungs_from
from gobelin.shared.codec_name import CodecName
from gobelin.shared.errors import BudgetError
from gobelin.shared.vector import ParameterSchema


def pick_rung(
    asked: str,
    schema: ParameterSchema,
    budget: float | None,
    allowed: Container[str] = frozenset(CODECS),
) -> CodecName:
    """The finest of the `allowed` codecs, `asked` or a coarser one, that never exceeds `budget`.

    `budget` is the most bytes of a payload.

    From the sizes that schema and codec allow, so that the choice stands before anything is
    trained: what is finished can always be sent. Without a budget it is the codec asked for.
    Raises BudgetError when even the coarsest may not fit, CodecError on an unknown name.
    """
    rungs = [rung for rung in rungs_from(asked) if rung in allowed]
    if not rungs:
        raise BudgetError(f"nothing as coarse as {asked} may leave", "allow another codec")
    if budget is None:
        return rungs[0]
    for name in rungs:
        if most_bytes(name, schema) <= budget:
            return name
    need = most_bytes(rungs[-1], schema)
    raise BudgetError(
        f"the egress budget is {budget / 1e6:.3g} MB a round, "
        f"{rungs[-1]} needs up to {need / 1e6:.3g} MB",
        "raise max_mb_per_round or seconds_per_round in [egress] of node.toml",
    )


def most_bytes(codec: str, schema: ParameterSchema) -> int:
    """The most bytes a payload of `schema` can have."""
    by = codec_named(codec)
    return sum(by.bounds(end - start)[1] for start, end in schema.segments.values())
