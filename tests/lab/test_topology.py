"""The lab is what its picture says, and leaves nothing behind."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kracauer.errors import LabError
from kracauer.lab import offloads, runs
from kracauer.lab.bulk import Transfer
from kracauer.lab.bulk import measure as measure_bulk
from kracauer.lab.namespaces import python_module
from kracauer.lab.topology import CLIENT_V6, ORIGIN_1, ORIGIN_2, Lab, Topology
from kracauer.lab.visits import visit
from kracauer.lab.wire import Impairment

pytestmark = pytest.mark.lab


def test_the_client_reaches_both_origins_by_plain_ipv6_forwarding(build_lab: Callable[[Topology], Lab]) -> None:
    lab = build_lab(Topology())
    for name, address in (("origin1", ORIGIN_1), ("origin2", ORIGIN_2)):
        lab.start_origin(name, [f"{name}.example.com"])
        result = visit(lab.client, "https", f"{name}.example.com", address, context=lab.authority.client_context())
        assert result.status == 200
        assert result.seen["server"] == name
        assert result.seen["client"] == CLIENT_V6
        assert result.is_caller_seen
        assert result.certificate_owner == name


def test_an_origin_has_no_ipv4_at_all(build_lab: Callable[[Topology], Lab]) -> None:
    lab = build_lab(Topology())
    routes = lab.origin1.call(lambda: Path("/proc/thread-self/net/route").read_text(encoding="ascii"))
    assert routes.splitlines()[1:] == []


def test_a_wire_can_be_cut_and_mended(build_lab: Callable[[Topology], Lab]) -> None:
    lab = build_lab(Topology(client_wire=Impairment()))
    lab.start_origin("origin1")
    assert visit(lab.client, "http", "www.example.com", ORIGIN_1).status == 200
    lab.change_wire("client", Impairment(loss=100))
    assert visit(lab.client, "http", "www.example.com", ORIGIN_1, timeout_s=1).failure == "no answer in time"
    lab.change_wire("client", Impairment())
    assert visit(lab.client, "http", "www.example.com", ORIGIN_1).status == 200


def test_links_have_the_mtu_asked_for(build_lab: Callable[[Topology], Lab]) -> None:
    lab = build_lab(Topology(client_mtu=1400, backend_mtu=1280))
    mtus = lab.router.run([sys.executable, "-c", _PRINT_MTUS]).stdout.decode().split()
    assert mtus == ["client0", "1400", "origin1", "1280", "origin2", "1280"]


_PRINT_MTUS = """
import fcntl, socket, struct
for name in ("client0", "origin1", "origin2"):
    request = struct.pack("16si12x", name.encode(), 0)
    print(name, struct.unpack("16si12x", fcntl.ioctl(socket.socket(), 0x8921, request))[1])
"""


@pytest.mark.parametrize("is_on", [True, False])
def test_segmentation_is_as_asked(build_lab: Callable[[Topology], Lab], is_on: bool) -> None:
    lab = build_lab(Topology(has_offloads=is_on))
    assert lab.client.call(lambda: offloads.has_segmentation("eth0")) is is_on
    assert lab.router.call(lambda: offloads.has_segmentation("origin1")) is is_on


def test_programs_in_the_client_resolve_the_names_of_services(build_lab: Callable[[Topology], Lab]) -> None:
    lab = build_lab(Topology())
    lab.name_services({"www.example.com": "198.51.100.1"})
    script = "import socket; print(socket.gethostbyname('www.example.com'))"
    assert lab.client.run([sys.executable, "-c", script]).stdout == b"198.51.100.1\n"


def test_congestion_control_is_as_asked(build_lab: Callable[[Topology], Lab]) -> None:
    lab = build_lab(Topology(congestion_control="reno"))
    assert lab.client.sysctl("net.ipv4.tcp_congestion_control") == "reno"


@pytest.mark.parametrize("direction", ["download", "upload"])
def test_the_bulk_program_counts_what_arrived(build_lab: Callable[[Topology], Lab], direction: str) -> None:
    lab = build_lab(Topology())
    lab.start("bulk", lab.origin1, python_module("kracauer.lab.bulk", "serve", "5201")).wait_for("bulk ready")
    transfer: Transfer = lab.client.call(lambda: measure_bulk(direction, ORIGIN_1, 5201, "bulk.example.com", 0.2))
    assert transfer.bytes > 1 << 20
    assert 0.05 < transfer.seconds < 5


def test_nothing_is_left_of_a_lab_not_even_its_processes() -> None:
    threads = threading.active_count()
    with Lab(Topology()) as lab:
        token = lab.token
        origin = lab.start_origin("origin1")
        stray = lab.client.popen(["sleep", "1000"])
        assert len(runs.remains(token)) == 5
    assert stray.wait() != 0
    assert runs.remains(token) == []
    assert not origin.is_running
    assert threading.active_count() == threads


def test_nothing_is_left_of_a_lab_that_could_not_be_finished() -> None:
    lab = Lab(Topology(congestion_control="no-such-algorithm"))
    with pytest.raises(LabError, match="cannot be built"), lab:
        pass
    assert runs.remains(lab.token) == []


def test_a_program_that_never_gets_ready_is_an_error_with_its_output(build_lab: Callable[[Topology], Lab]) -> None:
    lab = build_lab(Topology())
    process = lab.start("mute", lab.client, [sys.executable, "-c", "print('something else')"])
    with pytest.raises(LabError, match=r"(?s)ended with status 0.*something else"):
        process.wait_for("ready")


def test_a_program_that_takes_too_long_is_killed(build_lab: Callable[[Topology], Lab]) -> None:
    lab = build_lab(Topology())
    with pytest.raises(subprocess.TimeoutExpired):
        lab.client.run(["sleep", "1000"], timeout_s=0.2)
    assert lab.client.pids() == []


def test_this_process_stays_where_it_was(build_lab: Callable[[Topology], Lab]) -> None:
    before = Path("/proc/self/ns/net").stat().st_ino
    lab = build_lab(Topology())
    inside = lab.client.call(lambda: Path("/proc/thread-self/ns/net").stat().st_ino)
    assert inside != before
    assert Path("/proc/self/ns/net").stat().st_ino == before
