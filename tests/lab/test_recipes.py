"""What the how-to pages tell a reader to type or to write into files does what they say, on hosts of the lab."""

import re
import shutil
import signal
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from shared_host import Echo, is_reached
from tun_node import OPEN_TO_ALL

from kracauer.lab import links, runs
from kracauer.lab.namespaces import PACKAGE_ROOT, NetworkNamespace
from kracauer.lab.processes import BackgroundProcess
from kracauer.lab.topology import ROUTER, Lab, Topology
from kracauer.lab.visits import visit

pytestmark = pytest.mark.lab

HOW_TO = PACKAGE_ROOT / "docs" / "how-to"
SERVICE = "198.51.100.1"  # on the pages; on the hosts of the lab, the router's own address
SYSTEM_PYTHON = Path("/usr/bin/python3")
NETWORKD = Path("/lib/systemd/systemd-networkd")

# What the machine has to bring, in a file system of the test's own. The program is the one that is tested, and no package is
# fetched; to start the service is to run what its unit says.
STAGE = """
set -eu
mount --make-rprivate /
for place in /opt /etc/kracauer /etc/sysctl.d /etc/systemd/system /run; do mkdir -p $place; mount -t tmpfs stage $place; done
mkdir -p /run/stage
cat > /run/stage/apt-get <<'END'
#!/bin/sh
END
cat > /run/stage/useradd <<'END'
#!/bin/sh
END
cat > /run/stage/systemctl <<'END'
#!/bin/sh
case "$*" in
--version) echo "systemd 252 (252)" ;;
daemon-reload) ;;
"enable --now kracauer")
    export RUNTIME_DIRECTORY={directory}/run
    exec $(sed -n 's/^ExecStart=//p' /etc/systemd/system/kracauer.service) > {directory}/service.log 2>&1 & ;;
*) exit 1 ;;
esac
END
cat > /run/stage/pip <<'END'
#!/bin/sh
mkdir -p /opt/kracauer/lib
cp -R {root}/kracauer /opt/kracauer/lib/
cat > /opt/kracauer/bin/kracauer <<'SCRIPT'
#!{python}
import sys
sys.path[:0] = ["/opt/kracauer/lib", "{packages}"]
from kracauer.cli import main
sys.exit(main())
SCRIPT
chmod +x /opt/kracauer/bin/kracauer
END
chmod +x /run/stage/*
PATH=/run/stage:/usr/sbin:/usr/bin:/sbin:/bin
export PYTHONDONTWRITEBYTECODE=1
set -x
"""


def blocks(page: str, kind: str) -> list[str]:
    """The texts of the fenced blocks of one kind on a page."""
    text = (HOW_TO / page).read_text(encoding="utf-8")
    return re.findall(rf"^ *```{re.escape(kind)}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture
def vps(build_lab: Callable[[Topology], Lab]) -> Iterator[Lab]:
    """A router that has one IPv4 address, forwards nothing yet, and is reached at port 22; with servers behind it."""
    if not SYSTEM_PYTHON.exists():
        pytest.skip(f"needs {SYSTEM_PYTHON}: apt install python3-venv")
    lab = build_lab(Topology())
    lab.router.sysctl("net.ipv4.ip_forward", 0)
    lab.router.sysctl("net.ipv6.conf.all.forwarding", 0)
    echo = lab.router.call(Echo)
    lab.start_origin("origin1", ("www.example.com",))
    lab.start_origin("origin2", ("shop.example.net",))
    yield lab
    echo.close()


def test_nine_commands_share_the_one_address_of_a_vps(vps: Lab) -> None:
    (block,) = blocks("one-address-vps.md", "sh vps")
    commands = re.sub(r"<<'END'\n.*?^END\n", "\n", block, flags=re.MULTILINE | re.DOTALL).count("\n")
    stage = STAGE
    for name, value in {
        "directory": vps.directory,
        "python": SYSTEM_PYTHON,
        "root": PACKAGE_ROOT,
        "packages": sysconfig.get_path("purelib"),
    }.items():
        stage = stage.replace(f"{{{name}}}", str(value))
    script = block.replace("python3 -m venv /opt/kracauer", "mkdir -p /opt/kracauer/bin")
    script = script.replace("/opt/kracauer/bin/pip install .", "/run/stage/pip").replace(SERVICE, ROUTER)

    result = vps.router.run(["unshare", "--mount", "sh", "-c", stage + script + "sleep 0.1"], timeout_s=120)
    assert result.returncode == 0, result.stderr.decode()
    service = vps.directory / "service.log"
    wait_for('"ready"', service)

    context = vps.authority.client_context()
    for scheme in ("http", "https"):
        for origin, name in (("origin1", "www.example.com"), ("origin2", "shop.example.net")):
            seen = visit(vps.client, scheme, name, ROUTER, context=context)
            assert (seen.status, seen.seen.get("server"), seen.is_caller_seen) == (200, origin, True), seen
    assert is_reached(vps.client)
    assert vps.client.run(["ping", "-c", "1", "-W", "3", ROUTER]).returncode == 0
    assert commands == 9

    shown = next(text for text in blocks("one-address-vps.md", "text") if text.startswith("# ip rule"))
    rules = vps.router.run(["ip", "rule"]).stdout.decode()
    assert sorted(rules.split("\n")) == sorted(
        re.sub(r": +", ":\t", line) for line in shown.replace(SERVICE, ROUTER).split("\n")[1:]
    )
    assert [line for line in service.read_text().splitlines() if '"level": "warning"' in line] == []


def wait_for(text: str, path: Path, timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not (path.exists() and text in path.read_text(encoding="utf-8")):
        assert time.monotonic() < deadline, path.read_text(encoding="utf-8") if path.exists() else f"no {path}"
        time.sleep(0.05)


@pytest.fixture
def host() -> Iterator[NetworkNamespace]:
    """One with nothing but its loopback, that forwards IPv4."""
    namespace = NetworkNamespace(f"kracauer-{runs.new_token()}-host")
    namespace.create()
    for scope in ("all", "default"):
        namespace.sysctl(f"net.ipv6.conf.{scope}.disable_ipv6", 0)
    namespace.sysctl("net.ipv4.ip_forward", 1)
    links.bring_up(namespace, "lo")
    yield namespace
    namespace.remove()


ROUTES = {
    "198.51.100.1 dev kracauer0 mtu 1480",
    "unreachable 198.51.100.1 metric 1000000",
    "2001:db8:46::/96 dev kracauer0 mtu 1500",
    "unreachable 2001:db8:46::/96 metric 1000000",
}


def routes(host: NetworkNamespace) -> set[str]:
    """Those that a page is about, with their MTU, and their metric where that is not usual."""
    found = set()
    for family in ("-4", "-6"):
        for line in host.run(["ip", family, "route"]).stdout.decode().splitlines():
            words = re.sub(r" proto \w+| scope link| linkdown| pref medium| metric 1024| dev lo", "", line)
            found.add(" ".join(words.split()))
    return {route for route in found if "fe80" not in route}


def test_systemd_networkd_takes_the_files_for_the_device(host: NetworkNamespace, tmp_path: Path) -> None:
    if not NETWORKD.exists():
        pytest.skip("needs systemd-networkd: apt install systemd")
    for kind in ("netdev", "network"):
        (text,) = blocks("set-up-the-network-yourself.md", f"ini kracauer0.{kind}")
        (tmp_path / f"50-kracauer0.{kind}").write_text(text.replace("User=kracauer", "User=nobody"), encoding="utf-8")
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_mode & 0o001 == 0:
            shutil.copytree(tmp_path, folder := Path("/run") / host.name)
            break
    else:
        folder = tmp_path
    script = f"""
    mount --make-rprivate /
    mount -o remount,ro,bind /sys || mount -t sysfs -o ro sysfs /sys
    mkdir -p /run/systemd /etc/systemd/network
    mount -t tmpfs stage /run/systemd
    mkdir -p /run/systemd/netif/links /run/systemd/netif/leases /run/systemd/netif/lldp
    chown -R systemd-network:systemd-network /run/systemd/netif
    mount --bind {folder} /etc/systemd/network
    exec {NETWORKD}
    """
    try:
        process = BackgroundProcess("networkd", host, [*OPEN_TO_ALL, "sh", "-ec", script], tmp_path / "networkd.log")
        for _ in range(100):
            if routes(host) >= ROUTES or not process.is_running:
                break
            host.run(["sleep", "0.1"])
        log = process.log
        process.send_signal(signal.SIGTERM)
        process.wait()
    finally:
        if folder != tmp_path:
            shutil.rmtree(folder)

    assert routes(host) == ROUTES, log
    shown = host.run(["ip", "-details", "link", "show", "kracauer0"]).stdout.decode()
    assert "persist on user nobody" in shown
    assert "vnet_hdr on" in shown


def test_ifupdown_s_commands_set_and_take_back_the_same(host: NetworkNamespace) -> None:
    (text,) = (text for text in blocks("set-up-the-network-yourself.md", "text") if text.startswith("auto kracauer0"))
    text = text.replace("user kracauer", "user nobody")
    up = re.findall(r"^ +(?:pre-)?up (.*)$", text, re.MULTILINE)
    down = re.findall(r"^ +(?:post-)?down (.*)$", text, re.MULTILINE)

    assert host.run(["sh", "-ec", "\n".join(up)]).returncode == 0
    assert routes(host) == ROUTES
    assert host.run(["sh", "-ec", "\n".join(down)]).returncode == 0
    assert routes(host) == set()


def test_the_route_that_radvd_tells_is_taken(host: NetworkNamespace, program: Callable[[str], str], tmp_path: Path) -> None:
    radvd = program("radvd")
    (text,) = blocks("return-route.md", "radvd")
    (taking,) = (text for text in blocks("return-route.md", "sh") if "rt_info" in text)
    backend = NetworkNamespace(f"kracauer-{runs.new_token()}-backend")
    backend.create()
    try:
        backend.sysctl("net.ipv6.conf.default.disable_ipv6", 0)
        host.sysctl("net.ipv6.conf.all.forwarding", 1)
        links.add_cable((host, "eth1"), (backend, "eth0"), 1500)
        assert backend.run(taking.split()).returncode == 0
        (tmp_path / "radvd.conf").write_text(text, encoding="utf-8")
        command = [radvd, "-n", "-m", "stderr", "-u", "root", "-C", str(tmp_path / "radvd.conf"), "-p", str(tmp_path / "pid")]
        process = BackgroundProcess("radvd", host, command, tmp_path / "radvd.log")
        for _ in range(150):
            shown = backend.run(["ip", "-6", "route", "show", "2001:db8:46::/96"]).stdout.decode()
            if shown or not process.is_running:
                break
            backend.run(["sleep", "0.1"])
        process.stop()
        assert "dev eth0 proto ra" in shown, process.log
    finally:
        backend.remove()
