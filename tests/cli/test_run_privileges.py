"""What a running service may do: what its work takes and no more, as root, and as nobody in a world as narrow as the unit's."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from fast_lane import skip_without_fast_path
from running import CONFIG, Running, command
from service_manager import ServiceManager
from tun_node import OPEN_TO_ALL

from kracauer.cli.exit_codes import ExitCode

pytestmark = pytest.mark.lab

Ip = Callable[[str], str]
Start = Callable[..., Running]
DEVICE = "kracauer0"
MORE = CONFIG.replace("[hosts]", '[[listen]]\naddress = "198.51.100.2"\nport = 80\n\n[hosts]')
NET_ADMIN = f"{1 << 12:016x}"
NOBODY = 65534
# As the unit has it: one ambient capability, no new privileges, nothing writable but the runtime directory, and no memory that
# becomes code: PR_SET_MDWE, from Linux 6.3 on, does what MemoryDenyWriteExecute= does by a filter.
WITHOUT_NEW_CODE = "import ctypes, os, sys; ctypes.CDLL(None).prctl(65, 1, 0, 0, 0); os.execvp(sys.argv[1], sys.argv[1:])"
NARROW = """
set -e
directory=$1; shift
mount --make-rprivate /
mount --bind "$directory" "$directory"
mount --bind "$directory/run" "$directory/run"
for place in $(awk '$2 !~ "^/(proc|dev|sys)(/|$)" {print $2}' /proc/mounts | sort -ru); do
    [ "$place" = "$directory/run" ] || mount -o remount,bind,ro "$place" 2> /dev/null || true
done
if touch "$directory/new" 2> /dev/null; then exit 99; fi
exec setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs --bounding-set=-all,CAPABILITIES \\
    --inh-caps=-all,CAPABILITIES --ambient-caps=-all,CAPABILITIES "$@"
"""
# As the unit has it: of the bpffs, which is for root alone, just a directory is shown, and that one is the user's.
SHOW_PINS = """
install --directory --mode=0700 --owner=65534 "$directory/bpf/kracauer"
mount -t tmpfs none /sys/fs/bpf
mkdir /sys/fs/bpf/kracauer
mount --bind "$directory/bpf/kracauer" /sys/fs/bpf/kracauer
mount -o remount,ro /sys/fs/bpf
"""
NET_ADMIN_ALONE = NARROW.replace("CAPABILITIES", "+net_admin")
WITHOUT_BPFFS = NARROW.replace("CAPABILITIES", "+net_admin,+bpf")
WITH_BPF = WITHOUT_BPFFS.replace("mount --make-rprivate /\n", f"mount --make-rprivate /{SHOW_PINS}")


@pytest.fixture
def narrow(tmp_path: Path, program: Callable[[str], str]) -> Sequence[str]:
    """The words before the service's command that make it nobody's, in a world of its own."""
    for name in ("setpriv", "unshare", "awk"):
        program(name)
    (tmp_path / "run").mkdir(mode=0o700)
    for place in (tmp_path, *tmp_path.parents):
        if place.owner() == "root" and place.stat().st_mode & 0o7777 == 0o700:
            place.chmod(0o711)
    os.chown(tmp_path / "run", NOBODY, NOBODY)
    return wrapped(NET_ADMIN_ALONE, tmp_path)


@pytest.fixture
def narrow_with_bpf(narrow: Sequence[str], tmp_path: Path) -> Iterator[Sequence[str]]:
    """The same with what the unit allows for the fast path, its pins on a bpffs of the test's own."""
    assert narrow
    skip_without_fast_path()
    bpffs = tmp_path / "bpf"
    bpffs.mkdir()
    subprocess.run(["mount", "-t", "bpf", "-o", "mode=0700", "none", bpffs], check=True, timeout=10)
    try:
        yield wrapped(WITH_BPF, tmp_path)
    finally:
        subprocess.run(["umount", "--lazy", bpffs], check=True, timeout=10)


def wrapped(script: str, directory: Path) -> Sequence[str]:
    return (
        *OPEN_TO_ALL,
        sys.executable,
        "-c",
        WITHOUT_NEW_CODE,
        "unshare",
        "--mount",
        "sh",
        "-c",
        script,
        "sh",
        str(directory),
    )


def status(running: Running) -> dict[str, str]:
    return read_status(running.process.pid)


def read_status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def check_work(ip: Ip, running: Running, directory: Path) -> None:
    """A link that goes down and comes up, a reload that adds an address, and a final stop: all of it takes a privilege."""
    before = ip("-4 route show") + ip("-6 route show")
    ip(f"link set {DEVICE} down")
    ip(f"link set {DEVICE} up")
    running.wait_for("routes_restored")
    assert ip("-4 route show") + ip("-6 route show") == before

    (directory / "kracauer-config.toml").write_text(MORE, encoding="utf-8")
    assert command(directory, "reload")[0] == ExitCode.OK
    assert f"198.51.100.2 dev {DEVICE}" in ip("-4 route show")
    assert [event for event in running.lines if event["level"] in ("error", "critical")] == []


def test_as_root_it_keeps_one_capability_and_does_its_work_with_it(ip: Ip, start: Start, tmp_path: Path) -> None:
    running = start()
    running.wait_for("ready")

    found = status(running)
    assert (found["CapPrm"], found["CapEff"]) == (NET_ADMIN, NET_ADMIN)
    assert {int(found[name], 16) for name in ("CapInh", "CapBnd", "CapAmb")} == {0}
    assert found["NoNewPrivs"] == "1"
    check_work(ip, running, tmp_path)
    assert command(tmp_path, "stop", "--forget")[0] == ExitCode.OK
    assert DEVICE not in ip("link show")
    assert "198.51.100" not in ip("-4 route show")


def test_as_nobody_in_a_world_that_cannot_be_written_it_does_all_of_its_work(
    ip: Ip, start: Start, tmp_path: Path, narrow: Sequence[str]
) -> None:
    running = start(wrapper=narrow)
    running.wait_for("ready")

    found = status(running)
    assert set(found["Uid"].split()) == {str(NOBODY)}
    assert (found["CapPrm"], found["CapEff"]) == (NET_ADMIN, NET_ADMIN)
    assert {int(found[name], 16) for name in ("CapInh", "CapAmb")} == {0}
    assert int(found["CapBnd"], 16) | 1 << 12 == 1 << 12
    assert found["NoNewPrivs"] == "1"
    assert running.events() == ["offload_unavailable", "ready"]  # which takes CAP_BPF
    check_work(ip, running, tmp_path)
    assert command(tmp_path, "stop", "--forget")[0] == ExitCode.OK
    assert DEVICE not in ip("link show")


def test_as_nobody_it_goes_on_with_what_it_has_left(ip: Ip, start: Start, tmp_path: Path, narrow: Sequence[str]) -> None:
    running = start(wrapper=narrow)
    running.wait_for("ready")
    assert running.stop() == ExitCode.OK
    assert DEVICE in ip("link show")

    again = start(wrapper=narrow)
    again.wait_for("ready")
    assert [event["level"] for event in again.lines] == ["info"] * len(again.lines)
    assert f"198.51.100.1 dev {DEVICE}" in ip("-4 route show")
    assert command(tmp_path, "stop", "--forget")[0] == ExitCode.OK


def test_as_nobody_it_has_a_fast_path_that_outlives_it_and_gives_up_what_that_has_taken(
    ip: Ip, start: Start, tmp_path: Path, narrow_with_bpf: Sequence[str]
) -> None:
    pins = tmp_path / "bpf" / "kracauer" / DEVICE
    for number in (signal.SIGTERM, signal.SIGKILL):
        running = start(wrapper=narrow_with_bpf)
        running.wait_for("ready")

        found = status(running)
        assert (found["CapPrm"], found["CapEff"]) == (NET_ADMIN, NET_ADMIN)
        assert [line["event"] for line in running.lines if line["level"] != "info"] == []
        attached = running.wait_for("offload_attached")
        assert attached["survives"], attached
        assert pins.owner() == "nobody"
        assert list(pins.iterdir())
        running.stop(number)
        assert list(pins.iterdir())

    running = start(wrapper=narrow_with_bpf)
    running.wait_for("ready")
    check_work(ip, running, tmp_path)
    assert command(tmp_path, "stop", "--forget")[0] == ExitCode.OK
    assert not pins.exists()
    assert DEVICE not in ip("link show")


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    """A service manager to which the user nobody may speak."""
    manager = ServiceManager(tmp_path)
    Path(manager.address).chmod(0o777)
    yield manager
    manager.close()


def test_as_nobody_it_has_a_fast_path_that_the_service_manager_holds(
    ip: Ip, start: Start, tmp_path: Path, narrow: Sequence[str], manager: ServiceManager
) -> None:
    assert narrow
    skip_without_fast_path()
    wrapper = [str(word) for word in manager.wrap(*wrapped(WITHOUT_BPFFS, tmp_path))]
    for number in (signal.SIGTERM, signal.SIGKILL):
        running = start(wrapper=wrapper)
        running.wait_for("ready")

        found = status(running)
        assert (found["CapPrm"], found["CapEff"]) == (NET_ADMIN, NET_ADMIN)
        assert [line["event"] for line in running.lines if line["level"] != "info"] == []
        attached = running.wait_for("offload_attached")
        assert attached["kept_by"] == "descriptor store", attached
        assert "kept by the descriptor store" in command(tmp_path, "status")[1]
        held = manager.names
        assert len(held) == 4 if attached["kind"] == "tcx" else 3
        running.stop(number)
        assert manager.names == held

    running = start(wrapper=wrapper)
    running.wait_for("ready")
    check_work(ip, running, tmp_path)
    assert command(tmp_path, "stop", "--forget")[0] == ExitCode.OK
    assert manager.names == []
    assert DEVICE not in ip("link show")


def may_nobody_run_python() -> bool:
    """Whether a process of that user may start this interpreter, as a service starts its workers."""
    as_nobody = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all")
    return subprocess.run([*as_nobody, "sh", "-c", f"test -x {sys.executable}"], check=False, timeout=10).returncode == 0


def workers_of(directory: Path) -> list[int]:
    """The processes of the service's workers."""
    code, said, complaints = command(directory, "status", "--json")
    assert code == ExitCode.OK, complaints
    return [worker["pid"] for worker in json.loads(said)["workers"]]


@pytest.mark.parametrize("is_nobody", [False, True], ids=["root", "nobody"])
def test_workers_have_no_privileges_at_all(
    ip: Ip, start: Start, tmp_path: Path, request: pytest.FixtureRequest, is_nobody: bool
) -> None:
    """Nor those that are started in the place of others, by a process that has given nearly all up itself."""
    wrapper = request.getfixturevalue("narrow_with_bpf") if is_nobody else ()
    if is_nobody and not may_nobody_run_python():
        pytest.skip(f"needs an interpreter that user nobody may run, unlike {Path(sys.executable).resolve()}")
    running = start(config=f"{CONFIG}\n[network]\nworkers = 2\n", wrapper=wrapper)
    running.wait_for("ready")
    os.kill(workers_of(tmp_path)[1], signal.SIGKILL)
    running.wait_for("worker_replaced")
    for pid in workers_of(tmp_path):
        found = read_status(pid)
        assert {int(found[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {0}
        assert found["NoNewPrivs"] == "1"
    assert status(running)["CapEff"] == NET_ADMIN
    assert [line["event"] for line in running.lines if line["level"] != "info"] == ["worker_died"]
    assert command(tmp_path, "stop", "--forget")[0] == ExitCode.OK
    assert DEVICE not in ip("link show")
