"""What the engine knows of its backends, for whoever operates it."""

from collections import Counter
from typing import Final

from kracauer.engine.context import Context
from kracauer.engine.health import BackendStatus
from kracauer.routes import Backend

_ADDRESS: Final = slice(16)  # of a flow's backend key
_PORT: Final = slice(32, 34)


def backend_statuses(context: Context) -> tuple[BackendStatus, ...]:
    """Every backend in use, in the order in which they came into it."""
    flows = Counter(key[_ADDRESS] + key[_PORT] for key in context.flows.by_backend)
    names, draining = _count_names(context)
    statuses = []
    for health in context.health:
        backend = health.backend
        port = backend.port or 0
        statuses.append(
            BackendStatus(
                address=backend.address,
                port=port,
                names=names[backend],
                state=health.state,
                since=health.since,
                answered_at=health.answered_at,
                round_trip_s=health.round_trip_s,
                last_failure=health.last_failure,
                is_draining=0 < names[backend] == draining[backend],
                flows=flows[backend.address.packed + port.to_bytes(2, "big")],
                profile=context.profile(backend),
            )
        )
    return tuple(statuses)


def _count_names(context: Context) -> tuple[Counter[Backend], Counter[Backend]]:
    """By backend, how many names lead to it, and how many of them are to lead elsewhere."""
    names: Counter[Backend] = Counter()
    draining: Counter[Backend] = Counter()
    routes = context.config.routes
    ports = list(dict.fromkeys(port for _, port in context.listeners))
    for port in ports:
        for route in routes:
            # One that has a port of its own is the same one for all listeners.
            backends = [backend for backend in route.backends if backend.port is None or port == ports[0]]
            led_to = {found: backend for backend in backends for found in context.expand(backend, port)}
            names.update(led_to.keys())
            draining.update(found for found, backend in led_to.items() if backend in route.draining)
        configured = set(routes.names)
        for name, addresses in context.addresses.items():
            if name not in configured:
                names.update(context.resolve(Backend(address), port) for address in addresses)
    return names, draining
