"""The mark on a device, set and read through the kernel, in a namespace of the test's own."""

import errno
from collections.abc import Callable

import pytest

from kracauer.tun.alias import ALIAS, read_alias, set_alias

pytestmark = pytest.mark.lab

Ip = Callable[[str], str]


def test_a_missing_interface_has_no_alias(own_netns: Ip) -> None:
    assert own_netns("link show")
    assert read_alias("kracauer0") is None
    with pytest.raises(OSError, match="No such device") as caught:
        set_alias("kracauer0")
    assert caught.value.errno == errno.ENODEV


def test_an_alias_is_set_where_ip_link_shows_it(own_netns: Ip) -> None:
    own_netns("link add left type veth peer name right")
    assert read_alias("left") == ""

    set_alias("left")

    assert f"alias {ALIAS}" in own_netns("link show left")
    assert read_alias("left") == ALIAS
    assert read_alias("right") == ""


def test_what_others_call_an_interface_is_read_as_it_is(own_netns: Ip) -> None:
    own_netns("link add left type veth peer name right")
    own_netns("link set left alias kracauers-neighbour")

    assert read_alias("left") == "kracauers-neighbour"
