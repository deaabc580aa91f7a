"""The daemon's hold on the fast path: what it says, and what it leaves, where the kernel does not go along."""

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import pytest
import structlog
from offload_trials import make
from splice_setup import PLAIN
from structlog.testing import capture_logs

from kracauer.config import Config, parse_config
from kracauer.daemon.offloading import Offload, remove_offload
from kracauer.fast_path import NoFastPath
from kracauer.lab import configuration
from kracauer.lab.topology import ORIGIN_1, SERVICE
from kracauer.offload import attachment, bpf, kernel
from kracauer.offload.attachment import Attachment
from kracauer.offload.bpf import OffloadError
from kracauer.offload.kernel import KernelPath
from kracauer.offload.pins import Former
from kracauer.tcp.record import Records
from kracauer.tun import TunDevice, open_device

pytestmark = pytest.mark.lab

DEVICE = "kracauer0"
Logs = list[MutableMapping[str, Any]]


@pytest.fixture
def device(own_netns: Callable[[str], str]) -> Iterator[TunDevice]:
    assert own_netns("link")
    try:
        KernelPath.open(1).close()
    except OffloadError as error:
        pytest.skip(str(error))
    device = open_device(DEVICE)
    yield device
    device.close()


@pytest.fixture
def logs() -> Iterator[Logs]:
    with capture_logs() as logs:
        yield logs


def config(offload: str) -> Config:
    return parse_config(
        configuration.render({"www.example.com": ORIGIN_1}, ((SERVICE, 80, "http"),), network={"offload": offload})
    )


def begin(offload: str, *, is_recording: bool = False) -> Offload:
    held = Offload(config(offload), DEVICE, structlog.get_logger())
    held.open(Records(), is_recording=is_recording)
    held.attach(Records())
    return held


def refuse(*_: object, **__: object) -> Any:
    raise PermissionError(errno.EPERM, "Operation not permitted")


def leave_a_filter() -> None:
    """Have a program stand on the device as one does whose process was killed."""
    path = KernelPath.open(1)
    attachment.attach_filter(path.program, DEVICE, socket.if_nametoindex(DEVICE))
    path.close()


def has_filter() -> bool:
    """Whether there was one; there is none any more."""
    return attachment.remove_filter(DEVICE)


def test_where_maps_may_not_be_changed_any_more_userspace_takes_over(
    device: TunDevice, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = begin("auto")
    index = socket.if_nametoindex(device.name)
    assert held.path.standing.hook
    monkeypatch.setattr(bpf.Map, "delete", refuse)
    monkeypatch.setattr(bpf.Map, "update", refuse)
    held.check()
    assert [entry["event"] for entry in logs] == ["offload_attached", "offload_unavailable"]
    assert "Linux 5.19" in logs[-1]["remedy"]
    assert "CAP_BPF" in held.path.standing.cause
    assert not held.path.standing.hook
    assert not held.path.install(make(PLAIN))
    assert bpf.links_of(index) == set()
    held.keep()


def test_where_it_is_required_that_ends_the_start(device: TunDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    held = begin("require")
    monkeypatch.setattr(bpf.Map, "delete", refuse)
    with pytest.raises(OffloadError, match="CAP_BPF"):
        held.check()
    held.remove()
    assert bpf.links_of(socket.if_nametoindex(device.name)) == set()


def test_flows_that_have_ended_while_they_were_taken_up_are_told_of_with_the_next_sweep(
    device: TunDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    splice = make(PLAIN)
    monkeypatch.setattr(Former, "collect", lambda *_: [splice])  # the earlier program's last words
    held = begin("auto")
    assert list(held.path.sweep(time.monotonic())) == [splice]
    assert list(held.path.sweep(time.monotonic())) == []
    held.remove()
    assert device.name == DEVICE


@pytest.mark.parametrize("is_opened", [True, False])
def test_where_there_can_be_none_what_an_earlier_process_has_left_is_taken_away(
    device: TunDevice, logs: Logs, monkeypatch: pytest.MonkeyPatch, is_opened: bool
) -> None:
    leave_a_filter()

    def fail(*_: object) -> Attachment:
        raise OffloadError("this kernel has other plans", "ask another one")

    if is_opened:
        monkeypatch.setattr(kernel, "attach", fail)
    else:
        monkeypatch.setattr(bpf.Map, "create", refuse)
    held = begin("auto")
    assert [entry["event"] for entry in logs] == ["offload_unavailable", "offload_removed"]
    assert logs[0]["cause"] == logs[1]["cause"] == held.path.standing.cause
    assert not has_filter()
    held.check()
    assert not held.path.install(make(PLAIN))
    held.remove()
    with pytest.raises(OffloadError):
        begin("require")
    assert device.name == DEVICE


@pytest.mark.parametrize(("offload", "is_recording"), [("off", False), ("auto", True)])
def test_where_none_is_wanted_what_an_earlier_process_has_left_is_taken_away(
    device: TunDevice, logs: Logs, offload: str, is_recording: bool
) -> None:
    leave_a_filter()
    held = begin(offload, is_recording=is_recording)
    assert isinstance(held.path, NoFastPath)
    assert logs[-1]["event"] == "offload_removed"
    assert not has_filter()
    logs.clear()
    begin(offload, is_recording=is_recording).keep()
    assert "offload_removed" not in [entry["event"] for entry in logs]
    assert device.name == DEVICE


def test_a_link_takes_the_place_of_a_filter(device: TunDevice) -> None:
    leave_a_filter()
    held = begin("require")
    if held.path.standing.hook != "tcx":
        pytest.skip("this kernel has no links")
    assert not has_filter()
    held.remove()
    assert device.name == DEVICE


def test_clearing_up_where_nothing_is_left_is_no_error(device: TunDevice) -> None:
    assert not remove_offload(device.name)
    assert not remove_offload("nothere0")


def test_descriptors_that_are_not_what_they_are_said_to_be_are_told_of(
    device: TunDevice, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "7")
    monkeypatch.setenv("LISTEN_FDNAMES", f"kracauer-{device.name}/link:kracauer-{device.name}/v1_1_traffic")
    held = begin("auto")
    assert [entry["event"] for entry in logs] == ["descriptors_unusable", "offload_attached"]
    assert "LISTEN_FDS is '7'" in logs[0]["cause"]
    held.remove()
