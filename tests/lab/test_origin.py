"""The origin server reads requests as they are meant, and says what it saw."""

import asyncio
import hashlib
import ipaddress
import json

import pytest

from kracauer.lab.origin import BadRequestError, Caller, Origin, Request, hash_body, read_request


async def fed(data: bytes) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    return reader


async def request_of(data: bytes) -> Request | None:
    return await read_request(await fed(data))


def read(data: bytes) -> Request | None:
    return asyncio.run(request_of(data))


def test_a_request_is_read_with_its_fields_in_lower_case() -> None:
    request = read(b"GET /x HTTP/1.1\r\nHost: www.example.com\r\nConnection: Close\r\n\r\n")
    assert request == Request("GET", "/x", "HTTP/1.1", {"host": "www.example.com", "connection": "Close"})
    assert request.is_last


def test_the_end_of_the_stream_is_no_request() -> None:
    assert read(b"") is None


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\nHo", b"nonsense\r\n\r\n"])
def test_half_a_request_and_nonsense_are_bad_requests(data: bytes) -> None:
    with pytest.raises(BadRequestError):
        read(data)


@pytest.mark.parametrize(
    ("version", "connection", "is_last"),
    [("HTTP/1.1", "", False), ("HTTP/1.1", "close", True), ("HTTP/1.0", "", True), ("HTTP/1.0", "keep-alive", False)],
)
def test_a_connection_persists_as_its_version_and_options_say(version: str, connection: str, is_last: bool) -> None:
    assert Request("GET", "/", version, {"connection": connection}).is_last is is_last


def hash_of(fields: dict[str, str], data: bytes) -> dict[str, object]:
    async def run() -> dict[str, object]:
        return await hash_body(Request("PUT", "/", "HTTP/1.1", fields), await fed(data))

    return asyncio.run(run())


def test_a_body_of_known_length_is_hashed_and_no_more() -> None:
    expected = {"length": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}
    assert hash_of({"content-length": "3"}, b"abcdef") == expected


def test_a_body_without_length_goes_to_the_end_of_the_stream() -> None:
    assert hash_of({}, b"abcdef")["length"] == 6


def test_a_body_that_ends_early_is_a_bad_request() -> None:
    with pytest.raises(BadRequestError, match="3 bytes early"):
        hash_of({"content-length": "6"}, b"abc")


class Transport:
    """What an origin asks of a stream writer about its peer."""

    def __init__(self, address: str) -> None:
        self.address = address

    def get_extra_info(self, name: str) -> object:
        return (self.address, 4711, 0, 0) if name == "peername" else None


@pytest.mark.parametrize(("address", "client"), [("2001:db8:46::c000:207", "192.0.2.7"), ("2001:db8:c::7", "2001:db8:c::7")])
def test_a_caller_in_the_prefix_is_known_by_the_ipv4_address_in_it(address: str, client: str) -> None:
    origin = Origin("origin1", ipaddress.IPv6Network("2001:db8:46::/96"))
    caller = origin.caller(Transport(address))  # type: ignore[arg-type]
    assert caller == Caller(address, client, 4711, None)
    seen = json.loads(origin.describe(Request("GET", "/", "HTTP/1.1", {"host": "www.example.com"}), caller))
    assert (seen["client"], seen["port"], seen["host"]) == (client, 4711, "www.example.com")
