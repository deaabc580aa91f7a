"""What supervisor and worker say to each other arrives as it was said, or not at all."""

import asyncio
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kracauer.config import parse_config, share_of
from kracauer.daemon import channel
from kracauer.daemon.channel import ChannelClosedError

ROOT = Path(__file__).parents[2]
CONFIG = """
prefix = "2001:db8:46::/96"
backend_networks = ["2001:db8:1::/64"]
[[listen]]
address = "198.51.100.1"
port = 443
deny = ["192.0.2.0/25"]
[hosts]
"www.example.com" = ["2001:db8:1::2", "[2001:db8:1::3]:8443"]
"*.example.org" = "web.example.net"
[hosts."big.example.com"]
backends = [{ address = "2001:db8:1::4", weight = 2 }, { address = "2001:db8:1::5", drain = true }]
balance = "client"
max_flows = 7
[backend_profile."2001:db8:1::2"]
mss = 1220
"""
LOOK_UP = """
import sys
from kracauer.daemon import channel
import socket
config = channel.receive_order(socket.socket(fileno=int(sys.argv[1])))
route = config.routes.lookup("www.example.com")
known = set(config.routes.backends)
from kracauer.config import parse_config
assert set(parse_config(sys.stdin.read()).routes.backends) == known
assert all(backend in known for backend in route.backends)
assert list(config.profile_overrides)
"""


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ends = socket.socketpair()
    yield ends
    for end in ends:
        end.close()


def test_a_configuration_arrives_whole(pair: tuple[socket.socket, socket.socket]) -> None:
    config = parse_config(CONFIG)
    channel.send_order(pair[0], config)
    assert channel.receive_order(pair[1]) == config


def test_backends_are_found_again_where_text_has_another_hash() -> None:
    """An address is hashed as text is, and that differs from process to process."""
    ours, its = socket.socketpair()
    with ours, its:
        process = subprocess.Popen(
            [sys.executable, "-c", LOOK_UP, str(its.fileno())],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "12345"},
            pass_fds=(its.fileno(),),
            stdin=subprocess.PIPE,
        )
        channel.send_order(ours, parse_config(CONFIG))
        process.communicate(CONFIG.encode(), timeout=30)
        assert process.returncode == 0


@given(st.dictionaries(st.text(), st.none() | st.integers() | st.text() | st.lists(st.integers())))
def test_words_arrive_as_they_were_said(words: dict[str, object]) -> None:
    async def read() -> dict[str, object]:
        reader = asyncio.StreamReader()
        reader.feed_data(channel.pack_words(words) * 2)
        assert await channel.next_words(reader) == words
        return await channel.next_words(reader)

    assert asyncio.run(read()) == words


def test_a_large_order_arrives_in_pieces() -> None:
    async def read() -> object:
        reader = asyncio.StreamReader()
        order = channel.pack_order({"config": "x" * 3_000_000})
        for at in range(0, len(order), 65_536):
            reader.feed_data(order[at : at + 65_536])
        return await channel.next_order(reader)

    assert asyncio.run(read()) == {"config": "x" * 3_000_000}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\0\0",
        b"\0\0\0\x05{}",
        b"\xff\xff\xff\xff{}",
        (channel.MOST_SAID + 1).to_bytes(4, "big") + b"{}",
        b"\0\0\0\x02[]",
        b"\0\0\0\x03{]}",
        b"\0\0\0\x02\xff\xff",
        pickle.dumps({"word": "stopped"}),
        b"\0\0\x27\x10" + b"[" * 10_000,
    ],
)
def test_words_that_are_none_end_the_talk(data: bytes) -> None:
    """A worker reads what strangers send: nothing that it says may do more than be read."""

    async def read() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        with pytest.raises(ChannelClosedError):
            await channel.next_words(reader)

    asyncio.run(read())


def test_an_end_that_has_gone_is_noticed(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[0].close()
    with pytest.raises(ChannelClosedError):
        channel.receive_words(pair[1])
    with pytest.raises(ChannelClosedError):
        channel.send_words(pair[1], {"word": "here"})


def test_a_share_is_divided_and_rounded_up() -> None:
    config = parse_config(CONFIG + "[limits]\nflows = 100\nheld_bytes = 100000\nnew_per_second_per_client = 3\n")
    share = share_of(config, 3)
    assert share.limits.flows == 34
    assert share.limits.unproven == -(-config.limits.unproven // 3)
    assert share.limits.held_bytes == config.limits.peek_bytes  # what the largest first message takes
    assert share.limits.new_per_second_per_client == 1.0
    assert share.limits.flows_per_client == 0  # none stays none
    route = share.routes.lookup("big.example.com")
    assert route is not None
    assert route.max_flows == 3
    assert share_of(config, 1) is config
    assert [route.pattern for route in share.routes] == [route.pattern for route in config.routes]
