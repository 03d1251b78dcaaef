"""The cases of `hostile_corpus`: replies no honest node sends, and the codes that refuse them."""

from __future__ import annotations

import dataclasses
import io
import json
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from bench.hostile_corpus import ROUND, Case, Stage
from bench.hostile_senders import envelopes, wire
from bench.hostile_wire import Upload
from gobelin.client.spool import Spooled
from gobelin.protocols.messages import (
    BYTES,
    DELTA,
    ENCODING,
    ENCODING_MOMENTS,
    HEADER,
    MOMENTS,
    PAYLOAD,
)
from gobelin.shared.codec import Payload
from gobelin.shared.objective.moments import digest_of
from gobelin.shared.vector import DTYPE


class Boom:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('unpickled')",))


def torch_pickle() -> bytes:
    """What torch.save writes."""
    file = io.BytesIO()
    torch.save({"w": torch.zeros(3)}, file)
    return file.getvalue()


def npy_pickle() -> bytes:
    """An .npy file of objects, which numpy would unpickle if it were let."""
    file = io.BytesIO()
    np.save(file, np.array([Boom()], dtype=object), allow_pickle=True)
    return file.getvalue()


# ---------------------------------------------------------------- headers


def says(name: str, code: str, **header: Any) -> Case:
    """A contribution that says something else, and signs it."""
    return Case(name, code, lambda stage: stage.upload(stage.spooled(**header)))


def header_bytes(name: str, code: str, change: Callable[[bytes], Any]) -> Case:
    """The header's bytes replaced."""

    def make(stage: Stage) -> Upload:
        spooled = stage.spooled()

        def spoil(record: RecordDict) -> None:
            record[HEADER] = ConfigRecord({PAYLOAD: change(spooled.contribution.to_bytes())})

        return stage.upload(spooled, spoil)

    return Case(name, code, make)


def fields(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    """A header whose fields are changed, canonical as far as that goes."""

    def apply(data: bytes) -> bytes:
        values = json.loads(data)
        change(values)
        return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()

    return apply


def headers() -> Iterator[Case]:
    yield says("another federation", "federation", federation="other")
    yield says("a round to come", "round", round=ROUND + 1)
    yield says("the last round of all", "round", round=1 << 62)
    yield says("another base", "base_digest", base_digest="0" * 64)
    yield says("another plan", "plan_digest", plan_digest="0" * 64)
    yield says("no local steps", "local_steps", local_steps=0)
    yield says("more local steps than asked", "local_steps", local_steps=4)
    yield says("an unknown codec", "codec", codec="zip")
    yield says("a codec that is a path", "codec", codec="../../codec")
    yield says("an unknown modality", "modality", modality="odour")
    yield says("another delta's digest", "delta_digest", delta_digest="0" * 64)
    yield says("no delta's digest", "delta_digest", delta_digest="")
    yield says("weight fraud: 10^12 samples", "claims", samples=10**12)
    yield says("weight fraud: one sample too many", "claims", samples=49)
    yield says("weight fraud: a weight among the metrics", "claims", metrics={"weight": 1e9})
    yield says("weight fraud: a score among the metrics", "claims", metrics={"score": 1e9})
    yield says("weight fraud: less than no time", "claims", seconds=-1.0)
    yield says("a path among the metrics", "claims", metrics={"/home/x/patients.csv": 1.0})
    add = fields(lambda v: v.update(weight=1e9))
    yield header_bytes("weight fraud: a field more", "malformed", add)
    yield header_bytes("a field less", "malformed", fields(lambda v: v.pop("samples")))
    yield header_bytes(
        "a number that is none", "malformed", fields(lambda v: v.update(seconds=float("nan")))
    )
    yield header_bytes("infinity", "malformed", fields(lambda v: v.update(seconds=float("inf"))))
    yield header_bytes(
        "1e400", "malformed", lambda d: d.replace(b'"seconds":1.0', b'"seconds":1e400')
    )
    yield header_bytes("a negative count", "malformed", fields(lambda v: v.update(samples=-1)))
    yield header_bytes("a truth for a count", "malformed", fields(lambda v: v.update(samples=True)))
    yield header_bytes("a text for a count", "malformed", fields(lambda v: v.update(samples="1")))
    yield header_bytes("5,000 digits", "malformed", lambda d: d.replace(b":16", b":" + b"9" * 5000))
    yield header_bytes("not ASCII", "malformed", fields(lambda v: v.update(federation="f\u00e9d")))
    yield header_bytes("a surrogate", "malformed", lambda d: d.replace(b'"fed"', b'"\\ud800"'))
    yield header_bytes("spaces", "malformed", lambda d: d.replace(b":", b": "))
    yield header_bytes("the same field twice", "malformed", lambda d: d[:-1] + b',"samples":1}')
    yield header_bytes("nested without end", "malformed", lambda d: b"[" * 10**6)
    yield header_bytes("2 MiB", "malformed", lambda d: d + b" " * 2**21)
    yield header_bytes("nothing", "malformed", lambda d: b"")
    yield header_bytes("a pickle for a header", "malformed", lambda d: pickle.dumps(Boom()))
    yield header_bytes("text for bytes", "malformed", lambda d: d.decode())
    yield header_bytes("a list for bytes", "malformed", lambda d: [d, d])
    yield Case(
        "the plan itself",
        "malformed",
        lambda s: s.upload(
            s.spooled(), lambda r: r.update({HEADER: ConfigRecord({PAYLOAD: s.plan.to_bytes()})})
        ),
    )


# ---------------------------------------------------------------- arrays


def arrays(name: str, code: str, change: Callable[[dict[str, Array]], object], **how: Any) -> Case:
    """The delta's arrays changed behind the header's back."""

    def make(stage: Stage) -> Upload:
        def spoil(record: RecordDict) -> None:
            parts = dict(record[DELTA].items())
            change(parts)
            record[DELTA] = ArrayRecord(parts)

        return stage.upload(stage.spooled(), spoil)

    return Case(name, code, make, **how)


def first(change: Callable[[Array], Array]) -> Callable[[dict[str, Array]], None]:
    """The first array changed."""

    def apply(parts: dict[str, Array]) -> None:
        key = next(iter(parts))
        parts[key] = change(parts[key])

    return apply


def renamed(to: str) -> Callable[[dict[str, Array]], None]:
    """The first array under another name."""

    def apply(parts: dict[str, Array]) -> None:
        parts[to] = parts.pop(next(iter(parts)))

    return apply


def but(array: Array, **changes: Any) -> Array:
    """An array with other words or data."""
    said = {"dtype": array.dtype, "shape": array.shape, "stype": array.stype, "data": array.data}
    return Array(**{**said, **changes})


def poisoned(name: str, code: str, value: float) -> Case:
    """A delta with one value of its sender's choice, digest and signature to match."""

    def make(stage: Stage) -> Upload:
        good = stage.spooled()
        segments = {key: bytearray(data) for key, data in good.payload.segments.items()}
        segments[next(iter(segments))][:4] = np.float32(value).tobytes()
        payload = Payload(good.payload.schema, "fp32", {k: bytes(d) for k, d in segments.items()})
        made = dataclasses.replace(good.contribution, delta_digest=payload.digest)
        return stage.upload(Spooled(made, payload, good.moments, stage.sign(made)))

    return Case(name, code, make)


def coded(name: str, code: str, codec: str, change: Callable[[bytes], bytes]) -> Case:
    """A payload of a codec, spoilt, digest and signature to match."""

    def make(stage: Stage) -> Upload:
        good = stage.spooled(by=codec)
        segments = {key: change(bytes(data)) for key, data in good.payload.segments.items()}
        payload = Payload(good.payload.schema, codec, segments)
        made = dataclasses.replace(good.contribution, delta_digest=payload.digest)
        return stage.upload(Spooled(made, payload, good.moments, stage.sign(made)))

    return Case(name, code, make, codec="int4")


def deltas() -> Iterator[Case]:
    yield arrays("no segments", "vector.names", lambda p: p.clear())
    yield arrays(
        "a segment more", "vector.names", lambda p: p.update(more=Array(DTYPE, (0,), ENCODING, b""))
    )
    for path in ("../../etc/passwd", "/etc/passwd", "..", "a\0b", "C:\\x", "journal.jsonl", "~"):
        yield arrays(f"a segment named {path!r}", "vector.names", renamed(path))
    yield arrays("float64", "vector.dtype", first(lambda a: but(a, dtype="float64")))
    yield arrays("objects", "vector.dtype", first(lambda a: but(a, dtype="object")))
    yield arrays("a dtype of 100 kB", "vector.dtype", first(lambda a: but(a, dtype="x" * 10**5)))
    yield arrays("another encoding", "vector.dtype", first(lambda a: but(a, stype="gobelin.int8")))
    yield arrays(
        "numpy's pickle",
        "vector.dtype",
        first(lambda a: but(a, stype="numpy.ndarray", data=npy_pickle())),
    )
    yield arrays(
        "torch's pickle",
        "vector.dtype",
        first(lambda a: but(a, stype="torch", data=torch_pickle())),
    )
    yield arrays(
        "a pickle that says it is fp32",
        "vector.shape",
        first(lambda a: but(a, data=pickle.dumps(Boom()))),
    )
    for shape in ((1,), (), (-1,), (1 << 40,), (2, 2)):
        yield arrays(f"shape {shape}", "vector.shape", first(partial(but, shape=shape)))
    yield arrays("a byte less", "vector.shape", first(lambda a: but(a, data=a.data[:-1])))
    yield arrays("a byte more", "vector.shape", first(lambda a: but(a, data=a.data + b"\0")))
    yield arrays("no bytes", "vector.shape", first(lambda a: but(a, data=b"")))
    yield arrays("another delta", "delta_digest", first(lambda a: but(a, data=bytes(len(a.data)))))
    yield poisoned("NaN", "vector.not_finite", float("nan"))
    yield poisoned("infinity in the delta", "vector.not_finite", float("inf"))
    yield poisoned("minus infinity", "vector.not_finite", float("-inf"))
    yield poisoned("a value of 10^30", "magnitude", 1e30)
    yield poisoned("a value of -10^6", "magnitude", -1e6)
    yield coded("int4 cut short", "vector.shape", "int4", lambda d: d[:-1])
    yield coded(
        "int4 with NaN for scales",
        "vector.not_finite",
        "int4",
        lambda d: b"\xff\x7f" * 64 + d[128:],
    )
    yield coded("int4 with negative scales", "codec", "int4", lambda d: b"\x80\xbf" * 64 + d[128:])
    yield coded("topk of noise", "codec", "topk", lambda d: (bytes(range(256)) * len(d))[: len(d)])
    yield coded("topk of ones", "codec", "topk", lambda d: b"\xff" * len(d))
    yield Case(
        "a finer codec than the plan's",
        "codec_finer",
        lambda s: s.upload(s.spooled(by="fp32")),
        codec="int4",
    )


# ---------------------------------------------------------------- moments


def moments(name: str, code: str, data: Callable[[bytes], bytes], **how: Any) -> Case:
    """Other moments, which the header names."""

    def make(stage: Stage) -> Upload:
        sent = data(stage.moments("south"))
        spooled = stage.spooled(moments_digest=how.get("named", digest_of(sent)))
        wire = Array(how.get("dtype", BYTES), (len(sent),), ENCODING_MOMENTS, sent)
        return stage.upload(spooled, lambda r: r.update({MOMENTS: ArrayRecord({MOMENTS: wire})}))

    return Case(name, code, make)


def seen() -> Iterator[Case]:
    yield moments("moments of another digest", "moments_digest", lambda d: d, named="0" * 64)
    yield moments("moments cut short", "moments", lambda d: d[:-4])
    yield moments(
        "moments of NaN", "moments", lambda d: d[:8] + b"\0\0\xc0\x7f" * ((len(d) - 8) // 4)
    )
    yield moments(
        "moments beyond all bounds",
        "moments",
        lambda d: d[:8] + b"\0\0\x80\x7e" * ((len(d) - 8) // 4),
    )
    yield moments("moments of another type", "moments", lambda d: d, dtype="float32")

    def none(stage: Stage) -> Upload:
        return stage.upload(stage.spooled(), lambda record: record.pop(MOMENTS))

    yield Case("moments that are named and not there", "moments_digest", none)


CASES = [*headers(), *deltas(), *seen(), *envelopes(), *wire()]
