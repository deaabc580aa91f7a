"""What the engine may ask of a fast path, whatever stands behind it: all it ever does is take work away."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from kracauer.tcp.splice import Splice
from kracauer.tcp.terms import Offer


@dataclass(slots=True)
class Carried:
    """What a fast path has taken since it was opened, as far as it is known: packets, and their payload in bytes.

    `syns` are those it has answered, `guesses` those it has dropped for their cookies, and neither are of these packets.
    """

    packets: int = 0
    bytes: int = 0
    syns: int = 0
    guesses: int = 0

    def add(self, packets: int, size: int) -> None:
        """Count these, too."""
        self.packets += packets
        self.bytes += size


class Standing(NamedTuple):
    """Where a fast path has its program, or the `cause` why it has none, and the `remedy` if there is one.

    `hook` names what hands it packets. `survives` says whether it goes on without the process, `cause` why it does not, and
    `kept_by` what holds it meanwhile: "bpffs" or "descriptor store".
    """

    hook: str = ""
    survives: bool = False
    cause: str = ""
    remedy: str = ""
    kept_by: str = ""


class Promise(NamedTuple):
    """What a listener's SYN-ACK offers; to a client whose SYN may be fragmented, no more than `cut_mss`."""

    offer: Offer
    cut_mss: int


class Promises(NamedTuple):
    """By what SYNs may be answered: the secret of the cookies, and each listener that everybody may use.

    Listeners are found by address and port. No packet may come from one of `service_addresses`.
    """

    secret: bytes
    listeners: Mapping[tuple[bytes, int], Promise]
    service_addresses: Collection[bytes]


OFF: Final = Standing(cause='network.offload = "off"')


class FastPath(Protocol):
    """Takes plain packets of spliced flows before the engine sees them, and does with them what `Splice` would.

    And plain SYNs to listeners of which it was told, of addresses and ports that no flow has: it answers them as `Gate` would.
    Of segments to these that belong to no flow and bring no cookie it may keep those away that come beyond a thousand a second.
    Everything else still comes to the engine: other flows and their SYNs, RST, fragments, packets too big or with options
    unheard of; and all packets, once nobody has called `sweep` for a while. What a flow has carried stands in its record after
    `refresh`, `remove` or a `sweep`, and may be missing from it until then.

    A FIN that is believed is taken like a plain packet, and is part of that: the record's state, and since when, are then what
    the engine would have made of it. One that is not believed comes to the engine. So does every one of a flow that was
    refreshed: what the engine itself carries of it after that, the fast path is not told of.
    """

    @property
    def standing(self) -> Standing:
        """Whether it takes anything, and how, or why not."""

    @property
    def refused(self) -> dict[str, int]:
        """Flows that could not be taken, by the name of the errno. The reader may clear it."""

    @property
    def carried(self) -> Carried:
        """What has been taken, as far as records have been brought up to date; the same object from beginning to end."""

    def __len__(self) -> int:
        """How many flows are installed now."""

    def inherits(self, splice: Splice) -> bool:
        """Whether this flow's packets were the fast path's of an earlier process to the end.

        It was told to leave them alone before any SYN of the same addresses and ports was answered: so none was.
        """

    def install(self, splice: Splice) -> bool:
        """Take the packets of this flow from now on; False where that cannot be, and nothing is changed then.

        Only for a flow whose packets need no look at all. It may have been installed already.
        """

    def remove(self, splice: Splice) -> None:
        """Leave this flow's packets alone from now on, and bring its record up to date; no error if it is not installed."""

    def remove_all(self, splices: Sequence[Splice]) -> None:
        """As `remove`, for many at a time."""

    def refresh(self, splice: Splice) -> None:
        """Bring this flow's record up to date: before anything is decided by it."""

    def promise(self, promises: Promises) -> None:
        """Answer SYNs by these from now on, and by none given before."""

    def note_flow(self, key: bytes) -> None:
        """Leave SYNs to the engine that have the client key `key`, 12 bytes: there is a flow now, in whatever state."""

    def forget_flow(self, key: bytes) -> None:
        """Take one `note_flow` back: the flow is no more, and nothing of it is installed."""

    def sweep(self, now: float) -> Sequence[Splice]:
        """Bring all records up to date, and say that somebody is there; returns the flows whose state became another one.

        By a FIN, since the last sweep, in whatever call that was found; in the order in which it came about. Among them may be
        flows that are no more.
        `now` in seconds of the monotonic clock. Packets are taken from the first call on.
        """

    def close(self) -> None:
        """Leave all packets alone. Closing twice is no error."""


class NoFastPath:
    """Takes nothing: every packet is the engine's."""

    def __init__(self, standing: Standing = OFF) -> None:
        self.standing = standing
        self.refused: dict[str, int] = {}
        self.carried = Carried()

    def __len__(self) -> int:
        return 0

    def inherits(self, _splice: Splice) -> bool:
        """Nobody knows."""
        return False

    def install(self, _splice: Splice) -> bool:
        """Take nothing."""
        return False

    def remove(self, _splice: Splice) -> None:
        """There is nothing to leave alone."""

    def remove_all(self, _splices: Sequence[Splice]) -> None:
        """Likewise."""

    def refresh(self, _splice: Splice) -> None:
        """Its record is up to date."""

    def promise(self, _promises: Promises) -> None:
        """Answer nothing."""

    def note_flow(self, _key: bytes) -> None:
        """SYNs are left to the engine anyway."""

    def forget_flow(self, _key: bytes) -> None:
        """Nothing was noted."""

    def sweep(self, _now: float) -> Sequence[Splice]:
        """No FIN has been carried."""
        return ()

    def close(self) -> None:
        """There is nothing to close."""
