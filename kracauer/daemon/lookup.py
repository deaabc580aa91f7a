"""What the DNS says of a name: its AAAA records, asked of resolvers as a stub does (RFC 1035, RFC 3596 §2, RFC 2308 §5)."""

import asyncio
import io
import time
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from typing import Final

import dns.asyncresolver
import dns.exception
import dns.message
import dns.name
import dns.nameserver
import dns.rcode
import dns.rdatatype
import dns.resolver

from kracauer.config import Dns
from kracauer.daemon.background import in_background

RESOLV_CONF: Final = Path("/etc/resolv.conf")
_DNS_PORT: Final = 53
_READ_TIMEOUT_S: Final = 5.0
_REREAD_S: Final = 30.0  # the system's resolvers may be others by then, and that may be why those we know are silent
_PAYLOAD_BYTES: Final = 1232  # what passes every IPv6 path in one piece; more comes by TCP
_LEAST_TRY_S: Final = 0.1


class LookupFailedError(Exception):
    """Nobody could say what the name has; the message says why, in a word or two."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The addresses of a name, in no order; none where it has none. `ttl_s` is how long that holds, 0 where nobody said."""

    addresses: tuple[IPv6Address, ...]
    ttl_s: float


class Lookup:
    """Asks for AAAA records, by UDP and where an answer is cut short by TCP. Names are absolute; aliases are followed."""

    def __init__(self, settings: Dns, resolv_conf: Path = RESOLV_CONF) -> None:
        self._settings = settings
        self._resolv_conf = resolv_conf
        self._resolver: dns.asyncresolver.Resolver | None = None
        self._servers: tuple[str, ...] = ()
        self._read_at = 0.0
        self._reading: asyncio.Task[None] | None = None

    def configure(self, settings: Dns) -> None:
        """Ask as `settings` say from now on."""
        self._settings, self._resolver = settings, None

    @property
    def servers(self) -> tuple[str, ...]:
        """The addresses of those who are asked, as far as that is known yet."""
        return self._servers

    async def ask(self, name: str) -> Answer:
        """What `name` has now. Raises LookupFailedError within the configured time, or hardly later."""
        try:
            async with asyncio.timeout(self._settings.timeout_s + _LEAST_TRY_S):
                resolver = await self._ready()
                return await _ask(resolver, dns.name.from_text(name))
        except dns.resolver.NoNameservers as error:
            failure = LookupFailedError(_refusals(error))
        except (TimeoutError, dns.exception.Timeout):
            failure = LookupFailedError("timeout")
        except OSError as error:
            failure = LookupFailedError(error.strerror or type(error).__name__)
        except (dns.exception.DNSException, ValueError) as error:
            failure = LookupFailedError(type(error).__name__)
        if not self._settings.servers and time.monotonic() - self._read_at >= _REREAD_S:
            self._resolver = None
        raise failure

    async def _ready(self) -> dns.asyncresolver.Resolver:
        while self._resolver is None:
            if self._settings.servers:
                self._resolver = self._make([(str(server.address), server.port) for server in self._settings.servers])
            else:
                if self._reading is None or self._reading.done():
                    self._reading = asyncio.create_task(self._read())
                # Shielded: whoever has run out of time must not take the file away from the others who wait for it.
                await asyncio.shield(self._reading)
        return self._resolver

    async def _read(self) -> None:
        """Take the system's resolvers; where the file does not say any, the one on this host, as every stub does."""
        try:
            content = await in_background(self._resolv_conf.read_text, _READ_TIMEOUT_S)
        except (OSError, TimeoutError, ValueError):
            content = ""
        system = dns.resolver.Resolver(configure=False)
        try:
            system.read_resolv_conf(io.StringIO(content))
            servers = [str(server) for server in system.nameservers]
        except dns.resolver.NoResolverConfiguration:
            servers = ["127.0.0.1"]
        self._read_at = time.monotonic()
        self._resolver = self._make([(server, _DNS_PORT) for server in servers])

    def _make(self, servers: list[tuple[str, int]]) -> dns.asyncresolver.Resolver:
        resolver = dns.asyncresolver.Resolver(configure=False)
        self._servers = tuple(address for address, _ in servers)
        resolver.nameservers = [dns.nameserver.Do53Nameserver(address, port) for address, port in servers]
        resolver.lifetime = self._settings.timeout_s
        # Each is asked twice, as far as the time goes.
        resolver.timeout = max(self._settings.timeout_s / (2 * len(servers)), _LEAST_TRY_S)
        resolver.use_edns(0, 0, _PAYLOAD_BYTES)
        resolver.cache = None
        return resolver


async def _ask(resolver: dns.asyncresolver.Resolver, name: dns.name.Name) -> Answer:
    try:
        answer = await resolver.resolve(name, dns.rdatatype.AAAA, search=False, raise_on_no_answer=False)
    except dns.resolver.NXDOMAIN as error:
        return Answer((), _ttl(error.kwargs["responses"][name]))
    found = () if answer.rrset is None else tuple(IPv6Address(record.address) for record in answer.rrset)
    return Answer(found, _ttl(answer.response))


def _ttl(response: dns.message.Message) -> float:
    """How long `response` holds: the least TTL on the way, or of a negative answer what its SOA says (RFC 2308 §5)."""
    assert isinstance(response, dns.message.QueryMessage)
    chain = response.resolve_chaining()
    if chain.answer is None and all(rrset.rdtype != dns.rdatatype.SOA for rrset in response.authority):
        return 0.0
    return float(chain.minimum_ttl)


def _refusals(error: dns.resolver.NoNameservers) -> str:
    """What the servers answered, in the DNS's own words."""
    words: dict[str, None] = {}
    for _, _, _, refusal, response in error.kwargs.get("errors", ()):
        if response is not None:
            words[dns.rcode.to_text(response.rcode())] = None
        else:
            said = refusal.strerror if isinstance(refusal, OSError) else None
            words[said or (type(refusal).__name__ if isinstance(refusal, Exception) else str(refusal))] = None
    return ", ".join(words) or "no resolver"
