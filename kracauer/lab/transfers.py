"""Known content moved through the service and checked at the far end by its hash."""

import hashlib
import http.client
import json
import socket
import ssl
from typing import Final

from kracauer.lab import content
from kracauer.lab.namespaces import NetworkNamespace

TIMEOUT_S: Final = 60.0
PIECE: Final = 1 << 18


def connect(
    client: NetworkNamespace, address: str, name: str, context: ssl.SSLContext | None = None, port: int | None = None
) -> socket.socket:
    """Return a connection from inside a namespace, over TLS if there is a context."""
    connection = client.open_socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        connection.settimeout(TIMEOUT_S)
        connection.connect((address, port or (443 if context else 80)))
        return context.wrap_socket(connection, server_hostname=name) if context else connection
    except BaseException:
        connection.close()
        raise


def download(connection: socket.socket, name: str, length: int, rate: int = 0) -> str:
    """Ask for `length` bytes of content, at `rate` bytes a second unless that is 0, and return the hash of what came."""
    request = f"GET /bytes/{length}?rate={rate} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n"
    connection.sendall(request.encode("ascii"))
    response = http.client.HTTPResponse(connection)
    response.begin()
    sha256, buffer = hashlib.sha256(), memoryview(bytearray(PIECE))
    while count := response.readinto(buffer):
        sha256.update(buffer[:count])
    return sha256.hexdigest()


def upload(connection: socket.socket, name: str, length: int, *, is_half_closed: bool = False) -> str:
    """Send `length` bytes of content and return the hash of what the origin got.

    Half-closed, the length is not said before: the origin reads to the end of our side of the stream (RFC 9293 §3.6).
    """
    framing = "" if is_half_closed else f"Content-Length: {length}\r\n"
    request = f"PUT /upload HTTP/1.1\r\nHost: {name}\r\n{framing}Connection: close\r\n\r\n"
    connection.sendall(request.encode("ascii"))
    for block in content.blocks(length):
        connection.sendall(block)
    if is_half_closed:
        connection.shutdown(socket.SHUT_WR)
    response = http.client.HTTPResponse(connection)
    response.begin()
    return str(json.loads(response.read())["sha256"])
