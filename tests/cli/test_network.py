"""`kracauer network`: what it prints, sets and takes back, in a namespace of the test's own."""

import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from running import DEVICE, Running, command
from tun_node import OPEN_TO_ALL

from kracauer.cli.exit_codes import ExitCode

pytestmark = pytest.mark.lab

Ip = Callable[[str], str]
NOBODY = (*OPEN_TO_ALL, "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all")
CONFIG = """
prefix = "2001:db8:46::/96"

[[listen]]
address = "192.0.2.1"
port = 443

[hosts]
default = "2001:db8:1::2"

[network]
ownership = "shared"
"""
UNMANAGED = CONFIG + "manage = false\n"


@pytest.fixture
def folder(ip: Ip) -> Iterator[Path]:
    """Where the configuration is that shares the host's one address; any user may enter and write."""
    ip("link add eth0 type veth peer name far")
    ip("address add 192.0.2.1/24 dev eth0")
    ip("link set eth0 up")
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o777)
        (path / "kracauer-config.toml").write_text(CONFIG, encoding="utf-8")
        yield path


def everything(ip: Ip) -> str:
    """Rules, routes and links; without what depends on a carrier, which takes the kernel a moment to see."""
    shown = "".join(ip(words) for words in ("rule", "-4 route show table all", "-6 route show table all"))
    lasting = [line for line in shown.replace(" linkdown", "").splitlines() if not line.startswith("multicast ")]
    return "\n".join([*lasting, ""]) + " ".join(line.split()[0] for line in ip("-brief link").splitlines())


def test_a_plan_is_the_commands_that_do_the_same_as_apply(ip: Ip, folder: Path) -> None:
    before = everything(ip)
    status, plan, complaints = command(folder, "network", "plan")
    assert (status, complaints) == (0, "")
    assert everything(ip) == before

    subprocess.run(["sh", "-e"], input=plan.replace("sysctl -w", "sysctl -qw"), text=True, check=True, timeout=30)
    by_hand = everything(ip)
    assert command(folder, "network", "undo")[0] == 0
    assert everything(ip) == before

    assert command(folder, "network", "apply")[0] == 0
    assert everything(ip).splitlines() == by_hand.splitlines()
    assert command(folder, "network", "undo")[0] == 0
    assert everything(ip) == before


def test_a_plan_takes_no_privileges_and_leaves_out_rules_that_are_there(folder: Path) -> None:
    status, plan, _ = command(folder, "network", "plan", wrapper=NOBODY)
    assert status == 0
    assert "ip -4 rule add pref 0 to 192.0.2.1 ipproto tcp dport 443 lookup 198 protocol 198\n" in plan
    assert plan.startswith(f"ip tuntap add name {DEVICE} mode tun\n")

    assert command(folder, "network", "apply")[0] == 0
    status, plan, _ = command(folder, "network", "plan", wrapper=NOBODY)
    assert status == 0
    assert "rule" not in plan
    assert "tuntap" not in plan
    assert command(folder, "network", "undo")[0] == 0


@pytest.mark.parametrize("action", ["plan", "apply"])
def test_what_is_in_the_way_is_said_and_nothing_is_set(ip: Ip, folder: Path, action: str) -> None:
    ip("address del 192.0.2.1/24 dev eth0")
    before = everything(ip)

    status, output, complaints = command(folder, "network", action)

    assert (status, output) == (ExitCode.NETWORK, "")
    assert "192.0.2.1 is on no interface" in complaints
    assert "\n  → give it to one (`ip addr add 192.0.2.1/32" in complaints
    assert everything(ip) == before


def test_each_action_can_be_repeated(ip: Ip, folder: Path) -> None:
    before = everything(ip)
    for _ in range(2):
        assert command(folder, "network", "apply")[0] == 0
    after = everything(ip)
    assert after.count("dport 443") == 1
    for _ in range(2):
        assert command(folder, "network", "undo")[0] == 0
    assert everything(ip) == before


def test_a_service_without_privileges_runs_on_what_was_set_up_for_its_user(folder: Path) -> None:
    (folder / "kracauer-config.toml").write_text(UNMANAGED, encoding="utf-8")
    assert command(folder, "network", "apply", "--user", "nobody")[0] == 0

    running = Running(folder, UNMANAGED, wrapper=NOBODY)
    try:
        running.wait_for("ready")
        assert "CAP_NET_RAW" in running.wait_for("icmp_unheard")["remedy"]

        status, _, complaints = command(folder, "network", "undo")
        assert status == ExitCode.ALREADY_RUNNING
        assert "kracauer stop" in complaints
        assert command(folder, "network", "apply")[0] == 0
        assert running.stop() == 0
    finally:
        running.end()
    assert command(folder, "network", "undo")[0] == 0


def test_a_device_of_the_operators_own_is_left_alone(ip: Ip, folder: Path) -> None:
    ip(f"tuntap add dev {DEVICE} mode tun")
    status, _, complaints = command(folder, "network", "plan")
    assert status == ExitCode.DEVICE
    assert "network.manage = false" in complaints

    (folder / "kracauer-config.toml").write_text(UNMANAGED, encoding="utf-8")
    status, plan, _ = command(folder, "network", "plan")
    assert status == 0
    assert "tuntap" not in plan
    assert command(folder, "network", "apply")[0] == 0
    assert "dport 443" in ip("rule")
    status, _, complaints = command(folder, "network", "undo")
    assert status == ExitCode.NETWORK
    assert "not Kracauer's" in complaints
    assert "dport 443" not in ip("rule")
    assert DEVICE in ip("link")


def test_a_configuration_with_problems_and_a_user_that_is_not_there_are_refused(folder: Path) -> None:
    (folder / "wrong.toml").write_text("prefix = 1", encoding="utf-8")
    assert command(folder, "network", "plan", "-c", "wrong.toml")[0] == ExitCode.CONFIG_UNUSABLE
    assert command(folder, "network", "plan", "-c", "missing.toml")[0] == ExitCode.CONFIG_UNUSABLE
    assert command(folder, "network", "apply", "--user", "no-such-user")[0] == ExitCode.USAGE
    assert command(folder, "network")[0] == ExitCode.USAGE


def test_what_goes_amiss_with_sharing_is_said(ip: Ip, folder: Path) -> None:
    assert ip("rule")
    (folder / "kracauer-config.toml").write_text(CONFIG.replace("443", "8443"), encoding="utf-8")
    Path("/proc/sys/net/ipv4/conf/all/rp_filter").write_text("1", encoding="ascii")
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("8001 60999", encoding="ascii")
    with socket.create_server(("", 8443)):
        status, _, complaints = command(folder, "network", "plan")

    assert status == 0
    assert "sysctl -w net/ipv4/conf/eth0/rp_filter=1 net/ipv4/conf/far/rp_filter=1 net.ipv4.conf.all.rp_filter=0" in complaints
    assert "another program on this host listens on port 8443" in complaints
    assert "sysctl -w net.ipv4.ip_local_reserved_ports=8443\n" in complaints
