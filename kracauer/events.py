"""What the engine has to tell: plain values that the daemon turns into log lines and counters."""

from dataclasses import dataclass, fields
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address
from typing import ClassVar

from kracauer.errors import DropReason
from kracauer.profile import BackendProfile


class CloseReason(StrEnum):
    """Why a flow ended. The values are log fields and metric labels."""

    FINISHED = "finished"  # both sides sent their FIN
    RESET = "reset"  # one side sent a RST, and nothing came after
    IDLE = "idle"  # silent for too long, and not both sides answered when asked
    REPLACED = "replaced"  # the client opened a new connection from the same port
    SUPERSEDED = "superseded"  # a finished flow made room for a new one towards the same backend
    REFUSED = "refused"
    REDIRECTED = "redirected"  # an HTTP client was sent to HTTPS
    PEEK_TIMEOUT = "peek_timeout"
    CLIENT_ABORTED = "client_aborted"  # a RST before there was a backend
    BACKENDS_FAILED = "backends_failed"
    BACKEND_CONTRADICTED = "backend_contradicted"  # the backend's SYN-ACK took back what the client had been offered
    STOPPED = "stopped"  # the service ends, and is not to come back
    UNDELIVERED = "undelivered"  # the backend never acknowledged bytes that the client had been relieved of


class FailureReason(StrEnum):
    """Why a backend could not be used for one flow."""

    REFUSED = "refused"
    SILENT = "silent"
    UNREACHABLE = "unreachable"
    TUPLE_IN_USE = "tuple_in_use"  # another live flow of this client holds the same port towards the same backend


class RefusalReason(StrEnum):
    """Why a client was told no."""

    NO_ROUTE = "no_route"
    NO_HOSTNAME = "no_hostname"
    MALFORMED = "malformed"
    HOST_FULL = "host_full"  # the name has as many connections as it may have
    EMPTY = "empty"  # the client closed before it said anything
    DENIED = "denied"  # the name is not for this client
    NO_ADDRESS = "no_address"  # the DNS has no address for the name of its backend that may be dialled
    UNRESOLVED = "unresolved"  # the name of its backend could not be looked up


@dataclass(frozen=True, slots=True)
class Endpoint4:
    """An IPv4 address and port."""

    address: bytes
    port: int

    def __str__(self) -> str:
        return f"{IPv4Address(self.address)}:{self.port}"


@dataclass(frozen=True, slots=True)
class Endpoint6:
    """An IPv6 address and port."""

    address: bytes
    port: int

    def __str__(self) -> str:
        return f"[{IPv6Address(self.address)}]:{self.port}"


@dataclass(frozen=True, slots=True)
class Event:
    """What every event has: a name and a level for the log, and its fields as plain values."""

    event: ClassVar[str] = "event"
    level: ClassVar[str] = "info"

    def fields(self) -> dict[str, object]:
        """The event's own fields, addresses rendered, absent ones left out."""
        shown: dict[str, object] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Endpoint4 | Endpoint6 | StrEnum):
                value = str(value)
            if value is not None:
                shown[field.name] = value
        return shown


@dataclass(frozen=True, slots=True)
class FlowSpliced(Event):
    """A client and a backend were joined; `setup_s` is from the client's ACK to the backend's SYN-ACK."""

    event = "flow_spliced"
    level = "info"

    client: Endpoint4
    service: Endpoint4
    backend: Endpoint6
    hostname: str | None
    pattern: str
    setup_s: float


@dataclass(frozen=True, slots=True)
class FlowRefused(Event):
    """A client was told that it cannot be served here."""

    event = "flow_refused"
    level = "warning"

    client: Endpoint4
    service: Endpoint4
    reason: RefusalReason
    answer: str
    hostname: str | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class FlowRedirected(Event):
    """A client that asked by HTTP was sent to the same name and path by HTTPS."""

    event = "flow_redirected"
    level = "info"

    client: Endpoint4
    service: Endpoint4
    hostname: str | None


@dataclass(frozen=True, slots=True)
class FlowClosed(Event):
    """A flow left the table; bytes are payload, repeats included."""

    event = "flow_closed"
    level = "info"

    client: Endpoint4
    service: Endpoint4
    reason: CloseReason
    state: str
    duration_s: float
    hostname: str | None = None
    backend: Endpoint6 | None = None
    bytes_to_backend: int = 0
    bytes_to_client: int = 0
    packets_to_backend: int = 0
    packets_to_client: int = 0


@dataclass(frozen=True, slots=True)
class BackendFailed(Event):
    """A backend could not be used for a flow; the next one of that name is tried, if there is one."""

    event = "backend_failed"
    level = "warning"

    client: Endpoint4
    backend: Endpoint6
    reason: FailureReason
    hostname: str | None = None


@dataclass(frozen=True, slots=True)
class BackendDown(Event):
    """A backend is taken for down: clients are led to the others of the name, as long as there is one."""

    event = "backend_down"
    level = "warning"

    backend: Endpoint6
    reason: FailureReason


@dataclass(frozen=True, slots=True)
class BackendUp(Event):
    """A backend that was down answers again."""

    event = "backend_up"
    level = "info"

    backend: Endpoint6
    down_s: float


@dataclass(frozen=True, slots=True)
class ProfileLearnt(Event):
    """A backend's SYN-ACK showed another TCP than was assumed of it."""

    event = "profile_learnt"
    level = "info"

    backend: Endpoint6
    profile: BackendProfile

    def fields(self) -> dict[str, object]:
        """The backend and each field of its profile."""
        shown: dict[str, object] = {"backend": str(self.backend)}
        return shown | {field.name: getattr(self.profile, field.name) for field in fields(self.profile)}


@dataclass(frozen=True, slots=True)
class NameWanted(Event):
    """A flow waits for the addresses of a DNS name of which nothing is known."""

    event = "name_wanted"
    level = "debug"

    name: str


@dataclass(frozen=True, slots=True)
class NameResolved(Event):
    """A DNS name has other addresses than before, or none; those that are refused are left out."""

    event = "name_resolved"
    level = "info"

    name: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NameRefused(Event):
    """The DNS says that a name has addresses where no backend may be; they are not used."""

    event = "name_refused"
    level = "warning"

    name: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NameFailed(Event):
    """A DNS name could not be looked up; `keeps` says that what was known of it goes on to count."""

    event = "name_failed"
    level = "warning"

    name: str
    cause: str
    keeps: bool


@dataclass(frozen=True, slots=True)
class PacketDropped(Event):
    """A packet went no further; `detail` says what exactly was wrong, where that is more than the reason."""

    event = "packet_dropped"
    level = "info"

    reason: DropReason
    detail: str | None = None
