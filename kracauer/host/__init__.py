"""The network around the service: what it takes is planned as values, applied through netlink, and undone again."""

from kracauer.host.advice import Advice, advise
from kracauer.host.facts import Facts, gather
from kracauer.host.forgetting import forget
from kracauer.host.plan import destinations, expected, extension, plan
from kracauer.host.routes import RouteFact
from kracauer.host.setup import HostSetup
from kracauer.host.steps import ROUTE_PROTOCOL, AddRoute, DropRoute, SetLink, SetSysctl, Step
from kracauer.host.watch import HostWatch

__all__ = [
    "ROUTE_PROTOCOL",
    "AddRoute",
    "Advice",
    "DropRoute",
    "Facts",
    "HostSetup",
    "HostWatch",
    "RouteFact",
    "SetLink",
    "SetSysctl",
    "Step",
    "advise",
    "destinations",
    "expected",
    "extension",
    "forget",
    "gather",
    "plan",
]
