"""A thousand connections in mid-transfer, and short ones without end, while the daemon is killed, stopped, and reloaded."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from faults import NAME, OTHER_NAME, Trial

from kracauer.daemon import ask
from kracauer.lab import crowd
from kracauer.lab.endurance import Pace
from kracauer.lab.topology import ORIGIN_1, ORIGIN_2

pytestmark = pytest.mark.lab

BuildTrial = Callable[..., Trial]
CROWD = 1000
DOWN_S = 0.5
KILLS = 4
# A SYN or a first request that comes while nobody serves is sent again after 1 s and after 3 s (RFC 6298 §2); it takes two
# kills, both at the wrong moment, for a visit to see both.
ALMOST_ALL_WITHIN_S = 4.5
ALL_WITHIN_S = 9.0


@contextmanager
def meanwhile(work: Callable[[threading.Event], None]) -> Iterator[None]:
    """Have a thread do `work` until the block has ended."""
    errors: list[BaseException] = []
    is_over = threading.Event()

    def run() -> None:
        try:
            work(is_over)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join(30)
    if errors:
        raise errors[0]


@pytest.mark.parametrize("has_uploads", [pytest.param(False, id="downloads"), pytest.param(True, id="uploads, too")])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_thousand_connections_in_mid_transfer_outlive_the_daemon(
    trial: Trial, number: signal.Signals, has_uploads: bool
) -> None:
    with trial.lasting(CROWD, has_uploads=has_uploads) as outcomes:
        trial.kill(number)
        time.sleep(DOWN_S)
        trial.start()
        assert trial.adopted == (CROWD, 0)
    assert outcomes[0].transfers >= CROWD
    trial.check_new_connections()


def test_a_thousand_connections_outlive_one_daemon_after_the_other(trial: Trial) -> None:
    with trial.lasting(CROWD, has_uploads=True):
        for number in (signal.SIGKILL, signal.SIGTERM) * 2:
            trial.kill(number)
            trial.start()
            assert trial.adopted == (CROWD, 0)


def test_a_thousand_connections_outlive_the_device(trial: Trial) -> None:
    with trial.lasting(CROWD, has_uploads=True):
        trial.lab.router.run(["ip", "link", "del", "kracauer0"])
        assert trial.daemon.wait() == 6
        (line,) = trial.said("device_lost")
        assert "kracauer0 has gone away" in line["cause"]
        assert line["remedy"]
        time.sleep(DOWN_S)
        trial.start()
        assert trial.adopted == (CROWD, 0)
    trial.expected_errors.add("device_lost")
    trial.check_new_connections()


def test_no_visit_fails_while_the_daemon_is_killed_over_and_over(trial: Trial) -> None:
    process = crowd.launch(trial.lab, [NAME, OTHER_NAME], 9, visitors=16)
    for _ in range(KILLS):
        time.sleep(1.2)
        trial.kill()
        trial.start()
    visits = crowd.outcome(process)
    assert visits.failures == {}
    assert len(visits.latencies_s) > 200
    assert visits.quantile(0.99) < ALMOST_ALL_WITHIN_S
    assert visits.quantile(1) < ALL_WITHIN_S


def test_a_hundred_and_fifty_reloads_in_three_seconds_disturb_nobody(trial: Trial) -> None:
    def reload(is_over: threading.Event) -> None:
        for count in range(150):
            trial.write_config(trial.config + f"# {count}\n")
            trial.daemon.send_signal(signal.SIGHUP)
            if is_over.wait(0.02):
                raise AssertionError(f"the visits were over after {count} reloads")

    with trial.lasting(2, has_uploads=True, pace=Pace(length=8 << 20, rate=2 << 20, pieces=20)):
        process = crowd.launch(trial.lab, [NAME, OTHER_NAME], 3.5)
        with meanwhile(reload):
            visits = crowd.outcome(process)
    assert visits.failures == {}
    assert visits.quantile(1) < 1.0
    assert len(trial.said("reloaded")) > 10
    assert trial.said("reload_refused") == []


def test_a_thousand_reloads_that_change_everything_lose_nothing(
    build_trial: BuildTrial, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = build_trial()
    trial.start()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(trial.run_directory))
    swapped = trial.config.replace(ORIGIN_1, "backend").replace(ORIGIN_2, ORIGIN_1).replace("backend", ORIGIN_2)
    asked = 0

    def reload(is_over: threading.Event) -> None:
        nonlocal asked
        while asked < 500 and not is_over.is_set():
            trial.write_config(swapped if asked % 2 else trial.config)
            trial.daemon.send_signal(signal.SIGHUP)
            assert ask("kracauer0", "reload")["problems"] == []
            asked += 1

    with trial.lasting(200, has_uploads=True), meanwhile(reload):
        deadline = time.monotonic() + 18
        while asked < 500 and time.monotonic() < deadline:
            time.sleep(0.05)
    assert asked == 500
    assert len(trial.said("reloaded")) >= 500
    assert trial.said("reload_refused") == []
