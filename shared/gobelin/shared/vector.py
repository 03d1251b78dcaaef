"""The parameter vector: one ordered list of numbers that is a model, and all that leaves a node.

A `ParameterSchema` fixes names, shapes and order; a `ParameterVector` holds the values.
Canonical order is by name, canonical bytes are little-endian fp32, the digest is SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from gobelin.protocols.bundle import SEGMENT as SEGMENT
from gobelin.shared.errors import (
    DtypeError,
    NamesError,
    NotFiniteError,
    SchemaMismatchError,
    ShapeError,
)

DTYPE = "float32"
OF_MODALITIES = ("tokenizers", "predictors")  # roles whose tensors have their modality second
COLUMNS = 1 << 15  # of sums of squares: torch adds so few on one thread


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of the vector: its name, its shape and the group of the model it belongs to."""

    name: str
    shape: tuple[int, ...]

    @property
    def role(self) -> str:
        """The named group (trunk, tokenizer, projector, ...): the first part of the name."""
        return self.name.split(".", 1)[0]

    @property
    def modality(self) -> str:
        """The modality whose members train it; empty where all do."""
        role, _, rest = self.name.partition(".")
        return rest.split(".", 1)[0] if role in OF_MODALITIES else ""

    @property
    def numel(self) -> int:
        """Number of scalars."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class ParameterSchema:
    """The ordered tensors of a model; two sides that share its digest mean the same vector."""

    tensors: tuple[TensorSpec, ...]

    def __post_init__(self) -> None:
        names = [spec.name for spec in self.tensors]
        if names != sorted(set(names)):
            raise NamesError("a schema lists its tensors by name, each once", "sort the names")

    @classmethod
    def of(cls, module: nn.Module) -> ParameterSchema:
        """The schema of a module's parameters; raises NamesError on state outside of them."""
        hidden = sorted(set(module.state_dict()) - {name for name, _ in module.named_parameters()})
        if hidden:
            raise NamesError(
                f"persistent buffers are not part of a parameter vector: {', '.join(hidden)}",
                "register them with persistent=False or make them parameters",
            )
        return cls.of_shapes({name: tuple(p.shape) for name, p in module.named_parameters()})

    @classmethod
    def of_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> ParameterSchema:
        """The schema of named shapes, in canonical order."""
        return cls(tuple(TensorSpec(name, tuple(shapes[name])) for name in sorted(shapes)))

    @cached_property
    def size(self) -> int:
        """Number of scalars P."""
        return sum(spec.numel for spec in self.tensors)

    @cached_property
    def offsets(self) -> dict[str, tuple[int, int]]:
        """Start and end of each tensor in the flat vector."""
        offsets, start = {}, 0
        for spec in self.tensors:
            offsets[spec.name] = (start, start + spec.numel)
            start += spec.numel
        return offsets

    @cached_property
    def segments(self) -> dict[str, tuple[int, int]]:
        """Start and end of the pieces in which the vector travels, by name, in order.

        Pieces of equal size instead of tensors: a transport pays per piece, and a model has
        hundreds of small tensors.
        """
        starts = range(0, self.size, SEGMENT)
        return {f"{start:012d}": (start, min(start + SEGMENT, self.size)) for start in starts}

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of names, shapes and dtype."""
        rows = [[spec.name, list(spec.shape), DTYPE] for spec in self.tensors]
        return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()

    def require_names(self, names: Iterable[str]) -> None:
        """Raise NamesError unless `names` are exactly the schema's."""
        found, expected = set(names), set(self.offsets)
        missing, extra = sorted(expected - found), sorted(found - expected)
        if missing or extra:
            parts = [f"missing {', '.join(missing[:3])}"] * bool(missing)
            parts += [f"not in the schema {', '.join(extra[:3])}"] * bool(extra)
            raise NamesError(f"tensor names differ: {'; '.join(parts)}", "use the same recipe")


@dataclass(frozen=True, eq=False)
class ParameterVector:
    """Values of a schema: `values` is one contiguous fp32 CPU tensor of shape (P,), all finite."""

    schema: ParameterSchema
    values: Tensor  # (P,)

    def __post_init__(self) -> None:
        if self.values.dtype != torch.float32:
            raise DtypeError(f"a parameter vector is float32, not {self.values.dtype}")
        if tuple(self.values.shape) != (self.schema.size,):
            found = tuple(self.values.shape)
            raise ShapeError(f"the vector has shape {found}, the schema says ({self.schema.size},)")
        if not math.isfinite(self.largest):
            raise NotFiniteError(
                f"{self._first_not_finite()} holds NaN or infinity", "lower the learning rate"
            )

    @cached_property
    def largest(self) -> float:
        """The largest |value|, 0 where there is none; one pass, without a temporary."""
        return largest_of(self.values)

    def _first_not_finite(self) -> str:
        for name, (start, end) in self.schema.offsets.items():
            if not all_finite(self.values[start:end]):
                return name
        return "the vector"

    @classmethod
    def zeros(cls, schema: ParameterSchema) -> ParameterVector:
        """The zero vector of a schema."""
        return cls(schema, torch.zeros(schema.size))

    @classmethod
    def of(cls, module: nn.Module, schema: ParameterSchema | None = None) -> ParameterVector:
        """The parameters of a module as a vector (a copy, on the CPU)."""
        schema = schema or ParameterSchema.of(module)
        return cls.of_tensors(schema, dict(module.named_parameters()))

    @classmethod
    def of_tensors(cls, schema: ParameterSchema, tensors: Mapping[str, Tensor]) -> ParameterVector:
        """Flatten named tensors; raises a VectorError on wrong names, shapes, dtypes or values."""
        schema.require_names(tensors)
        values = torch.empty(schema.size)
        for spec in schema.tensors:
            tensor = tensors[spec.name].detach()
            if tensor.dtype != torch.float32:
                raise DtypeError(f"{spec.name} is {tensor.dtype}, the schema says {DTYPE}")
            if tuple(tensor.shape) != spec.shape:
                found = tuple(tensor.shape)
                raise ShapeError(f"{spec.name} has shape {found}, the schema says {spec.shape}")
            start, end = schema.offsets[spec.name]
            values[start:end] = tensor.reshape(-1).cpu()
        return cls(schema, values)

    @classmethod
    def of_segments(
        cls, schema: ParameterSchema, segments: Mapping[str, bytes | bytearray]
    ) -> ParameterVector:
        """The vector that travelled as `segments`; raises NamesError or ShapeError."""
        if set(segments) != set(schema.segments):
            raise NamesError(
                f"{len(segments)} segments, the schema says {len(schema.segments)}",
                "use the same recipe",
            )
        values = torch.empty(schema.size)
        for name, (start, end) in schema.segments.items():
            if len(segments[name]) != 4 * (end - start):
                found = len(segments[name])
                raise ShapeError(f"segment {name} has {found} bytes, not {4 * (end - start)}")
            values[start:end] = tensor_of_bytes(segments[name])
        return cls(schema, values)

    def segments(self) -> dict[str, memoryview]:
        """Canonical bytes of each of the schema's segments (views, no copies)."""
        return {
            name: bytes_of_tensor(self.values[start:end])
            for name, (start, end) in self.schema.segments.items()
        }

    @property
    def canonical_bytes(self) -> memoryview:
        """Little-endian fp32 in canonical order (a view, no copy)."""
        return bytes_of_tensor(self.values)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the canonical bytes."""
        return digest_of_values(self.values)

    def at_rest(self, values: Tensor) -> ParameterVector:
        """This vector, held by `values`, which are known to be the same (P,), elsewhere."""
        vector = ParameterVector(self.schema, values)
        vector.__dict__["digest"] = self.digest
        return vector

    def tensors(self) -> dict[str, Tensor]:
        """Named views into the flat vector, in canonical order."""
        return {
            spec.name: self.values[slice(*self.schema.offsets[spec.name])].view(spec.shape)
            for spec in self.schema.tensors
        }

    def load_into(self, module: nn.Module) -> None:
        """Copy the values into a module's parameters, wherever they live."""
        parameters = dict(module.named_parameters())
        self.schema.require_names(parameters)
        with torch.no_grad():
            for name, tensor in self.tensors().items():
                if parameters[name].shape != tensor.shape:
                    raise ShapeError(f"{name} has another shape in the module")
                parameters[name].copy_(tensor)

    def __sub__(self, base: ParameterVector) -> ParameterVector:
        """The delta from `base` to this vector."""
        self._require_same(base)
        return ParameterVector(self.schema, self.values - base.values)

    def __add__(self, delta: ParameterVector) -> ParameterVector:
        """This vector moved by `delta`."""
        self._require_same(delta)
        return ParameterVector(self.schema, self.values + delta.values)

    def norm(self) -> float:
        """Euclidean norm, accumulated in fp64, without a temporary of P."""
        return math.sqrt(squared(self.values))

    def _require_same(self, other: ParameterVector) -> None:
        if self.schema.digest != other.schema.digest:
            raise SchemaMismatchError("two vectors of different schemas", "use the same recipe")


def squared(values: Tensor) -> float:
    """‖x‖² of flat fp32 `values` in fp64, the same whatever the number of threads.

    Products of fp32 numbers are exact in fp64; they are added column by column, so that what is
    made of a part stays in the cache: ten times as fast as a norm that is told to be fp64.
    """
    sums = torch.zeros(min(COLUMNS, values.numel()), dtype=torch.float64)
    exact = torch.empty_like(sums)
    for part in torch.split(values, COLUMNS):
        wide = exact[: len(part)].copy_(part)
        sums[: len(part)].addcmul_(wide, wide)
    return float(sums.sum())


def all_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinity, without a temporary of their size."""
    return math.isfinite(largest_of(values))


def largest_of(values: Tensor) -> float:
    """The largest |value|, 0 where there is none; NaN or infinity where one is."""
    if not values.numel():
        return 0.0
    least, most = map(float, torch.aminmax(values))
    return math.nan if math.isnan(least) or math.isnan(most) else max(abs(least), abs(most))


def bytes_of_tensor(tensor: Tensor) -> memoryview:
    """Canonical little-endian fp32 bytes of a CPU tensor (a view where the machine allows)."""
    flat = tensor.detach().contiguous().reshape(-1).numpy().astype("<f4", copy=False)
    return flat.data.cast("B") if flat.size else memoryview(b"")


def digest_of_values(values: Tensor) -> str:
    """SHA-256 of the canonical bytes of fp32 values."""
    return hashlib.sha256(bytes_of_tensor(values)).hexdigest()


def tensor_of_bytes(data: bytes | bytearray) -> Tensor:
    """The flat fp32 tensor, (len(data) / 4,), of canonical bytes (always a copy)."""
    return torch.from_numpy(np.frombuffer(data, dtype="<f4").astype(np.float32))
