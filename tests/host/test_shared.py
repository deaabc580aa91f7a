"""An address that is shared with the host: rules before the local one, on a real kernel, in namespaces of the test's own."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network

import pytest
from host_setup import DEVICE, PREFIX, Ip, summary, sysctl
from shared_host import ADDRESS, CLIENT, Echo, Vigil, is_reached, neighbour, shared

from kracauer.config import Config
from kracauer.errors import HostError
from kracauer.host import HostSetup, HostWatch, destinations, extension, forget, gather, plan, table
from kracauer.host.rules import RuleTable
from kracauer.host.watch import RULE_REMOVED
from kracauer.lab.namespaces import NetworkNamespace
from kracauer.tun import open_device

pytestmark = pytest.mark.lab

FRESH = ["0: from all lookup local", "32766: from all lookup main", "32767: from all lookup default"]
SERVICE = IPv4Network(ADDRESS)


@pytest.fixture
def client(own_netns: Ip) -> Iterator[NetworkNamespace]:
    with neighbour(own_netns) as client:
        yield client


@pytest.fixture
def ip(own_netns: Ip, client: NetworkNamespace) -> Iterator[Ip]:
    """The host, on which something listens at port 22, and to whom the device has been given once."""
    assert client.name
    echo = Echo()
    open_device(DEVICE, is_persistent=True).close()
    yield own_netns
    forget(DEVICE, ())
    echo.close()


def planned(config: Config | None = None) -> HostSetup:
    config = config or shared()
    return HostSetup(plan(config, gather(config.network.device, destinations(config), table(config))))


def rules(ip: Ip) -> list[str]:
    return [" ".join(line.split()) for line in ip("rule").splitlines()]


def in_place(*ports: int, device: str = DEVICE, number: int = 198) -> list[str]:
    """What `ip rule` shows on a host that was fresh."""
    return [
        f"0: from all iif {device} lookup local proto 198",
        *(f"0: from all to {ADDRESS} ipproto tcp dport {port} lookup {number} proto 198" for port in ports),
        FRESH[0],
        *(f"198: from {ADDRESS} iif lo ipproto tcp sport {port} blackhole proto 198" for port in ports),
        *FRESH[1:],
    ]


def led(ip: Ip, words: str) -> bool:
    """Whether a packet that `words` describe goes into the device."""
    return f"dev {DEVICE}" in ip(f"route get {words}")


def test_just_the_ports_listened_on_are_led_into_the_device(ip: Ip) -> None:
    planned().apply()

    assert rules(ip) == in_place(443, 80)
    for port in (443, 80):
        assert led(ip, f"{ADDRESS} from {CLIENT} iif eth0 ipproto tcp sport 5000 dport {port}")
        assert led(ip, f"{ADDRESS} ipproto tcp sport 5000 dport {port}")
    for other in ("ipproto tcp sport 443 dport 22", "ipproto udp sport 5000 dport 443", "ipproto icmp", ""):
        assert "local" in ip(f"route get {ADDRESS} from {CLIENT} iif eth0 {other}")


def test_what_comes_out_of_the_device_is_not_led_back(ip: Ip) -> None:
    planned().apply()

    assert "local" in ip(f"route get {ADDRESS} from {CLIENT} iif {DEVICE} ipproto tcp sport 5000 dport 443")
    answer = ip(f"route get {CLIENT} from {ADDRESS} iif {DEVICE} ipproto tcp sport 443 dport 5000")
    assert "dev eth0" in answer


def test_the_table_has_the_route_with_its_mtu_and_the_dead_end(ip: Ip) -> None:
    planned().apply()

    assert ip("route show table 198").split("\n")[:2] == [
        f"{ADDRESS} dev {DEVICE} proto 198 scope link linkdown mtu 1480 ",
        f"unreachable {ADDRESS} proto 198 metric 1000000 ",
    ]
    assert {where for where, *_ in summary(ip)} == {PREFIX}
    assert int(sysctl("ipv4", "accept_local").read_text()) == 1
    assert int(sysctl("ipv4", "rp_filter").read_text()) == 0


def test_everything_is_taken_back(ip: Ip) -> None:
    before = ip("-4 route show table all") + ip("-6 route show table all")
    setup = planned()
    setup.apply()

    assert setup.undo() == ()

    assert rules(ip) == FRESH
    assert ip("-4 route show table all") + ip("-6 route show table all") == before
    assert int(sysctl("ipv4", "accept_local").read_text()) == 0


def test_it_can_be_set_twice_and_by_a_successor(ip: Ip) -> None:
    planned().apply()
    planned().apply()
    successor = planned()
    successor.apply()

    assert rules(ip) == in_place(443, 80)
    assert successor.undo() == ()
    assert rules(ip) == FRESH


def test_forgetting_removes_what_a_killed_process_has_left(ip: Ip) -> None:
    planned().apply()

    assert forget(DEVICE, ()) == ()

    assert rules(ip) == FRESH
    assert ip("route show table all proto 198") == ""
    assert forget(DEVICE, ()) == ()


def test_forgetting_finds_the_rules_by_the_address_when_the_device_is_gone_already(ip: Ip) -> None:
    planned().apply()
    open_device(DEVICE, is_persistent=True).remove()

    assert forget(DEVICE, destinations(shared())) == ()

    assert rules(ip) == FRESH


def test_a_port_is_added_while_running_and_taken_away_again(ip: Ip) -> None:
    setup = planned()
    setup.apply()
    more = shared(443, 80, 8443)

    setup.extend(extension(shared(8443), gather(DEVICE, destinations(more), table(more))))
    assert led(ip, f"{ADDRESS} from {CLIENT} iif eth0 ipproto tcp sport 5000 dport 8443")
    assert led(ip, f"{ADDRESS} from {CLIENT} iif eth0 ipproto tcp sport 5000 dport 443")
    setup.retire(SERVICE, 8443)

    assert sorted(rules(ip)) == sorted(in_place(443, 80))
    for port in (443, 80):
        setup.retire(SERVICE, port)
    assert ip("route show table 198") == ""
    assert not led(ip, f"{ADDRESS} from {CLIENT} iif eth0 ipproto tcp sport 5000 dport 443")
    assert setup.undo() == ()
    assert rules(ip) == FRESH


def test_a_port_that_an_earlier_process_had_is_the_hosts_again(ip: Ip) -> None:
    planned(shared(443, 8443)).apply()

    planned().apply()

    assert sorted(rules(ip)) == sorted(in_place(443, 80))


def test_an_address_that_is_routed_from_now_on_leaves_no_rule(ip: Ip) -> None:
    planned().apply()
    ip(f"address del {ADDRESS}/24 dev eth0")
    config = shared()
    routed = shared()
    routed = Config(config.prefix, config.listeners, config.routes)

    planned(routed).apply()

    assert [rule for rule in rules(ip) if "198" in rule] == []
    assert {where for where, *_ in summary(ip)} == {ADDRESS, PREFIX}
    assert ip("route show table 198") == ""


REMOVALS = (
    f"rule del iif {DEVICE} lookup local",
    f"rule del to {ADDRESS} ipproto tcp dport 443 lookup 198",
    f"rule del from {ADDRESS} iif lo ipproto tcp sport 80 blackhole",
    "rule del pref 0",
    "rule flush",
)


@pytest.mark.parametrize("command", REMOVALS)
def test_a_rule_that_somebody_removes_is_told_and_comes_back(
    ip: Ip, client: NetworkNamespace, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr("kracauer.host.watch._LEAST_INTERVAL_S", 0.0)
    setup = planned()
    setup.apply()
    with contextlib.closing(HostWatch(DEVICE, setup)) as watch:
        ip(command)
        if command == "rule flush":
            ip("rule add pref 32766 lookup main")
        assert watch.has_lost_routes() == RULE_REMOVED
        setup.restore_routes()

        assert is_reached(client)
        assert rules(ip)[:-1] == in_place(443, 80)[:-2] or rules(ip) == in_place(443, 80)
        assert watch.has_lost_routes() is None
        assert setup.undo() == ()
    assert [rule for rule in rules(ip) if "proto 198" in rule] == []
    assert rules(ip)[0] == FRESH[0]


def test_what_we_change_ourselves_is_no_news(ip: Ip) -> None:
    setup = planned()
    setup.apply()
    with contextlib.closing(HostWatch(DEVICE, setup)) as watch:
        setup.extend(extension(shared(8443), gather(DEVICE, destinations(shared()), 198)))
        setup.retire(SERVICE, 8443)
        assert watch.has_lost_routes() is None
        ip("rule add pref 500 from 203.0.113.0/24 lookup 77")
        ip("rule del pref 500")
        assert watch.has_lost_routes() is None
        setup.undo()
        assert watch.has_lost_routes() is None


@pytest.mark.parametrize("is_flushed", [False, True])
def test_whoever_flushes_or_adds_rules_cuts_nobody_off(ip: Ip, client: NetworkNamespace, is_flushed: bool) -> None:
    setup = planned()
    setup.apply()
    if is_flushed:
        ip("rule flush")
        ip("rule add pref 32766 lookup main")
    ip(f"rule add from {CLIENT} blackhole")  # without a preference of its own

    assert "local" in ip(f"route get {ADDRESS} from {CLIENT} iif eth0 ipproto tcp sport 5000 dport 22")
    assert led(ip, f"{ADDRESS} from {CLIENT} iif eth0 ipproto tcp sport 5000 dport 443")
    ip(f"rule del from {CLIENT} blackhole")
    assert is_reached(client)


def test_a_rule_that_came_behind_the_local_one_since_stays_behind_it(ip: Ip, client: NetworkNamespace) -> None:
    setup = planned()
    setup.apply()
    ip("rule add from 203.0.113.0/24 lookup 77")

    assert setup.undo() == ()
    assert rules(ip) == [FRESH[0], "0: from 203.0.113.0/24 lookup 77", *FRESH[1:]]
    assert is_reached(client)

    with pytest.raises(HostError, match="preference of the local one") as caught:
        planned()
    assert "such as 1000" in caught.value.remedy
    ip("rule del from 203.0.113.0/24 lookup 77")
    again = planned()
    again.apply()
    again.undo()
    assert rules(ip) == FRESH


def test_a_local_rule_that_another_program_has_moved_is_left_where_it_is(ip: Ip, client: NetworkNamespace) -> None:
    ip("rule add pref 32765 lookup local")
    ip("rule del pref 0")
    before = rules(ip)
    setup = planned()
    setup.apply()

    assert led(ip, f"{ADDRESS} from {CLIENT} iif eth0 ipproto tcp sport 5000 dport 443")
    assert FRESH[0] not in rules(ip)
    assert is_reached(client)
    assert setup.undo() == ()
    assert rules(ip) == before


def test_a_local_rule_that_the_operator_has_set_anew_is_moved_like_the_kernels(ip: Ip, client: NetworkNamespace) -> None:
    ip("rule add pref 0 lookup local protocol static")
    ip("rule del pref 0 lookup local protocol kernel")

    planned().apply()

    assert rules(ip) == in_place(443, 80)
    assert is_reached(client)


def test_two_services_have_their_rules_before_the_one_local_rule(ip: Ip, client: NetworkNamespace) -> None:
    neighbour_device = open_device("kracauer1", is_persistent=True)
    first = planned()
    first.apply()
    second = planned(shared(8443, device="kracauer1", prefix="2001:db8:47::/96", table=199))
    second.apply()

    assert first.undo() == ()
    assert sorted(rules(ip)) == sorted(in_place(8443, device="kracauer1", number=199))
    assert is_reached(client)
    neighbour_device.close()
    assert forget("kracauer1", ()) == ()
    assert rules(ip) == FRESH


def test_forgetting_leaves_another_services_rules_alone(ip: Ip) -> None:
    with contextlib.closing(open_device("kracauer1", is_persistent=True)):
        planned().apply()
        planned(shared(8443, device="kracauer1", prefix="2001:db8:47::/96", table=199)).apply()

    assert forget(DEVICE, destinations(shared())) == ()

    assert sorted(rules(ip)) == sorted(in_place(8443, device="kracauer1", number=199))
    assert forget("kracauer1", ()) == ()


CONFLICTS: dict[str, tuple[str, str]] = {
    "no address": (f"address del {ADDRESS}/24 dev eth0", 'network.ownership = "routed"'),
    "table in use": ("route add 203.0.113.0/24 dev eth0 table 198", "network.table"),
    "table asked by others": ("rule add from 203.0.113.9 lookup 198", "network.table"),
    "rule beside the local one": ("rule add pref 0 from 203.0.113.9 lookup 77", "preference of its own"),
}


@pytest.mark.parametrize("name", CONFLICTS)
def test_a_host_that_does_not_allow_it_is_explained_and_left_alone(ip: Ip, name: str) -> None:
    command, remedy = CONFLICTS[name]
    ip(command)
    before = ip("rule") + ip("route show table all")

    with pytest.raises(HostError) as caught:
        planned().apply()

    assert remedy in caught.value.remedy
    assert ip("rule") + ip("route show table all") == before


def test_a_routed_service_on_an_address_of_this_host_is_told_of_sharing(ip: Ip) -> None:
    config = shared()
    assert ip("rule")

    with pytest.raises(HostError, match="is configured on eth0") as caught:
        planned(Config(config.prefix, config.listeners, config.routes))

    assert 'network.ownership = "shared"' in caught.value.remedy


def test_a_rule_that_somebody_adds_at_that_very_moment_keeps_the_local_one_where_it_is(ip: Ip) -> None:
    setup = planned()
    ip("rule add pref 0 from 203.0.113.9 lookup 77")
    before = rules(ip)

    with pytest.raises(HostError, match="preference of the local one"):
        setup.apply()

    assert rules(ip) == before


def die_at(count: int, work: Callable[[], object]) -> bool:
    """Do `work` in a child that is killed before it asks the kernel about rules for the `count`th time; whether it was."""
    child = os.fork()
    if not child:
        try:
            ask, left = RuleTable._send, [count]

            def send(channel: RuleTable, kind: int, flags: int, body: bytes) -> None:
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
                ask(channel, kind, flags, body)

            RuleTable._send = send  # type: ignore[assignment]
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_a_process_that_dies_at_any_moment_leaves_a_host_that_answers(ip: Ip, client: NetworkNamespace) -> None:
    vigil = Vigil(client)
    deaths = 0
    for count in range(1000):
        if not die_at(count, planned().apply):
            break
        deaths += 1
        assert is_reached(client), f"after {count} requests: {rules(ip)}"
        planned().apply()
        assert sorted(rules(ip)) == sorted(in_place(443, 80)), count
        assert is_reached(client)
        assert forget(DEVICE, ()) == ()
        assert rules(ip) == FRESH, count
        open_device(DEVICE, is_persistent=True).close()
    assert deaths > 20
    assert vigil.end() > deaths


def test_one_that_dies_while_it_takes_everything_back_does_so_too(ip: Ip, client: NetworkNamespace) -> None:
    vigil = Vigil(client)
    deaths = 0
    for count in range(1000):
        setup = planned()
        setup.apply()
        if not die_at(count, setup.undo):
            break
        deaths += 1
        assert is_reached(client), f"after {count} requests: {rules(ip)}"
        assert forget(DEVICE, destinations(shared())) == ()
        assert rules(ip) == FRESH, count
        open_device(DEVICE, is_persistent=True).close()
    assert deaths > 10
    assert vigil.end() > deaths


@pytest.mark.parametrize("number", [17, 18, 19, 20, 21, 22, 23, 24])
def test_a_refusal_of_the_kernels_at_any_moment_leaves_nothing_behind(
    ip: Ip, client: NetworkNamespace, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    setup, left, ask = planned(), [number], RuleTable._send

    def send(channel: RuleTable, kind: int, flags: int, body: bytes) -> None:
        left[0] -= 1
        if not left[0]:
            raise PermissionError(1, "Operation not permitted")
        ask(channel, kind, flags, body)

    monkeypatch.setattr(RuleTable, "_send", send)
    with pytest.raises(HostError, match="Operation not permitted"):
        setup.apply()

    assert rules(ip) == FRESH
    assert is_reached(client)


def test_while_rules_come_and_go_no_answer_is_missing(ip: Ip, client: NetworkNamespace) -> None:
    vigil = Vigil(client)
    for _ in range(20):
        setup = planned()
        setup.apply()
        setup.extend(extension(shared(8443), gather(DEVICE, destinations(shared()), 198)))
        setup.restore_routes()
        setup.retire(SERVICE, 8443)
        assert setup.undo() == ()
        assert rules(ip) == FRESH
    assert vigil.end() > 20


def test_services_that_come_and_go_at_the_same_time_never_leave_the_host_without_its_rule(
    ip: Ip, client: NetworkNamespace
) -> None:
    devices = [f"kracauer{number}" for number in range(1, 4)]
    for device in devices:
        open_device(device, is_persistent=True).close()
    vigil = Vigil(client)
    children = []
    for number, device in enumerate(devices):
        config = shared(9000 + number, device=device, prefix=f"2001:db8:{50 + number}::/96", table=300 + number)
        child = os.fork()
        if not child:
            status = 1
            try:
                for _ in range(15):
                    setup = planned(config)
                    setup.apply()
                    assert setup.undo() == ()
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]

    vigil.end()
    for device in devices:
        assert forget(device, ()) == ()
    assert rules(ip) == FRESH


def test_a_reset_of_the_hosts_own_from_a_service_port_goes_nowhere(ip: Ip, client: NetworkNamespace) -> None:
    planned().apply()
    ip("rule del pref 0")  # as in the moment before it is mended
    ip(f"rule del to {ADDRESS} ipproto tcp dport 443 lookup 198")

    for port, error in ((443, TimeoutError), (8443, ConnectionRefusedError)):
        with client.open_socket() as probe:
            probe.settimeout(0.5)
            with pytest.raises(error):
                probe.connect((ADDRESS, port))
