"""Every check, in the order in which things depend on each other: functions of the facts, and of nothing else."""

from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

from kracauer.doctor.checks import (
    addresses,
    backends,
    configuration,
    device,
    fast_path,
    firewall,
    forwarding,
    service,
    sizes,
    storage,
)
from kracauer.doctor.facts import Facts
from kracauer.doctor.finding import Finding, Topic

Check: TypeAlias = Callable[[Facts], Iterator[Finding]]

CHECKS: Final[tuple[tuple[Topic, Check], ...]] = (
    (configuration.CONFIGURED, configuration.examine_configuration),
    (device.PRIVILEGES, device.examine_privileges),
    (device.TUN, device.examine_tun),
    (device.OFFLOADS, device.examine_offloads),
    (fast_path.FAST_PATH, fast_path.examine_fast_path),
    (device.DEVICE_NAME, device.examine_device_name),
    (service.SERVICE, service.examine_service),
    (service.RELOAD, service.examine_reload),
    (storage.DIRECTORY, storage.examine_directory),
    (storage.ROOM, storage.examine_room),
    (forwarding.IPV6, forwarding.examine_ipv6),
    (forwarding.FORWARDING_IPV4, forwarding.examine_forwarding_ipv4),
    (forwarding.FORWARDING_IPV6, forwarding.examine_forwarding_ipv6),
    (forwarding.RP_FILTER, forwarding.examine_rp_filter),
    (addresses.SERVICE_ADDRESS, addresses.examine_service_addresses),
    (addresses.SHARING, addresses.examine_sharing),
    (addresses.PREFIX, addresses.examine_prefix),
    (addresses.ROUTES, addresses.examine_routes),
    (addresses.CLIENT_ROUTE, addresses.examine_client_route),
    (firewall.FIREWALL, firewall.examine_firewall),
    (firewall.NAT, firewall.examine_nat),
    (sizes.MTU_CLIENTS, sizes.examine_client_links),
    (sizes.MTU_BACKENDS, sizes.examine_backend_links),
    (backends.NAME, backends.examine_names),
    (backends.ROUTE, backends.examine_routes),
    (backends.ANSWER, backends.examine_answers),
    (backends.RETURN, backends.examine_returns),
)
TOPICS: Final = tuple(topic for topic, _ in CHECKS)


def diagnose(facts: Facts) -> tuple[Finding, ...]:
    """What all checks say, in order."""
    return tuple(finding for _, check in CHECKS for finding in check(facts))
