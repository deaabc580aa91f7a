"""A name server that says what a test has it say; as a program it reads its zone from a file, anew for every question.

A zone is a dictionary of names, each with what is answered: `addresses`, `ttl`, `alias` (a CNAME before them), `rcode` (such as
"SERVFAIL"), `is_silent`, `is_cut` (by UDP the answer says just that TCP has it). Names that it does not have do not exist;
`negative_ttl` of the name "" says for how long.
"""

import contextlib
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self, TypeAlias

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

Zone: TypeAlias = Mapping[str, Mapping[str, Any]]
READY: Final = "name server ready"


class NameServer:
    """Answers on a port of `address`, by UDP and TCP, in threads of its own, from `zone` as it is at that moment."""

    def __init__(self, zone: Zone | Callable[[], Zone], address: str = "127.0.0.1", port: int = 0) -> None:
        self.zone = zone
        self.asked: list[str] = []
        self.times: list[float] = []
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._udp = socket.socket(family, socket.SOCK_DGRAM)
        self._udp.bind((address, port))
        self.port: int = self._udp.getsockname()[1]
        self._tcp = socket.socket(family, socket.SOCK_STREAM)
        self._tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._tcp.bind((address, self.port))
        self._tcp.listen()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._serve_udp, self._serve_tcp)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Answer no more."""
        for end in (self._udp, self._tcp):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        for thread in self._threads:
            thread.join(5)

    def join(self) -> None:
        """Wait for ever."""
        self._threads[0].join()

    def _serve_udp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                question, asker = self._udp.recvfrom(4096)
                answer = self._answer(question, is_tcp=False) if question else None
                if answer is not None:
                    self._udp.sendto(answer, asker)

    def _serve_tcp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._tcp.accept()
                with connection, contextlib.suppress(OSError, struct.error):
                    connection.settimeout(5)
                    (length,) = struct.unpack("!H", connection.recv(2, socket.MSG_WAITALL))
                    answer = self._answer(connection.recv(length, socket.MSG_WAITALL), is_tcp=True)
                    if answer is not None:
                        connection.sendall(struct.pack("!H", len(answer)) + answer)

    def _answer(self, data: bytes, *, is_tcp: bool) -> bytes | None:
        question = dns.message.from_wire(data)
        zone = self.zone() if callable(self.zone) else self.zone
        name = question.question[0].name.to_text(omit_final_dot=True).lower()
        self.asked.append(name)
        self.times.append(time.monotonic())
        record = zone.get(name)
        if record is not None and record.get("is_silent"):
            return None
        response = dns.message.make_response(question, recursion_available=True)
        if record is not None and record.get("is_cut") and not is_tcp:
            response.flags |= dns.flags.TC
        else:
            _fill(response, question.question[0].name, record, zone.get("", {}).get("negative_ttl"))
        return response.to_wire(max_size=65535)


def _fill(response: dns.message.Message, owner: dns.name.Name, record: Mapping[str, Any] | None, negative: int | None) -> None:
    ttl = 300 if record is None else record.get("ttl", 300)
    if record is None:
        response.set_rcode(dns.rcode.NXDOMAIN)
    elif "rcode" in record:
        response.set_rcode(dns.rcode.from_text(record["rcode"]))
    elif "alias" in record:
        alias = dns.name.from_text(record["alias"])
        response.answer.append(dns.rrset.from_text(owner, ttl, "IN", "CNAME", alias.to_text()))
        owner = alias
    addresses = [] if record is None else record.get("addresses", [])
    if addresses:
        response.answer.append(dns.rrset.from_text_list(owner, ttl, "IN", dns.rdatatype.AAAA, addresses))
    elif negative is not None:
        soa = f"ns.example.net. hostmaster.example.net. 1 3600 600 86400 {negative}"
        response.authority.append(dns.rrset.from_text(owner.parent(), negative, "IN", "SOA", soa))


def main() -> None:
    """`name_server.py ZONE.json ADDRESS [PORT]`."""
    path, address, *port = sys.argv[1:]
    server = NameServer(lambda: json.loads(Path(path).read_text()), address, int(port[0]) if port else 53)
    print(READY, flush=True)
    server.join()


if __name__ == "__main__":
    main()
