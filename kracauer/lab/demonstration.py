"""The scenario that `kracauer demo` shows: which servers there are, which names are asked for, and what must come of it."""

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from kracauer.lab import configuration
from kracauer.lab.topology import ORIGIN_1, ORIGIN_2, SERVICE, Lab
from kracauer.lab.visits import Visit, visit

# What each origin's certificate is good for
NAMES: Final = {
    "origin1": ("www.example.com",),
    "origin2": ("shop.example.net", "*.example.org"),
}
ADDRESSES: Final = {"origin1": ORIGIN_1, "origin2": ORIGIN_2}

CONFIG: Final = configuration.render(
    {"www.example.com": ORIGIN_1, "shop.example.net": ORIGIN_2, "*.example.org": ORIGIN_2},
)


@dataclass(frozen=True, slots=True)
class Expectation:
    """One request, and either the origin that must answer it or the refusal that must come instead."""

    scheme: str
    name: str
    origin: str | None
    refusal: str | int | None = None

    def is_met_by(self, result: Visit) -> bool:
        """Tell whether everything about the request's outcome is as it must be."""
        if self.origin is None:
            return self.refusal in (result.failure, result.status)
        return (
            result.status == 200
            and result.seen.get("server") == self.origin
            and result.is_caller_seen
            and (self.scheme == "http" or result.certificate_owner == self.origin)
        )


EXPECTATIONS: Final = (
    Expectation("https", "www.example.com", "origin1"),
    Expectation("https", "shop.example.net", "origin2"),
    Expectation("https", "blog.example.org", "origin2"),
    Expectation("http", "www.example.com", "origin1"),
    Expectation("http", "shop.example.net", "origin2"),
    Expectation("http", "wiki.example.org", "origin2"),
    Expectation("https", "unknown.example.com", None, "TLS alert: unrecognized_name"),
    Expectation("http", "unknown.example.com", None, 421),
)


def start(lab: Lab) -> None:
    """Start the origins and the daemon, and have the client's programs resolve the names to the service."""
    for origin, names in NAMES.items():
        lab.start_origin(origin, names)
    lab.name_services({expectation.name: SERVICE for expectation in EXPECTATIONS})
    lab.start_daemon(CONFIG)


def show(lab: Lab) -> Iterator[tuple[Expectation, Visit]]:
    """Make the requests, one after the other, and yield each with its outcome."""
    context: ssl.SSLContext = lab.authority.client_context()
    for expectation in EXPECTATIONS:
        yield expectation, visit(lab.client, expectation.scheme, expectation.name, SERVICE, context=context)
