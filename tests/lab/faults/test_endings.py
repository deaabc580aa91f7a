"""Ends on purpose: everything given back, or left to a daemon that does not know how its predecessor wrote."""

import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import DEVICE, Trial, ask

from kracauer.lab.namespaces import PACKAGE_ROOT
from kracauer.tcp.record import VERSION

pytestmark = pytest.mark.lab

BuildTrial = Callable[..., Trial]
COUNT = 30
AT_ONCE_S = 3.0
OTHER_VERSION = VERSION + 1000


def state(trial: Trial) -> str:
    """What is on the router's host: links, rules, routes and settings of ours."""
    show = ("-brief link show", "rule show", "-6 rule show", "-4 route show table all", "-6 route show table all")
    said = "".join(trial.lab.router.run(["ip", *words.split()]).stdout.decode() for words in show)
    return "\n".join(line for line in said.splitlines() if "client0" not in line and "origin" not in line)


def test_a_final_stop_tells_both_ends_of_every_connection_at_once_and_leaves_nothing(build_trial: BuildTrial) -> None:
    trial = build_trial()
    before = state(trial)
    trial.start()
    connections = [trial.connect() for _ in range(COUNT)]
    backends = established(trial)
    assert backends >= COUNT
    heard: list[str] = []
    threads = [threading.Thread(target=lambda each=each: heard.append(hear(each))) for each in connections]
    for thread in threads:
        thread.start()

    done = trial.command("stop", "--forget")

    assert (done.returncode, b"nothing is kept" in done.stdout) == (0, True)
    for thread in threads:
        thread.join(AT_ONCE_S)
    assert heard == ["ConnectionResetError"] * COUNT
    assert established(trial) == 0
    assert trial.daemon.wait() == 0
    assert state(trial) == before
    assert sorted(path.name for path in trial.run_directory.iterdir()) == [f"{DEVICE}.lock", f"{DEVICE}.secret"]


def test_what_a_killed_daemon_has_left_is_given_back_too(build_trial: BuildTrial) -> None:
    trial = build_trial()
    before = state(trial)
    trial.start()
    trial.connect()
    trial.kill()
    assert trial.command("stop", "--forget").returncode == 0
    assert state(trial) == before
    assert not trial.flow_file.exists()


def test_a_version_with_other_records_sets_the_table_aside_and_serves_and_so_does_the_way_back(
    trial: Trial, tmp_path: Path
) -> None:
    shutil.copytree(PACKAGE_ROOT / "kracauer", tmp_path / "kracauer", ignore=shutil.ignore_patterns("__pycache__"))
    record = tmp_path / "kracauer/tcp/record.py"
    text = record.read_text(encoding="utf-8")
    assert f"VERSION: Final = {VERSION} " in text
    record.write_text(text.replace(f"VERSION: Final = {VERSION} ", f"VERSION: Final = {OTHER_VERSION} "), encoding="utf-8")
    other = ("env", "-C", str(tmp_path))  # where an interpreter looks for modules first of all

    for wrapper, mine, theirs in ((other, OTHER_VERSION, VERSION), ((), VERSION, OTHER_VERSION)):
        connection = trial.connect()
        trial.kill()
        trial.start(wrapper=wrapper)
        (line,) = trial.said("flows_set_aside")
        assert line["cause"] == f"its records are of version {theirs}, not {mine}"
        assert Path(line["aside"]).exists()
        assert trial.adopted == (0, 0)
        trial.check_new_connections()
        with pytest.raises(ConnectionResetError):
            ask(connection)
        with trial.lasting(COUNT):
            trial.kill()
            trial.start(wrapper=wrapper)
            assert trial.adopted[0] >= COUNT


def hear(connection: socket.socket) -> str:
    try:
        return "data" if connection.recv(1) else "the end"
    except OSError as error:
        return type(error).__name__


def established(trial: Trial) -> int:
    """How many connections the backends have."""
    count = 0
    for origin in (trial.lab.origin1, trial.lab.origin2):
        table = origin.call(lambda: Path("/proc/thread-self/net/tcp6").read_text(encoding="ascii"))
        count += sum(line.split()[3] == "01" for line in table.splitlines()[1:])
    return count
