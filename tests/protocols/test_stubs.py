"""The stubs in the repository are those that its .proto gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from gobelin.protocols import federation_pb2

FOLDER = Path(federation_pb2.__file__).parent
NAMES = ("federation_pb2.py", "federation_pb2.pyi", "federation_pb2_grpc.py")


def test_the_stubs_are_those_of_the_proto(tmp_path: Path) -> None:
    protoc = pytest.importorskip("grpc_tools.protoc")  # of the dev extra
    made = [f"--{kind}_out={tmp_path}" for kind in ("python", "pyi", "grpc_python")]
    source = FOLDER / "federation.proto"
    assert protoc.main(["protoc", f"-I{FOLDER.parents[1]}", *made, str(source)]) == 0
    for name in NAMES:
        fresh = (tmp_path / "gobelin" / "protocols" / name).read_text()
        assert fresh == (FOLDER / name).read_text(), f"make stubs: {name} is of another .proto"


def test_every_call_of_the_service_has_small_requests() -> None:
    """What is read before anybody is known is bounded: no request carries a repeated field."""
    service = federation_pb2.DESCRIPTOR.services_by_name["Federation"]
    assert {m.name for m in service.methods} >= {"Authority", "Enrol", "Status", "Roster", "Leave"}
    for method in service.methods:
        assert not method.client_streaming
        assert not any(field.is_repeated for field in method.input_type.fields)
