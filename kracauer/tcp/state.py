"""The life of a flow, as one table (after RFC 6146 §3.5.2 and RFC 7857 §2)."""

from collections.abc import Mapping
from enum import StrEnum, auto
from types import MappingProxyType
from typing import Final


class State(StrEnum):
    """Where a flow stands."""

    PEEKING = auto()  # the client has proved its address; its first bytes do not tell the hostname yet
    RESOLVING = auto()  # the hostname is known; what addresses its backends have is being looked up
    DIALING = auto()  # a backend has been sent a SYN
    REFUSING = auto()  # the client is being told why not, and the connection closed
    ESTABLISHED = auto()  # spliced; neither side has closed
    CLIENT_FIN = auto()  # the client has sent its FIN; the backend may go on
    BACKEND_FIN = auto()  # the other way round
    BOTH_FIN = auto()  # both have: kept for what is still to be repeated
    TRANSITORY = auto()  # one side has sent a RST, which the other may or may not believe
    PROBING = auto()  # idle for too long: both sides have been asked whether they are still there
    CLOSED = auto()  # no longer in the table


class Happening(StrEnum):
    """What moves a flow on."""

    AWAITED = auto()
    ROUTED = auto()
    REFUSED = auto()
    ACCEPTED = auto()
    CLIENT_FIN = auto()
    BACKEND_FIN = auto()
    RESET = auto()
    REVIVED = auto()
    TIMED_OUT = auto()
    ENDED = auto()


_END: Final = {Happening.ENDED: State.CLOSED}
_LIVE: Final = _END | {Happening.RESET: State.TRANSITORY, Happening.TIMED_OUT: State.PROBING}

# A happening that a state does not list leaves it where it is: a repeated FIN, a RST after a RST.
TABLE: Final[Mapping[State, Mapping[Happening, State]]] = MappingProxyType(
    {
        State.PEEKING: _END
        | {Happening.AWAITED: State.RESOLVING, Happening.ROUTED: State.DIALING, Happening.REFUSED: State.REFUSING},
        State.RESOLVING: _END | {Happening.ROUTED: State.DIALING, Happening.REFUSED: State.REFUSING},
        State.DIALING: _END | {Happening.ACCEPTED: State.ESTABLISHED},
        State.REFUSING: _END,
        State.ESTABLISHED: _LIVE | {Happening.CLIENT_FIN: State.CLIENT_FIN, Happening.BACKEND_FIN: State.BACKEND_FIN},
        State.CLIENT_FIN: _LIVE | {Happening.BACKEND_FIN: State.BOTH_FIN},
        State.BACKEND_FIN: _LIVE | {Happening.CLIENT_FIN: State.BOTH_FIN},
        # RFC 6146 §3.5.2.2 keeps the session the transitory time from both FINs on, whatever comes: a RST shortens nothing.
        State.BOTH_FIN: _END,
        # Deviation: RFC 6146 §3.5.2.2 lets any packet revive a session after a RST. Here it takes one from the side that sent
        # the RST: only that shows the RST was forged, while the other side's packets may have been under way already.
        # And where the number of the RST might have been guessed, both sides are asked before the flow is given up.
        State.TRANSITORY: _END | {Happening.REVIVED: State.ESTABLISHED, Happening.TIMED_OUT: State.PROBING},
        # RFC 6146 §3.5.2.3: an idle session is probed before it is given up. A half-closed one forgets which half it was.
        State.PROBING: _END
        | {
            Happening.REVIVED: State.ESTABLISHED,
            Happening.RESET: State.TRANSITORY,
            Happening.CLIENT_FIN: State.CLIENT_FIN,
            Happening.BACKEND_FIN: State.BACKEND_FIN,
        },
        State.CLOSED: {},
    }
)

SPLICED: Final = frozenset(
    (State.ESTABLISHED, State.CLIENT_FIN, State.BACKEND_FIN, State.BOTH_FIN, State.TRANSITORY, State.PROBING)
)
# What stands for them in a record; never to be given another meaning without another version of the record.
CODES: Final[Mapping[State, int]] = MappingProxyType(
    {
        State.ESTABLISHED: 1,
        State.CLIENT_FIN: 2,
        State.BACKEND_FIN: 3,
        State.BOTH_FIN: 4,
        State.TRANSITORY: 5,
        State.PROBING: 6,
    }
)
BY_CODE: Final[Mapping[int, State]] = MappingProxyType({code: state for state, code in CODES.items()})
# Either end may have forgotten a connection in these states, so a new one may take its addresses and ports.
# Deviation: RFC 7857 §2.2 keeps a session four minutes after a RST. It is kept so unless its place or its addresses and ports
# are needed: what is left of it serves stragglers, what takes its place a client that waits.
SUPERSEDABLE: Final = frozenset((State.BOTH_FIN, State.TRANSITORY))


def next_state(state: State, happening: Happening) -> State:
    """Return where `happening` takes a flow that is in `state`."""
    return TABLE[state].get(happening, state)
