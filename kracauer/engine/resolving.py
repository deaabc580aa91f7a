"""From names of backends to addresses: what has been looked up, who waits for it, and what may be dialled at all."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import IPv6Address
from itertools import islice
from typing import Final

from kracauer.engine.context import Context
from kracauer.engine.dialing import Dialing
from kracauer.engine.refusing import Refusing
from kracauer.engine.waits import Wait
from kracauer.events import NameRefused, NameResolved, NameWanted, RefusalReason
from kracauer.flows import Flow
from kracauer.peek import Dialect, Peeked
from kracauer.routes import Backend, NamedBackend, Route
from kracauer.tcp.state import Happening

# The pattern of names that no key of `hosts` matches: the key that has them served.
SERVE_ANY: Final = "dns.serve_any"
# Of one name: more than anybody has, few enough to be tried in turn; and what is looked at of an answer of thousands.
MAX_ADDRESSES: Final = 16
MAX_HEARD: Final = 1024
# Of a name that nobody has configured: all of them are probed, and whose they are is for strangers to say.
MAX_ON_DEMAND: Final = 4
# Connections of one client that may wait, at once, for names that nobody has configured: each may cost a look-up.
MAX_ASKING: Final = 32
_ALERT_INTERNAL_ERROR: Final = 80  # RFC 8446 §6.2


@dataclass(slots=True)
class _Name:
    """What is known of a name: the addresses it was said to have, those of them that count, and what is in use for it."""

    heard: tuple[IPv6Address, ...]
    addresses: tuple[IPv6Address, ...] = ()
    refused: tuple[IPv6Address, ...] = ()
    held: tuple[Backend, ...] = ()


class Resolving:
    """Handles flows in the state RESOLVING, and keeps what names stand for.

    Whatever is said of a name: no address outside of `backend_networks`, or inside the prefix, ever counts.
    """

    def __init__(self, context: Context, dialing: Dialing, refusing: Refusing) -> None:
        self._context = context
        self._dialing = dialing
        self._refusing = refusing
        self._known: dict[str, _Name] = {}
        self._ports: dict[str, tuple[int | None, ...]] = {}
        self._take_ports()

    def route(self, hostname: str | None) -> Route | None:
        """The route of `hostname`: that of the configuration, or one to the name itself where any is served."""
        config = self._context.config
        route = config.routes.lookup(hostname)
        if route is None and config.dns.serve_any and hostname is not None and "." in hostname:
            return Route(SERVE_ANY, (NamedBackend(hostname),))
        return route

    def begin(self, flow: Flow, peeked: Peeked, now: float) -> None:
        """Dial for `flow`, whose route is known, as soon as its backends are."""
        context, route = self._context, flow.route
        assert route is not None
        if not (self._ports or context.config.dns.serve_any):  # no backend has a name
            flow.advance(Happening.ROUTED)
            self._dialing.dial(flow, now)
            return
        names = (backend.name for backend in route.backends if isinstance(backend, NamedBackend))
        unknown = dict.fromkeys(name for name in names if name not in context.addresses)
        if not unknown:
            self._go_on(flow, peeked, now)
            return
        client = self._client(flow) if route.pattern == SERVE_ANY else None
        if client is not None and context.waits.asking[client] >= MAX_ASKING:
            self._refuse(flow, peeked, RefusalReason.UNRESOLVED, now, detail="the client waits for too many names")
            return
        # A name that nobody has an answer to is like a backend that does not answer: where there is another, its time is short.
        timeouts = context.config.timeouts
        wait = Wait(peeked, unknown, now + (timeouts.dial_attempt_s if self._has_backend(flow) else timeouts.dial_s), client)
        wanted = [name for name in unknown if name not in context.waits]
        flow.advance(Happening.AWAITED)
        context.waits.add(flow, wait)
        context.timers.schedule(flow, wait.until)
        for name in wanted:
            context.note(NameWanted(name))

    def handle_timer(self, flow: Flow, now: float) -> None:
        """Go on with what is known by now."""
        wait = self._context.waits.discard(flow)
        if wait is not None:
            self._go_on(flow, wait.peeked, now)

    def note_addresses(self, name: str, addresses: Iterable[IPv6Address] | None, now: float) -> None:
        """Go by `addresses` of `name` from now on; none: it has none; None: nothing is known of it (any more)."""
        if addresses is None:
            self._forget(name, now)
        elif self._is_wanted(name):
            self._take(name, tuple(islice(addresses, MAX_HEARD)), now)
        waits = self._context.waits
        waiting = waits.of(name)
        waits.satisfy(name)
        for flow, wait in waiting:
            if not wait.names:
                waits.discard(flow)
                self._go_on(flow, wait.peeked, now)
            elif self._has_backend(flow):
                wait.until = min(wait.until, now + self._context.config.timeouts.dial_attempt_s)
                self._context.timers.schedule(flow, wait.until)

    def reconfigure(self, now: float) -> None:
        """Hold what is known to the configuration that is in force now."""
        self._take_ports()
        for name, known in list(self._known.items()):
            if self._is_wanted(name):
                self._take(name, known.heard, now)
            else:
                self._forget(name, now)

    def _take_ports(self) -> None:
        ports: dict[str, dict[int | None, None]] = {}
        for backend in self._context.config.routes.named_backends:
            ports.setdefault(backend.name, {})[backend.port] = None
        self._ports = {name: tuple(own) for name, own in ports.items()}

    def _is_wanted(self, name: str) -> bool:
        return name in self._ports or self._context.config.dns.serve_any or name in self._context.waits

    def _take(self, name: str, heard: tuple[IPv6Address, ...], now: float) -> None:
        context = self._context
        # By value: an order that stays whatever order the answers come in, so that the first one is always the first.
        permitted = sorted({address for address in heard if self._is_permitted(address)})
        refused = tuple(sorted({address for address in heard if not self._is_permitted(address)}))
        former = self._known.get(name)
        limit = MAX_ADDRESSES if name in self._ports else MAX_ON_DEMAND
        known = self._known[name] = _Name(heard, tuple(permitted[:limit]), refused)
        known.held = tuple(Backend(address, port) for port in self._ports.get(name, (None,)) for address in known.addresses)
        context.addresses[name] = known.addresses
        before = () if former is None else former.held
        if known.held != before:
            # In this order: what is known of those that stay is kept.
            context.hold(known.held, now)
            context.release(before, now)
        if former is None or known.addresses != former.addresses:
            context.note(NameResolved(name, _shown(known.addresses)))
        if refused and (former is None or refused != former.refused):
            context.note(NameRefused(name, _shown(refused)))

    def _forget(self, name: str, now: float) -> None:
        known = self._known.pop(name, None)
        if known is not None:
            del self._context.addresses[name]
            self._context.release(known.held, now)

    def _is_permitted(self, address: IPv6Address) -> bool:
        config = self._context.config
        return address not in config.prefix and any(address in network for network in config.backend_networks)

    def _client(self, flow: Flow) -> int:
        return int.from_bytes(flow.client, "big") >> 32 - self._context.config.limits.client_prefix_length

    def _has_backend(self, flow: Flow) -> bool:
        assert flow.route is not None
        addresses = self._context.addresses
        return any(isinstance(backend, Backend) or addresses.get(backend.name) for backend in flow.route.backends)

    def _go_on(self, flow: Flow, peeked: Peeked, now: float) -> None:
        assert flow.route is not None
        if self._has_backend(flow):
            flow.advance(Happening.ROUTED)
            self._dialing.dial(flow, now)
            return
        names = [backend.name for backend in flow.route.backends if isinstance(backend, NamedBackend)]
        are_known = all(name in self._known for name in names)
        reason = RefusalReason.NO_ADDRESS if are_known else RefusalReason.UNRESOLVED
        self._refuse(flow, peeked, reason, now, detail=", ".join(names))

    def _refuse(self, flow: Flow, peeked: Peeked, reason: RefusalReason, now: float, detail: str) -> None:
        assert flow.route is not None
        code: int | None = _ALERT_INTERNAL_ERROR if peeked.dialect is Dialect.TLS else HTTPStatus.SERVICE_UNAVAILABLE
        if reason is RefusalReason.NO_ADDRESS and flow.route.pattern == SERVE_ANY:
            code = None  # a name that is not served here
        self._refusing.refuse(flow, reason, peeked.dialect, code, now, is_head=peeked.is_head_request, detail=detail)


def _shown(addresses: Sequence[IPv6Address]) -> tuple[str, ...]:
    """For an event, no more than an operator wants to read."""
    shown = tuple(map(str, addresses[:MAX_ADDRESSES]))
    return shown if len(addresses) <= MAX_ADDRESSES else (*shown, f"and {len(addresses) - MAX_ADDRESSES} more")
