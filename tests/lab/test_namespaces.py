"""Namespaces come and go, whatever else on the machine makes some too."""

import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kracauer.lab import syscalls
from kracauer.lab.namespaces import NetworkNamespace, child_environment, in_thread

pytestmark = pytest.mark.lab


@pytest.fixture
def namespace(tmp_path: Path) -> Iterator[NetworkNamespace]:
    namespace = NetworkNamespace("kracauer-test", tmp_path / "netns")
    namespace.create()
    yield namespace
    namespace.remove()
    assert not namespace.path.exists()
    syscalls.detach_mount(namespace.path.parent)


def test_a_directory_of_namespaces_is_mounted_over_itself_just_once(namespace: NetworkNamespace) -> None:
    second = NetworkNamespace("kracauer-second", namespace.path.parent)
    second.create()
    second.remove()
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    assert mounts.count(f" {namespace.path.parent} ") == 1


def test_a_name_that_is_taken_is_left_alone(namespace: NetworkNamespace) -> None:
    before = namespace.path.stat().st_ino
    with pytest.raises(FileExistsError):
        NetworkNamespace(namespace.name, namespace.path.parent).create()
    assert namespace.path.stat().st_ino == before


def test_removing_a_namespace_twice_is_harmless(namespace: NetworkNamespace) -> None:
    namespace.remove()
    namespace.remove()


def test_an_exception_inside_comes_out(namespace: NetworkNamespace) -> None:
    def fail() -> None:
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        namespace.call(fail)


def test_a_socket_made_inside_stays_inside(namespace: NetworkNamespace) -> None:
    with namespace.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as inside, pytest.raises(OSError, match="unreachable"):
        inside.connect(("198.51.100.1", 9))


def test_a_setting_is_written_and_read_inside(namespace: NetworkNamespace) -> None:
    outside = Path("/proc/sys/net/ipv4/ip_default_ttl").read_text(encoding="ascii").strip()
    assert namespace.sysctl("net.ipv4.ip_default_ttl", 77) == "77"
    assert namespace.sysctl("net.ipv4.ip_default_ttl") == "77"
    assert Path("/proc/sys/net/ipv4/ip_default_ttl").read_text(encoding="ascii").strip() == outside


def test_processes_inside_are_found_and_killed(namespace: NetworkNamespace) -> None:
    with namespace.popen(["sleep", "1000"]) as process:
        assert namespace.pids() == [process.pid]
        namespace.kill_processes(timeout_s=0.2)
        assert process.wait(5) != 0
    assert namespace.pids() == []


def test_web_proxies_are_kept_out_of_programs_in_the_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://192.0.2.99:3128")
    monkeypatch.setenv("NO_PROXY", "localhost")
    assert not {key for key in child_environment() if key.lower().endswith("_proxy")}


def test_namespaces_of_ip_netns_beside_ours_keep_nothing_from_going(program: Callable[[str], str]) -> None:
    ip = program("ip")

    def in_mounts_of_our_own() -> None:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.make_mounts_private()
        syscalls.mount_empty(Path("/run"))
        namespace = NetworkNamespace("kracauer-test")
        namespace.create()
        subprocess.run([ip, "netns", "add", "kracauer-foreign"], check=True, timeout=10)
        namespace.remove()
        assert not namespace.path.exists()

    in_thread(in_mounts_of_our_own)
