"""`kracauer run` as an operator meets it: a process, its lines, its exit status, and what it leaves on the host."""

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from running import CONFIG, DEVICE, Running, command
from scapy.layers.inet import IP, TCP
from scapy.utils import RawPcapNgReader

from kracauer.cli.exit_codes import ExitCode

Ip = Callable[[str], str]
WITHOUT_NET_ADMIN = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
WITHOUT_BPF = ("setpriv", "--bounding-set=-bpf,-sys_admin", "--inh-caps=-bpf,-sys_admin")
WITHOUT_CLONE_DEVICE = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "sh")
Start = Callable[..., Running]


def state(ip: Ip) -> str:
    """Links, addresses and routes, without what changes by itself."""
    return ip("-brief link show") + ip("-brief address show") + ip("-4 route show table all") + ip("-6 route show table all")


def routes(ip: Ip) -> set[str]:
    """Ours; that a link has no carrier, because nobody is attached, is told a moment late."""
    lines = (line for family in ("-4", "-6") for line in ip(f"{family} route show proto 198").splitlines())
    return {line.replace(" linkdown", "").strip() for line in lines}


# ------------------------------------------------------------------------------------------------------------ good days


@pytest.mark.lab
def test_one_line_says_what_it_listens_on_and_ctrl_c_leaves_nothing(ip: Ip, start: Start, tmp_path: Path) -> None:
    before = state(ip)
    running = start()

    ready = running.wait_for("ready")
    assert ready["listening"] == ["198.51.100.1:443 (tls)", "198.51.100.1:80 (http)"]
    assert (ready["prefix"], ready["names"], ready["device"]) == ("2001:db8:46::/96", 2, DEVICE)
    assert len(routes(ip)) == 4

    assert running.stop(signal.SIGINT) == ExitCode.OK
    # Whether this kernel has a fast path is one line, in either case.
    assert running.events() in ([first, "ready", "stopped"] for first in ("offload_attached", "offload_unavailable"))
    assert running.lines[-1]["kept"] is False
    assert state(ip) == before
    assert not (tmp_path / "run" / f"{DEVICE}.flows").exists()


@pytest.mark.lab
def test_sigterm_keeps_everything_for_a_successor_and_its_ctrl_c_gives_it_back(ip: Ip, start: Start) -> None:
    before = state(ip)
    for _ in range(2):
        running = start()
        running.wait_for("ready")
        assert running.stop() == ExitCode.OK
        assert (running.lines[-1]["kept"], running.lines[-1]["undo"]) == (True, "kracauer stop --forget")
        assert len(routes(ip)) == 4

    successor = start()
    successor.wait_for("ready")
    assert successor.stop(signal.SIGINT) == ExitCode.OK
    assert state(ip) == before


@pytest.mark.lab
@pytest.mark.parametrize("delay_s", [0.2, 0.3, 0.4, 0.5, 0.6])
def test_a_stop_at_any_moment_of_the_start_leaves_nothing(ip: Ip, start: Start, delay_s: float) -> None:
    before = state(ip)
    running = start()
    time.sleep(delay_s)
    running.process.send_signal(signal.SIGINT)

    # Before the first line of ours has run, it is Python that answers.
    assert running.finish() in (ExitCode.OK, ExitCode.INTERRUPTED, -signal.SIGINT, 1)
    assert state(ip) == before


@pytest.mark.lab
@pytest.mark.parametrize("delay_s", [0.3, 0.4, 0.5, 0.6])
def test_a_restart_that_is_stopped_before_it_is_ready_takes_nothing_away(ip: Ip, start: Start, delay_s: float) -> None:
    first = start()
    first.wait_for("ready")
    first.stop()
    kept = routes(ip)
    second = start()
    time.sleep(delay_s)
    second.process.send_signal(signal.SIGTERM)

    assert second.finish() in (ExitCode.OK, -signal.SIGTERM)
    assert routes(ip) == kept


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
    assert running.stop(signal.SIGINT) == ExitCode.OK
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
        heard = manager.recv(200)
        while heard.startswith((b"FDSTORE", b"BARRIER")):  # where there is no bpffs; none of it is held here
            heard = manager.recv(200)
        assert heard.startswith(b"READY=1\nSTATUS=0 connections")
        assert running.stop() == ExitCode.OK
        heard = manager.recv(200)
        while heard.startswith(b"STATUS="):
            heard = manager.recv(200)
        assert heard == b"STOPPING=1"


@pytest.mark.lab
def test_the_watchdog_hears_three_times_a_period(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "300000")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        running = start()
        times: list[float] = []
        while len(times) < 6:
            if manager.recv(200) == b"WATCHDOG=1":
                times.append(time.monotonic())
        assert times[-1] - times[0] < 3
        assert running.stop() == ExitCode.OK


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
    assert "offload_attached" not in running.events()
    assert "packets are recorded" in running.wait_for("offload_unavailable")["cause"]
    assert "packets are recorded" in command(tmp_path, "status")[1]
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
    status, _, said = command(tmp_path, "run", "-c", str(tmp_path / "none.toml"))

    assert status == ExitCode.CONFIG_UNUSABLE
    assert "there is no such file" in said


def test_a_configuration_with_problems_is_not_run_and_all_of_them_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(CONFIG.replace("/96", "/64").replace("443", '"https"'), encoding="utf-8")

    status, _, said = command(tmp_path, "run", "-c", str(path))

    assert status == ExitCode.CONFIG_UNUSABLE
    assert len(said.splitlines()) >= 2
    assert all(line.startswith(str(path)) for line in said.splitlines())


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
def test_what_the_kernel_must_carry_cannot_be_recorded(ip: Ip, start: Start, tmp_path: Path) -> None:
    before = state(ip)
    running = start(config=f'{CONFIG}\n[network]\noffload = "require"\n', options=["--record", str(tmp_path / "all.pcapng")])

    assert running.finish() == ExitCode.DEVICE
    assert running.events() == ["offload_unusable"]
    assert "cannot be recorded" in running.lines[-1]["cause"]
    assert "do not record" in running.lines[-1]["remedy"]
    assert state(ip) == before


@pytest.mark.lab
def test_a_fast_path_that_is_required_and_not_to_be_had_ends_the_start(ip: Ip, start: Start) -> None:
    before = state(ip)
    running = start(config=f'{CONFIG}\n[network]\noffload = "require"\n', wrapper=WITHOUT_BPF)

    assert running.finish() == ExitCode.DEVICE
    assert running.events() == ["offload_unusable"]
    assert "does not let this process" in running.lines[-1]["cause"]
    assert 'set network.offload = "off"' in running.lines[-1]["remedy"]
    assert state(ip) == before


@pytest.mark.lab
def test_a_fast_path_that_is_not_to_be_had_is_one_line_and_no_more(start: Start, tmp_path: Path) -> None:
    running = start(wrapper=WITHOUT_BPF)
    running.wait_for("ready")

    assert running.events() == ["offload_unavailable", "ready"]
    line = running.lines[0]
    assert (line["level"], line["device"]) == ("info", DEVICE)
    shown = json.loads(command(tmp_path, "status", "--json")[1])["offload"]
    assert (shown["wanted"], shown["hook"], shown["flows"]) == ("auto", None, 0)
    assert (shown["cause"], shown["remedy"]) == (line["cause"], line["remedy"])
    assert f"fast path    none: {line['cause']}\n" in command(tmp_path, "status")[1]


@pytest.mark.lab
def test_a_recording_that_cannot_be_written_is_a_mistake_of_the_command_line(ip: Ip, start: Start) -> None:
    before = state(ip)
    running = start(options=["--record", "/nowhere/all.pcapng"])

    assert running.finish() == ExitCode.USAGE
    assert "/nowhere/all.pcapng cannot be written" in running.lines[-1]["cause"]
    assert state(ip) == before


@pytest.mark.lab
def test_a_deleted_device_ends_the_service_promptly_and_dead_ends_keep_the_traffic_from_leaking(ip: Ip, start: Start) -> None:
    before = state(ip)
    running = start()
    running.wait_for("ready")

    began = time.monotonic()
    ip(f"link del {DEVICE}")

    assert running.finish() == ExitCode.DEVICE_LOST
    assert time.monotonic() - began < 5
    assert running.lines[-1]["event"] == "device_lost"
    assert f"{DEVICE} has gone away" in running.lines[-1]["cause"]
    assert [route.split()[0] for route in routes(ip)] == ["unreachable"] * 2

    successor = start()
    successor.wait_for("ready")
    assert len(routes(ip)) == 4
    successor.stop(signal.SIGINT)
    assert state(ip) == before


@pytest.mark.lab
def test_a_second_service_on_the_same_device_is_refused_and_the_first_goes_on(ip: Ip, start: Start) -> None:
    first = start()
    first.wait_for("ready")
    before = state(ip)

    second = start()

    assert second.finish() == ExitCode.ALREADY_RUNNING
    assert f"process {first.process.pid}" in second.lines[-1]["cause"]
    assert "kracauer stop" in second.lines[-1]["remedy"]
    assert state(ip) == before
    assert first.stop() == ExitCode.OK


@pytest.mark.lab
def test_a_killed_service_leaves_everything_and_the_next_one_takes_it_over(ip: Ip, start: Start) -> None:
    before = state(ip)
    running = start()
    running.wait_for("ready")
    running.process.kill()
    running.finish()
    assert len(routes(ip)) == 4

    successor = start()
    successor.wait_for("ready")
    assert len(routes(ip)) == 4
    assert successor.stop(signal.SIGINT) == ExitCode.OK
    assert state(ip) == before


@pytest.mark.lab
def test_without_a_runtime_directory_there_is_one_warning_for_each_loss_and_the_service_runs(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "run").write_bytes(b"in the way")
    running = start()
    running.wait_for("ready")

    warnings = [line["event"] for line in running.lines if line["level"] == "warning"]
    assert sorted(warnings) == ["control_unavailable", "flows_not_kept", "lock_not_held", "secret_not_kept"]
    assert running.stop() == ExitCode.OK


@pytest.mark.lab
def test_stderr_that_nobody_reads_stops_neither_the_traffic_nor_the_stop(ip: Ip, start: Start) -> None:
    ip("address add 192.0.2.7/32 dev lo")
    running = start()
    running.wait_for("ready")
    for _ in range(1000):  # a line of some 100 bytes each, into a pipe of 64 KiB that nobody reads
        running.process.send_signal(signal.SIGUSR1)
        time.sleep(0.001)

    with socket.socket() as client:
        client.bind(("192.0.2.7", 0))
        client.settimeout(10)
        client.connect(("198.51.100.1", 80))
    running.process.send_signal(signal.SIGTERM)

    assert running.process.wait(20) == ExitCode.OK


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
