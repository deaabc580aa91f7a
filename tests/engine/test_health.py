"""Which backends are taken for up or down, why, and what that means for the next client."""

import pytest
from engine_kinds import alone
from probed import ONE, TWO, Client, Network, probed_config

FIRST, SECOND = "2001:db8:1::2", "2001:db8:1::3"
pytestmark = alone  # probes are of no flow
THREE = '"www.example.com" = ["2001:db8:1::2", "2001:db8:1::3", "2001:db8:1::4"]\n'
UNPROBED = "enabled = false"


@pytest.fixture
def network() -> Network:
    """Two backends that have been up for a while."""
    network = Network(probed_config(TWO))
    network.run(20)
    return network


@pytest.fixture
def unprobed() -> Network:
    """Two backends that nobody probes."""
    return Network(probed_config(TWO, UNPROBED))


def move_on(client: Client) -> None:
    """The first backend refuses, the second one accepts."""
    client.refuse()
    client.accept()


def test_a_backend_that_answers_is_up_and_nothing_is_said_of_it(network: Network) -> None:
    assert network.states() == ["up", "up"]
    assert network.events == []
    assert network.status().round_trip_s == pytest.approx(0.002)


@pytest.mark.parametrize(("answer", "reason"), [("refuse", "refused"), ("silent", "silent"), ("unreachable", "unreachable")])
def test_a_backend_is_down_after_three_probes_in_vain_and_that_is_said_once(network: Network, answer: str, reason: str) -> None:
    network.tell(FIRST, answer)
    network.run(60)
    assert network.states() == ["down", "up"]
    assert network.told("backend_down") == [{"backend": f"[{FIRST}]:443", "reason": reason}]
    assert network.status(FIRST).last_failure == reason


def test_it_takes_no_more_than_the_interval_and_three_timeouts(network: Network) -> None:
    network.tell(FIRST, "silent")
    network.run(5 + 3 * 1.05 + 0.1)
    assert network.states() == ["down", "up"]


def test_two_lost_probes_are_no_outage(network: Network) -> None:
    network.tell(FIRST, "silent")
    while network.status(FIRST).last_failure is None:
        network.run(0.1)
    network.run(0.9)
    network.tell(FIRST, "up")
    network.run(60)
    assert network.states() == ["up", "up"]
    assert network.told("backend_down") == []


def test_a_backend_comes_back_with_its_second_answer(network: Network) -> None:
    network.tell(FIRST, "refuse")
    network.run(30)
    network.tell(FIRST, "up")
    answered = len(network.times(FIRST))
    while network.status(FIRST).state == "down":
        network.run(0.1)
    assert len(network.times(FIRST)) - answered == 2
    (event,) = network.told("backend_up")
    assert event["backend"] == f"[{FIRST}]:443"
    assert 20 < float(str(event["down_s"])) < 40


def test_rise_and_fall_are_configurable() -> None:
    network = Network(probed_config(ONE, "rise = 5\nfall = 1"))
    network.run(10)
    network.tell(FIRST, "refuse")
    network.run(5.1)
    assert network.states() == ["down"]
    network.tell(FIRST, "up")
    answered = len(network.times(FIRST))
    while network.states() == ["down"]:
        network.run(0.1)
    assert len(network.times(FIRST)) - answered == 5


def test_one_that_has_never_answered_can_be_told_from_one_that_has(network: Network) -> None:
    """It is the missing route back that shows so."""
    network.engine.reconfigure(probed_config(THREE), network.now)
    network.tell("2001:db8:1::4", "silent")
    network.tell(FIRST, "silent")
    network.run(30)
    assert network.status("2001:db8:1::4").answered_at is None
    assert network.status(FIRST).answered_at is not None


def test_a_client_is_led_past_a_backend_that_is_down_at_once(network: Network) -> None:
    network.tell(FIRST, "silent")
    network.run(30)
    assert Client(network).backend == SECOND


def test_a_client_that_comes_before_that_is_known_loses_half_a_second(network: Network) -> None:
    network.tell(FIRST, "silent")
    client = Client(network)
    assert client.backend == FIRST
    client.wait(0.6)
    assert client.backend == SECOND


def test_the_failure_of_a_client_has_the_backend_probed_soon(network: Network) -> None:
    """At once, or a second after the last probe."""
    network.tell(FIRST, "refuse")
    network.run(1.5)
    Client(network).refuse()
    before = len(network.times(FIRST))
    network.run(0.1)
    assert len(network.times(FIRST)) == before + 1
    network.run(2.2)
    assert network.states() == ["down", "up"]


def test_a_client_goes_elsewhere_after_its_failure_and_nobody_else_does(network: Network) -> None:
    """A backend that keeps out one client, as fail2ban does, must not be lost to the others."""
    Client(network).refuse()
    assert Client(network, port=40001).backend == SECOND
    assert Client(network, "192.0.2.8").backend == FIRST


def test_clients_that_a_backend_keeps_out_can_not_have_it_taken_for_down(network: Network) -> None:
    for number in range(50):
        Client(network, f"192.0.2.{number + 10}").refuse()
        network.run(0.05)
    assert network.states() == ["up", "up"]
    assert Client(network).backend == FIRST


def test_where_all_are_down_they_are_tried_in_their_order_all_the_same(network: Network) -> None:
    network.tell(FIRST, "refuse")
    network.tell(SECOND, "refuse")
    network.run(30)
    client = Client(network)
    assert client.backend == FIRST
    client.refuse()
    assert client.backend == SECOND


def test_one_that_is_down_is_tried_after_the_others_and_the_first_of_those_gets_the_rest_of_the_time(network: Network) -> None:
    """Its SYN may just have been lost."""
    network.tell(FIRST, "silent")
    network.run(30)
    client = Client(network)
    assert client.backend == SECOND
    client.wait(0.6)
    assert client.backend == FIRST
    client.wait(0.6)
    assert client.backend == SECOND
    client.accept()


def test_a_client_that_gets_through_tells_that_the_backend_is_up(network: Network) -> None:
    network.engine.reconfigure(probed_config(ONE, "interval_s = 3600"), network.now)
    network.tell(FIRST, "silent")
    network.run(3700)
    assert network.states() == ["down"]
    for port in (40000, 40001):
        Client(network, port=port).accept()
    assert network.states() == ["up"]


def test_without_probes_a_failure_holds_for_its_client_for_ten_seconds(unprobed: Network) -> None:
    Client(unprobed).refuse()
    assert Client(unprobed, port=40001).backend == SECOND
    assert Client(unprobed, "192.0.2.8").backend == FIRST
    unprobed.run(10)
    assert Client(unprobed, port=40002).backend == FIRST


def test_without_probes_the_failures_of_two_clients_hold_for_all(unprobed: Network) -> None:
    move_on(Client(unprobed))
    move_on(Client(unprobed, "192.0.2.8"))
    assert unprobed.states() == ["down", "up"]
    assert Client(unprobed, "192.0.2.9").backend == SECOND
    unprobed.run(10)
    client = Client(unprobed, "192.0.2.9", port=40001)
    assert client.backend == FIRST
    move_on(client)
    assert Client(unprobed, "192.0.2.10").backend == SECOND
    assert len(unprobed.told("backend_down")) == 1


def test_without_probes_one_success_takes_it_back(unprobed: Network) -> None:
    move_on(Client(unprobed))
    move_on(Client(unprobed, "192.0.2.8"))
    unprobed.run(10)
    Client(unprobed, "192.0.2.9").accept()
    assert unprobed.states() == ["up", "up"]
    assert Client(unprobed, "192.0.2.10").backend == FIRST
    assert len(unprobed.told("backend_up")) == 1


def test_without_probes_a_success_in_between_parts_two_failures(unprobed: Network) -> None:
    Client(unprobed).refuse()
    Client(unprobed, "192.0.2.9").accept()
    Client(unprobed, "192.0.2.8").refuse()
    assert unprobed.states() == ["up", "unknown"]


def test_the_status_has_names_connections_and_what_is_to_be_emptied() -> None:
    hosts = """
        "a.example.com" = "2001:db8:1::2"
        "b.example.com" = ["2001:db8:1::2", { address = "2001:db8:1::3", drain = true }]
    """
    network = Network(probed_config(hosts))
    Client(network, name="a.example.com").accept()
    first, second = network.engine.backends()
    assert (first.names, first.flows, first.is_draining, first.port) == (2, 1, False, 443)
    assert (second.names, second.flows, second.is_draining) == (1, 0, True)
