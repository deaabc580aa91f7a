"""Each backend: its names, the way to it, whether it answers, and whether its answers to clients come back here.

A probe from the prefix that is answered shows all of that at once. Where it is not, this machine's own address is tried: a
backend that answers that one, and not the prefix, sends its answers to the prefix elsewhere.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from ipaddress import IPv6Address
from typing import Final

from kracauer.doctor.checks.addresses import NEXT_HOP
from kracauer.doctor.checks.firewall import drops_backends
from kracauer.doctor.checks.forwarding import closed_devices_ipv6
from kracauer.doctor.facts import Answer, Backend, Facts, Network
from kracauer.doctor.finding import CONFIGURATION, Finding, Remedy, Topic, advise, run_here

NAME: Final = Topic("backend-name", "A backend that is given by its name is reached at the addresses that the name has.")
ROUTE: Final = Topic("backend-route", "What is for a backend has to leave this machine by some interface.")
ANSWER: Final = Topic("backend-answer", "A backend that does not answer serves nobody.")
RETURN: Final = Topic("return-route", "A backend's answers to clients go to the prefix, and have to come to this machine.")

_THERE: Final = frozenset({Answer.ACCEPTED, Answer.REFUSED})


def examine_names(facts: Facts) -> Iterator[Finding]:
    """Whether each name has an address that may be used."""
    for name in facts.names:
        if name.addresses and not name.outside:
            yield NAME.ok(f"has {', '.join(map(str, name.addresses))}", name.name)
        elif name.addresses:
            found = f"has {', '.join(map(str, name.outside))} outside of backend_networks, where it is never dialled"
            remedy = Remedy(CONFIGURATION, advice="widen backend_networks, if the backend is yours; or mend the AAAA record")
            yield NAME.warning(found, remedy, subject=name.name)
        elif name.outside:
            found = f"has no address within backend_networks, only {', '.join(map(str, name.outside))}"
            remedy = Remedy(CONFIGURATION, advice="widen backend_networks, if the backend is yours; or mend the AAAA record")
            yield NAME.failure(found, remedy, subject=name.name)
        else:
            found = name.error or "has no AAAA record"
            yield NAME.failure(found, run_here(f"getent ahostsv6 {name.name}"), subject=name.name)


def examine_routes(facts: Facts) -> Iterator[Finding]:
    """Whether this machine has a way to each."""
    if not facts.backends:
        yield ROUTE.skipped(facts.missing.get("backends", "no backend is known by its address"))
        return
    lost = [backend for backend in facts.backends if not _has_way(backend)]
    for address in dict.fromkeys(backend.address for backend in lost):
        command = f"ip -6 route replace {address} via {NEXT_HOP}"
        advice = f"{NEXT_HOP} is the router before it"
        yield ROUTE.failure("this machine has no route to it", Remedy("this machine", command, advice), subject=str(address))
    if len(lost) < len(facts.backends):
        ways = dict.fromkeys(backend.way.device for backend in facts.backends if _has_way(backend))
        yield ROUTE.ok(f"{len(facts.backends) - len(lost)} of {len(facts.backends)} are reached, by {', '.join(ways)}")


def _has_way(backend: Backend) -> bool:
    return backend.way.kind in ("unicast", "local")


def examine_answers(facts: Facts) -> Iterator[Finding]:
    """Whether a server answers at each."""
    if not facts.backends:
        yield ANSWER.skipped(facts.missing.get("backends", "no backend is known by its address"))
        return
    fine = 0
    untold: Counter[str] = Counter()
    for backend in facts.backends:
        if Answer.ACCEPTED in (backend.probe, backend.direct):
            fine += 1
        elif not _has_way(backend):
            untold["there is no route to them"] += 1
        elif {backend.probe, backend.direct} == {Answer.UNTRIED}:
            untold["they were not asked"] += 1
        else:
            yield _no_answer(backend)
    for reason, number in untold.items():
        yield ANSWER.skipped(f"nothing is known of {number} of {len(facts.backends)}: {reason}")
    if fine:
        yield ANSWER.ok(f"{fine} of {len(facts.backends)} answer")


def _no_answer(backend: Backend) -> Finding:
    subject = str(backend)
    if Answer.REFUSED in (backend.probe, backend.direct):
        there = f"ss -6 -ltn 'sport = :{backend.port}'"
        advice = "that shows what listens there: start the server, or have it listen on IPv6, or mend the port in hosts"
        found = "the host is up, and refuses connections: nothing listens on that port"
        return ANSWER.failure(found, Remedy(f"the backend {backend.address}", there, advice), subject=subject)
    if Answer.UNREACHABLE in (backend.probe, backend.direct):
        via = f" by way of {backend.way.gateway}" if backend.way.gateway else f" on {backend.way.device}"
        found = f"it is unreachable{via}: a router on the way, or this machine's own neighbour discovery, says so"
        remedy = run_here(f"ip -6 neighbour show dev {backend.way.device}; ip -6 route get {backend.address}")
        return ANSWER.failure(found, remedy, advise("switch the host on, or mend its address in hosts"), subject=subject)
    if backend.is_pinged:
        found = "the host answers pings, and its port does not answer: its firewall keeps this machine out"
        remedy = Remedy(f"the backend {backend.address}", f"nft list ruleset; ss -6 -ltn 'sport = :{backend.port}'")
        return ANSWER.failure(found, remedy, subject=subject)
    found = "it answers neither the prefix nor this machine itself: it is down, or there is no such host"
    remedy = run_here(f"ping -6 -c 3 {backend.address}")
    return ANSWER.failure(found, remedy, advise("switch the host on, or mend its address in hosts"), subject=subject)


def examine_returns(facts: Facts) -> Iterator[Finding]:
    """Whether what each answers to the prefix comes here; the way back is the host's, whatever its ports."""
    config, network = facts.config, facts.network
    if config is None or network is None or not facts.backends:
        yield RETURN.skipped(facts.missing.get("backends", "no backend is known by its address"))
        return
    hosts: dict[IPv6Address, list[Backend]] = {}
    for backend in facts.backends:
        hosts.setdefault(backend.address, []).append(backend)
    back = [address for address, backends in hosts.items() if any(backend.probe in _THERE for backend in backends)]
    elsewhere = []
    untold: Counter[str] = Counter()
    is_dropping = drops_backends(facts)
    closed = closed_devices_ipv6(facts)
    for address in hosts.keys() - set(back):
        backends = hosts[address]
        reason = _reason(backends, facts, closed, is_dropping=is_dropping)
        if reason:
            untold[reason] += 1
        else:
            elsewhere.append(next(backend for backend in backends if _is_elsewhere(backend)))
    for backend in sorted(elsewhere, key=lambda backend: backend.address):
        yield _missing_return(backend, str(config.prefix), network, is_everywhere=not back and not untold)
    for reason, number in untold.items():
        yield RETURN.skipped(f"nothing is known of {number} of {len(hosts)}: {reason}")
    if back:
        yield RETURN.ok(f"the answers of {len(back)} of {len(hosts)} to {config.prefix} come here")


def _reason(backends: Sequence[Backend], facts: Facts, closed: tuple[str, ...], *, is_dropping: bool) -> str:
    """Why nothing can be said of the way back from a host; empty where it leads elsewhere."""
    if all(backend.probe is Answer.UNTRIED for backend in backends):
        return facts.missing.get("probes", "they were not probed")
    if not _has_way(backends[0]):
        return "there is no route to them"
    if backends[0].way.device in closed:
        return "forwarding is off here, and no answer comes through: mend that first"
    if is_dropping:
        return "the firewall here drops what is sent or answered: mend that first"
    return "" if any(map(_is_elsewhere, backends)) else "they do not answer at all"


def _is_elsewhere(backend: Backend) -> bool:
    """Whether it answers us, and not the prefix."""
    return backend.direct in _THERE or (backend.direct is Answer.SILENT and bool(backend.is_pinged))


def _missing_return(backend: Backend, prefix: str, network: Network, *, is_everywhere: bool) -> Finding:
    found = f"it answers this machine itself, and not {prefix}: it has no route back to that prefix that leads here"
    found += ", or one for another prefix, or a firewall that keeps the prefix out"
    if is_everywhere:
        found += "; so it is with every backend: is this the prefix that is routed here?"
    place = f"the backend {backend.address}"
    if backend.way.gateway is not None:
        place = f"the router {backend.way.gateway} before the backend"
    return RETURN.failure(
        found,
        Remedy(place, f"ip -6 route replace {prefix} via {own_address(backend, network)}"),
        Remedy(f"the backend {backend.address}", "ip -6 route show; nft list ruleset", "to see what it has instead"),
        subject=str(backend.address),
    )


def own_address(backend: Backend, network: Network) -> str:
    """This machine's address as the next hop before the backend sees it."""
    hop = backend.way.gateway or backend.address
    link = network.link(backend.way.device)
    own = [interface for interface in link.addresses if interface.version == 6] if link is not None else []
    if isinstance(hop, IPv6Address) and hop.is_link_local:
        local = next((interface.ip for interface in own if interface.ip.is_link_local), None)
        return f"{local} dev INTERFACE" if local else NEXT_HOP
    usable = [interface.ip for interface in own if not interface.ip.is_link_local]
    near = [interface.ip for interface in own if hop in interface.network and interface.ip in usable] or usable
    if backend.way.source in near:
        return str(backend.way.source)
    return str(near[0]) if near else NEXT_HOP
