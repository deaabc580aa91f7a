"""Device, link and routes in the hands of others while the service runs: what was ours is set again, and connections go on."""

import time
from collections.abc import Callable

import pytest
from faults import DEVICE, NAME, OTHER_NAME, Trial, until

from kracauer.lab import crowd

pytestmark = pytest.mark.lab

COUNT = 50


def ip(trial: Trial, words: str) -> str:
    """Run `ip` on the router; returns what it has said."""
    done = trial.lab.router.run(["ip", *words.split()])
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def routes(trial: Trial) -> set[str]:
    """Ours, of both families."""
    lines = (line for family in ("-4", "-6") for line in ip(trial, f"{family} route show proto 198").splitlines())
    return {line.replace(" linkdown", "").strip() for line in lines}


def mtu(trial: Trial) -> int:
    words = ip(trial, f"link show {DEVICE}").split()
    return int(words[words.index("mtu") + 1])


def flap(trial: Trial) -> None:
    ip(trial, f"link set {DEVICE} down")
    ip(trial, f"link set {DEVICE} up")


def flap_over_and_over(trial: Trial) -> None:
    for _ in range(20):
        flap(trial)
        time.sleep(0.02)


def lie_down_for_a_while(trial: Trial) -> None:
    ip(trial, f"link set {DEVICE} down")
    time.sleep(1)
    ip(trial, f"link set {DEVICE} up")


def remove_v4_route(trial: Trial) -> None:
    ip(trial, f"-4 route del 198.51.100.1/32 dev {DEVICE}")


def remove_v6_route(trial: Trial) -> None:
    ip(trial, f"-6 route del 2001:db8:46::/96 dev {DEVICE}")


def flush_routes(trial: Trial) -> None:
    ip(trial, "-4 route flush proto 198")
    ip(trial, "-6 route flush proto 198")


def flush_device(trial: Trial) -> None:
    ip(trial, f"-4 route flush dev {DEVICE}")
    ip(trial, f"-6 route flush dev {DEVICE}")


def narrow(trial: Trial) -> None:
    ip(trial, f"link set {DEVICE} mtu 1300")


def narrow_below_what_ipv6_takes(trial: Trial) -> None:
    ip(trial, f"link set {DEVICE} mtu 1000")


def switch_ipv6_off_and_on(trial: Trial) -> None:
    trial.lab.router.sysctl(f"net.ipv6.conf.{DEVICE}.disable_ipv6", 1)
    time.sleep(0.2)
    trial.lab.router.sysctl(f"net.ipv6.conf.{DEVICE}.disable_ipv6", 0)


@pytest.mark.parametrize(
    "spoil",
    [
        flap,
        flap_over_and_over,
        lie_down_for_a_while,
        remove_v4_route,
        remove_v6_route,
        flush_routes,
        flush_device,
        narrow,
        narrow_below_what_ipv6_takes,
        switch_ipv6_off_and_on,
    ],
)
def test_what_was_taken_away_is_set_again_and_connections_go_on(trial: Trial, spoil: Callable[[Trial], None]) -> None:
    complete = routes(trial)
    assert len(complete) == 4
    if spoil is switch_ipv6_off_and_on:
        trial.expected_errors.add("routes_not_restored")  # as long as it is off
    with trial.lasting(COUNT, has_uploads=True):
        spoil(trial)
        trial.wait_for("routes_restored")
        until(lambda: routes(trial) == complete and mtu(trial) >= 1500, 5, lambda: f"{routes(trial)} {mtu(trial)}")
    trial.check_new_connections()
    assert routes(trial) == complete


def test_all_interfaces_down_and_up_again_cost_no_connection(trial: Trial) -> None:
    complete = routes(trial)
    addresses = {"origin1": "2001:db8:1::1/64", "origin2": "2001:db8:2::1/64", "client0": "2001:db8:c::1/64"}
    with trial.lasting(COUNT, has_uploads=True):
        for _ in range(3):
            for state in ("down", "up"):
                for interface in (*addresses, DEVICE):
                    ip(trial, f"link set {interface} {state}")
            for interface, address in addresses.items():
                ip(trial, f"address replace {address} dev {interface} nodad")
            time.sleep(0.3)
        trial.wait_for("routes_restored")
    until(lambda: routes(trial) == complete)
    trial.check_new_connections()


def test_routes_that_are_taken_away_again_and_again_are_set_again_once_a_second(trial: Trial) -> None:
    complete = routes(trial)
    with trial.lasting(COUNT, has_uploads=True):
        began = time.monotonic()
        while time.monotonic() < began + 4:
            flush_routes(trial)
            time.sleep(0.05)
        until(lambda: routes(trial) == complete, 5, lambda: routes(trial))
        assert len(trial.said("routes_restored")) <= (time.monotonic() - began) + 2


def test_visits_go_on_while_the_device_is_deleted_under_one_daemon_after_the_other(trial: Trial) -> None:
    process = crowd.launch(trial.lab, [NAME, OTHER_NAME], 6)
    for _ in range(3):
        time.sleep(1)
        ip(trial, f"link del {DEVICE}")
        assert trial.daemon.wait() == 6
        trial.start()
    trial.expected_errors.add("device_lost")
    visits = crowd.outcome(process)
    # Between two devices the dead end answers with "host unreachable", which ends a visit that is being opened.
    assert set(visits.failures) <= {"[Errno 113] No route to host"}
    trial.check_new_connections()


def test_a_route_that_somebody_has_put_in_the_place_of_ours_is_told_and_left_until_it_goes(trial: Trial) -> None:
    trial.expected_errors.add("routes_not_restored")
    theirs = "unreachable 2001:db8:46::/96 metric 1024"
    batch = f"route del 2001:db8:46::/96 dev {DEVICE}\nroute add {theirs}\n"  # faster than whoever sets ours again
    done = trial.lab.router.run(["ip", "-6", "-batch", "-"], stdin=batch.encode())
    assert done.returncode == 0, done.stderr
    line = trial.wait_for("routes_not_restored")
    assert "2001:db8:46::/96" in line["cause"]
    assert line["remedy"]
    ip(trial, f"-6 route del {theirs}")
    trial.wait_for("routes_restored")
    trial.check_new_connections()
    assert len(trial.said("routes_not_restored")) == 1
