"""A visit's failure is told in the words of the RFCs."""

import ssl

import pytest

from kracauer.lab.visits import Visit, describe


def tls_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] something (_ssl.c:1)")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (tls_error("TLSV1_UNRECOGNIZED_NAME"), "TLS alert: unrecognized_name"),
        (tls_error("SSLV3_ALERT_HANDSHAKE_FAILURE"), "TLS alert: handshake_failure"),
        (tls_error("TLSV1_ALERT_DECODE_ERROR"), "TLS alert: decode_error"),
        (tls_error("WRONG_VERSION_NUMBER"), "TLS: wrong version number"),
        (TimeoutError("timed out"), "no answer in time"),
        (ConnectionResetError(104, "Connection reset by peer"), "[Errno 104] Connection reset by peer"),
        (OSError(), "OSError"),
    ],
)
def test_an_error_is_described_in_few_words(error: Exception, words: str) -> None:
    assert describe(error) == words


def test_a_caller_is_seen_when_address_and_port_agree() -> None:
    local = ("192.0.2.7", 40000)
    assert Visit("http", "a.example", local, seen={"client": "192.0.2.7", "port": 40000}).is_caller_seen
    assert not Visit("http", "a.example", local, seen={"client": "192.0.2.7", "port": 40001}).is_caller_seen
    assert not Visit("http", "a.example", None, seen={}).is_caller_seen
