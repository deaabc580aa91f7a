"""Which backends are there: what probes and connections have shown of each, and what follows from it for the next client."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv6Address
from typing import Final

from kracauer.config import Probes
from kracauer.events import BackendDown, BackendUp, Endpoint6, Event, FailureReason
from kracauer.profile import BackendProfile
from kracauer.routes import Backend

# How long a failure that a client has met with weighs, where no probe looks into it.
PASSIVE_S: Final = 10.0
# How long the word that a backend is unreachable counts for more than silence: routers say it as seldom as they like.
UNREACHABLE_S: Final = 10.0
# Of whom a failure is told that more than one client has met with: of all of them.
_EVERYBODY: Final = b""


class HealthState(StrEnum):
    """What is thought of a backend. The values are words of the status."""

    UNKNOWN = "unknown"
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """One backend as its operator wants to know it; moments are of the engine's clock, None for never.

    `names` is how many patterns lead to it. `last_failure` is why it last failed to answer, which may be long ago.
    """

    address: IPv6Address
    port: int
    names: int
    state: HealthState
    since: float
    answered_at: float | None
    round_trip_s: float | None
    last_failure: FailureReason | None
    is_draining: bool
    flows: int
    profile: BackendProfile


class BackendHealth:
    """What is known of one backend, and the probe that is under way to it, if one is; `tick` is its place in the wheel."""

    __slots__ = (
        "accused_until",
        "accuser",
        "answered_at",
        "asks_ecn",
        "backend",
        "failures",
        "is_asked",
        "is_in_use",
        "last_failure",
        "phase",
        "port",
        "round_trip_s",
        "sent_at",
        "seq",
        "since",
        "state",
        "successes",
        "tick",
        "unanswered",
        "unreachable_until",
    )

    def __init__(self, backend: Backend, now: float) -> None:
        self.backend = backend
        self.state = HealthState.UNKNOWN
        self.since = now
        self.successes = 0
        self.failures = 0
        self.last_failure: FailureReason | None = None
        self.answered_at: float | None = None
        self.round_trip_s: float | None = None
        self.accuser = _EVERYBODY
        self.accused_until = 0.0
        self.is_in_use = True
        self.tick: int | None = None
        self.phase: float | None = None
        self.is_asked = False
        self.asks_ecn = False
        self.seq = 0
        self.port = 0
        self.sent_at = -PASSIVE_S
        self.unanswered: tuple[tuple[int, int], ...] = ()  # port and number of the last probes that came to nothing
        self.unreachable_until = 0.0


class Health:
    """The backends in use, by address and port. Changes of state become `events`.

    With probes they alone decide what holds for everybody; what a client has met with gets its backend probed at once, and
    holds for that client until the answer. A backend's own firewall may keep out one client, who must not be able to
    take the backend away from the others. Without probes, failures that two clients have met with, one after the other,
    hold for all.

    `suspects` are those to be probed as soon as possible.
    """

    def __init__(self, probes: Probes, events: deque[Event]) -> None:
        self._probes = probes
        self._events = events
        self._known: dict[Backend, BackendHealth] = {}
        self.suspects: dict[BackendHealth, None] = {}

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[BackendHealth]:
        return iter(self._known.values())

    def get(self, backend: Backend) -> BackendHealth | None:
        """What is known of `backend`; None where it is not in use."""
        return self._known.get(backend)

    def configure(self, probes: Probes, now: float) -> None:
        """Go by `probes` from now on. Who stops probing forgets what probes have shown."""
        if self._probes.enabled and not probes.enabled:
            for health in self._known.values():
                self._settle(health, HealthState.UNKNOWN, now)
            self.suspects.clear()
        elif probes.enabled and not self._probes.enabled:
            self.suspects.update(dict.fromkeys(self._known.values()))
        self._probes = probes

    def set_backends(self, backends: Iterable[Backend], now: float) -> None:
        """Have just these in use; those that stay keep what is known of them."""
        wanted = dict.fromkeys(backends)
        for backend in [backend for backend in self._known if backend not in wanted]:
            self.remove(backend)
        for backend in wanted:
            self.add(backend, now)

    def add(self, backend: Backend, now: float) -> None:
        """Have `backend` in use, of which nothing is known yet; no harm where it is already."""
        if backend not in self._known:
            health = self._known[backend] = BackendHealth(backend, now)
            if self._probes.enabled:
                self.suspects[health] = None

    def remove(self, backend: Backend) -> None:
        """Forget `backend`."""
        health = self._known.pop(backend, None)
        if health is not None:
            health.is_in_use = False
            self.suspects.pop(health, None)

    def is_usable(self, backend: Backend, client: bytes, now: float) -> bool:
        """Whether `client` (4 bytes) has better chances with `backend` than with one that is known to be down."""
        health = self._known.get(backend)
        if health is None:
            return True
        if health.state is HealthState.DOWN:
            return not self._probes.enabled and now >= health.accused_until
        return now >= health.accused_until or health.accuser not in (client, _EVERYBODY)

    def note_answer(self, backend: Backend, now: float) -> None:
        """`backend` has accepted a client's connection."""
        health = self._known.get(backend)
        if health is not None:
            self.note_success(health, now)

    def note_failure(self, backend: Backend, reason: FailureReason, client: bytes, now: float) -> None:
        """`client` has not got through to `backend`."""
        health = self._known.get(backend)
        if health is None:
            return
        health.last_failure = reason
        health.successes = 0
        is_second = now < health.accused_until and health.accuser != client
        health.accused_until = now + PASSIVE_S
        if self._probes.enabled:
            health.accuser = client
            self.suspects[health] = None
        elif is_second or health.state is HealthState.DOWN:
            health.accuser = _EVERYBODY
            self._settle(health, HealthState.DOWN, now)
        else:
            health.accuser = client

    def note_success(self, health: BackendHealth, now: float, round_trip_s: float | None = None) -> None:
        """It has answered, to a probe or to a client."""
        health.answered_at = now
        if round_trip_s is not None:
            health.round_trip_s = round_trip_s
        health.failures = 0
        health.unanswered, health.unreachable_until = (), 0.0
        health.accused_until = 0.0
        health.successes += 1
        # To one of which nothing is known clients are led anyway, so there is nothing to wait for.
        if health.state is HealthState.UNKNOWN or not self._probes.enabled or health.successes >= self._probes.rise:
            self._settle(health, HealthState.UP, now)
        elif health.state is HealthState.DOWN:
            self.suspects[health] = None

    def note_silence(self, health: BackendHealth, reason: FailureReason, now: float) -> None:
        """A probe has come to nothing."""
        if reason is FailureReason.UNREACHABLE:
            self.note_unreachable(health, now)
        elif reason is not FailureReason.SILENT or now >= health.unreachable_until:
            health.last_failure = reason
        health.successes = 0
        health.failures += 1
        if health.failures >= self._probes.fall:
            self._settle(health, HealthState.DOWN, now)
        elif health.state is not HealthState.DOWN:
            self.suspects[health] = None

    def note_unreachable(self, health: BackendHealth, now: float) -> None:
        """Somebody on the way says so, maybe late: a host takes three seconds to find out that a neighbour is gone."""
        health.last_failure = FailureReason.UNREACHABLE
        health.unreachable_until = now + UNREACHABLE_S + self._probes.interval_s

    def _settle(self, health: BackendHealth, state: HealthState, now: float) -> None:
        before, since = health.state, health.since
        if state is before:
            return
        health.state, health.since = state, now
        endpoint = Endpoint6(health.backend.address.packed, health.backend.port or 0)
        if state is HealthState.DOWN and health.last_failure is not None:
            self._events.append(BackendDown(endpoint, health.last_failure))
        elif state is HealthState.UP and before is HealthState.DOWN:
            self._events.append(BackendUp(endpoint, round(now - since, 3)))
