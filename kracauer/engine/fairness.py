"""What each client holds of the pools that all of them share, and when it may hold more (Choudhury and Hahne 1998).

The rule is the dynamic threshold with a factor of one eighth: a client is given more of a pool only while eight times what it
holds of it is less than what is still free. Whoever holds nothing so gets something while there is anything, a lone client gets
a ninth, n that come at once an (n + 8)th each, and nothing is ever taken back.
"""

from typing import Final

from kracauer.config import Limits
from kracauer.errors import Dropped, DropReason
from kracauer.flows import Flow, FlowTable
from kracauer.tcp.state import State

# How much has to be free for each that a client holds. Clients that fill their shares one after the other leave (8/9)^n of a
# pool, n of them: 81 addresses fill a table of 65,536 flows. One for one they would leave 1/2^n, and seventeen addresses would
# fill it. With much more than eight, the many people behind one address translator would have too little.
FREE_PER_HELD: Final = 8
# What one connection may hold at most: 64 KiB and 16 KiB more. So much of what may be held, or half of a small pool, is for one
# connection at a time that would have to wait: else two that hold parts of their messages might wait for each other's end.
# A pool that gives a lone client no such message beside that is too small to be shared out.
LARGEST_HELD_BYTES: Final = 81_920
SMALLEST_SHARED_BYTES: Final = (FREE_PER_HELD + 2) * LARGEST_HELD_BYTES
MIN_BURST: Final = 10.0
BURST_S: Final = 2.0
# Clients that hold nothing and are remembered for what they opened a moment ago.
MAX_RESTING: Final = 65_536
_ROUNDING_S: Final = 1e-6


class Share:
    """What one client holds: flows that are not retired, those of them without a backend, and bytes of first messages.

    `busy_until` is when its flows would all have been opened at the permitted rate.
    """

    __slots__ = ("busy_until", "flows", "held_bytes", "unproven")

    def __init__(self) -> None:
        self.flows = 0
        self.unproven = 0
        self.held_bytes = 0
        self.busy_until = 0.0

    @property
    def is_empty(self) -> bool:
        """Whether nothing is held."""
        return not (self.flows or self.unproven or self.held_bytes)


class ClientShares:
    """The shares of all clients, a client being all addresses with the same first `limits.client_prefix_length` bits.

    A share is forgotten when nothing is held and its rate has recovered: there are never more than there are flows, and
    `MAX_RESTING`.
    """

    def __init__(self, limits: Limits) -> None:
        self.flows = 0
        self.unproven = 0
        self.held_bytes = 0
        self._shares: dict[int, Share] = {}
        self._resting: dict[int, None] = {}
        self._finishing: Flow | None = None
        self._take(limits)

    def __len__(self) -> int:
        return len(self._shares)

    def _take(self, limits: Limits) -> None:
        self._limits = limits
        self._shift = 32 - limits.client_prefix_length
        rate = limits.new_per_second_per_client
        self._interval_s = 1 / rate if rate else 0.0
        self._lead_s = (max(MIN_BURST, BURST_S * rate) - 1) * self._interval_s + _ROUNDING_S

    def reconfigure(self, limits: Limits, flows: FlowTable) -> None:
        """Go by `limits` from now on. Counts stay; where clients are other networks now, they are counted anew in `flows`.

        Who holds more than the new limits allow keeps it, and gets no more. After a recount every client's rate begins afresh.
        """
        before = self._shift
        self._take(limits)
        if self._shift == before:
            return
        self._shares, self._resting = {}, {}
        self.flows = self.unproven = self.held_bytes = 0
        for flow in flows:
            if not flows.is_retired(flow):
                self.count_flow(flow.client, 1)
            if flow.splice is None:
                self.count_unproven(flow.client, 1)
            if flow.handshake is not None:
                self.count_held(flow.client, flow.handshake.held.held_bytes)

    def check_opening(self, client: bytes, now: float) -> None:
        """Raise Dropped where no further flow of `client` may be opened."""
        limits, share = self._limits, self._shares.get(self._key(client), _NOTHING)
        free_flows, free_unproven = limits.flows - self.flows, limits.unproven - self.unproven
        if free_flows <= 0:
            # Deviation: RFC 5508 §6 tells the sender of what no room is left for. The client repeats itself, and may find
            # room by then.
            raise Dropped(DropReason.TABLE_FULL, f"limits.flows: {limits.flows}")
        if free_unproven <= 0:
            raise Dropped(DropReason.UNPROVEN_FULL, f"limits.unproven: {limits.unproven}")
        if share.unproven >= limits.unproven_per_client:
            raise Dropped(DropReason.CLIENT_FULL, f"limits.unproven_per_client: {limits.unproven_per_client}")
        if limits.flows_per_client and share.flows >= limits.flows_per_client:
            raise Dropped(DropReason.CLIENT_FULL, f"limits.flows_per_client: {limits.flows_per_client}")
        # Less than one is never free here, so whoever holds nothing gets something, however small the pool.
        if FREE_PER_HELD * share.flows >= free_flows:
            raise Dropped(DropReason.CLIENT_FULL, f"fair share of limits.flows: {limits.flows}")
        if FREE_PER_HELD * share.unproven >= free_unproven:
            raise Dropped(DropReason.CLIENT_FULL, f"fair share of limits.unproven: {limits.unproven}")
        if self._interval_s and share.busy_until - now > self._lead_s:
            rate = limits.new_per_second_per_client
            raise Dropped(DropReason.CLIENT_RATE, f"limits.new_per_second_per_client: {rate:g}")

    def check_holding(self, flow: Flow, size: int) -> None:
        """Raise Dropped where `size` more bytes of the first message of `flow` may not be held.

        One flow at a time goes on to the pool's end, whatever its client's share, until its message is complete.
        """
        limit = self._limits.held_bytes
        if size > limit - self.held_bytes:
            raise Dropped(DropReason.HELD_BYTES_FULL, f"limits.held_bytes: {limit}")
        free = limit - min(LARGEST_HELD_BYTES, limit // 2) - self.held_bytes
        has_share = limit < SMALLEST_SHARED_BYTES or FREE_PER_HELD * self.share_of(flow.client).held_bytes < free
        if (size <= free and has_share) or self._may_finish(flow):
            return
        if size > free:
            raise Dropped(DropReason.HELD_BYTES_FULL, f"limits.held_bytes: {limit}")
        raise Dropped(DropReason.CLIENT_FULL, f"fair share of limits.held_bytes: {limit}")

    def _may_finish(self, flow: Flow) -> bool:
        """Whether `flow` is the one that goes on, or is so from now on because there is none."""
        if flow.state is not State.PEEKING:
            return False
        if self._finishing is None or self._finishing.state is not State.PEEKING:
            self._finishing = flow
        return self._finishing is flow

    def note_opening(self, client: bytes, now: float) -> None:
        """Have a flow that `client` has just opened weigh on its rate; forget clients that have had their rest."""
        if self._interval_s:
            share = self._shares[self._key(client)]
            share.busy_until = max(share.busy_until, now) + self._interval_s
        self._forget_rested(now)

    def count_flow(self, client: bytes, change: int) -> None:
        """Note that `client` has one flow more that is not retired, or less."""
        key = int.from_bytes(client, "big") >> self._shift
        self.flows += change
        share = self._shares.get(key) or self._new_share(key)
        share.flows += change
        if change < 0 or share.busy_until:
            self._settle(key, share)

    def count_unproven(self, client: bytes, change: int) -> None:
        """Note that `client` has one flow more that has no backend yet, or less."""
        key = int.from_bytes(client, "big") >> self._shift
        self.unproven += change
        share = self._shares.get(key) or self._new_share(key)
        share.unproven += change
        if change < 0 or share.busy_until:
            self._settle(key, share)

    def count_held(self, client: bytes, change: int) -> None:
        """Note that `change` bytes more of first messages of `client` are held; negative: less."""
        if not change:
            return
        key = int.from_bytes(client, "big") >> self._shift
        self.held_bytes += change
        share = self._shares.get(key) or self._new_share(key)
        share.held_bytes += change
        if change < 0 or share.busy_until:
            self._settle(key, share)

    def share_of(self, client: bytes) -> Share:
        """What `client` holds; not to be altered."""
        return self._shares.get(self._key(client), _NOTHING)

    def _key(self, client: bytes) -> int:
        return int.from_bytes(client, "big") >> self._shift

    def _new_share(self, key: int) -> Share:
        share = self._shares[key] = Share()
        return share

    def _settle(self, key: int, share: Share) -> None:
        """Forget a share that has become empty, or lay it aside until its rate has recovered."""
        if share.flows or share.unproven or share.held_bytes:
            if share.busy_until:
                self._resting.pop(key, None)
        elif share.busy_until:
            self._resting[key] = None
        else:
            del self._shares[key]

    def _forget_rested(self, now: float) -> None:
        """Look at the two that have rested longest: at most one comes for each flow, so they cannot pile up."""
        for _ in range(2):
            key = next(iter(self._resting), None)
            if key is None:
                return
            if self._shares[key].busy_until > now and len(self._resting) <= MAX_RESTING:
                return
            del self._resting[key], self._shares[key]


_NOTHING: Final = Share()
