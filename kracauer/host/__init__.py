"""The network around the service: what it takes is planned as values, applied through netlink, and undone again."""

from kracauer.host.advice import Advice, advise
from kracauer.host.facts import Facts, RouteFact, gather
from kracauer.host.plan import destinations, expected, plan
from kracauer.host.setup import HostSetup
from kracauer.host.steps import ROUTE_PROTOCOL, AddRoute, DropRoute, SetLink, SetSysctl, Step
from kracauer.host.watch import LinkWatch

__all__ = [
    "ROUTE_PROTOCOL",
    "AddRoute",
    "Advice",
    "DropRoute",
    "Facts",
    "HostSetup",
    "LinkWatch",
    "RouteFact",
    "SetLink",
    "SetSysctl",
    "Step",
    "advise",
    "destinations",
    "expected",
    "gather",
    "plan",
]
