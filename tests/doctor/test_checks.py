"""Facts in, findings out: each thing that can be wrong is named, alone, with what mends it."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_interface
from pathlib import Path
from typing import Any

import patients
import pytest
from hypothesis import given
from hypothesis import strategies as st
from patients import (
    BACKEND,
    HEALTHY,
    NETWORK,
    STATUS,
    STOPPED,
    TEXT,
    commands,
    found,
    ill,
    route,
    the_one,
    with_backends,
    with_config,
    with_host,
    with_link,
    with_network,
    with_offload,
)

from kracauer.doctor import TOPICS, Facts, Severity, Source, diagnose
from kracauer.doctor.facts import (
    Answer,
    Backend,
    Firewall,
    Interface,
    Link,
    Name,
    Offload,
    Service,
    ServiceState,
    Storage,
    Tun,
    Way,
)
from kracauer.doctor.nft import parse

FAILURE, WARNING, OK, SKIPPED = Severity.FAILURE, Severity.WARNING, Severity.OK, Severity.SKIPPED
SHARED = TEXT.replace("[hosts]", '[network]\nownership = "shared"\n[hosts]')
MISSING_RETURN = replace(BACKEND, probe=Answer.SILENT, direct=Answer.ACCEPTED, is_pinged=True)


def test_a_host_on_which_all_is_well_has_nothing_but_ok() -> None:
    assert {finding.severity for finding in diagnose(HEALTHY) if finding.name != "backend-name"} == {OK}


def test_before_the_first_start_only_the_service_is_missing() -> None:
    assert ill(STOPPED) == {"service": WARNING}


def test_every_check_says_something_but_that_of_names_where_there_are_none() -> None:
    assert {topic.name for topic in TOPICS} - {finding.name for finding in diagnose(HEALTHY)} == {"backend-name"}


def test_every_problem_of_the_configuration_is_a_failure_and_the_rest_is_skipped() -> None:
    source = Source(Path("kracauer-config.toml"), None, ("prefix: is missing", "listen: is missing"))
    facts = replace(STOPPED, source=source, network=None, backends=())
    assert [finding.found for finding in found(facts, "configuration")] == ["prefix: is missing", "listen: is missing"]
    assert ill(facts) == {"configuration": FAILURE, "service": WARNING}


def test_a_missing_configuration_is_begun_with_the_one_that_comes_along() -> None:
    finding = the_one(replace(STOPPED, source=Source(None, None, ("none",)), network=None), "configuration")
    assert commands(finding) == ["install -D -m 0644 kracauer-config.toml /etc/kracauer/kracauer-config.toml"]


@pytest.mark.parametrize(
    ("facts", "name", "severity", "command"),
    [
        (
            replace(STOPPED, capabilities=frozenset(), user=1000),
            "privileges",
            FAILURE,
            "sudo kracauer doctor -c /etc/kracauer/kracauer-config.toml",
        ),
        (replace(HEALTHY, tun=Tun(error="missing", remedy="load it with `modprobe tun`")), "tun", FAILURE, "modprobe tun"),
        (replace(HEALTHY, tun=Tun(fallback="IFF_VNET_HDR: no")), "offloads", WARNING, ""),
        (
            replace(STOPPED, interface=Interface("", "tun", is_up=True)),
            "device-name",
            FAILURE,
            "ip link del kracauer0",
        ),
        (replace(STOPPED, interface=Interface("", "veth", is_up=True)), "device-name", FAILURE, ""),
        (
            replace(HEALTHY, interface=Interface("kracauer", "tun", is_up=False)),
            "device-name",
            FAILURE,
            "ip link set kracauer0 up",
        ),
        (
            replace(HEALTHY, storage=Storage(Path("/run/kracauer"), is_writable=False)),
            "runtime-directory",
            FAILURE,
            "install -d -m 0700 /run/kracauer",
        ),
        (
            replace(HEALTHY, storage=Storage(Path("/run/k"), free_bytes=3 << 20, mount=Path("/run"), mount_bytes=10 << 20)),
            "flow-file",
            WARNING,
            "mount -o remount,size=25M /run",
        ),
        (with_host(is_ipv6_disabled=True), "ipv6", FAILURE, "sysctl -w net.ipv6.conf.all.disable_ipv6=0"),
        (with_host(has_ipv6=False), "ipv6", FAILURE, "modprobe ipv6"),
        (
            with_network(with_link("eth0", is_forwarding_ipv4=False), is_forwarding_all_ipv4=False),
            "forwarding-ipv4",
            FAILURE,
            "sysctl -w net.ipv4.ip_forward=1",
        ),
        (with_link("eth0", is_forwarding_ipv4=False), "forwarding-ipv4", FAILURE, "sysctl -w net/ipv4/conf/eth0/forwarding=1"),
        (with_link("eth1", is_forwarding_ipv6=False), "forwarding-ipv6", FAILURE, "sysctl -w net.ipv6.conf.all.forwarding=1"),
        (
            with_link("eth1", with_host(advertised_interfaces=("eth0",)), is_forwarding_ipv6=False),
            "forwarding-ipv6",
            FAILURE,
            "sysctl -w net/ipv6/conf/eth0/accept_ra=2 net.ipv6.conf.all.forwarding=1",
        ),
        (
            with_link("eth1", with_network(default_devices=("eth0", "eth1")), rp_filter=1),
            "rp-filter",
            WARNING,
            "sysctl -w net/ipv4/conf/eth1/rp_filter=2",
        ),
        (
            with_link("eth0", addresses=(ip_interface("198.51.100.9/24"),)),
            "service-address",
            WARNING,
            "ip neighbour add proxy 198.51.100.1 dev eth0",
        ),
        (
            with_host(STOPPED, routes=(route("198.51.100.1/32", "eth0", protocol=4),)),
            "service-address",
            FAILURE,
            "ip -4 route del 198.51.100.1/32 dev eth0 metric 0",
        ),
        (
            with_host(STOPPED, routes=(route("2001:db8:46::/96", "eth1", 1024, protocol=4),)),
            "prefix",
            FAILURE,
            "ip -6 route del 2001:db8:46::/96 dev eth1 metric 1024",
        ),
        (
            with_link("eth1", addresses=(ip_interface("2001:db8:46::1/48"),)),
            "prefix",
            WARNING,
            "ip -6 route replace 2001:db8:46::/96 via 2001:db8:46::1",
        ),
        (with_host(STOPPED, routes=(route("2001:db8:64::/96", "kracauer0", 1024),)), "prefix", WARNING, ""),
        (with_network(client_way=Way(kind="")), "client-route", WARNING, "ip route replace default via NEXT_HOP"),
        (with_link("eth0", mtu=1492), "mtu-clients", WARNING, ""),
        (with_link("eth1", mtu=1480), "mtu-backends", WARNING, ""),
        (
            with_backends(replace(BACKEND, way=Way(kind=""), probe=Answer.SILENT)),
            "backend-route",
            FAILURE,
            "ip -6 route replace 2001:db8:1::2 via NEXT_HOP",
        ),
        (
            with_backends(replace(BACKEND, probe=Answer.REFUSED)),
            "backend-answer",
            FAILURE,
            "ss -6 -ltn 'sport = :443'",
        ),
        (
            with_backends(replace(BACKEND, probe=Answer.SILENT, direct=Answer.SILENT, is_pinged=False)),
            "backend-answer",
            FAILURE,
            "ping -6 -c 3 2001:db8:1::2",
        ),
        (with_backends(MISSING_RETURN), "return-route", FAILURE, "ip -6 route replace 2001:db8:46::/96 via 2001:db8:1::1"),
        (
            replace(HEALTHY, names=(Name("db.example.org", error="no"),)),
            "backend-name",
            FAILURE,
            "getent ahostsv6 db.example.org",
        ),
        (
            replace(HEALTHY, service=Service(ServiceState.RUNNING, {**STATUS, "prefix": "2001:db8:64::/96"}, version="1")),
            "reload",
            FAILURE,
            "systemctl restart kracauer",
        ),
        (
            replace(HEALTHY, service=Service(ServiceState.RUNNING, STATUS, version="2")),
            "service",
            WARNING,
            "systemctl restart kracauer",
        ),
        (
            replace(HEALTHY, service=Service(ServiceState.MUTE, error="no answer")),
            "service",
            FAILURE,
            "journalctl -u kracauer -n 50",
        ),
    ],
)
def test_each_thing_that_is_wrong_is_named_alone_with_what_mends_it(
    facts: Facts, name: str, severity: Severity, command: str
) -> None:
    without_service = {} if name == "service" or facts.is_running else {"service": WARNING}
    if facts.service.state is ServiceState.MUTE:
        without_service = {}
    assert ill(facts) == {name: severity, **without_service}
    first = next(finding for finding in found(facts, name) if finding.severity is severity)
    assert commands(first)[:1] == ([command] if command else [])
    assert first.remedies


def test_a_running_service_whose_routes_are_gone_is_told_which() -> None:
    facts = with_host(routes=patients.OUR_ROUTES[1:])
    finding = the_one(facts, "routes")
    assert (finding.severity, finding.subject) == (FAILURE, "198.51.100.1/32")
    assert commands(finding) == ["ip -4 route replace 198.51.100.1/32 dev kracauer0 metric 0 mtu 1480 proto 198"]


def test_an_operator_s_own_routes_may_be_wider() -> None:
    text = TEXT.replace("[hosts]", "[network]\nmanage = false\n[hosts]")
    facts = with_host(with_config(text), routes=())
    assert [finding.severity for finding in found(facts, "routes")] == [FAILURE, FAILURE]
    led = Way(device="kracauer0")
    assert the_one(with_network(facts, service_ways={patients.SERVICE: led}, prefix_way=led), "routes").severity is OK


def test_a_neighbour_entry_or_the_interface_s_own_setting_answers_for_the_service_address() -> None:
    near = with_link("eth0", addresses=(ip_interface("198.51.100.9/24"),))
    assert the_one(with_network(near, proxied=frozenset({patients.SERVICE})), "service-address").severity is OK
    assert the_one(with_link("eth0", near, has_proxy_arp=True), "service-address").severity is OK


def test_a_shared_address_has_to_be_this_host_s_and_costs_it_something() -> None:
    facts = with_config(SHARED, STOPPED)
    assert ill(facts)["service-address"] is FAILURE
    local = replace(route("198.51.100.1/32", "eth0", kind="local"), is_in_local_table=True)
    taken = with_host(facts, routes=(local,), listening=frozenset({(IPv4Address(0), 443)}))
    assert the_one(taken, "service-address").severity is OK
    assert the_one(taken, "prefix").severity is OK
    assert "another program" in the_one(taken, "sharing").found
    deaf = with_host(replace(facts, capabilities=frozenset({"cap_net_admin"})), routes=(local,))
    assert "CAP_NET_RAW" in the_one(deaf, "sharing").found


def test_the_rules_of_a_shared_address_are_looked_for_while_the_service_runs() -> None:
    facts = with_config(SHARED)
    missing = [finding for finding in found(facts, "routes") if finding.severity is FAILURE]
    assert any("ip -4 rule add" in command for finding in missing for command in commands(finding))


def test_a_backend_behind_a_router_has_its_route_back_put_there() -> None:
    way = Way(device="eth1", gateway=IPv6Address("2001:db8:1::99"), source=IPv6Address("2001:db8:1::1"))
    far = replace(MISSING_RETURN, address=IPv6Address("2001:db8:99::2"), way=way)
    (finding,) = [finding for finding in found(with_backends(far), "return-route") if finding.severity is FAILURE]
    assert finding.remedies[0].place == "the router 2001:db8:1::99 before the backend"
    assert finding.remedies[0].command == "ip -6 route replace 2001:db8:46::/96 via 2001:db8:1::1"


def test_before_a_link_local_router_the_address_is_link_local_too() -> None:
    way = Way(device="eth1", gateway=IPv6Address("fe80::99"), source=IPv6Address("2001:db8:1::1"))
    finding = the_one(with_backends(replace(MISSING_RETURN, way=way)), "return-route")
    assert finding.remedies[0].command == "ip -6 route replace 2001:db8:46::/96 via fe80::1 dev INTERFACE"


def test_the_way_back_leads_to_the_link_and_not_to_whatever_address_this_machine_calls_from() -> None:
    elsewhere = replace(MISSING_RETURN, way=Way(device="eth1", source=IPv6Address("2001:db8:7::7")))
    assert commands(the_one(with_backends(elsewhere), "return-route"))[0].endswith(" via 2001:db8:1::1")


def test_of_several_addresses_on_the_link_the_one_this_machine_calls_from_is_named() -> None:
    own = (ip_interface("2001:db8:1::1/64"), ip_interface("2001:db8:1::9/64"))
    calling = replace(MISSING_RETURN, way=Way(device="eth1", source=IPv6Address("2001:db8:1::9")))
    facts = with_link("eth1", with_backends(calling), addresses=own)
    assert commands(the_one(facts, "return-route"))[0].endswith(" via 2001:db8:1::9")


def test_one_host_with_two_ports_has_one_way_back() -> None:
    facts = with_backends(MISSING_RETURN, replace(MISSING_RETURN, port=80))
    assert the_one(facts, "return-route").subject == "2001:db8:1::2"


def test_only_where_no_backend_answers_the_prefix_is_the_prefix_itself_in_doubt() -> None:
    other = replace(MISSING_RETURN, address=IPv6Address("2001:db8:1::3"))
    doubt = "is this the prefix that is routed here?"
    assert all(doubt in finding.found for finding in found(with_backends(MISSING_RETURN, other), "return-route"))
    assert not any(doubt in finding.found for finding in found(with_backends(BACKEND, other), "return-route"))


def test_what_is_amiss_here_is_not_put_down_to_the_backend() -> None:
    facts = with_link("eth1", with_backends(MISSING_RETURN), is_forwarding_ipv6=False)
    assert ill(facts) == {"forwarding-ipv6": FAILURE}
    dropping = parse({"nftables": [{"chain": DROPPING}]})
    assert set(ill(replace(with_backends(MISSING_RETURN), firewall=Firewall(dropping)))) == {"firewall"}


DROPPING = {
    "family": "inet",
    "table": "filter",
    "name": "forward",
    "type": "filter",
    "hook": "forward",
    "prio": 0,
    "policy": "drop",
}


def test_a_chain_that_drops_is_opened_for_the_device_alone() -> None:
    facts = replace(HEALTHY, firewall=Firewall(parse({"nftables": [{"chain": DROPPING}]})))
    finding = the_one(facts, "firewall")
    assert finding.severity is FAILURE
    assert commands(finding) == [
        "nft insert rule inet filter forward oifname kracauer0 accept",
        "nft insert rule inet filter forward iifname kracauer0 accept",
    ]


def test_a_chain_that_may_drop_is_a_warning_and_blames_no_backend_s_silence() -> None:
    perhaps = {"family": "inet", "table": "filter", "chain": "forward", "expr": [{"xt": None}, {"drop": None}]}
    rules = parse({"nftables": [{"chain": {**DROPPING, "policy": "accept"}}, {"rule": perhaps}]})
    facts = replace(with_backends(MISSING_RETURN), firewall=Firewall(rules))
    assert ill(facts) == {"firewall": WARNING, "return-route": FAILURE}


def test_what_the_flow_file_has_already_is_not_asked_for_again() -> None:
    full = Storage(Path("/run/kracauer"), free_bytes=0, flow_file_bytes=4096 + (16 << 20))
    assert the_one(replace(HEALTHY, storage=full), "flow-file").severity is OK


def test_before_routing_what_is_sent_to_the_service_is_told_by_its_address() -> None:
    early = {**DROPPING, "name": "early", "hook": "prerouting"}
    finding = the_one(replace(HEALTHY, firewall=Firewall(parse({"nftables": [{"chain": early}]}))), "firewall")
    assert commands(finding) == [
        "nft insert rule inet filter early ip daddr 198.51.100.1 accept",
        "nft insert rule inet filter early iifname kracauer0 accept",
        "nft insert rule inet filter early ip6 daddr 2001:db8:46::/96 accept",
    ]


@pytest.mark.parametrize(
    ("table", "chain", "first"),
    [
        ("filter", "ufw-before-forward", "ufw route allow in on kracauer0"),
        ("firewalld", "filter_FORWARD", "firewall-cmd --permanent --zone=trusted --add-interface=kracauer0"),
        ("filter", "DOCKER-USER", "iptables -I DOCKER-USER -i kracauer0 -j ACCEPT"),
    ],
)
def test_who_looks_after_the_rules_is_asked_to_change_them(table: str, chain: str, first: str) -> None:
    dropping = {**DROPPING, "family": "ip", "table": table}
    other = {"family": "ip", "table": table, "name": chain}
    facts = replace(HEALTHY, firewall=Firewall(parse({"nftables": [{"chain": dropping}, {"chain": other}]})))
    assert commands(the_one(facts, "firewall"))[0] == first


def test_old_tables_with_a_policy_that_drops_are_a_warning_until_they_name_the_device() -> None:
    legacy = {"iptables-legacy": ("-P FORWARD DROP",)}
    facts = replace(HEALTHY, firewall=replace(HEALTHY.firewall, legacy=legacy))
    assert the_one(facts, "firewall").severity is WARNING
    opened = {"iptables-legacy": ("-P FORWARD DROP", "-A FORWARD -i kracauer0 -j ACCEPT")}
    assert the_one(replace(HEALTHY, firewall=replace(HEALTHY.firewall, legacy=opened)), "firewall").severity is OK


def test_a_masquerade_towards_backends_is_named_and_excepted() -> None:
    nat = {
        "family": "ip6",
        "table": "nat",
        "name": "post",
        "type": "nat",
        "hook": "postrouting",
        "prio": 100,
        "policy": "accept",
    }
    expr = [{"match": {"op": "==", "left": {"meta": {"key": "oifname"}}, "right": "eth1"}}, {"masquerade": None}]
    hiding = {"family": "ip6", "table": "nat", "chain": "post", "expr": expr}
    facts = replace(HEALTHY, firewall=Firewall(parse({"nftables": [{"chain": nat}, {"rule": hiding}]})))
    finding = the_one(facts, "nat")
    assert finding.severity is WARNING
    assert commands(finding) == ["nft insert rule ip6 nat post ip6 saddr 2001:db8:46::/96 accept"]


def test_a_name_whose_addresses_lie_elsewhere_is_told_from_one_that_has_some_that_count() -> None:
    far, near = IPv6Address("2001:db8:bad::1"), IPv6Address("2001:db8:1::2")
    assert the_one(replace(HEALTHY, names=(Name("a.example", (), (far,)),)), "backend-name").severity is FAILURE
    assert the_one(replace(HEALTHY, names=(Name("a.example", (near,), (far,)),)), "backend-name").severity is WARNING
    assert the_one(replace(HEALTHY, names=(Name("a.example", (near,)),)), "backend-name").severity is OK


def test_without_privileges_what_cannot_be_seen_is_skipped_and_no_failure() -> None:
    facts = replace(
        HEALTHY,
        user=1000,
        capabilities=frozenset(),
        tun=Tun(is_tried=False),
        service=Service(ServiceState.HIDDEN, error="may not"),
        storage=None,
        firewall=Firewall(reason="it takes root"),
        backends=(replace(BACKEND, probe=Answer.UNTRIED, direct=Answer.ACCEPTED),),
        missing={"probes": "probing takes CAP_NET_ADMIN"},
    )
    assert ill(facts) == {}
    skipped = {finding.name for finding in diagnose(facts) if finding.severity is SKIPPED}
    assert {"privileges", "tun", "service", "runtime-directory", "firewall", "nat", "return-route"} <= skipped


_ANSWERS = st.sampled_from(list(Answer))
_WAYS = st.builds(
    Way,
    kind=st.sampled_from(["", "unicast", "local"]),
    device=st.sampled_from(["", "eth0", "eth1", "kracauer0"]),
    gateway=st.sampled_from([None, IPv6Address("fe80::9"), IPv6Address("2001:db8:1::9")]),
    mtu=st.sampled_from([0, 1280, 1500, 9000]),
)
_BACKENDS = st.builds(
    Backend,
    address=st.sampled_from([IPv6Address("2001:db8:1::2"), IPv6Address("2001:db8:5::2")]),
    port=st.sampled_from([80, 443]),
    way=_WAYS,
    probe=_ANSWERS,
    direct=_ANSWERS,
    is_pinged=st.sampled_from([None, True, False]),
)
_LINKS = st.builds(
    Link,
    name=st.sampled_from(["eth0", "eth1", "kracauer0"]),
    mtu=st.sampled_from([576, 1280, 1500, 1520]),
    is_up=st.booleans(),
    addresses=st.lists(
        st.sampled_from([ip_interface("198.51.100.5/24"), ip_interface("2001:db8:46::5/48"), ip_interface("fe80::5/64")]),
        max_size=2,
    ).map(tuple),
    is_forwarding_ipv4=st.booleans(),
    is_forwarding_ipv6=st.booleans(),
    rp_filter=st.integers(0, 2),
    has_proxy_arp=st.booleans(),
)
_FACTS = st.builds(
    Facts,
    source=st.sampled_from([HEALTHY.source, with_config(SHARED).source, Source(None, None, ("nothing",))]),
    capabilities=st.frozensets(st.sampled_from(["cap_net_admin", "cap_net_raw"])),
    user=st.sampled_from([0, 1000]),
    tun=st.sampled_from([Tun(), Tun(is_tried=False), Tun(error="no", remedy="do it"), Tun(fallback="old")]),
    interface=st.none()
    | st.builds(Interface, st.sampled_from(["", "kracauer"]), st.sampled_from(["tun", "veth"]), st.booleans()),
    service=st.builds(
        Service,
        st.sampled_from(list(ServiceState)),
        st.sampled_from(
            [STATUS, {**STATUS, "last_reload": {"at": "now", "problems": ["x"]}, "counters": {"internal_errors": 2}}]
        ),
        st.just("error"),
        st.sampled_from(["1", "2"]),
    ),
    storage=st.none()
    | st.builds(Storage, st.just(Path("/run/kracauer")), st.booleans(), st.booleans(), st.sampled_from([0, 1 << 20, 1 << 30])),
    network=st.none()
    | st.builds(
        lambda links, way, devices, forwarding: replace(
            NETWORK, links=tuple(links), client_way=way, default_devices=tuple(devices), is_forwarding_all_ipv4=forwarding
        ),
        st.lists(_LINKS, max_size=3),
        _WAYS,
        st.lists(st.sampled_from(["eth0", "eth1"]), max_size=2, unique=True),
        st.booleans(),
    ),
    firewall=st.sampled_from([Firewall(reason="no"), HEALTHY.firewall, Firewall(parse({"nftables": [{"chain": DROPPING}]}))]),
    names=st.lists(
        st.builds(Name, st.just("a.example"), outside=st.sampled_from([(), (IPv6Address("2001:db8::9"),)])), max_size=1
    ).map(tuple),
    backends=st.lists(_BACKENDS, max_size=3, unique_by=str).map(tuple),
)


@given(_FACTS)
def test_whatever_the_facts_every_failure_and_warning_has_a_remedy_and_every_check_has_its_say(facts: Facts) -> None:
    findings = diagnose(facts)
    names = {finding.name for finding in findings}
    assert names >= {topic.name for topic in TOPICS} - {"backend-name"}
    for finding in findings:
        assert finding.found
        assert finding.why
        if finding.severity in (FAILURE, WARNING):
            assert finding.remedies
            assert all(remedy.place and (remedy.command or remedy.advice) for remedy in finding.remedies), finding


def test_the_order_is_that_in_which_things_depend_on_each_other() -> None:
    order: dict[str, Any] = dict.fromkeys(finding.name for finding in diagnose(HEALTHY))
    assert list(order) == [topic.name for topic in TOPICS if topic.name != "backend-name"]


# ----------------------------------------------------------------------------------------------------------- the fast path

OFF = TEXT.replace("[hosts]", '[network]\noffload = "off"\n[hosts]')
REQUIRED = OFF.replace('"off"', '"require"')
REFUSED = Offload(error="the kernel refuses", remedy="use Linux 5.15 or newer, or set it off", has_bpffs=True)


@pytest.mark.parametrize(
    ("facts", "severity", "part", "command"),
    [
        (HEALTHY, OK, "carries 9 connections, by tcx, also while no process runs", None),
        (with_offload(kept_by="bpffs"), OK, "also while no process runs, kept by the bpffs", None),
        (STOPPED, OK, "takes the program, by tcx", None),
        (
            with_offload(survives=False, cause="there is no bpffs", remedy="mount one: `mount -t bpf bpf /sys/fs/bpf`"),
            WARNING,
            "only while the process runs: there is no bpffs",
            "mount -t bpf bpf /sys/fs/bpf",
        ),
        (with_offload(hook=None, flows=0, cause="no bpf(2)", remedy="another kernel"), WARNING, "process: no bpf(2)", None),
        (with_offload(hook=None, flows=0, cause="packets are recorded"), WARNING, "packets are recorded", None),
        (with_offload(hook=None, flows=0, wanted="off", cause="off"), OK, '"off": every packet passes the process', None),
        (replace(HEALTHY, service=replace(HEALTHY.service, status={"version": "1"})), SKIPPED, "does not say", None),
        (replace(HEALTHY, service=Service(ServiceState.HIDDEN)), SKIPPED, "may not ask", None),
        (replace(HEALTHY, service=Service(ServiceState.MUTE)), SKIPPED, "does not answer", None),
        (with_config(OFF, STOPPED), OK, '"off"', None),
        (replace(STOPPED, offload=REFUSED), WARNING, "will pass the process: the kernel refuses", None),
        (with_config(REQUIRED, replace(STOPPED, offload=REFUSED)), FAILURE, '"require", and the kernel refuses', None),
        (replace(STOPPED, offload=Offload(hook="tcx")), WARNING, "no bpffs", "mount -t bpf bpf /sys/fs/bpf"),
        (replace(STOPPED, offload=None), SKIPPED, "no device could be opened", None),
        (replace(STOPPED, offload=None, missing={"offload": "takes CAP_BPF"}), SKIPPED, "takes CAP_BPF", None),
    ],
)
def test_the_fast_path_is_told_with_what_is_missing(facts: Facts, severity: Severity, part: str, command: str | None) -> None:
    finding = the_one(facts, "fast-path")
    assert finding.severity is severity
    assert part in finding.found
    assert commands(finding) == ([] if command is None else [command])
