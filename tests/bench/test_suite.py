"""The benchmark measures what it says it does, in a lab, briefly: Kracauer and the kernel alone."""

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import crowding
import machine
import naming
import programme
import pytest
import results
import traffic
from results import Part
from rounds import Pace, Reading
from stage import KERNEL, KRACAUER, KRACAUER_FAST, Instance, MeasureError, Stage, Way

from kracauer.lab import links

ROOT = Path(__file__).resolve().parents[2]
BRIEF = Pace(0.1, 1)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with Stage() as built:
        built.add_kernel()
        built.add_kracauer()
        built.check()
        yield built


@pytest.mark.lab
@pytest.mark.parametrize("way", [KERNEL, KRACAUER])
@pytest.mark.parametrize(
    ("measure", "arguments", "figures"),
    [
        (traffic.open_many, (1,), {"per_second", "median_us", "p90_us", "p99_us"}),
        (traffic.open_many, (8,), {"per_second", "median_us", "p90_us", "p99_us"}),
        (traffic.ping, (), {"per_second", "median_us", "p90_us", "p99_us"}),
        (traffic.shake_hands, (2,), {"per_second", "median_us", "p90_us", "p99_us"}),
        (traffic.move, ("download", 1), {"gbit_per_s"}),
        (traffic.move, ("upload", 2), {"gbit_per_s"}),
    ],
)
def test_each_kind_of_traffic_has_its_figures(
    stage: Stage, way: str, measure: Callable[..., Reading], arguments: tuple[object, ...], figures: set[str]
) -> None:
    reading = measure(stage, stage.ways[way], 0.2, *arguments)
    assert reading.failures == {}
    own = {"daemon_us"} if way == KRACAUER else set()
    assert set(reading.figures) == figures | own | {"machine_us"}
    assert all(value > 0 for value in reading.figures.values())


@pytest.mark.lab
def test_somebody_who_answers_for_the_server_is_found_out(stage: Stage) -> None:
    script = """
import socket
with socket.create_server(("198.51.100.77", 443)) as listener:
    print("impostor", flush=True)
    while True:
        with listener.accept()[0] as connection:
            connection.recv(4096)
            connection.send(b"k")
"""
    links.add_local_network(stage.lab.router, "198.51.100.77/32")
    stage.lab.start("impostor", stage.lab.router, [sys.executable, "-c", script]).wait_for("impostor")
    with pytest.raises(MeasureError, match="more was answered than has come to the server"):
        traffic.open_many(stage, Way("impostor", "198.51.100.77"), 0.1, 1)


@pytest.mark.lab
def test_idle_connections_are_held_and_counted(stage: Stage) -> None:
    failures: Counter[str] = Counter()
    figures = crowding.hold(stage, stage.ways[KRACAUER], 200, failures)
    assert failures == {}
    assert figures["router_sockets"] == 0
    assert -20_000 < figures["daemon_bytes"] < 20_000


@pytest.mark.lab
def test_idle_connections_are_adopted_and_their_packets_arrive() -> None:
    part = Part("flows")
    crowding.measure_flows(part, BRIEF, (1, 50))
    assert [series.point for series in part.series] == [{"flows": 1}, {"flows": 50}]
    for series in part.series:
        assert (series.way, series.failures) == (KRACAUER, {})
        assert {"packet_us", "open_per_second", "ping_median_us", "daemon_bytes"} <= set(series.rounds[0] or {})
        assert 0 < series.values("packet_us")[0] < 1000


@pytest.mark.lab
def test_names_are_asked_for_through_tables_of_each_size() -> None:
    part = Part("names")
    naming.measure_names(part, BRIEF, [], (1, 20))
    measured = {(series.way, series.point["kind"], series.point["names"]) for series in part.series}
    assert measured == {(way, kind, size) for way in ("engine", KRACAUER) for kind in naming.KINDS for size in (1, 20)}
    for series in part.series:
        assert series.failures == {}
        assert series.values("lookup_us" if series.way == "engine" else "median_us")[0] > 0


@pytest.mark.parametrize("kind", naming.KINDS)
def test_the_name_asked_for_has_just_its_own_key(kind: str) -> None:
    asked = naming.middle(20, kind)
    keys = [key for key in (naming.pattern(number, kind) for number in range(30)) if asked.endswith(key.lstrip("*"))]
    assert keys == [naming.pattern(10, kind)]


@pytest.mark.lab
def test_one_command_measures_and_writes_it_all_down(tmp_path: Path) -> None:
    said: list[str] = []
    pace = Pace(0.1, 2, tell=said.append)
    assert programme.run(["round-trips"], pace, [], tmp_path) == 0
    found = results.load(tmp_path)
    assert found is not None
    assert set(found.parts["round-trips"].ways()) - {KRACAUER_FAST} == {KERNEL, KRACAUER}
    assert all(len(series.values("median_us")) == 2 for series in found.parts["round-trips"].series)
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "## A byte there and back" in text
    assert any("added to the kernel's median" in line for line in said)


def test_a_part_that_fails_is_told_of_and_the_others_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_part: Part, _pace: Pace, _peers: object) -> None:
        raise MeasureError("it is raining")

    def succeed(part: Part, _pace: Pace, _peers: object) -> None:
        part.left_out["tayga"] = "not today"

    monkeypatch.setattr(programme, "PARTS", {"bulk": fail, "tls": succeed})
    said: list[str] = []
    assert programme.run(["bulk", "tls"], Pace(0.1, 1, tell=said.append), [], tmp_path) == 1
    assert "bulk could not be measured: it is raining" in said
    found = results.load(tmp_path)
    assert found is not None
    assert list(found.parts) == ["tls"]


def test_parts_measured_before_stay_and_those_of_another_machine_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programme, "PARTS", {"bulk": lambda *_: None, "tls": lambda *_: None})
    quiet = Pace(0.1, 1)
    programme.run(["tls"], quiet, [], tmp_path)
    programme.run(["bulk"], quiet, [], tmp_path)
    found = results.load(tmp_path)
    assert found is not None
    assert list(found.parts) == ["bulk", "tls"]
    found.machine["system"] = "Plan 9"
    found.save(tmp_path)
    programme.run(["bulk"], quiet, [], tmp_path)
    found = results.load(tmp_path)
    assert found is not None
    assert list(found.parts) == ["bulk"]


def test_each_part_says_what_it_was_measured_on_and_how_busy_that_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patience: list[float] = []

    def await_quiet(patience_s: float) -> float:
        patience.append(patience_s)
        return 0.4

    monkeypatch.setattr(programme, "PARTS", {"bulk": lambda *_: None})
    monkeypatch.setattr(machine, "await_quiet", await_quiet)
    monkeypatch.setattr(machine, "commit", lambda: "0123456789")
    said: list[str] = []
    programme.run(["bulk"], Pace(0.5, 4, patience_s=90, tell=said.append), [], tmp_path)
    found = results.load(tmp_path)
    assert found is not None
    part = found.parts["bulk"]
    assert (part.seconds, part.rounds, part.busy, part.commit) == (0.5, 4, 0.4, "0123456789")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", part.measured)
    assert patience == [90]
    assert "40% of this machine are in use by others: figures will be noisy" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "bulk,blk"], "blk: no part; there are bulk, bulk-links, connections"),
        (["--peers", "squid"], "squid: no peer; there are haproxy, nginx, sniproxy, tayga"),
        (["--seconds", "0"], "--seconds has to be more than 0"),
        (["--rounds", "0"], "--rounds at least 1"),
        (["--render", "--out", "/nowhere"], "there are no results in /nowhere"),
    ],
)
def test_wrong_options_are_told_what_would_be_right(options: list[str], message: str) -> None:
    command = [sys.executable, "tests/bench/run.py", *options]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    assert result.returncode == 2
    assert message in result.stderr


def test_a_second_kracauer_has_addresses_of_its_own() -> None:
    texts = [Instance(number).render() for number in (0, 1, 12)]
    for what in ("prefix = .*", "address = .*", '"device" = .*'):
        assert len({match[0] for text in texts if (match := re.search(what, text))}) == 3
