from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EnrolmentState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ENROLMENT_STATE_UNSPECIFIED: _ClassVar[EnrolmentState]
    WAITING: _ClassVar[EnrolmentState]
    ADMITTED: _ClassVar[EnrolmentState]
    REFUSED: _ClassVar[EnrolmentState]
ENROLMENT_STATE_UNSPECIFIED: EnrolmentState
WAITING: EnrolmentState
ADMITTED: EnrolmentState
REFUSED: EnrolmentState

class Invite(_message.Message):
    __slots__ = ("version", "federation", "member", "service", "fleet", "ca_pin", "federation_digest", "secret", "expires")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    FLEET_FIELD_NUMBER: _ClassVar[int]
    CA_PIN_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SECRET_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    version: int
    federation: str
    member: str
    service: str
    fleet: str
    ca_pin: bytes
    federation_digest: bytes
    secret: bytes
    expires: int
    def __init__(self, version: _Optional[int] = ..., federation: _Optional[str] = ..., member: _Optional[str] = ..., service: _Optional[str] = ..., fleet: _Optional[str] = ..., ca_pin: _Optional[bytes] = ..., federation_digest: _Optional[bytes] = ..., secret: _Optional[bytes] = ..., expires: _Optional[int] = ...) -> None: ...

class AuthorityRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class AuthorityReply(_message.Message):
    __slots__ = ("ca_pem", "recipe", "terms")
    CA_PEM_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    TERMS_FIELD_NUMBER: _ClassVar[int]
    ca_pem: bytes
    recipe: bytes
    terms: str
    def __init__(self, ca_pem: _Optional[bytes] = ..., recipe: _Optional[bytes] = ..., terms: _Optional[str] = ...) -> None: ...

class EnrolRequest(_message.Message):
    __slots__ = ("enrolment", "signature")
    ENROLMENT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    enrolment: bytes
    signature: str
    def __init__(self, enrolment: _Optional[bytes] = ..., signature: _Optional[str] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: str
    def __init__(self, node: _Optional[str] = ...) -> None: ...

class EnrolmentReply(_message.Message):
    __slots__ = ("state", "reason", "what", "words", "certificate", "record", "signature", "ca_pem", "genesis", "protocol")
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    RECORD_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    CA_PEM_FIELD_NUMBER: _ClassVar[int]
    GENESIS_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    state: EnrolmentState
    reason: str
    what: str
    words: str
    certificate: bytes
    record: bytes
    signature: str
    ca_pem: bytes
    genesis: str
    protocol: int
    def __init__(self, state: _Optional[_Union[EnrolmentState, str]] = ..., reason: _Optional[str] = ..., what: _Optional[str] = ..., words: _Optional[str] = ..., certificate: _Optional[bytes] = ..., record: _Optional[bytes] = ..., signature: _Optional[str] = ..., ca_pem: _Optional[bytes] = ..., genesis: _Optional[str] = ..., protocol: _Optional[int] = ...) -> None: ...

class RosterRequest(_message.Message):
    __slots__ = ("first",)
    FIRST_FIELD_NUMBER: _ClassVar[int]
    first: int
    def __init__(self, first: _Optional[int] = ...) -> None: ...

class SignedRecord(_message.Message):
    __slots__ = ("record", "signature")
    RECORD_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    record: bytes
    signature: str
    def __init__(self, record: _Optional[bytes] = ..., signature: _Optional[str] = ...) -> None: ...

class RosterReply(_message.Message):
    __slots__ = ("records", "length")
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    records: _containers.RepeatedCompositeFieldContainer[SignedRecord]
    length: int
    def __init__(self, records: _Optional[_Iterable[_Union[SignedRecord, _Mapping]]] = ..., length: _Optional[int] = ...) -> None: ...

class RenewRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RenewReply(_message.Message):
    __slots__ = ("certificate",)
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    def __init__(self, certificate: _Optional[bytes] = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("departure", "signature")
    DEPARTURE_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    departure: bytes
    signature: str
    def __init__(self, departure: _Optional[bytes] = ..., signature: _Optional[str] = ...) -> None: ...

class LeaveReply(_message.Message):
    __slots__ = ("exit", "signature", "receipts", "records")
    EXIT_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    RECEIPTS_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    exit: bytes
    signature: str
    receipts: _containers.RepeatedScalarFieldContainer[bytes]
    records: _containers.RepeatedCompositeFieldContainer[SignedRecord]
    def __init__(self, exit: _Optional[bytes] = ..., signature: _Optional[str] = ..., receipts: _Optional[_Iterable[bytes]] = ..., records: _Optional[_Iterable[_Union[SignedRecord, _Mapping]]] = ...) -> None: ...

class ReleasesRequest(_message.Message):
    __slots__ = ("skip",)
    SKIP_FIELD_NUMBER: _ClassVar[int]
    skip: int
    def __init__(self, skip: _Optional[int] = ...) -> None: ...

class AnnouncedFile(_message.Message):
    __slots__ = ("name", "size", "sha256")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    name: str
    size: int
    sha256: bytes
    def __init__(self, name: _Optional[str] = ..., size: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class AnnouncedRelease(_message.Message):
    __slots__ = ("name", "federation", "round", "vector_digest", "issued", "expires", "files")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FEDERATION_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    VECTOR_DIGEST_FIELD_NUMBER: _ClassVar[int]
    ISSUED_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    name: str
    federation: str
    round: int
    vector_digest: str
    issued: int
    expires: int
    files: _containers.RepeatedCompositeFieldContainer[AnnouncedFile]
    def __init__(self, name: _Optional[str] = ..., federation: _Optional[str] = ..., round: _Optional[int] = ..., vector_digest: _Optional[str] = ..., issued: _Optional[int] = ..., expires: _Optional[int] = ..., files: _Optional[_Iterable[_Union[AnnouncedFile, _Mapping]]] = ...) -> None: ...

class ReleasesReply(_message.Message):
    __slots__ = ("releases", "length")
    RELEASES_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    releases: _containers.RepeatedCompositeFieldContainer[AnnouncedRelease]
    length: int
    def __init__(self, releases: _Optional[_Iterable[_Union[AnnouncedRelease, _Mapping]]] = ..., length: _Optional[int] = ...) -> None: ...

class ReleaseFileRequest(_message.Message):
    __slots__ = ("release", "file", "offset")
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    release: str
    file: str
    offset: int
    def __init__(self, release: _Optional[str] = ..., file: _Optional[str] = ..., offset: _Optional[int] = ...) -> None: ...

class ReleaseChunk(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class ProbeRequest(_message.Message):
    __slots__ = ("padding",)
    PADDING_FIELD_NUMBER: _ClassVar[int]
    padding: bytes
    def __init__(self, padding: _Optional[bytes] = ...) -> None: ...

class ProbeReply(_message.Message):
    __slots__ = ("clock_ms",)
    CLOCK_MS_FIELD_NUMBER: _ClassVar[int]
    clock_ms: int
    def __init__(self, clock_ms: _Optional[int] = ...) -> None: ...
