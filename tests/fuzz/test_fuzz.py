"""Each fuzz target holds for its seeds, for what was once found, and for some seconds of chance; and it can find something."""

import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from engine_checks import check_packets
from engine_packets import ACK, SERVICES, Ends, build_tcp, residue
from engine_target import Play, explain
from mutation import mutations, shrink
from targets import CORPUS, TARGETS

RUN = Path(__file__).parent / "run.py"
ONE_END = Ends(SERVICES[0], bytes((192, 0, 2, 7)), 443, 40000)
SOUND = frozenset((0,))


@pytest.mark.parametrize("name", TARGETS)
def test_the_invariant_holds_for_seeds_and_for_what_was_once_found(name: str) -> None:
    target = TARGETS[name]
    calls = 0
    for data in (*target.seeds(), *(path.read_bytes() for path in sorted((CORPUS / name).glob("*")))):
        calls += target.play(data)
        assert len(data) <= target.max_bytes
    assert calls >= len(target.seeds())


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, RUN, *words], capture_output=True, text=True, check=False, timeout=100)


@pytest.mark.parametrize("name", TARGETS)
def test_the_invariant_holds_for_some_inputs_made_by_chance(name: str, tmp_path: Path) -> None:
    result = run(name, "--plain", "--seconds", "6" if name == "engine" else "1", "--findings", str(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
    assert " calls/s" in result.stdout


@pytest.mark.parametrize("name", ["tcp", "http", "engine"])
def test_coverage_guides_the_inputs_where_there_is_a_fuzzer(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("needs atheris, which is made for Linux on x86-64: pip install 'kracauer[fuzz]'")
    result = run(name, "--seconds", "3", "--findings", str(tmp_path / "findings"), "--corpus", str(tmp_path / "corpus"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "guided by coverage" in result.stdout
    assert len(list((tmp_path / "corpus").iterdir())) > len(TARGETS[name].seeds())


def test_a_finding_is_made_small_and_kept(tmp_path: Path) -> None:
    script = """
import sys, targets, runpy
def play(data):
    assert b"\\x83" not in data, "found"
    return 1
targets.TARGETS["ipv4"] = targets.Target(play, lambda: [bytes(50) + b"\\x83" + bytes(50)], 200)
sys.argv = [sys.argv[1], "ipv4", "--plain", "--seconds", "5", "--findings", sys.argv[2]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    paths = [str(RUN.parent), str(RUN.parent.parent / "support"), str(RUN.parent.parent.parent)]
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}\n{script}", str(RUN), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 1, result.stdout + result.stderr
    (kept,) = tmp_path.iterdir()
    assert kept.read_bytes() == b"\x83"


def test_chance_is_the_same_for_the_same_seed() -> None:
    def first(seed: int) -> list[bytes]:
        return [data for data, _ in zip(mutations([b"abc", b"defg"], 100, seed), range(50), strict=False)]

    assert first(1) == first(1) != first(2)


def test_shrinking_keeps_what_makes_the_finding() -> None:
    assert shrink(bytes(100) + b"x" + bytes(100) + b"y", lambda data: b"x" in data and b"y" in data) == b"xy"


# ---------------------------------------------------------------------------------- what the engine's target can find


def spoilt(packet: bytes, *changes: tuple[int, int]) -> bytes:
    data = bytearray(packet)
    for at, value in changes:
        data[10 + at] ^= value
    return bytes(data)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([(40, 1)], "TCP checksum"),
        ([(3, 1)], "total length"),
        ([(8, 57)], "IPv4 header checksum"),
        ([(32, 0x40), (36, 0x40)], "data offset"),
    ],
)
def test_a_packet_that_is_not_right_is_found(changes: Sequence[tuple[int, int]], said: str) -> None:
    packet = build_tcp(ONE_END, 1, 2, ACK, 500, b"", b"payload.")
    check_packets([packet], SOUND)
    with pytest.raises(AssertionError, match=said):
        check_packets([spoilt(packet, *changes)], SOUND)


def test_a_packet_to_ourselves_or_from_a_stranger_is_found() -> None:
    with pytest.raises(AssertionError, match="to ourselves"):
        check_packets([build_tcp(ONE_END._replace(dst=SERVICES[1]), 1, 2, ACK, 500, b"", b"")], SOUND)
    with pytest.raises(AssertionError, match="from"):
        check_packets([build_tcp(ONE_END._replace(src=bytes((192, 0, 2, 1))), 1, 2, ACK, 500, b"", b"")], SOUND)


def test_a_checksum_that_came_wrong_may_stay_so_and_no_other() -> None:
    wrong = spoilt(build_tcp(ONE_END, 1, 2, ACK, 500, b"", b"payload."), (40, 1))
    check_packets([wrong], frozenset((0, residue(wrong))))
    with pytest.raises(AssertionError, match="TCP checksum"):
        check_packets([wrong], frozenset((0, residue(wrong) + 1)))


@pytest.mark.parametrize("slot", range(8))
def test_every_kind_of_connection_is_reached(slot: int) -> None:
    """Those whose name is served are spliced, the others told no: by what the bytes of one seed say."""
    said = "\n".join(explain(bytes((0, 0x36, slot | 8))))
    assert said.count("flow_spliced") == (1 if slot in (3, 4, 6) else 2), said
    assert ("flow_refused" in said) == (slot in (3, 4, 6))


def test_a_bystander_that_changes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    play = Play(bytes((0, 0x36, 0)))
    step = play._open

    def touch(param: int) -> None:
        step(param)
        ends = play._bystander.to_client
        play._feed(build_tcp(ends, 1, 1, ACK, 500, b"", b"touched"), SOUND)

    monkeypatch.setattr(play, "_ops", (touch,) * 16)
    with pytest.raises(AssertionError, match="the bystander has changed"):
        play.run()


def test_a_count_that_is_off_is_found() -> None:
    play = Play(bytes((0, 0x16, 0)))
    play.engine._context.shares.unproven += 1
    with pytest.raises(AssertionError):
        play.run()
