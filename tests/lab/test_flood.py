"""What attackers send goes out as it was made, at the rate that was asked for, and a crowd tells the truth of its visits."""

import socket
from collections.abc import Iterator
from random import Random

import packets
import pytest

from kracauer.lab import attacks, configuration, crowd, flood
from kracauer.lab.flood import ETH_P_IP
from kracauer.lab.topology import ATTACKER, ORIGIN_1, SERVICE, Lab, Topology
from kracauer.lab.wire import ETH_P_ALL

pytestmark = pytest.mark.lab

SERVICE_V4 = socket.inet_aton(SERVICE)
NAME = "www.example.com"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(Topology(has_attacker=True)) as built:
        yield built


def syns(count: int) -> list[bytes]:
    random = Random(1)
    return list(attacks.syns(random, attacks.spoofed(random, count, SERVICE_V4, 80)))


def test_every_packet_arrives_as_it_was_made_with_right_checksums(lab: Lab) -> None:
    made = syns(300)
    with lab.router.open_socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as tap:
        tap.bind(("attacker0", ETH_P_ALL))
        tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        tap.settimeout(5)
        process = flood.launch(lab, made, 2000, 0.3)
        arrived: list[bytes] = []
        while len(arrived) < len(made):
            frame, address = tap.recvfrom(2000)
            if frame[12:14] == ETH_P_IP and address[2] != socket.PACKET_OUTGOING:
                arrived.append(frame[14:])
    assert arrived == made
    for packet in arrived:
        assert packets.parse(bytes(10) + packet).is_syn
    assert flood.outcome(process).refused == 0


def test_a_rate_is_kept(lab: Lab) -> None:
    sent = flood.outcome(flood.launch(lab, syns(1000), 5000, 1))
    assert 4000 < sent.per_second < 5100


def test_without_a_rate_it_is_fast_enough_to_be_a_flood(lab: Lab) -> None:
    random = Random(2)
    nowhere = list(attacks.syns(random, attacks.spoofed(random, 5000, socket.inet_aton("203.0.113.1"), 9)))
    assert flood.outcome(flood.launch(lab, nowhere, 0, 1)).per_second > 20_000


def test_the_attacker_has_many_addresses_to_call_from(lab: Lab) -> None:
    with lab.router.call(lambda: socket.create_server(("203.0.113.1", 7))) as listener:
        for source in ("203.0.113.130", "203.0.113.250", ATTACKER):
            with lab.attacker.open_socket() as connection:
                connection.settimeout(5)
                connection.bind((source, 0))
                connection.connect(("203.0.113.1", 7))
                accepted, caller = listener.accept()
                accepted.close()
                assert caller[0] == source


def test_a_crowd_tells_how_long_its_visits_took(lab: Lab) -> None:
    lab.start_origin("origin1")
    lab.start_daemon(configuration.render({NAME: ORIGIN_1}))
    visits = crowd.outcome(crowd.launch(lab, [NAME], 0.5, visitors=2))
    assert visits.failures == {}
    assert len(visits.latencies_s) > 5
    assert 0 < visits.quantile(0) <= visits.quantile(0.5) <= visits.quantile(1) < 5


def test_a_crowd_counts_what_it_was_refused(lab: Lab) -> None:
    visits = crowd.outcome(crowd.launch(lab, ["unknown.example.com"], 0.3, visitors=2))
    assert visits.latencies_s == []
    assert all("421" in failure for failure in visits.failures)
    assert visits.failures.total() > 0
    assert visits.quantile(0.5) == float("inf")
