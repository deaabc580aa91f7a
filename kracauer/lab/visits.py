"""One request as a visitor makes it, and everything both ends saw of each other (RFC 9112, RFC 8446 §6, RFC 6066 §3)."""

import http.client
import json
import socket
import ssl
from dataclasses import dataclass, field
from typing import Any, Final

from kracauer.lab.namespaces import NetworkNamespace

TIMEOUT_S: Final = 10.0
PIECE: Final = 65_536
PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Visit:
    """What became of one request: an answer with `status`, or a `failure` in the words of the client's own stack.

    `seen` is what the origin said it saw; `certificate` what `ssl.SSLSocket.getpeercert` returns, after verification.
    """

    scheme: str
    name: str
    local: tuple[str, int] | None = None
    status: int | None = None
    failure: str | None = None
    seen: dict[str, Any] = field(default_factory=dict)
    certificate: dict[str, Any] = field(default_factory=dict)

    @property
    def is_caller_seen(self) -> bool:
        """Whether the origin saw the very address and port from which the client called."""
        return self.local is not None and (self.seen.get("client"), self.seen.get("port")) == self.local

    @property
    def certificate_owner(self) -> str | None:
        """The organizational unit in the certificate's subject, which is the origin's name."""
        for relative_name in self.certificate.get("subject", ()):
            for key, value in relative_name:
                if key == "organizationalUnitName":
                    return str(value)
        return None

    @property
    def certificate_names(self) -> list[str]:
        """The DNS names that the certificate is good for."""
        return [name for kind, name in self.certificate.get("subjectAltName", ()) if kind == "DNS"]


def visit(  # noqa: PLR0913 - all but the first four are rarely said, and by name
    client: NetworkNamespace,
    scheme: str,
    name: str,
    address: str,
    *,
    port: int | None = None,
    context: ssl.SSLContext | None = None,
    local_port: int = 0,
    target: str = "/",
    timeout_s: float = TIMEOUT_S,
) -> Visit:
    """Ask `address` for `name` from inside a namespace; `context` verifies the server and is needed for https.

    `timeout_s` is for each step: connecting, sending, each piece of the answer.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    local: tuple[str, int] | None = None
    with client.open_socket(family) as connection:
        connection.settimeout(timeout_s)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            connection.bind(("", local_port))
            connection.connect((address, port or PORTS[scheme]))
            local = connection.getsockname()[:2]
            if scheme == "http":
                return _ask(connection, Visit(scheme, name, local), target)
            assert context is not None
            with context.wrap_socket(connection, server_hostname=name) as tls:
                certificate = tls.getpeercert() or {}
                return _ask(tls, Visit(scheme, name, local, certificate=dict(certificate)), target)
        except (OSError, http.client.HTTPException) as error:
            return Visit(scheme, name, local, failure=describe(error))


def _ask(connection: socket.socket, so_far: Visit, target: str) -> Visit:
    request = f"GET {target} HTTP/1.1\r\nHost: {so_far.name}\r\nConnection: close\r\n\r\n"
    connection.sendall(request.encode("ascii"))
    response = http.client.HTTPResponse(connection)
    response.begin()
    body = response.read()
    while connection.recv(PIECE):  # to the end of the stream: the other side is to close first, and properly
        pass
    is_json = response.getheader("Content-Type") == "application/json"
    return Visit(
        so_far.scheme,
        so_far.name,
        so_far.local,
        status=response.status,
        seen=json.loads(body) if is_json and response.status == http.HTTPStatus.OK else {},
        certificate=so_far.certificate,
    )


def describe(error: Exception) -> str:
    """Return an exception in few words; a TLS alert by the name it has in RFC 8446 §6, as far as OpenSSL tells it."""
    if isinstance(error, ssl.SSLError) and error.reason:
        reason = error.reason.lower().replace("_", " ")
        for prefix in ("tlsv1 alert ", "sslv3 alert ", "tlsv1 ", "sslv3 "):
            if reason.startswith(prefix):
                return f"TLS alert: {reason.removeprefix(prefix).replace(' ', '_')}"
        return f"TLS: {reason}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
