"""Whatever comes off the wire or out of a file is a message or a typed error, and never a crash."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gobelin.protocols.ledger import HEAD, LedgerView
from gobelin.protocols.messages import MalformedMessageError
from gobelin.server.verify import verify_receipt
from gobelin.shared.errors import GobelinError
from gobelin.shared.ledger.folder import entry_bytes, parse_entry
from gobelin.shared.release import verify_release
from tests.ledgers import aggregator, history_of

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
anything = st.recursive(
    scalars | st.binary(max_size=40),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
WHOLE = entry_bytes(history_of(1, 2).entries[1])


@given(st.dictionaries(st.sampled_from([HEAD, "base", "consistency", "proofs"]), anything))
def test_no_view_crashes(records: dict[str, object]) -> None:
    with pytest.raises(MalformedMessageError):
        LedgerView.from_records(records)


@given(st.integers(0, len(WHOLE) - 1), st.binary(max_size=3))
def test_no_entry_crashes(place: int, data: bytes) -> None:
    bent = WHOLE[:place] + data + WHOLE[place + len(data) :]
    if bent == WHOLE:
        return
    try:
        parse_entry(bent)
    except (ValueError, KeyError, TypeError, MalformedMessageError):
        return
    assert json.loads(bent) != json.loads(WHOLE)  # another entry, whole, which nobody has signed


@settings(max_examples=60)
@given(
    st.fixed_dictionaries({}, optional={"receipt": plain, "proof": plain, "head": plain})
    | st.fixed_dictionaries({"statement": plain, "signature": plain, "proof": plain, "head": plain})
)
def test_no_receipt_and_no_release_crashes(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, object]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    folder.mkdir(exist_ok=True)
    file: Path = folder / "release.json"
    file.write_text(json.dumps(values))
    for check in (lambda: verify_receipt(file, KEY), lambda: verify_release(folder, KEY)):
        with pytest.raises(GobelinError):
            check()


KEY = aggregator().public
