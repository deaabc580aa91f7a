"""`kracauer run` as an operator meets it: a process, its lines, its exit status, and what it leaves on the host."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP
from scapy.utils import RawPcapNgReader

from kracauer.cli.exit_codes import ExitCode

Ip = Callable[[str], str]
ROOT = Path(__file__).parents[2]
DEVICE = "kracauer0"
CONFIG = """
prefix = "2001:db8:46::/96"

[[listen]]
address = "198.51.100.1"
port = 443
protocol = "tls"

[[listen]]
address = "198.51.100.1"
port = 80
protocol = "http"

[hosts]
"www.example.com" = "2001:db8:1::2"
default = "2001:db8:1::2"
"""
WITHOUT_NET_ADMIN = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
WITHOUT_CLONE_DEVICE = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "sh")


class Running:
    """One `kracauer run` and the JSON lines it has written so far."""

    def __init__(self, directory: Path, config: str = CONFIG, options: Sequence[str] = (), wrapper: Sequence[str] = ()) -> None:
        path = directory / "kracauer-config.toml"
        path.write_text(config, encoding="utf-8")
        self.lines: list[dict[str, Any]] = []
        self.process = subprocess.Popen(
            [*wrapper, sys.executable, "-m", "kracauer", "run", "-c", str(path), *options],
            env={**os.environ, "PYTHONPATH": str(ROOT), "RUNTIME_DIRECTORY": str(directory / "run")},
            stderr=subprocess.PIPE,
            cwd=directory,
        )
        self._rest = b""

    def wait_for(self, event: str, timeout_s: float = 20) -> dict[str, Any]:
        """Read lines until one with this `event` comes; earlier ones count as well."""
        deadline = time.monotonic() + timeout_s
        position = 0
        while True:
            for line in self.lines[position:]:
                if line["event"] == event:
                    return line
            position = len(self.lines)
            assert self._read(deadline - time.monotonic()), f"no {event}, but {self.lines}"

    def finish(self, timeout_s: float = 20) -> int:
        """Wait for the end of the process and its output; returns the exit status."""
        deadline = time.monotonic() + timeout_s
        while self._read(deadline - time.monotonic()):
            pass
        return self.process.wait(max(deadline - time.monotonic(), 0.1))

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.finish()

    def events(self) -> list[str]:
        return [line["event"] for line in self.lines]

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _read(self, timeout_s: float) -> bool:
        assert self.process.stderr is not None
        descriptor = self.process.stderr.fileno()
        assert select.select([descriptor], [], [], max(timeout_s, 0))[0], f"nothing more after {self.lines}"
        chunk = os.read(descriptor, 65536)
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        self.lines += [json.loads(line) for line in lines]
        return bool(chunk)


Start = Callable[..., Running]


@pytest.fixture
def ip(own_netns: Ip) -> Ip:
    for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        Path("/proc/sys/net", key).write_text("1", encoding="ascii")
    return own_netns


@pytest.fixture
def start(ip: Ip, tmp_path: Path) -> Iterator[Start]:
    """Start the service in the test's own namespace; what is left of it ends with the test."""
    assert ip("-json link show")
    started: list[Running] = []

    def start(**arguments: Any) -> Running:
        started.append(Running(tmp_path, **arguments))
        return started[-1]

    yield start
    for running in started:
        running.end()


def state(ip: Ip) -> str:
    """Links, addresses and routes, without what changes by itself."""
    return ip("-brief link show") + ip("-brief address show") + ip("-4 route show table all") + ip("-6 route show table all")


def routes(ip: Ip) -> set[str]:
    return {line.strip() for family in ("-4", "-6") for line in ip(f"{family} route show proto 198").splitlines()}


# ------------------------------------------------------------------------------------------------------------ good days


@pytest.mark.lab
def test_one_line_says_what_it_listens_on_and_a_stop_leaves_nothing(ip: Ip, start: Start) -> None:
    before = state(ip)
    running = start()

    ready = running.wait_for("ready")
    assert ready["listening"] == ["198.51.100.1:443 (tls)", "198.51.100.1:80 (http)"]
    assert (ready["prefix"], ready["names"], ready["device"]) == ("2001:db8:46::/96", 2, DEVICE)
    assert len(routes(ip)) == 4

    assert running.stop() == ExitCode.OK
    assert running.events() == ["ready", "stopped"]
    assert state(ip) == before


@pytest.mark.lab
def test_ctrl_c_is_a_clean_stop_too(ip: Ip, start: Start) -> None:
    before = state(ip)
    running = start()
    running.wait_for("ready")

    assert running.stop(signal.SIGINT) == ExitCode.OK
    assert state(ip) == before


@pytest.mark.lab
@pytest.mark.parametrize("delay_s", [0.2, 0.3, 0.4, 0.5, 0.6])
def test_a_stop_at_any_moment_of_the_start_leaves_nothing(ip: Ip, start: Start, delay_s: float) -> None:
    before = state(ip)
    running = start()
    time.sleep(delay_s)
    running.process.send_signal(signal.SIGTERM)

    assert running.finish() in (ExitCode.OK, -signal.SIGTERM)  # the latter before the first line of ours has run
    assert state(ip) == before


@pytest.mark.lab
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_what_a_running_service_answers_does_not_kill_one_that_starts(ip: Ip, start: Start, number: signal.Signals) -> None:
    before = state(ip)
    running = start()
    while not is_handled(running.process.pid, number):
        assert running.process.poll() is None
        time.sleep(0.001)
    with repeatedly(running.process, number):
        running.wait_for("ready")
    assert running.stop() == ExitCode.OK
    assert state(ip) == before


def is_handled(pid: int, number: signal.Signals) -> bool:
    """Whether the process ignores or catches the signal; before that, its first line has not run."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigIgn:", "SigCgt:"))]
    return any(mask >> number - 1 & 1 for mask in masks)


@contextmanager
def repeatedly(process: subprocess.Popen[bytes], number: signal.Signals) -> Iterator[None]:
    """Send the process this signal every other millisecond, as long as it lives."""
    is_over = threading.Event()

    def send() -> None:
        while not is_over.wait(0.002):
            process.send_signal(number)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@pytest.mark.lab
def test_the_service_manager_hears_of_readiness_and_of_the_stop(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        running = start()
        assert manager.recv(100) == b"READY=1"
        assert running.stop() == ExitCode.OK
        assert manager.recv(100) == b"STOPPING=1"


@pytest.mark.lab
def test_a_syn_is_answered_from_the_service_address(ip: Ip, start: Start) -> None:
    ip("address add 192.0.2.7/32 dev lo")
    start().wait_for("ready")

    with socket.socket() as client:
        client.bind(("192.0.2.7", 0))
        client.settimeout(10)
        client.connect(("198.51.100.1", 80))


@pytest.mark.lab
@pytest.mark.parametrize("offloads", ["true", "false"])
def test_a_recording_has_the_packets_of_both_directions(ip: Ip, start: Start, tmp_path: Path, offloads: str) -> None:
    ip("address add 192.0.2.7/32 dev lo")
    config = f"{CONFIG}\n[network]\noffloads = {offloads}\n"
    running = start(config=config, options=["--record", str(tmp_path / "all.pcapng")])
    running.wait_for("ready")
    with socket.socket() as client:
        client.bind(("192.0.2.7", 0))
        client.settimeout(10)
        client.connect(("198.51.100.1", 80))
    assert running.stop() == ExitCode.OK

    reader = RawPcapNgReader(str(tmp_path / "all.pcapng"))
    packets = [IP(packet) for packet, _ in reader if packet[0] >> 4 == 4]
    reader.close()
    assert [str(packet[TCP].flags) for packet in packets[:2]] == ["S", "SA"]


@pytest.mark.lab
def test_sigusr1_logs_the_counters(start: Start) -> None:
    running = start()
    running.wait_for("ready")
    running.process.send_signal(signal.SIGUSR1)

    assert "packets_read" in running.wait_for("counters")


@pytest.mark.lab
def test_sighup_does_not_end_the_service(start: Start) -> None:
    running = start()
    running.wait_for("ready")
    running.process.send_signal(signal.SIGHUP)

    running.wait_for("reload_refused")
    assert running.stop() == ExitCode.OK


@pytest.mark.lab
def test_the_secret_outlives_the_service(start: Start, tmp_path: Path) -> None:
    secrets = []
    for _ in range(2):
        running = start()
        running.wait_for("ready")
        assert running.stop() == ExitCode.OK
        secrets.append((tmp_path / "run" / f"{DEVICE}.secret").read_bytes())

    assert secrets[0] == secrets[1]


@pytest.mark.lab
def test_forwarding_that_is_off_is_told_once_and_left_off(start: Start) -> None:
    for key in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        Path("/proc/sys/net", key).write_text("0", encoding="ascii")

    running = start()
    running.wait_for("ready")

    warnings = [line["remedy"] for line in running.lines if line["event"] == "forwarding_off"]
    assert warnings == ["sysctl -w net.ipv4.ip_forward=1", "sysctl -w net.ipv6.conf.all.forwarding=1"]
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text(encoding="ascii").strip() == "0"
    assert Path("/proc/sys/net/ipv6/conf/all/forwarding").read_text(encoding="ascii").strip() == "0"


@pytest.mark.lab
def test_an_unmanaged_network_is_left_alone_and_the_device_is_taken_as_it_is(ip: Ip, start: Start) -> None:
    ip(f"tuntap add dev {DEVICE} mode tun")
    ip(f"link set {DEVICE} up")
    ip(f"route add 198.51.100.1 dev {DEVICE}")
    running = start(config=f"{CONFIG}\n[network]\nmanage = false\n")

    running.wait_for("ready")

    (said,) = [line for line in running.lines if line["event"] == "network_unmanaged"]
    assert f"ip -6 route replace 2001:db8:46::/96 dev {DEVICE} metric 1024 mtu 1500 proto 198" in said["expects"]
    assert routes(ip) == set()
    assert running.stop() == ExitCode.OK
    assert f"198.51.100.1 dev {DEVICE}" in ip("-4 route show")
    assert "2001:db8:46" not in ip("-6 route show")


# ------------------------------------------------------------------------------------------------------------- bad days


def test_a_configuration_that_is_missing_is_said_so(tmp_path: Path) -> None:
    status, said = run_once(tmp_path, "-c", str(tmp_path / "none.toml"))

    assert status == ExitCode.CONFIG_UNUSABLE
    assert "there is no such file" in said


def test_a_configuration_with_problems_is_not_run_and_all_of_them_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(CONFIG.replace("/96", "/64").replace("443", '"https"'), encoding="utf-8")

    status, said = run_once(tmp_path, "-c", str(path))

    assert status == ExitCode.CONFIG_UNUSABLE
    assert len(said.splitlines()) >= 2
    assert all(line.startswith(str(path)) for line in said.splitlines())


def run_once(directory: Path, *words: str) -> tuple[int, str]:
    ran = subprocess.run(
        [sys.executable, "-m", "kracauer", "run", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return ran.returncode, ran.stderr


def add_tun(ip: Ip) -> None:
    ip(f"tuntap add dev {DEVICE} mode tun")


def add_veth_of_that_name(ip: Ip) -> None:
    ip(f"link add {DEVICE} type veth peer name other0")


def disable_ipv6(_ip: Ip) -> None:
    Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1", encoding="ascii")


def add_service_address(ip: Ip) -> None:
    ip("address add 198.51.100.1/32 dev lo")


def add_service_route(ip: Ip) -> None:
    ip("route add 198.51.100.1/32 dev lo")


def add_prefix_route(ip: Ip) -> None:
    ip("-6 route add 2001:db8:46::/96 dev lo")


def add_part_of_the_prefix(ip: Ip) -> None:
    ip("-6 route add 2001:db8:46::c000:0/112 dev lo")


def add_address_in_the_prefix(ip: Ip) -> None:
    ip("address add 2001:db8:46::c000:201/128 dev lo")


@pytest.mark.lab
@pytest.mark.parametrize(
    ("spoil", "status", "cause", "remedy"),
    [
        (add_tun, ExitCode.DEVICE, "taken by another TUN device", "network.device"),
        (add_veth_of_that_name, ExitCode.DEVICE, "no TUN device (driver veth)", "network.device"),
        (disable_ipv6, ExitCode.NETWORK, "IPv6 is disabled", "sysctl -w net.ipv6.conf.all.disable_ipv6=0"),
        (add_service_address, ExitCode.NETWORK, "198.51.100.1 is configured on lo", "ip addr del 198.51.100.1"),
        (add_service_route, ExitCode.NETWORK, "198.51.100.1 already has a route", "ip -4 route del 198.51.100.1/32 dev lo"),
        (add_prefix_route, ExitCode.NETWORK, "2001:db8:46::/96 already has a route", "ip -6 route del 2001:db8:46::/96"),
        (add_part_of_the_prefix, ExitCode.NETWORK, "takes a part of the prefix", "ip -6 route del"),
        (add_address_in_the_prefix, ExitCode.NETWORK, "overlaps the prefix", "a prefix that is kept for Kracauer alone"),
    ],
)
def test_a_host_in_the_way_is_explained_and_left_as_it_was(
    ip: Ip, start: Start, spoil: Callable[[Ip], None], status: ExitCode, cause: str, remedy: str
) -> None:
    spoil(ip)
    before = state(ip)
    running = start()

    assert running.finish() == status
    line = running.lines[-1]
    assert line["level"] == "error"
    assert cause in line["cause"]
    assert remedy in line["remedy"]
    assert state(ip) == before


@pytest.mark.lab
@pytest.mark.parametrize(
    ("wrapper", "cause", "remedy"),
    [
        (WITHOUT_NET_ADMIN, "does not let user 0 create the device", "CAP_NET_ADMIN"),
        (WITHOUT_CLONE_DEVICE, "/dev/net/tun is missing", "modprobe tun"),
    ],
)
def test_a_process_that_may_not_is_explained(ip: Ip, start: Start, wrapper: Sequence[str], cause: str, remedy: str) -> None:
    before = state(ip)
    running = start(wrapper=wrapper)

    assert running.finish() == ExitCode.DEVICE
    assert cause in running.lines[-1]["cause"]
    assert remedy in running.lines[-1]["remedy"]
    assert state(ip) == before


@pytest.mark.lab
def test_a_recording_that_cannot_be_written_is_a_mistake_of_the_command_line(ip: Ip, start: Start) -> None:
    before = state(ip)
    running = start(options=["--record", "/nowhere/all.pcapng"])

    assert running.finish() == ExitCode.USAGE
    assert "/nowhere/all.pcapng cannot be written" in running.lines[-1]["cause"]
    assert state(ip) == before


@pytest.mark.lab
def test_a_deleted_device_ends_the_service_promptly_and_nothing_is_left(ip: Ip, start: Start) -> None:
    before = state(ip)
    running = start()
    running.wait_for("ready")

    began = time.monotonic()
    ip(f"link del {DEVICE}")

    assert running.finish() == ExitCode.DEVICE_LOST
    assert time.monotonic() - began < 5
    assert running.lines[-1]["event"] == "device_lost"
    assert f"{DEVICE} has gone away" in running.lines[-1]["cause"]
    assert state(ip) == before


@pytest.mark.lab
def test_a_second_service_on_the_same_device_is_refused_and_the_first_goes_on(ip: Ip, start: Start) -> None:
    first = start()
    first.wait_for("ready")
    before = state(ip)

    second = start()

    assert second.finish() == ExitCode.DEVICE
    assert "taken by another TUN device" in second.lines[-1]["cause"]
    assert state(ip) == before
    assert first.stop() == ExitCode.OK


@pytest.mark.lab
def test_a_killed_service_leaves_dead_ends_and_the_next_one_takes_them_over(ip: Ip, start: Start) -> None:
    before = state(ip)
    running = start()
    running.wait_for("ready")
    running.process.kill()
    running.finish()
    left = routes(ip)
    assert len(left) == 2
    assert all(route.startswith("unreachable") for route in left)

    successor = start()
    successor.wait_for("ready")
    assert len(routes(ip)) == 4
    assert successor.stop() == ExitCode.OK
    assert state(ip) == before


@pytest.mark.lab
def test_a_link_that_was_down_gets_its_routes_back(ip: Ip, start: Start) -> None:
    ip("address add 192.0.2.7/32 dev lo")
    running = start()
    running.wait_for("ready")
    complete = routes(ip)

    ip(f"link set {DEVICE} down")
    ip(f"link set {DEVICE} up")

    running.wait_for("routes_restored")
    assert routes(ip) == complete
    with socket.socket() as client:
        client.bind(("192.0.2.7", 0))
        client.settimeout(10)
        client.connect(("198.51.100.1", 80))
    assert running.stop() == ExitCode.OK


@pytest.mark.lab
def test_garbage_on_the_device_is_counted_and_nothing_more(ip: Ip, start: Start) -> None:
    running = start(config=f'{CONFIG}\n[log]\nlevel = "debug"\n')
    running.wait_for("ready")
    ip("address add 192.0.2.7/32 dev lo")

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind(("192.0.2.7", 0))
        for length in (0, 1, 1400):
            sender.sendto(os.urandom(length), ("198.51.100.1", 443))
    running.wait_for("packet_dropped")

    assert running.stop() == ExitCode.OK
    stopped = running.wait_for("stopped")
    assert stopped["internal_errors"] == 0
    assert stopped["dropped"]["not_tcp"] == 3


@pytest.mark.lab
def test_stderr_that_nobody_reads_any_more_does_not_end_the_service(start: Start) -> None:
    running = start()
    running.wait_for("ready")
    assert running.process.stderr is not None
    running.process.stderr.close()

    for _ in range(3):
        running.process.send_signal(signal.SIGUSR1)
        time.sleep(0.05)
    running.process.send_signal(signal.SIGTERM)

    assert running.process.wait(20) == ExitCode.OK
