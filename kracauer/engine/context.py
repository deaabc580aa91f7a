"""What the parts of the engine share: configuration made ready, flows, timers, and what goes out."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from ipaddress import IPv6Address
from typing import Final

from kracauer.access import AccessLists, combined
from kracauer.config import Config, Listener
from kracauer.engine.balance import Balancer
from kracauer.engine.fairness import ClientShares
from kracauer.engine.health import Health
from kracauer.engine.offers import OfferPool
from kracauer.engine.strays import Strays
from kracauer.engine.waits import Waits
from kracauer.errors import DropReason
from kracauer.events import CloseReason, Endpoint4, Endpoint6, Event, FlowClosed, PacketDropped
from kracauer.fast_path import FastPath, NoFastPath, Promise, Promises
from kracauer.flows import Flow, FlowTable, SharedSplice
from kracauer.path_mtu import PathMtus
from kracauer.peek import Protocol
from kracauer.profile import BackendProfile
from kracauer.ratelimit import TokenBucket
from kracauer.routes import Backend, NamedBackend, Route
from kracauer.tcp.cookie import CookieJar
from kracauer.tcp.record import Records
from kracauer.tcp.splice import IPV6_GROWTH, SizeLimits
from kracauer.tcp.state import BY_CODE, CODES, Happening, State
from kracauer.tcp.terms import IPV4_OVERHEAD, IPV6_OVERHEAD, OfferHistory
from kracauer.timers import TimerWheel
from kracauer.translate.fragments import Reassembler
from kracauer.translate.identification import ALL, LOWER_HALF, Identifications
from kracauer.wire.buffer import Buffer

# Resets to packets of no flow: enough for a restart's worth of stale connections, too few to make us a reflector.
RESETS_PER_SECOND: Final = 500.0
RESET_BURST: Final = 1000.0
# ICMP errors and echo replies: RFC 1812 §4.3.2.8 and RFC 4443 §2.4 (f) ask for a limit; this is what Linux has by default.
# Deviation: RFC 1812 §4.3.2.8 wants it configurable. Nobody has named a network that needs another.
ERRORS_PER_SECOND: Final = 1000.0
ERROR_BURST: Final = 50.0
PROFILE_LIFETIME_S: Final = 3600.0
# How long a backend goes on to repeat a SYN-ACK that was meant for an earlier process (tcp_synack_retries of tcp(7)).
DIALLED_BEFORE_S: Final = 60.0
# An idle flow is looked at this much before its time, in company, and once more when its time has come: most never get there.
IDLE_LEEWAY_S: Final = 16.0


class ListenerState:
    """One listener, the backends behind its port, what it offers, and to whom (None: everybody)."""

    __slots__ = ("access", "config", "offers", "pool")

    def __init__(self, config: Listener, pool: OfferPool, offers: OfferHistory, access: AccessLists | None = None) -> None:
        self.config = config
        self.pool = pool
        self.offers = offers
        self.access = access


class Context:
    """The engine's state. Its parts read and write it freely; nobody outside the package does."""

    def __init__(self, config: Config, secret: bytes, now: float, records: Records, fast_path: FastPath | None = None) -> None:
        self.config = config
        self.records = records
        self.fast_path: FastPath = NoFastPath() if fast_path is None else fast_path
        self.has_fast_path = not isinstance(self.fast_path, NoFastPath)  # else nothing is asked of it, for what that costs
        self._refresh_record = self.fast_path.refresh  # bound once for all flows
        self.note_moved: Callable[[Flow, float], None]  # who is told of a flow that a fast path has moved on, and when it had
        self._secret = secret
        self.prefix = config.prefix.network_address.packed[:12]
        self.cookies = CookieJar(secret)
        self.shares = ClientShares(config.limits)
        self.flows = FlowTable(config.limits.flows, lambda flow, change: self.shares.count_flow(flow.client, change))
        self.timers: TimerWheel[Flow] = TimerWheel()
        self.route_flows: Counter[str] = Counter()  # by pattern
        self.outgoing: list[Buffer] = []
        self.events: deque[Event] = deque()
        # One a side: who floods closed ports must not keep backends from hearing that a connection is no more.
        self.resets = TokenBucket(RESETS_PER_SECOND, RESET_BURST)
        self.backend_resets = TokenBucket(RESETS_PER_SECOND, RESET_BURST)
        self.strays = Strays()
        self.dialled_before_until = 0.0  # until when a SYN-ACK may be the answer to an earlier process
        self.identifications = Identifications(int(now * 1000), LOWER_HALF if self.has_fast_path else ALL)
        self.path_mtus = PathMtus()
        # One a family: a flood of fragments on one side costs the other nothing.
        self.reassembler_v4 = Reassembler()
        self.reassembler_v6 = Reassembler()
        # A flood of pings or datagrams leaves the errors alone that path MTU discovery lives on.
        self.errors = TokenBucket(ERRORS_PER_SECOND, ERROR_BURST)
        self.unreachables = TokenBucket(ERRORS_PER_SECOND, ERROR_BURST)
        self.echoes = TokenBucket(ERRORS_PER_SECOND, ERROR_BURST)
        self.cut_mtu = min(config.network.lowest_ipv6_mtu, config.network.ipv6_mtu)
        self.size_limits = SizeLimits(
            max_to_backend=config.network.ipv6_mtu - IPV6_GROWTH,
            max_to_client=config.network.ipv4_mtu,
            unfragmented_to_backend=self.cut_mtu - IPV6_GROWTH,
        )
        self._profiles: dict[Backend, tuple[BackendProfile, float]] = {}
        self._resolved: dict[Backend, Backend] = {}
        self._by_port: dict[tuple[Backend, int], Backend] = {}
        self._held: Counter[Backend] = Counter()
        self._pools: dict[int, OfferPool] = {}
        self._uses: Counter[Backend] = Counter()
        # What is known of DNS names, and who waits for more.
        self.addresses: dict[str, tuple[IPv6Address, ...]] = {}
        self.waits = Waits()
        self.health = Health(config.probes, self.events)
        self.balancer = Balancer(self.health, secret)
        # By address, all that is in use there, ports filled in.
        self.backend_addresses: dict[bytes, dict[Backend, None]] = {}
        self.listeners: dict[tuple[bytes, int], ListenerState] = {}
        self.service_addresses: frozenset[bytes] = frozenset()
        self.configure(config, now)

    def configure(self, config: Config, now: float) -> None:
        """Take everything from `config` from now on; flows keep what they have, and listeners that stay what they offered."""
        self.config = config
        self.flows.capacity = config.limits.flows
        self.shares.reconfigure(config.limits, self.flows)
        # One value for each, however many flows hold it.
        self._resolved, self._by_port, self._uses, self.backend_addresses = {}, {}, Counter(), {}
        self._configured = frozenset(config.routes.backends)
        self._pools = {listener.port: OfferPool(config.profile) for listener in config.listeners}
        self._take_redirects()
        self.health.configure(config.probes, now)
        for backend in dict.fromkeys((*config.routes.backends, *self._held)):
            self._enter(backend, now)
        self.health.set_backends(self._uses, now)
        self._profiles = {backend: learnt for backend, learnt in self._profiles.items() if backend in self._uses}
        former, self.listeners = self.listeners, {}
        for listener in config.listeners:
            key = listener.address.packed, listener.port
            self.listeners[key] = self._make_listener(listener, former.get(key), now)
        # Those of connections that outlive their listener stay ours, too.
        live = {flow.service for flow in self.flows} & self.service_addresses
        self.service_addresses = frozenset(address for address, _ in self.listeners) | live
        self.first_service = config.listeners[0].address.packed
        self.router_sources = tuple(address.packed for address in config.network.router_sources)
        self.promise()

    def resolve(self, backend: Backend, port: int) -> Backend:
        """`backend` with its port filled in: the listener's own where it names none."""
        if backend.port is not None:
            return self._resolved.setdefault(backend, backend)
        found = self._by_port.get((backend, port))
        if found is None:
            found = Backend(backend.address, port)
            found = self._resolved.setdefault(found, found)
            if backend in self._configured:  # those come by the dozen with each answer of the DNS, these stay
                self._by_port[backend, port] = found
        return found

    def expand(self, backend: Backend | NamedBackend, port: int) -> tuple[Backend, ...]:
        """What `backend` stands for on a listener's `port`: itself, or all addresses that its name is known to have."""
        if isinstance(backend, Backend):
            return (self.resolve(backend, port),)
        return tuple(self.resolve(Backend(address, backend.port), port) for address in self.addresses.get(backend.name, ()))

    def is_backend(self, address: bytes) -> bool:
        """Whether `address` (16 bytes) is a backend's, or may have been that of a name until it got another one."""
        if address in self.backend_addresses:
            return True
        has_names = self.config.routes.names or self.config.dns.serve_any
        return bool(has_names) and any(IPv6Address(address) in network for network in self.config.backend_networks)

    def resolve_address(self, address: bytes, port: int) -> Backend:
        """The backend at `address` (16 bytes) and `port`, whether it is one of today's or not."""
        return self.resolve(Backend(IPv6Address(address), port), port)

    def hold(self, backends: Iterable[Backend], now: float) -> None:
        """Have `backends` in use beside those of the configuration, until `release`; each may be held several times."""
        for backend in backends:
            self._held[backend] += 1
            if self._held[backend] == 1 and backend not in self._configured:
                self._enter(backend, now)
        self.refresh_offers(now)

    def release(self, backends: Iterable[Backend], now: float) -> None:
        """Take one `hold` of each back."""
        for backend in backends:
            self._held[backend] -= 1
            if not self._held[backend]:
                del self._held[backend]
                if backend not in self._configured:
                    self._leave(backend)
        self.refresh_offers(now)

    def _take_redirects(self) -> None:
        """Tell where no backend is ever dialled, because whoever asks there is sent to HTTPS: it need not listen there."""
        listeners, routes = self.config.listeners, self.config.routes
        others = {listener.port for listener in listeners if listener.protocol is not Protocol.HTTP}
        self._plain_ports = {listener.port for listener in listeners} - others
        self._redirect_ports = self._plain_ports - {listener.port for listener in listeners if not listener.redirect}
        self._redirected = {backend for route in routes if route.redirect for backend in route.backends}
        self._redirected -= {backend for route in routes if not route.redirect for backend in route.backends}

    def _pools_of(self, backend: Backend) -> Iterator[tuple[int, OfferPool]]:
        """The ports from which clients are led to `backend`, and what they promise."""
        spared = self._plain_ports if backend in self._redirected else self._redirect_ports
        return ((port, pool) for port, pool in self._pools.items() if port not in spared)

    def _enter(self, backend: Backend, now: float) -> None:
        for port, pool in self._pools_of(backend):
            resolved = self.resolve(backend, port)
            pool.add(resolved, self.profile(resolved), self._mtu_to(resolved, now))
            self._uses[resolved] += 1
            if self._uses[resolved] == 1:
                self.backend_addresses.setdefault(resolved.address.packed, {})[resolved] = None
                self.health.add(resolved, now)

    def _leave(self, backend: Backend) -> None:
        for port, pool in self._pools_of(backend):
            resolved = self.resolve(backend, port)
            pool.remove(resolved)
            self._uses[resolved] -= 1
            if not self._uses[resolved]:
                address = resolved.address.packed
                del self._uses[resolved], self._resolved[resolved], self.backend_addresses[address][resolved]
                if not self.backend_addresses[address]:
                    del self.backend_addresses[address]
                self._profiles.pop(resolved, None)
                self.health.remove(resolved)

    def _make_listener(self, config: Listener, former: ListenerState | None, now: float) -> ListenerState:
        pool, access = self._pools[config.port], combined(self.config.access, config.access)
        offer = pool.offer(self.config.network.ipv4_mtu, self.config.network.ipv6_mtu)
        if former is None:
            return ListenerState(config, pool, OfferHistory(offer, now), access)
        former.offers.replace(offer, now)
        return ListenerState(config, pool, former.offers, access)

    def profile(self, backend: Backend) -> BackendProfile:
        """What is known or assumed of `backend`."""
        learnt = self._profiles.get(backend)
        return self.config.profile_of(backend.address) if learnt is None else learnt[0]

    def learn(self, backend: Backend, profile: BackendProfile, now: float, *, is_whole: bool = False) -> bool:
        """Note what `backend` showed, and offer accordingly from now on; returns whether it was news.

        `is_whole`: it was asked for all that there is, so that what is known of it is fresh again.
        """
        if profile == self.profile(backend):
            if is_whole and backend in self._profiles:
                del self._profiles[backend]
                self._profiles[backend] = (profile, now)
            return False
        self._profiles.pop(backend, None)
        self._profiles[backend] = (profile, now)
        self._refresh((backend,), now)
        return True

    def refresh_offers(self, now: float) -> None:
        """Offer what is known now."""
        network, has_changed = self.config.network, False
        for listener in self.listeners.values():
            offer = listener.pool.offer(network.ipv4_mtu, network.ipv6_mtu)
            if offer != listener.offers.current:
                listener.offers.replace(offer, now)
                has_changed = True
        if has_changed:
            self.promise()

    def promise(self) -> None:
        """Have the fast path answer SYNs as we do now. Those to a listener with lists of addresses are ours alone."""
        if not self.has_fast_path:
            return
        cut_mss = self.cut_mtu - IPV6_OVERHEAD
        promises = {
            key: Promise(offer := listener.offers.current, min(offer.mss, cut_mss))
            for key, listener in self.listeners.items()
            if listener.access is None
        }
        self.fast_path.promise(Promises(self._secret, promises, self.service_addresses))

    def learn_path_mtu(self, address: bytes, mtu: int, now: float) -> None:
        """Note the MTU that an ICMP error reported towards `address`, of either family, and offer accordingly."""
        if self.path_mtus.learn(address, mtu, now) and address in self.backend_addresses:
            self._refresh(self.backend_addresses[address], now)

    def forget(self, now: float) -> None:
        """Let the offers grow again where what was reported or learnt has aged.

        What is not offered is not asked for, so a backend that once answered with less would never be heard to do more.
        """
        aged: list[Backend] = []
        for address in self.path_mtus.expire(now):
            aged += self.backend_addresses.get(address, ())
        while self._profiles:
            backend = next(iter(self._profiles))
            if now - self._profiles[backend][1] < PROFILE_LIFETIME_S:
                break
            del self._profiles[backend]
            aged.append(backend)
        if aged:
            self._refresh(aged, now)

    def _refresh(self, changed: Iterable[Backend], now: float) -> None:
        """Offer what is known now that something else is known of the `changed` backends."""
        for backend in changed:
            profile, mtu = self.profile(backend), self._mtu_to(backend, now)
            for pool in self._pools.values():
                pool.update(backend, profile, mtu)
        self.refresh_offers(now)

    def mss_to_backend(self, backend: Backend, now: float) -> int:
        """The largest segment that fits every packet to `backend`, as far as is known, in bytes before options."""
        return self._mtu_to(backend, now) - IPV6_OVERHEAD

    def _mtu_to(self, backend: Backend, now: float) -> int:
        mtu = self.path_mtus.get(backend.address.packed, now)
        own = self.config.network.ipv6_mtu
        return own if mtu is None else min(own, mtu)

    def mss_to_client(self, client: bytes, now: float) -> int:
        """Likewise to the client at `client`, from its backend: through both families."""
        network = self.config.network
        mtu = self.path_mtus.get(client, now)
        own = network.ipv4_mtu
        return min((own if mtu is None else min(own, mtu)) - IPV4_OVERHEAD, network.ipv6_mtu - IPV6_OVERHEAD)

    def schedule_idle(self, flow: Flow, deadline: float, now: float) -> None:
        """Have somebody look at `flow` at `deadline`, or before: it will mostly be put off by then."""
        self.timers.schedule(flow, deadline, IDLE_LEEWAY_S if deadline - now > 2 * IDLE_LEEWAY_S else 0.0)

    def send(self, packet: Buffer) -> None:
        """Have `packet`, vnet header first, written."""
        self.outgoing.append(packet)

    def note(self, event: Event) -> None:
        """Have `event` told."""
        self.events.append(event)

    def drop(self, reason: DropReason, detail: str | None = None) -> None:
        """Count a packet that went no further."""
        self.events.append(PacketDropped(reason, detail))

    @property
    def held_bytes(self) -> int:
        """What is held of all first messages together."""
        return self.shares.held_bytes

    def quicken(self, flow: Flow) -> None:
        """Have plain packets of `flow` need no look, as far as may be; those of most flows then do not even come here."""
        flow.take_fast_path()
        splice = flow.splice
        if splice is None or not self.has_fast_path:
            return
        if flow.fast is not splice or flow.state is State.BOTH_FIN:
            # One that has ended has an acknowledgment to come, and minutes to be kept: its place is worth more to another.
            self.fast_path.remove(splice)
            self.catch_up(flow)
        elif self.fast_path.install(splice):
            flow.fast = SharedSplice(splice, self._refresh_record)

    def slow(self, flow: Flow) -> None:
        """Have every packet of `flow` looked at."""
        flow.fast = None
        if flow.splice is not None and self.has_fast_path:
            self.fast_path.remove(flow.splice)

    def refresh(self, flow: Flow) -> None:
        """Have `flow` and its record tell all that has passed: before anything is decided by them."""
        if flow.splice is not None and self.has_fast_path:
            self._refresh_record(flow.splice)
            self.catch_up(flow)

    def catch_up(self, flow: Flow) -> None:
        """Have `flow` be in the state that its record is in: another one, where a fast path has carried a FIN."""
        splice = flow.splice
        if splice is not None and splice.state != CODES.get(flow.state, 0):
            flow.state = BY_CODE[splice.state]
            self.note_moved(flow, splice.state_since)

    def enter(self, flow: Flow) -> None:
        """Put `flow` into the table, and have SYNs of its addresses and ports come here."""
        self.flows.insert(flow)
        if self.has_fast_path:
            self.fast_path.note_flow(flow.client_key)

    def take_route(self, flow: Flow, route: Route) -> None:
        """Have `flow` go by `route`, and count for it until it is closed."""
        flow.route = route
        self.route_flows[route.pattern] += 1

    def _leave_route(self, flow: Flow) -> None:
        if flow.route is None:
            return
        pattern, flow.route = flow.route.pattern, None
        self.route_flows[pattern] -= 1
        if not self.route_flows[pattern]:
            del self.route_flows[pattern]

    def end_handshake(self, flow: Flow) -> None:
        """Let go of what was held of the client's first bytes."""
        if flow.handshake is not None:
            self.shares.count_held(flow.client, -flow.handshake.held.held_bytes)
            flow.handshake = None
        flow.dial = None

    def close(self, flow: Flow, reason: CloseReason, now: float) -> None:
        """Take `flow` out of the table and say what it was."""
        state = flow.state
        self.timers.cancel(flow)
        self.waits.discard(flow)
        self.flows.remove(flow)
        self.end_handshake(flow)
        # First of all: whoever has these addresses and ports next must not find what was told of this flow.
        self.slow(flow)
        if self.has_fast_path:
            self.fast_path.forget_flow(flow.client_key)
        flow.advance(Happening.ENDED)
        self._leave_route(flow)
        splice = flow.splice
        if splice is None:
            self.shares.count_unproven(flow.client, -1)
        self.note(
            FlowClosed(
                client=client_of(flow),
                service=service_of(flow),
                reason=reason,
                state=state,
                duration_s=round(now - flow.created, 3),
                hostname=flow.hostname,
                backend=None if flow.backend is None else backend_endpoint(flow.backend),
                bytes_to_backend=splice.bytes_to_backend if splice else 0,
                bytes_to_client=splice.bytes_to_client if splice else 0,
                packets_to_backend=splice.packets_to_backend if splice else 0,
                packets_to_client=splice.packets_to_client if splice else 0,
            )
        )
        if splice is not None:
            # Whoever is spliced next may write there.
            flow.splice = None
            self.records.release(splice.page, splice.at)


def client_of(flow: Flow) -> Endpoint4:
    """The client's end of `flow`, for an event."""
    return Endpoint4(flow.client, flow.client_port)


def service_of(flow: Flow) -> Endpoint4:
    """The address that the client dialled, for an event."""
    return Endpoint4(flow.service, flow.service_port)


def backend_endpoint(backend: Backend) -> Endpoint6:
    """A backend with its port, for an event."""
    return Endpoint6(backend.address.packed, backend.port or 0)
