"""An IPv6-only HTTP and HTTPS server that says who called it: `python -m kracauer.lab.origin` (RFC 9112, RFC 6052 §2.2).

    GET  /…             what the server saw of the caller, as JSON
    GET  /bytes/N       N bytes of known content, its hash in the header; ?rate=B: not faster than B bytes a second,
                        in blocks of 256 KiB, or with &pieces=P in P pieces a second
    PUT, POST /…        the hash of what was sent, up to Content-Length or, without one, to the end of the stream

Each request becomes one line on standard output, with the IPv4 client's own address and port.
"""

import argparse
import asyncio
import contextlib
import hashlib
import ipaddress
import json
import signal
import ssl
import urllib.parse
import weakref
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from kracauer.lab import content

HEAD_LIMIT_BYTES: Final = 65_536
REASONS: Final = {200: "OK", 400: "Bad Request", 404: "Not Found", 501: "Not Implemented"}
READY: Final = "origin ready"


class BadRequestError(Exception):
    """A request that this server cannot make sense of."""


@dataclass(frozen=True, slots=True)
class Request:
    """The head of one request; field names in lower case."""

    method: str
    target: str
    version: str
    fields: Mapping[str, str]

    @property
    def is_last(self) -> bool:
        """Whether the connection ends with this request (RFC 9112 §9.3)."""
        option = self.fields.get("connection", "").lower()
        return option == "close" or (self.version == "HTTP/1.0" and option != "keep-alive")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is at the other end, and under which names it asked for us."""

    mapped: str
    client: str
    port: int
    sni: str | None


@dataclass(slots=True)
class Origin:
    """The server: its own name, and the prefix in which IPv4 clients appear."""

    name: str
    prefix: ipaddress.IPv6Network
    sni: "weakref.WeakKeyDictionary[object, str]" = field(default_factory=weakref.WeakKeyDictionary)

    def note_server_name(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
        """Remember which name a TLS client asked for."""
        self.sni[connection] = name or ""

    def caller(self, writer: asyncio.StreamWriter) -> Caller:
        """Return who is calling; `client` is the IPv4 address embedded in the mapped one, if there is one."""
        mapped, port = writer.get_extra_info("peername")[:2]
        address = ipaddress.IPv6Address(mapped)
        client = str(ipaddress.IPv4Address(address.packed[-4:])) if address in self.prefix else mapped
        tls = writer.get_extra_info("ssl_object")
        return Caller(mapped, client, port, self.sni.get(tls) if tls else None)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection's requests until either side has had enough."""
        with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):
            caller = self.caller(writer)
            try:
                while (request := await read_request(reader)) and await self.answer(request, caller, reader, writer):
                    pass
            except BadRequestError as error:
                await self.respond(writer, 400, json.dumps({"error": str(error)}).encode())
        with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):
            writer.close()
            await writer.wait_closed()

    async def answer(
        self, request: Request, caller: Caller, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request and tell whether the connection may carry another."""
        url = urllib.parse.urlsplit(request.target)
        status, is_last = 200, request.is_last
        if "transfer-encoding" in request.fields:
            status, is_last = 501, True
            await self.respond(writer, status, b"")
        elif request.method in ("PUT", "POST"):
            received = await hash_body(request, reader)
            await self.respond(writer, status, json.dumps(received).encode() + b"\n")
            is_last |= "content-length" not in request.fields
        elif url.path.startswith("/bytes/"):
            wanted = {key: int(values[0]) for key, values in urllib.parse.parse_qs(url.query).items()}
            pace = wanted.get("rate", 0), wanted.get("pieces", 0)
            await self.send_bytes(writer, int(url.path.removeprefix("/bytes/")), *pace)
        else:
            await self.respond(writer, status, self.describe(request, caller), is_head=request.method == "HEAD")
        self.log(request, caller, status)
        return not is_last

    def describe(self, request: Request, caller: Caller) -> bytes:
        """Return what the server saw, as JSON."""
        seen = {
            "server": self.name,
            "client": caller.client,
            "port": caller.port,
            "mapped": caller.mapped,
            "host": request.fields.get("host"),
            "sni": caller.sni,
            "method": request.method,
            "target": request.target,
        }
        return json.dumps(seen).encode() + b"\n"

    def log(self, request: Request, caller: Caller, status: int) -> None:
        """Print the request's line."""
        name = caller.sni or request.fields.get("host", "-")
        scheme = "http" if caller.sni is None else "https"
        print(
            f"{self.name}: {caller.client} port {caller.port} [{caller.mapped}]  "
            f"{request.method} {scheme}://{name}{request.target}  {status}",
            flush=True,
        )

    async def respond(self, writer: asyncio.StreamWriter, status: int, body: bytes, *, is_head: bool = False) -> None:
        """Send a short response."""
        writer.write(
            f"HTTP/1.1 {status} {REASONS[status]}\r\nServer: {self.name}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + (b"" if is_head else body)
        )
        await writer.drain()

    async def send_bytes(self, writer: asyncio.StreamWriter, length: int, rate: int, pieces: int) -> None:
        """Send `length` bytes of known content, at `rate` bytes a second unless that is 0, in so many `pieces` a second."""
        writer.write(
            f"HTTP/1.1 200 OK\r\nServer: {self.name}\r\nContent-Type: application/octet-stream\r\n"
            f"Content-Length: {length}\r\nX-Sha256: {content.digest(length)}\r\n\r\n".encode()
        )
        size = max(rate // pieces, 1) if pieces else content.BLOCK
        for block in content.blocks(length):
            for start in range(0, len(block), size):
                piece = block[start : start + size]
                writer.write(piece)
                await writer.drain()
                if rate:
                    await asyncio.sleep(len(piece) / rate)


async def read_request(reader: asyncio.StreamReader) -> Request | None:
    """Return the next request's head, or None when the client has ended the stream."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise BadRequestError("the stream ended within a request") from error
        return None
    except asyncio.LimitOverrunError as error:
        raise BadRequestError("a head without end") from error
    request_line, *lines = head.decode("latin-1").strip().split("\r\n")
    words = request_line.split(" ")
    if len(words) != 3:
        raise BadRequestError(f"not a request line: {request_line!r}")
    pairs = (line.partition(":") for line in lines)
    method, target, version = words
    return Request(method, target, version, {name.lower(): value.strip() for name, _, value in pairs})


async def _pieces(request: Request, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    left = int(request.fields["content-length"]) if "content-length" in request.fields else None
    while left is None or left > 0:
        piece = await reader.read(content.BLOCK if left is None else min(left, content.BLOCK))
        if not piece:
            if left:
                raise BadRequestError(f"the body ended {left} bytes early")
            return
        left = None if left is None else left - len(piece)
        yield piece


async def hash_body(request: Request, reader: asyncio.StreamReader) -> dict[str, object]:
    """Return the length and the SHA-256 of a request's body."""
    sha256, length = hashlib.sha256(), 0
    async for piece in _pieces(request, reader):
        sha256.update(piece)
        length += len(piece)
    return {"length": length, "sha256": sha256.hexdigest()}


async def run(options: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    origin = Origin(options.name, ipaddress.IPv6Network(options.prefix))
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    context = None
    if options.https:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(options.certificate, options.key)
        context.sni_callback = origin.note_server_name
    ports: list[tuple[int, ssl.SSLContext | None]] = [(port, None) for port in options.http]
    ports += [(port, context) for port in options.https]
    for port, tls in ports:
        await asyncio.start_server(origin.serve, "::", port, ssl=tls, limit=HEAD_LIMIT_BYTES, backlog=1024)
    print(READY, options.name, flush=True)
    await stop.wait()


def main() -> None:
    """Parse the arguments and serve."""
    parser = argparse.ArgumentParser(prog="kracauer.lab.origin", description=__doc__.partition("\n")[0])
    parser.add_argument("name", help="how the server calls itself")
    parser.add_argument("--prefix", required=True, help="the IPv6 network that IPv4 clients are mapped into")
    parser.add_argument("--http", type=int, action="append", default=[], metavar="PORT")
    parser.add_argument("--https", type=int, action="append", default=[], metavar="PORT")
    parser.add_argument("--certificate", help="PEM file, needed with --https")
    parser.add_argument("--key", help="PEM file, needed with --https")
    with contextlib.suppress(BrokenPipeError):
        asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
