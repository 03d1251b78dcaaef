"""Trees, inclusion and consistency: against the vectors of Certificate Transparency, and the RFC.

The vectors are those of transparency-dev/merkle (testdata), which are Certificate Transparency's.
"""

from __future__ import annotations

import base64
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gobelin.shared.errors import LedgerError
from gobelin.shared.ledger.merkle import (
    EMPTY,
    Tree,
    join,
    leaf_hash,
    node_hash,
    split,
    verify_consistency,
    verify_inclusion,
)

LEAVES = [
    bytes.fromhex(data)
    for data in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUSION = {  # (leaf, size) → path
    (5, 8): [
        "vBoGQ7EuTS18d5GPROD095qDi2z57FtcKD4fTYhZnms=",
        "yoVOoSjtBQtBs1/8G4e46yveRh6eO1WW7Oa51ZdaCuA=",
        "037kGJdt2VdTwcc4Yrk5j6Kiz5tP8P3+izDNlSCWFLc=",
    ],
    (1, 5): [
        "bjQLnP+zepicpUTmu3gKLHiQHT+zNzh2hRGjBhevoB0=",
        "Xwg/ChozygdqlSeYMlgNs+DvRYS9/x9UyKNg9Q3jAx4=",
        "vBoGQ7EuTS18d5GPROD095qDi2z57FtcKD4fTYhZnms=",
    ],
}
CONSISTENCY = {  # (old, size) → path
    (6, 8): [
        "DrxdNDf74tsVi58Sah0RjjCBgQMdCpSfje3t68VY72o=",
        "yoVOoSjtBQtBs1/8G4e46yveRh6eO1WW7Oa51ZdaCuA=",
        "037kGJdt2VdTwcc4Yrk5j6Kiz5tP8P3+izDNlSCWFLc=",
    ],
    (2, 5): [
        "Xwg/ChozygdqlSeYMlgNs+DvRYS9/x9UyKNg9Q3jAx4=",
        "vBoGQ7EuTS18d5GPROD095qDi2z57FtcKD4fTYhZnms=",
    ],
}
sizes = st.integers(1, 130)


def known() -> Tree:
    return Tree(map(leaf_hash, LEAVES))


def numbered(size: int) -> Tree:
    return Tree(leaf_hash(b"%d" % i) for i in range(size))


def words_of_the_rfc(leaves: list[bytes]) -> bytes:
    """MTH as RFC 9162 §2.1.1 says it, word for word."""
    if not leaves:
        return EMPTY
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return node_hash(words_of_the_rfc(leaves[:k]), words_of_the_rfc(leaves[k:]))


def test_roots_are_certificate_transparencys() -> None:
    assert Tree().root().hex() == (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )
    assert [known().root(size).hex() for size in range(1, 9)] == ROOTS


@pytest.mark.parametrize(("leaf", "size"), INCLUSION)
def test_inclusion_proofs_are_certificate_transparencys(leaf: int, size: int) -> None:
    path = [base64.b64decode(step) for step in INCLUSION[leaf, size]]
    assert known().inclusion(leaf, size) == path
    verify_inclusion(leaf_hash(LEAVES[leaf]), leaf, size, path, bytes.fromhex(ROOTS[size - 1]))


@pytest.mark.parametrize(("old", "size"), CONSISTENCY)
def test_consistency_proofs_are_certificate_transparencys(old: int, size: int) -> None:
    path = [base64.b64decode(step) for step in CONSISTENCY[old, size]]
    assert known().consistency(old, size) == path
    roots = [bytes.fromhex(ROOTS[at - 1]) for at in (old, size)]
    verify_consistency(old, size, path, *roots)


@given(sizes)
def test_a_root_is_what_the_rfc_says(size: int) -> None:
    tree = numbered(size)
    assert tree.root() == words_of_the_rfc([tree.leaf(i) for i in range(size)])


@given(st.data(), sizes)
def test_every_leaf_is_proved_and_no_other_is(data: st.DataObject, size: int) -> None:
    index = data.draw(st.integers(0, size - 1))
    tree = numbered(size)
    path, root = tree.inclusion(index), tree.root()
    verify_inclusion(tree.leaf(index), index, size, path, root)
    assert split(join(path)) == path
    bent = [
        (leaf_hash(b"other"), index, size, path),
        (tree.leaf(index), index, size, [*path, root]),
    ]
    bent += [(tree.leaf(index), (index + 1) % size, size, path)] if size > 1 else []
    bent += [(tree.leaf(index), index, size, path[:-1])] if path else []
    for step in range(len(path)):
        other = [*path[:step], bytes(32), *path[step + 1 :]]
        bent.append((tree.leaf(index), index, size, other))
    for leaf, at, of, steps in bent:
        with pytest.raises(LedgerError):
            verify_inclusion(leaf, at, of, steps, root)


@settings(max_examples=200)
@given(st.data(), sizes)
def test_a_tree_goes_on_from_its_past_and_from_no_other(data: st.DataObject, size: int) -> None:
    old = data.draw(st.integers(1, size))
    tree = numbered(size)
    path, before, after = tree.consistency(old), tree.root(old), tree.root()
    verify_consistency(old, size, path, before, after)
    other = numbered(size - 1)
    other.append(leaf_hash(b"another last leaf"))
    with pytest.raises(LedgerError):
        verify_consistency(old, size, path, before, other.root())
    bent = [[*path, bytes(32)], *([path[:-1]] if path else [])]
    bent += [[*path[:i], bytes(32), *path[i + 1 :]] for i in range(len(path))]
    for steps in bent:
        with pytest.raises(LedgerError):
            verify_consistency(old, size, steps, before, after)
    with pytest.raises(LedgerError):
        verify_consistency(old, size, path, bytes(32), after)


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=9), sizes, sizes)
def test_no_proof_crashes(path: list[bytes], one: int, other: int) -> None:
    for check in (verify_consistency, verify_inclusion):
        arguments = (one, other, path, bytes(32), bytes(32))
        if check is verify_inclusion:
            arguments = (bytes(32), one, other, path, bytes(31))  # type: ignore[assignment]
        try:
            check(*arguments)  # type: ignore[arg-type]
        except LedgerError:
            continue
        assert one == other


@pytest.mark.parametrize("text", ["0", "zz", "00" * 31, "AB" * 32, " " + "00" * 32])
def test_a_path_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(LedgerError):
        split(text)


def test_a_tree_holds_no_object_a_leaf() -> None:
    leaves = [leaf_hash(bytes([number % 256])) for number in range(2**12)]
    before = sys.getallocatedblocks()
    tree = Tree(leaves)
    assert tree.root() == Tree(leaves).root(len(leaves))
    assert sys.getallocatedblocks() - before < len(leaves) / 8


def test_a_leaf_that_is_no_hash_is_refused() -> None:
    with pytest.raises(ValueError, match="31 bytes"):
        Tree([bytes(31)])
