"""Daemons whose monotonic clocks differ, one after the other on the same flow file."""

import time

import pytest
from faults import Trial, ask, until

from kracauer.daemon.service import SWEEP_S
from kracauer.lab.clock import shifted
from kracauer.lab.topology import SERVICE

pytestmark = pytest.mark.lab

IDLE_S = 7440  # timeouts.established_idle_s, as it is by default
TRANSITORY_S = 240
NEIGHBOUR = "192.0.2.8"


def kill(trial: Trial) -> None:
    """Kill the daemon once it has noted all that the kernel has carried: the kernel's clock is nobody's who comes later."""
    time.sleep(SWEEP_S + 0.2)
    trial.kill()


def restart(trial: Trial, ahead_s: int) -> None:
    kill(trial)
    trial.start(wrapper=shifted(ahead_s))


def test_flows_of_a_clock_that_was_ahead_are_thrown_away_and_not_misread(trial: Trial) -> None:
    restart(trial, 10_000)
    connections = [trial.connect() for _ in range(3)]
    restart(trial, 0)

    assert trial.adopted == (0, 3)
    assert trial.status()["flows"] == {}
    trial.check_new_connections()
    for connection in connections:  # nobody knows of them any more, and they are told at their next word
        with pytest.raises(ConnectionResetError):
            ask(connection)


def test_flows_that_have_been_idle_too_long_are_asked_for_and_go_on_where_both_ends_are_there(trial: Trial) -> None:
    connections = [trial.connect() for _ in range(20)]
    restart(trial, IDLE_S + 600)

    assert trial.adopted == (20, 0)
    until(lambda: trial.status()["flows"] == {"established": 20}, 10, lambda: trial.status()["flows"])
    restart(trial, IDLE_S + 600 + TRANSITORY_S + 60)
    assert trial.status()["flows"] == {"established": 20}
    assert [ask(connection) for connection in connections] == [200] * 20


def test_flows_that_have_been_idle_too_long_are_not_taken_for_alive_where_an_end_is_silent(trial: Trial) -> None:
    trial.lab.client.run(["ip", "address", "add", f"{NEIGHBOUR}/24", "dev", "eth0"])
    kept = trial.connect()
    with trial.lab.client.open_socket() as lost:
        lost.bind((NEIGHBOUR, 0))
        lost.connect((SERVICE, 80))
        assert ask(lost) == 200
        kill(trial)
        trial.lab.client.run(["ip", "address", "del", f"{NEIGHBOUR}/24", "dev", "eth0"])
        expected = {"established": 1, "probing": 1}
        for ahead_s in (IDLE_S + 600, IDLE_S + 600 + TRANSITORY_S + 60):  # the second one asks again: it has heard nothing
            trial.start(wrapper=shifted(ahead_s))
            until(lambda: trial.status()["flows"] == expected, 10, lambda: trial.status()["flows"])
            assert ask(kept) == 200
            kill(trial)
    trial.start(wrapper=shifted(ahead_s))


def test_a_clock_that_has_jumped_ahead_by_days_loses_no_connection_in_use(trial: Trial) -> None:
    with trial.lasting(50, has_uploads=True):
        restart(trial, 3 * 86_400)
        assert trial.adopted == (50, 0)
