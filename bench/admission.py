"""What admission costs beyond hashing, on one core, for a contribution of 100M parameters.

Everything between a reply's bytes and the delta that is aggregated: provenance (the envelope's
signature), the checks of header, names, types and sizes, decoding, finiteness and magnitude. The
digest over the payload is timed by itself and taken off. The collapse gate and the probe run the
model and are not in it. At int4 most of the time is the codec's own.

Writes bench/results/admission.json.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as the aggregator's processes have it

import torch

from bench.measure import write_result
from gobelin.protocols.bundle import WireArray
from gobelin.protocols.envelope import CONTRIBUTION
from gobelin.protocols.messages import Contribution, RoundPlan, encoding_of
from gobelin.server.admission import Admitted, admit
from gobelin.server.provenance import trace
from gobelin.server.round_events import Seat
from gobelin.shared.codec import Payload, codec_named
from gobelin.shared.envelope import NEVER, seal
from gobelin.shared.signing import SigningKey
from gobelin.shared.vector import DTYPE, ParameterSchema

NODE = "0" * 64


def main() -> None:
    """Time admission by every codec asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parameters", type=int, default=100_000_000)
    parser.add_argument("--codecs", nargs="+", default=["fp32", "int4"])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    values: dict[str, Any] = {"parameters": options.parameters, "repeats": options.repeats}
    for codec in options.codecs:
        found = measure(codec, options.parameters, options.repeats)
        values |= {f"{codec}.{key}": value for key, value in found.items()}
    values["ms_per_100m"] = values[f"{options.codecs[0]}.ms_per_100m"]
    print(write_result("admission", {**values, "goal": "ms_per_100m <= 100 at fp32"}))


def measure(codec: str, size: int, repeats: int) -> dict[str, float]:
    """Milliseconds, the least of so many repeats: others use the machine."""
    schema = ParameterSchema.of_shapes({"w": (size,)})
    plan = RoundPlan("bench", 1, 2, "{}", schema.digest, "b" * 64, 1, 0, 60.0, codec=codec)
    arrays, payload = contents(schema, codec)
    made = Contribution(
        "bench", 1, plan.digest, plan.base_digest, payload.digest, 1, 1, 0.0, codec=codec
    )
    key, header = SigningKey.generate(), made.to_bytes()
    seat = Seat("north", "north", key.public)
    signed = seal(key, CONTRIBUTION, made, member="north", node=NODE, issued=0, expires=NEVER)

    def judge() -> object:
        refusal = trace(NODE, seat, header, signed, 1)
        assert refusal is None
        found = admit(plan, {"": schema}, 8, header, arrays, batch=16)
        assert isinstance(found, Admitted)
        return found

    whole = timed(judge, repeats)
    hashing = timed(lambda: digest_of(payload), repeats)
    return {
        "whole_ms": whole,
        "hashing_ms": hashing,
        "beyond_hashing_ms": whole - hashing,
        "ms_per_100m": (whole - hashing) * 1e8 / size,
    }


def contents(schema: ParameterSchema, codec: str) -> tuple[dict[str, WireArray], Payload]:
    """An honest payload as it comes off the wire."""
    generator, segments, arrays = torch.Generator().manual_seed(0), {}, {}
    for name, (start, end) in schema.segments.items():
        values = torch.randn(end - start, generator=generator) * 1e-3
        data = segments[name] = codec_named(codec).encode(values)
        arrays[name] = WireArray(DTYPE, (end - start,), encoding_of(codec), data)
    return arrays, Payload(schema, codec, segments)


def digest_of(payload: Payload) -> str:
    """The hashing alone."""
    digest = hashlib.sha256()
    for name in sorted(payload.segments):
        digest.update(payload.segments[name])
    return digest.hexdigest()


def timed(work: Callable[[], object], repeats: int) -> float:
    """Processor milliseconds of the quickest run."""
    seconds = []
    for _ in range(repeats):
        started = time.process_time()
        result = work()
        seconds.append(time.process_time() - started)
        del result
    return 1000 * min(seconds)


if __name__ == "__main__":
    main()
