"""Privileges, the TUN driver, and the name of the device."""

from collections.abc import Iterator
from typing import Final

from kracauer.doctor.checks.remedies import from_text
from kracauer.doctor.facts import Facts, ServiceState
from kracauer.doctor.finding import Finding, Topic, advise, run_here
from kracauer.host.steps import ALIAS

PRIVILEGES: Final = Topic("privileges", "Kracauer makes a device and routes, which the kernel lets no ordinary user do.")
TUN: Final = Topic("tun", "Every packet of the service crosses a TUN device.")
OFFLOADS: Final = Topic("offloads", "With offloads packets of up to 64 KiB cross the device whole, without them one by one.")
DEVICE_NAME: Final = Topic("device-name", "The device can have only a name that no other interface has.")

NET_ADMIN: Final = "cap_net_admin"
NET_RAW: Final = "cap_net_raw"


def examine_privileges(facts: Facts) -> Iterator[Finding]:
    """Whether this user may do what the service has to."""
    if NET_ADMIN in facts.capabilities:
        yield PRIVILEGES.ok(f"user {facts.user} has CAP_NET_ADMIN")
    elif facts.is_running:
        yield PRIVILEGES.skipped(f"user {facts.user} has no CAP_NET_ADMIN; the service that runs here has what it needs")
    elif facts.service.state is ServiceState.HIDDEN:
        yield PRIVILEGES.skipped(f"user {facts.user} has no CAP_NET_ADMIN, and may not ask if a service runs that has it")
    else:
        found = f"user {facts.user} has no CAP_NET_ADMIN, and could not start the service; some checks were skipped"
        yield PRIVILEGES.failure(
            found, run_here(f"sudo kracauer doctor{facts.source.option}"), advise("run this, and the service, as root")
        )


def examine_tun(facts: Facts) -> Iterator[Finding]:
    """Whether a device could be opened just now."""
    if facts.tun.error:
        yield TUN.failure(facts.tun.error, *from_text(facts.tun.remedy))
    elif not facts.tun.is_tried:
        yield TUN.skipped("opening a device takes CAP_NET_ADMIN")
    else:
        yield TUN.ok("/dev/net/tun works: a device was opened, and removed again")


def examine_offloads(facts: Facts) -> Iterator[Finding]:
    """Whether the kernel hands over super-packets."""
    config = facts.config
    if facts.tun.error or not facts.tun.is_tried:
        yield OFFLOADS.skipped("no device could be opened to see")
    elif facts.tun.fallback:
        found = f"the kernel has no offloads for TUN devices ({facts.tun.fallback})"
        yield OFFLOADS.warning(found, advise("use a newer kernel; the service works without, and is slower"))
    elif config is not None and not config.network.offloads:
        remedy = advise("remove `offloads = false` from [network] of the configuration")
        yield OFFLOADS.warning("the configuration does without the offloads that the kernel has", remedy)
    else:
        yield OFFLOADS.ok("IFF_VNET_HDR and TSO are to be had")


def examine_device_name(facts: Facts) -> Iterator[Finding]:
    """Whether the name is free or ours; with network.manage = false, whether the operator's device is there."""
    if facts.config is None:
        yield DEVICE_NAME.skipped("there is no valid configuration")
        return
    network, interface = facts.config.network, facts.interface
    name = network.device
    if interface is None and not network.manage:
        queues = " multi_queue" if network.workers > 1 else ""
        remedy = run_here(f"ip tuntap add dev {name} mode tun{queues} && ip link set {name} up")
        yield DEVICE_NAME.failure(f"network.manage = false, and there is no device {name}", remedy)
    elif interface is None:
        yield DEVICE_NAME.ok(f"{name} is free")
    elif interface.driver != "tun":
        remedy = advise('set network.device of the configuration to another name, such as "kracauer1"')
        yield DEVICE_NAME.failure(f"{name} is an interface that is no TUN device (driver {interface.driver})", remedy)
    elif network.manage and interface.alias != ALIAS:
        remedies = (run_here(f"ip link del {name}"), advise("or set network.device of the configuration to another name"))
        yield DEVICE_NAME.failure(f"{name} is a TUN device that is not Kracauer's", *remedies)
    elif not interface.is_up and (facts.is_running or not network.manage):
        yield DEVICE_NAME.failure(f"the device {name} is down", run_here(f"ip link set {name} up"))
    else:
        yield DEVICE_NAME.ok(f"{name} is Kracauer's" if network.manage else f"{name} is there")
