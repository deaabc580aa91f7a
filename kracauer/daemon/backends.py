"""What is known of the backends, as the control socket tells it."""

from collections.abc import Iterable
from dataclasses import asdict

from kracauer.engine import BackendStatus


def describe_backends(statuses: Iterable[BackendStatus], now: float) -> list[dict[str, object]]:
    """Each backend as plain values; moments become the seconds that have passed since, None for never."""
    return [
        {
            "address": str(status.address),
            "port": status.port,
            "names": status.names,
            "state": str(status.state),
            "state_for_s": round(now - status.since, 3),
            "answered_before_s": None if status.answered_at is None else round(now - status.answered_at, 3),
            "round_trip_s": None if status.round_trip_s is None else round(status.round_trip_s, 6),
            "last_failure": None if status.last_failure is None else str(status.last_failure),
            "draining": status.is_draining,
            "flows": status.flows,
            "profile": asdict(status.profile),
        }
        for status in statuses
    ]
