"""Flows and handshakes for tests that care about little of what is in them."""

from kracauer.flows import Flow
from kracauer.peek import Peeker, Protocol
from kracauer.replies import Endpoints
from kracauer.tcp.handshake import Handshake
from kracauer.tcp.held import HeldStream
from kracauer.tcp.terms import Terms

SERVICE, CLIENT = bytes((198, 51, 100, 1)), bytes((192, 0, 2, 7))
PREFIX = bytes.fromhex("20010db80046000000000000")
BACKEND = bytes.fromhex("20010db8000100000000000000000002")

BARE_TERMS = Terms(mss=1440, client_window_scale=None, window_scale=None, sack=False, timestamps=False, ecn=False)


def to_service(port: int = 49152, *, client: bytes = CLIENT) -> Endpoints:
    """The endpoints of a client's packets."""
    return Endpoints(client, SERVICE, port, 443)


def from_backend(port: int = 49152, *, backend: bytes = BACKEND) -> Endpoints:
    """The endpoints of a backend's packets to that client."""
    return Endpoints(backend, PREFIX + CLIENT, 8443, port)


def handshake(*, isn: int = 9000, held: HeldStream | None = None) -> Handshake:
    """A client that has completed its handshake and said nothing."""
    return Handshake(
        client_isn=1000,
        isn=isn,
        tsval=0,
        terms=BARE_TERMS,
        held=held or HeldStream(1001, 65536),
        peeker=Peeker(Protocol.AUTO, 65536),
        client_window=65535,
        client_tsval=0,
        started=0.0,
    )


def flow(port: int = 49152) -> Flow:
    """A new flow of the client's from `port`."""
    return Flow(to_service(port), handshake(), now=0.0)
