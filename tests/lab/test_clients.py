"""Real clients, each with its own TLS and HTTP, reach the right origin, which sees who they are."""

import json
import re
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kracauer.lab.topology import CLIENT, MAPPED_CLIENT, SERVICE, SERVICE_2, Lab
from kracauer.lab.visits import visit

pytestmark = pytest.mark.lab

Find = Callable[[str], str]
REQUEST = b"GET / HTTP/1.1\r\nHost: www.example.com\r\nConnection: close\r\n\r\n"


def json_in(output: bytes) -> dict[str, Any]:
    found = re.search(rb"\{.*\}", output)
    assert found, output
    seen: dict[str, Any] = json.loads(found[0])
    return seen


@pytest.mark.parametrize(
    ("name", "origin"),
    [
        ("www.example.com", "origin1"),
        ("api.example.com", "origin1"),
        ("shop.example.net", "origin2"),
        ("blog.example.org", "origin2"),
        ("a.b.example.org", "origin2"),
    ],
)
@pytest.mark.parametrize("scheme", ["https", "http"])
def test_each_name_leads_to_its_origin_which_sees_the_client(site: Lab, scheme: str, name: str, origin: str) -> None:
    if name in ("api.example.com", "a.b.example.org"):  # a port that speaks TLS only; a name no certificate covers
        context = site.authority.client_context()
        context.check_hostname = name == "api.example.com"
        scheme = "https"
    else:
        context = site.authority.client_context()
    result = visit(site.client, scheme, name, SERVICE, context=context)
    assert (result.failure, result.status) == (None, 200)
    assert result.seen["server"] == origin
    assert result.seen["mapped"] == MAPPED_CLIENT
    assert result.is_caller_seen
    if scheme == "https":
        assert result.certificate_owner == origin
        assert result.seen["sni"] == name


def test_the_origin_logs_the_clients_own_address_and_port(site: Lab) -> None:
    result = visit(site.client, "http", "www.example.com", SERVICE, target="/logged")
    assert result.local is not None
    line = f"{CLIENT} port {result.local[1]} [{MAPPED_CLIENT}]  GET http://www.example.com/logged  200"
    site.origins[0].wait_for(line, 2)


@pytest.mark.parametrize("address", [SERVICE, SERVICE_2])
@pytest.mark.parametrize("scheme", ["https", "http"])
def test_every_listener_serves_those_of_either_protocol_included(site: Lab, scheme: str, address: str) -> None:
    result = visit(site.client, scheme, "shop.example.net", address, context=site.authority.client_context())
    assert result.seen["server"] == "origin2"


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_curl_verifies_the_origin_over_tls(site: Lab, program: Find, version: str) -> None:
    options = ["-sS", "--tls-max", version, f"--tlsv{version}", "-w", "%{local_port}", "--cacert", str(site.authority.root)]
    for name, origin in (("www.example.com", "origin1"), ("blog.example.org", "origin2")):
        result = site.client.run([program("curl"), *options, f"https://{name}/"])
        assert result.returncode == 0, result.stderr
        seen = json_in(result.stdout)
        assert (seen["server"], seen["client"], seen["sni"]) == (origin, CLIENT, name)
        assert result.stdout.endswith(str(seen["port"]).encode())


def test_openssl_verifies_the_origin(site: Lab, program: Find) -> None:
    options: list[str | Path] = [
        "-quiet",
        "-verify_return_error",
        "-CAfile",
        site.authority.root,
        "-verify_hostname",
        "www.example.com",
    ]
    where = ["-servername", "www.example.com", "-connect", f"{SERVICE}:443"]
    result = site.client.run([program("openssl"), "s_client", *options, *where], stdin=REQUEST)
    assert json_in(result.stdout)["client"] == CLIENT


def test_wget_verifies_the_origin_with_its_own_tls_stack(site: Lab, program: Find) -> None:
    ca = f"--ca-certificate={site.authority.root}"
    result = site.client.run([program("wget"), "-qO-", "--tries=1", ca, "https://shop.example.net/"])
    assert result.returncode == 0, result.stderr
    assert json_in(result.stdout)["server"] == "origin2"


def test_gnutls_verifies_the_origin(site: Lab, program: Find) -> None:
    result = site.client.run([program("gnutls-cli"), "--x509cafile", site.authority.root, "www.example.com"], stdin=REQUEST)
    assert b"The certificate is trusted" in result.stdout
    assert b"OU=origin1" in result.stdout
    assert b"Handshake was completed" in result.stdout


def test_nss_verifies_the_origin(site: Lab, program: Find) -> None:
    database = site.directory / "nss"
    database.mkdir()
    certutil = program("certutil")
    assert site.client.run([certutil, "-N", "-d", database, "--empty-password"]).returncode == 0
    assert (
        site.client.run([certutil, "-A", "-d", database, "-n", "lab", "-t", "C,,", "-i", site.authority.root]).returncode == 0
    )
    (database / "request").write_bytes(REQUEST)
    options: list[str | Path] = ["-4", "-h", "www.example.com", "-p", "443", "-d", database, "-A", database / "request"]
    result = site.client.run([program("tstclnt"), *options], timeout_s=15)
    assert result.returncode == 0, result.stderr
    assert json_in(result.stdout)["server"] == "origin1"
    assert b"OU=origin1" in result.stderr


def test_curl_asks_in_plain_text_in_every_version_and_form(site: Lab, program: Find) -> None:
    curl = program("curl")
    for options in ([], ["--http1.0"], ["--proxy", f"http://{SERVICE}:80"]):
        result = site.client.run([curl, "-sS", *options, "http://www.example.com/"])
        assert json_in(result.stdout)["server"] == "origin1", (options, result.stderr)


def test_a_connection_kept_alive_carries_one_request_after_the_other(site: Lab, program: Find) -> None:
    urls = [f"http://www.example.com/{number}" for number in range(3)]
    result = site.client.run([program("curl"), "-sS", *urls])
    seen = [json.loads(line) for line in result.stdout.splitlines()]
    assert [each["target"] for each in seen] == ["/0", "/1", "/2"]
    assert len({each["port"] for each in seen}) == 1


def test_wget_asks_in_plain_text(site: Lab, program: Find) -> None:
    result = site.client.run([program("wget"), "-qO-", "--tries=1", "http://blog.example.org/"])
    assert json_in(result.stdout)["host"] == "blog.example.org"


def test_an_unknown_name_is_answered_with_the_alert_that_says_so(site: Lab) -> None:
    result = visit(site.client, "https", "unknown.example.com", SERVICE, context=site.authority.client_context())
    assert result.failure == "TLS alert: unrecognized_name"


def test_every_tls_stack_is_told_about_an_unknown_name(site: Lab, program: Find) -> None:
    curl = site.client.run([program("curl"), "-sS", "https://unknown.example.com/"])
    assert b"unrecognized name" in curl.stderr
    gnutls = site.client.run([program("gnutls-cli"), "unknown.example.com"])
    assert b"server name" in (gnutls.stdout + gnutls.stderr).lower()


def test_a_tls_client_without_a_name_is_told_so(site: Lab) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with site.client.open_socket() as connection:
        connection.settimeout(5)
        connection.connect((SERVICE, 443))
        with pytest.raises(ssl.SSLError, match=r"(?i)unrecognized.name"):
            context.wrap_socket(connection)


def exchange(site: Lab, sent: bytes, port: int = 80) -> bytes:
    """Send bytes and return everything that comes until the service closes."""
    with site.client.open_socket() as connection:
        connection.settimeout(5)
        connection.connect((SERVICE, port))
        connection.sendall(sent)
        received = b""
        while piece := connection.recv(65536):
            received += piece
        return received


def test_an_unknown_host_is_misdirected(site: Lab) -> None:
    assert exchange(site, b"GET / HTTP/1.1\r\nHost: unknown.example.com\r\n\r\n").startswith(b"HTTP/1.1 421 ")


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nHost: www.example.com\r\nHost: shop.example.net\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: www.example.com\r\n folded\r\n\r\n",
        b"\x16\x03\x01 this is no request\r\n\r\n",
        b"GET /\r\n\r\n",
    ],
)
def test_a_malformed_request_is_a_bad_one(site: Lab, request_: bytes) -> None:
    assert exchange(site, request_).startswith(b"HTTP/1.1 400 ")


def test_plain_text_on_a_tls_port_gets_an_alert_and_a_proper_close(site: Lab) -> None:
    answer = exchange(site, b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n", 443)
    assert (answer[0], answer[5]) == (21, 2)  # a fatal alert (RFC 8446 §6)


@pytest.mark.parametrize("size", [1, 7, 100])
def test_a_request_in_small_pieces_is_understood(site: Lab, size: int) -> None:
    with site.client.open_socket() as connection:
        connection.settimeout(10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.connect((SERVICE, 80))
        for start in range(0, len(REQUEST), size):
            connection.send(REQUEST[start : start + size])
        received = b""
        while piece := connection.recv(65536):
            received += piece
    assert json_in(received)["server"] == "origin1"


@pytest.mark.parametrize("padding", [1000, 5000, 40_000])
def test_a_request_line_longer_than_a_segment_is_held_until_its_host_is_there(site: Lab, padding: int) -> None:
    request = b"GET /" + b"x" * padding + b" HTTP/1.1\r\nHost: shop.example.net\r\nConnection: close\r\n\r\n"
    assert json_in(exchange(site, request))["server"] == "origin2"


def test_a_hello_of_many_segments_is_understood(site: Lab) -> None:
    context = site.authority.client_context()
    context.set_alpn_protocols([f"protocol-{number:04}" for number in range(900)])  # about 12 KB
    result = visit(site.client, "https", "www.example.com", SERVICE, context=context)
    assert result.certificate_owner == "origin1"
