"""The peers take their configurations, and bytes go through them."""

import subprocess
from pathlib import Path

import pytest
from peers import PEERS, Peer, find, version
from stage import ROUTES, Stage

from kracauer.lab.topology import ORIGIN_1

MANY = {f"host{number}.example.org": 5301 + number % 2 for number in range(10_000)}


def installed(peer: Peer) -> str:
    if peer.program is None:
        pytest.skip(f"needs {peer.label}: {peer.remedy}")
    return peer.program


@pytest.mark.lab  # nginx binds the addresses that it checks
@pytest.mark.usefixtures("own_netns")
@pytest.mark.parametrize("routes", [ROUTES, MANY], ids=["few", "many"])
@pytest.mark.parametrize("way", [way for way, peer in PEERS.items() if peer.check])
def test_a_configuration_passes_the_program_s_own_check(way: str, routes: dict[str, int], tmp_path: Path) -> None:
    peer = PEERS[way]
    assert peer.check is not None
    command = peer.check(installed(peer), peer.write(tmp_path, "127.0.0.1", routes))
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "warn" not in (result.stdout + result.stderr).lower()


@pytest.mark.lab
@pytest.mark.parametrize("way", PEERS)
def test_content_goes_through_a_peer_whole_and_by_its_name(way: str) -> None:
    installed(PEERS[way])
    with Stage() as stage:
        stage.add_peers([way])
        stage.check()
        assert stage.left_out == {}
        assert list(stage.ways) == [way]
        assert stage.ways[way].pids()


@pytest.mark.lab
def test_who_is_not_there_or_does_not_work_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Peer("sniproxy", "sniproxy", ("kracauer-no-such-program",), "198.51.100.13", PEERS["sniproxy"].write, _run)
    broken = Peer("haproxy", "HAProxy", ("false",), "198.51.100.11", PEERS["haproxy"].write, _run)
    monkeypatch.setattr("stage.PEERS", {"sniproxy": absent, "haproxy": broken})
    with Stage() as stage:
        stage.add_kernel()
        stage.add_peers(["sniproxy", "haproxy"])
        stage.check()
        assert list(stage.ways) == ["kernel"]
        assert stage.left_out["sniproxy"] == "sniproxy is not installed: apt install kracauer-no-such-program"
        assert stage.left_out["haproxy"].startswith("HAProxy does not work here: ")


def _run(program: str, path: Path) -> list[str | Path]:
    return [program, path]


@pytest.mark.parametrize("way", PEERS)
def test_every_name_leads_to_its_own_port_of_the_server(way: str, tmp_path: Path) -> None:
    peer = PEERS[way]
    peer.write(tmp_path, "198.51.100.9", {"a.example.com": 5301, "b.example.com": 5302})
    text = "".join(path.read_text(encoding="ascii") for path in sorted(tmp_path.iterdir()))
    assert ORIGIN_1 in text
    if peer.has_names:
        assert text.index("5301") != text.index("5302")
        assert "198.51.100.9:443" in text


def test_programs_are_found_where_administrators_have_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert find("kracauer-no-such-program") is None
    assert find("ldconfig") is not None
    assert version("kracauer-no-such-package") is None
