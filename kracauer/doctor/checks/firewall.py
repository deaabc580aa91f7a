"""What filters and rewrites packets on this machine: whether the service's own get through, and as they are."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final

from kracauer.config import Config
from kracauer.doctor.checks.forwarding import client_devices
from kracauer.doctor.facts import Facts
from kracauer.doctor.finding import Finding, Remedy, Topic, advise, run_here
from kracauer.doctor.nft import Chain, Fate, Packet, Ruleset

FIREWALL: Final = Topic("firewall", "Every packet of the service is forwarded twice, into the device and out of it again.")
NAT: Final = Topic("nat", "A rewritten address hides the visitor from the backend, or leads the packet elsewhere.")

_HOOKS: Final = ("prerouting", "forward", "postrouting")
_FILTERS: Final = ("filter",)
_TOO_MANY: Final = 64  # backends and listeners are alike before a firewall: so many are looked at


@dataclass(frozen=True, slots=True)
class Leg:
    """One packet of a connection on its way through this machine, and in words what would be lost with it."""

    packet: Packet
    words: str


def legs(facts: Facts) -> Iterator[Leg]:
    """The packets that have to get through: both ways between client and device, both ways between device and backend."""
    config, network = facts.config, facts.network
    if config is None or network is None:
        return
    own = config.network.device
    for name in client_devices(network, own):
        for listener in config.listeners[:_TOO_MANY]:
            service, port = listener.address, listener.port
            yield Leg(Packet(name, own, None, service, dport=port), f"what clients send to {listener}")
            yield Leg(Packet(own, name, service, None, sport=port, is_new=False), f"what {listener} answers clients")
    mapped = IPv6Address(int(config.prefix.network_address) + 0xC0000207)
    for backend in facts.backends[:_TOO_MANY]:
        name = backend.way.device
        if backend.way.kind == "unicast" and name and name != own:
            out = Packet(own, name, mapped, backend.address, dport=backend.port)
            yield Leg(out, f"what is sent to the backend {backend}")
            back = Packet(name, own, backend.address, mapped, sport=backend.port, is_new=False)
            yield Leg(back, f"what the backend {backend} answers")


def dropping_chains(ruleset: Ruleset, packets: Iterable[Leg]) -> dict[Chain, tuple[list[Leg], bool]]:
    """The chains that drop some of them, with those; and whether that is certain."""
    found: dict[Chain, tuple[list[Leg], bool]] = {}
    for leg in packets:
        for hook in _HOOKS:
            for chain in ruleset.base_chains(hook, _FILTERS):
                fates = ruleset.fates(chain, leg.packet) if chain.sees(leg.packet) else frozenset()
                if Fate.DROP in fates:
                    lost, is_certain = found.get(chain, ([], False))
                    found[chain] = ([*lost, leg], is_certain or fates == {Fate.DROP})
    return found


def drops_backends(facts: Facts) -> bool:
    """Whether packets between the device and backends are certain to be dropped here."""
    ruleset = facts.firewall.ruleset
    if ruleset is None:
        return False
    chains = dropping_chains(ruleset, (leg for leg in legs(facts) if leg.packet.version == 6))
    return any(is_certain for _, is_certain in chains.values())


def examine_firewall(facts: Facts) -> Iterator[Finding]:
    """A finding for each chain that drops something of the service's."""
    firewall, config = facts.firewall, facts.config
    if config is None or facts.network is None:
        yield FIREWALL.skipped(facts.missing.get("network", "there is no valid configuration"))
        return
    own = config.network.device
    findings = list(_legacy(facts, own))
    if firewall.ruleset is None:
        yield from findings
        yield FIREWALL.skipped(firewall.reason, remedies=_closer_look(facts))
        return
    for chain, (lost, is_certain) in dropping_chains(firewall.ruleset, legs(facts)).items():
        others = f", and {len(lost) - 1} other ways" if len(lost) > 1 else ""
        certainty = "drops" if is_certain else "may drop"
        found = f"the chain {chain} {certainty} {lost[0].words}{others}"
        remedies = tuple(_openings(chain, lost, config, firewall.ruleset))
        make = FIREWALL.failure if is_certain else FIREWALL.warning
        findings.append(make(found, *remedies, subject=str(chain)))
    if findings:
        yield from findings
    else:
        yield FIREWALL.ok("no rule of nftables here drops what belongs to the service")


def _closer_look(facts: Facts) -> tuple[Remedy, ...]:
    return (run_here(f"sudo kracauer doctor{facts.source.option}"),) if facts.user else ()


def _openings(chain: Chain, lost: Iterable[Leg], config: Config, ruleset: Ruleset) -> Iterator[Remedy]:
    """The commands that let the device's packets through `chain`, in the words of whatever looks after it."""
    device = config.network.device
    names = {key[2] for key in ruleset.chains if key[:2] == (chain.family, chain.table)}
    if any(name.startswith("ufw-") for name in names):
        yield run_here(f"ufw route allow in on {device}")
        yield run_here(f"ufw route allow out on {device}")
    elif chain.table == "firewalld":
        yield run_here(f"firewall-cmd --permanent --zone=trusted --add-interface={device}")
        yield run_here("firewall-cmd --permanent --new-policy=kracauer")
        settings = "--add-ingress-zone=ANY --add-egress-zone=trusted --set-target=ACCEPT"
        for setting in settings.split():
            yield run_here(f"firewall-cmd --permanent --policy=kracauer {setting}")
        yield run_here("firewall-cmd --reload")
    elif "DOCKER-USER" in names and chain.family in ("ip", "ip6"):
        program = "iptables" if chain.family == "ip" else "ip6tables"
        yield run_here(f"{program} -I DOCKER-USER -i {device} -j ACCEPT")
        yield run_here(f"{program} -I DOCKER-USER -o {device} -j ACCEPT")
    else:
        for match in dict.fromkeys(_description(leg.packet, chain.hook, config) for leg in lost):
            yield run_here(f"nft insert rule {chain} {match} accept")
        yield advise("that holds until the rules are loaded again: put it where they are kept, such as /etc/nftables.conf")


def _description(packet: Packet, hook: str, config: Config) -> str:
    """What tells packets like this one from others at that hook, where only one of their interfaces may be known."""
    device = config.network.device
    is_from_device = packet.iif == device
    if hook != ("postrouting" if is_from_device else "prerouting"):
        return f"{'iifname' if is_from_device else 'oifname'} {device}"
    end = "saddr" if is_from_device else "daddr"
    if packet.version == 6:
        return f"ip6 {end} {config.prefix}"
    return f"ip {end} {packet.src if is_from_device else packet.dst}"


def _legacy(facts: Facts, device: str) -> Iterator[Finding]:
    """What the old kind of tables does, as far as its policy tells."""
    for program, lines in facts.firewall.legacy.items():
        accepts = any(f" {device} " in f"{line} " and "-j ACCEPT" in line for line in lines)
        if "-P FORWARD DROP" in lines and not accepts:
            yield FIREWALL.warning(
                f"{program} drops what is forwarded, and has no rule that lets {device} through",
                run_here(f"{program} -I FORWARD -i {device} -j ACCEPT"),
                run_here(f"{program} -I FORWARD -o {device} -j ACCEPT"),
                subject=program,
            )
    for program in facts.firewall.unreadable_legacy:
        yield FIREWALL.skipped(f"there are rules of the old kind, and {program} is not there to list them", subject=program)


def examine_nat(facts: Facts) -> Iterator[Finding]:
    """A finding for each chain that rewrites addresses of the service's packets."""
    ruleset, config = facts.firewall.ruleset, facts.config
    if ruleset is None or config is None:
        yield NAT.skipped(facts.firewall.reason or "there is no valid configuration")
        return
    found: dict[Chain, Leg] = {}
    for leg in legs(facts):
        for hook in ("prerouting", "postrouting"):
            for chain in ruleset.base_chains(hook, ("nat",)):
                if leg.packet.is_new and chain.sees(leg.packet) and Fate.NAT in ruleset.fates(chain, leg.packet):
                    found.setdefault(chain, leg)
    for chain, leg in found.items():
        what = "the source" if chain.hook == "postrouting" else "the destination"
        matches = _exceptions(leg.packet, config.network.device, str(config.prefix))
        yield NAT.warning(
            f"the chain {chain} rewrites {what} of {leg.words}",
            *(run_here(f"nft insert rule {chain} {match} accept") for match in matches),
            subject=str(chain),
        )
    if not found:
        yield NAT.ok("no rule of nftables here rewrites the service's packets")


def _exceptions(packet: Packet, device: str, prefix: str) -> tuple[str, ...]:
    if packet.version == 6:
        return (f"ip6 saddr {prefix}",)
    return (f"ip daddr {packet.dst}",) if packet.oif == device else (f"iifname {device}",)
