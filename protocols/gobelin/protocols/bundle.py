"""Bundles: several small arrays as one, for a transport that pays per object it carries.

A coded vector is many segments of half a megabyte or less, and what carries them stores, hashes,
confirms and deletes every object by itself. A bundle is a line of JSON, which says what is in it,
and behind it the arrays' bytes, one after the other. Arrays that are not small travel as they are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from gobelin.protocols.messages import BYTES, MAX_BYTES, MalformedMessageError

SEGMENT = 1 << 20  # scalars of the pieces in which a vector travels (4 MiB)
ENCODING_BUNDLE = "gobelin.bundle"
SMALL = 2 << 20  # bytes of an array that is worth bundling, at most
BUNDLE = 16 << 20  # bytes of a bundle's arrays, at most


class WireArray(NamedTuple):
    """A segment of a vector, or moments, as they come off the wire, nothing believed yet."""

    dtype: str
    shape: tuple[int, ...]
    encoding: str
    data: bytes


def bundled(arrays: Mapping[str, WireArray]) -> dict[str, WireArray]:
    """The same arrays in fewer: small ones joined in the order of their names, others as given.

    A bundle has the name of the first array in it.
    """
    packed: dict[str, WireArray] = {}
    for group in _groups(arrays):
        if len(group) == 1:
            packed |= group
            continue
        rows = [
            [name, a.dtype, list(a.shape), a.encoding, len(a.data)] for name, a in group.items()
        ]
        contents = json.dumps(rows, separators=(",", ":")).encode() + b"\n"
        data = b"".join([contents, *(array.data for array in group.values())])
        packed[next(iter(group))] = WireArray(BYTES, (len(data),), ENCODING_BUNDLE, data)
    return packed


def unbundled(arrays: Mapping[str, WireArray]) -> dict[str, WireArray]:
    """What `bundled` was given; raises MalformedMessageError where a bundle is none."""
    found: dict[str, WireArray] = {}
    for name, array in arrays.items():
        whole = {name: array} if array.encoding != ENCODING_BUNDLE else _contents(array.data)
        if found.keys() & whole.keys():
            raise MalformedMessageError("two arrays of one name")
        found |= whole
    return found


def _groups(arrays: Mapping[str, WireArray]) -> Iterator[dict[str, WireArray]]:
    """The arrays in the order of their names, those together that travel together."""
    group: dict[str, WireArray] = {}
    size = 0
    for name, array in sorted(arrays.items()):
        if len(array.data) > SMALL:
            yield {name: array}
            continue
        if group and size + len(array.data) > BUNDLE:
            yield group
            group, size = {}, 0
        group[name] = array
        size += len(array.data)
    if group:
        yield group


def _contents(data: bytes) -> dict[str, WireArray]:
    """The arrays of a bundle's bytes; raises MalformedMessageError."""
    start = data.find(b"\n", 0, MAX_BYTES) + 1
    try:
        rows = json.loads(data[:start])
        found: dict[str, WireArray] = {}
        for name, dtype, shape, encoding, size in rows:
            texts, numbers = (name, dtype, encoding), (size, *shape)
            if not all(type(text) is str for text in texts):
                raise TypeError
            if not all(type(number) is int and number >= 0 for number in numbers):
                raise TypeError
            found[name] = WireArray(dtype, tuple(shape), encoding, data[start : start + size])
            start += size
    except (ValueError, TypeError, RecursionError):
        raise MalformedMessageError("not a bundle of arrays") from None
    if start != len(data) or len(found) != len(rows):
        raise MalformedMessageError("a bundle that holds other arrays than it says")
    return found
