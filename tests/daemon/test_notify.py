"""Datagrams to the service manager."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kracauer.daemon.notify import has_manager, is_let_go, notify, wait_for_manager


@pytest.mark.parametrize("is_abstract", [False, True])
def test_the_service_manager_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_abstract: bool) -> None:
    name = f"@kracauer-test-{os.getpid()}" if is_abstract else str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(name.replace("@", "\0"))
        manager.settimeout(5)

        assert notify("READY=1")

        assert manager.recv(100) == b"READY=1"


def test_without_a_service_manager_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)

    assert not notify("READY=1")


@pytest.mark.parametrize("name", ["/nowhere/at/all", "relative", "vsock:2:1"])
def test_a_socket_that_is_not_there_is_no_error(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", name)

    assert not notify("READY=1")


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[socket.socket]:
    """A service manager's socket, which nobody reads from yet."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(5)
        yield manager


def test_descriptors_go_along(manager: socket.socket) -> None:
    reader, writer = os.pipe()
    assert notify("FDSTORE=1", (writer,))
    os.close(writer)
    data, fds, _, _ = socket.recv_fds(manager, 100, 4)
    assert data == b"FDSTORE=1"
    assert not is_let_go(reader, 0.0)
    os.close(fds[0])
    assert is_let_go(reader, 5.0)
    os.close(reader)


def test_the_manager_is_waited_for(manager: socket.socket) -> None:
    def answer() -> None:
        assert manager.recv(100) == b"WATCHDOG=1"
        data, fds, _, _ = socket.recv_fds(manager, 100, 4)
        assert data == b"BARRIER=1"
        os.close(fds[0])

    thread = threading.Thread(target=answer)
    notify("WATCHDOG=1")
    thread.start()
    assert wait_for_manager(5.0)
    thread.join()


def test_a_manager_that_does_not_answer_is_not_waited_for_without_end(manager: socket.socket) -> None:
    began = time.monotonic()
    assert not wait_for_manager(0.1)
    assert time.monotonic() - began < 2
    _, fds, _, _ = socket.recv_fds(manager, 100, 4)
    os.close(fds[0])


@pytest.mark.parametrize("name", ["", "/nowhere/at/all", "relative", "vsock:2:1"])
def test_nobody_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    began = time.monotonic()
    assert not wait_for_manager(60.0)
    assert time.monotonic() - began < 10
    assert has_manager() is name.startswith("/")
