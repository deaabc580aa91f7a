"""The network around the service: what it takes is planned as values, applied through netlink, and undone again."""

from kracauer.host.advice import Advice, advise, advise_sharing
from kracauer.host.facts import Facts, gather
from kracauer.host.forgetting import forget
from kracauer.host.icmp_socket import IcmpSocket
from kracauer.host.plan import SHARED, Way, destinations, expected, extension, pending, plan, table, way, ways
from kracauer.host.routes import RouteFact
from kracauer.host.rules import Rule
from kracauer.host.setup import HostSetup
from kracauer.host.steps import (
    ROUTE_PROTOCOL,
    AddRoute,
    AddRule,
    DropRoute,
    DropRule,
    MoveLocalRule,
    SetLink,
    SetSysctl,
    Step,
)
from kracauer.host.watch import HostWatch

__all__ = [
    "ROUTE_PROTOCOL",
    "SHARED",
    "AddRoute",
    "AddRule",
    "Advice",
    "DropRoute",
    "DropRule",
    "Facts",
    "HostSetup",
    "HostWatch",
    "IcmpSocket",
    "MoveLocalRule",
    "RouteFact",
    "Rule",
    "SetLink",
    "SetSysctl",
    "Step",
    "Way",
    "advise",
    "advise_sharing",
    "destinations",
    "expected",
    "extension",
    "forget",
    "gather",
    "pending",
    "plan",
    "table",
    "way",
    "ways",
]
