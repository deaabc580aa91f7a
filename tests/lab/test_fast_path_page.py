"""What docs/how-to/kernel-fast-path.md tells a reader to type shows what the page says, beside a service of the lab."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fast_lane import skip_without_fast_path
from faults import until

from kracauer.lab import configuration, content
from kracauer.lab.namespaces import PACKAGE_ROOT
from kracauer.lab.topology import ORIGIN_1, SERVICE, Lab, Topology
from kracauer.lab.transfers import connect, download

pytestmark = pytest.mark.lab

PAGE = (PACKAGE_ROOT / "docs" / "how-to" / "kernel-fast-path.md").read_text(encoding="utf-8")
COMMANDS: list[str] = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
NAME = "www.example.com"
LENGTH = 4 << 20
# A lab has no journal and no user of its own, and its links have no such setting; who watches packets has to stop some time.
STAND_INS = """
journalctl() { cat {log}; }
ethtool() { echo rx-gro-list: on; }
tcpdump() { command timeout 4 tcpdump -c 400 "$@"; }
"""


@pytest.fixture
def lab(build_lab: Callable[[Topology], Lab]) -> Lab:
    skip_without_fast_path()
    lab = build_lab(Topology())
    lab.start_origin("origin1")
    lab.start_daemon(configuration.render({NAME: ORIGIN_1}, ((SERVICE, 80, "http"),), network={"offload": "require"}))
    return lab


def block(part: str) -> str:
    """The one block of the page in which this is."""
    (found,) = (text for text in COMMANDS if part in text)
    return found


def run(lab: Lab, text: str) -> str:
    """What a block prints, in the router; a command of it that finds nothing is no mistake."""
    assert lab.daemon is not None
    log = lab.directory / "shown.log"
    log.write_text("".join(f"{json.dumps(event)}\n" for event in lab.daemon.events), encoding="utf-8")
    script = STAND_INS.replace("{log}", str(log)) + text
    script = script.replace("/opt/kracauer/bin/kracauer", f"{sys.executable} -m kracauer")
    script = script.replace("/etc/kracauer/kracauer-config.toml", str(lab.directory / "kracauer-config.toml"))
    environment = {"RUNTIME_DIRECTORY": str(lab.directory / "run"), "PYTHONPATH": str(PACKAGE_ROOT)}
    return str(lab.router.run(["bash", "-c", script], env=environment, timeout_s=60).stdout, "utf-8")


def test_the_first_commands_show_that_it_works(lab: Lab) -> None:
    with connect(lab.client, SERVICE, NAME) as connection:
        assert download(connection, NAME, LENGTH) == content.digest(LENGTH)
        shown = run(lab, block("status -c"))

    wanted = r"^fast path    by (tcx|clsact): (\d+) connections?; \d+ packets? carried, \d+ bytes; \d+ SYNs? answered.*$"
    line = re.search(wanted, shown, re.MULTILINE)
    assert line is not None, shown
    assert line[2] == "1"
    assert re.search(r"^(OK|WARNING) +fast-path: the kernel carries ", shown, re.MULTILINE), shown
    example = re.search(r"^```text\n(fast path .*)\n```$", PAGE, re.MULTILINE)
    assert example is not None
    many = re.sub(r"\d+", "0", line[0]).replace("connection;", "connections;").replace("SYN ", "SYNs ")
    assert re.sub(r"\d+", "0", example[1]) == many


def test_the_log_tells_it_too(lab: Lab) -> None:
    (line,) = run(lab, block("journalctl")).splitlines()
    assert json.loads(line)["event"] == "offload_attached"


def test_tcpdump_shows_once_what_the_kernel_carries_and_in_the_other_family(lab: Lab, tmp_path: Path) -> None:
    if shutil.which("tcpdump") is None:
        pytest.skip("needs tcpdump: apt install tcpdump")
    shown = tmp_path / "shown.txt"
    watcher = lab.start(
        "tcpdump",
        lab.router,
        ["sh", "-c", f"exec timeout 6 {block('tcpdump').strip()} -l > {shown} 2> {shown}.err"],
    )
    said = Path(f"{shown}.err")
    until(lambda: said.exists() and "listening" in said.read_text(encoding="utf-8"))
    with connect(lab.client, SERVICE, NAME) as connection:
        assert download(connection, NAME, LENGTH) == content.digest(LENGTH)
    watcher.stop()

    lines = re.findall(r"^[\d:.]+ (IP6? .*)$", shown.read_text(encoding="utf-8"), re.MULTILINE)
    data = [line for line in lines if re.search(r"length \d{4,}", line)]
    to_client = [line for line in data if line.startswith(f"IP {SERVICE}.80 > ")]
    from_backend = [line for line in data if line.startswith("IP6 ") and "> 2001:db8:46::c000:207" in line]
    assert len(to_client) > 20
    assert len(from_backend) <= 3  # before the kernel was told of the connection
    syns = [line for line in lines if "Flags [S]" in line]
    assert {line.split()[0] for line in syns} == {"IP", "IP6"}


def test_interfaces_that_join_packets_in_a_harmful_way_are_named(lab: Lab) -> None:
    assert "kracauer0 has it on" in run(lab, block("rx-gro-list")).splitlines()


def test_the_last_command_takes_the_program_away(lab: Lab) -> None:
    assert lab.daemon is not None
    assert "stopped: nothing is kept" in run(lab, block("stop --forget"))
    lab.daemon.wait(10)
    assert "kracauer0" not in lab.router.run(["ip", "link", "show"]).stdout.decode()
