"""Every way in which the device cannot be had, and what is said about it."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kracauer.errors import DeviceError
from kracauer.lab import privileges
from kracauer.tun import open_device, opening
from kracauer.wire.buffer import Frame

Ip = Callable[[str], str]
ROOT = Path(__file__).parents[2]

OPEN = """
import sys
from kracauer.errors import DeviceError
from kracauer.tun import open_device
try:
    open_device("kracauer0")
except DeviceError as error:
    sys.exit(f"{error.cause}|{error.remedy}")
"""


def failure_of(*command: str) -> str:
    """What opening the device says when run through `command`."""
    ran = subprocess.run(
        [*command, sys.executable, "-c", OPEN],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ran.returncode == 1, ran
    assert "Traceback" not in ran.stderr
    return ran.stderr


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "a:b", "tun%d", "sixteen_letters_", "é", "a\n"])
def test_a_name_that_no_interface_can_have_is_refused(name: str) -> None:
    with pytest.raises(DeviceError, match="cannot be the name of an interface") as caught:
        open_device(name)

    assert "network.device" in caught.value.remedy


@pytest.mark.lab
def test_a_name_taken_by_a_tun_device_is_said_so(own_netns: Ip) -> None:
    own_netns("tuntap add dev kracauer0 mode tun")

    with pytest.raises(DeviceError, match="taken by another TUN device") as caught:
        open_device("kracauer0")

    assert "ip link del kracauer0" in caught.value.remedy


@pytest.mark.lab
def test_a_failure_to_open_closes_no_descriptor_but_its_own(own_netns: Ip) -> None:
    own_netns("tuntap add dev kracauer0 mode tun")
    with pytest.raises(DeviceError) as caught:
        open_device("kracauer0")
    reading, writing = os.pipe()  # one of them gets the number that the attempt had

    del caught
    gc.collect()

    os.close(reading)
    os.close(writing)


@pytest.mark.lab
@pytest.mark.parametrize("is_adopting", [False, True])
def test_a_name_taken_by_another_interface_is_said_so(own_netns: Ip, is_adopting: bool) -> None:
    own_netns("link add kracauer0 type veth peer name other0")

    with pytest.raises(DeviceError, match=r"no TUN device \(driver veth\)"):
        open_device("kracauer0", is_adopting=is_adopting)


@pytest.mark.lab
def test_a_device_that_the_operator_made_can_be_adopted(own_netns: Ip) -> None:
    own_netns("tuntap add dev kracauer0 mode tun")

    device = open_device("kracauer0", is_adopting=True)
    try:
        assert device.has_offloads
        with pytest.raises(DeviceError, match="in use by another process"):
            open_device("kracauer0", is_adopting=True)
    finally:
        device.close()
    assert "kracauer0" in own_netns("link show")


@pytest.mark.lab
@pytest.mark.usefixtures("own_netns")
def test_offloads_that_are_not_wanted_are_not_asked_for() -> None:
    device = open_device("kracauer0", has_offloads=False)
    try:
        assert not device.has_offloads
        assert device.fallback == ""
    finally:
        device.close()


@pytest.mark.lab
@pytest.mark.usefixtures("own_netns")
def test_a_kernel_that_refuses_offloads_is_worked_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_OFFLOADS", 1 << 30)  # a bit that no kernel knows

    device = open_device("kracauer0")
    try:
        assert not device.has_offloads
        assert device.fallback == "TUNSETOFFLOAD: Invalid argument"
    finally:
        device.close()


@pytest.mark.lab
@pytest.mark.usefixtures("own_netns")
def test_a_kernel_that_refuses_vnet_headers_is_worked_with(monkeypatch: pytest.MonkeyPatch) -> None:
    class OldKernel(opening.Attachment):
        def __init__(self, name: str, flags: int) -> None:
            super().__init__("a/b" if flags & opening.IFF_VNET_HDR else name, flags)  # a slash is EINVAL

    monkeypatch.setattr(opening, "Attachment", OldKernel)

    device = open_device("kracauer0")
    try:
        assert not device.has_offloads
        assert device.fallback == "IFF_VNET_HDR: Invalid argument"
        gc.collect()
        assert device.read_into(Frame()) is False
    finally:
        device.close()


@pytest.mark.lab
@pytest.mark.usefixtures("own_netns")
def test_a_missing_clone_device_is_said_so() -> None:
    said = failure_of("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "sh")

    assert "/dev/net/tun is missing" in said
    assert "modprobe tun" in said
    assert "--device /dev/net/tun" in said


@pytest.mark.lab
@pytest.mark.usefixtures("own_netns")
def test_something_else_in_the_place_of_the_clone_device_is_said_so() -> None:
    said = failure_of("unshare", "--mount", "sh", "-c", 'mount --bind /dev/null /dev/net/tun && exec "$@"', "sh")

    assert "/dev/net/tun is not the TUN driver" in said
    assert "mknod /dev/net/tun c 10 200" in said


@pytest.mark.lab
@pytest.mark.usefixtures("own_netns")
def test_a_clone_device_that_may_not_be_opened_is_said_so() -> None:
    if privileges.is_in_user_namespace():
        pytest.skip("needs root outside of a user namespace, to make a device node")
    closed = "mount -t tmpfs none /dev/net && mknod -m 600 /dev/net/tun c 10 200"
    become_nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all"
    said = failure_of("unshare", "--mount", "sh", "-c", f'{closed} && exec {become_nobody} "$@"', "sh")

    assert "/dev/net/tun may not be opened by user 65534" in said


@pytest.mark.lab
@pytest.mark.usefixtures("own_netns")
def test_a_missing_capability_is_said_so() -> None:
    said = failure_of("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")

    assert "does not let user 0 create the device kracauer0" in said
    assert "CAP_NET_ADMIN" in said
