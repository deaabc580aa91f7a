"""SYN cookies: a handshake answered without keeping any of it (RFC 4987 §3.6).

    sequence number of the SYN-ACK:   | 23 bits: keyed hash | 9 bits: the terms, masked by the hash |

The hash covers the connection, the client's initial sequence number, a counter that steps once a minute, and the window scale
that was offered, which so takes none of the 32 bits. The terms are the client's MSS class (3 bits), its window scale (4), SACK
(1) and ECN (1); whether timestamps were agreed shows in the client's own ACK. A guess is right once in 2**23 / (2 counters ×
scales offered lately, mostly 1; in a process's first two minutes all 16): at 100,000 guesses a second a flow comes of one every
42 seconds, in those two minutes every 2.6, and has to say a hostname to live on.
"""

import hashlib
from collections.abc import Iterable
from typing import Final, NamedTuple

COUNTER_S: Final = 60.0
LIFETIME_S: Final = 2 * COUNTER_S
TERMS_BITS: Final = 9
_TERMS_MASK: Final = (1 << TERMS_BITS) - 1
MIN_SECRET_BYTES: Final = 16


class Cookie(NamedTuple):
    """What a SYN-ACK carries: its sequence number, and the TSval it shows where timestamps are agreed."""

    isn: int
    tsval: int


class CookieJar:
    """Bakes and checks cookies with one secret; two jars with the same secret accept each other's.

    `connection` is the 12 bytes of client address, service address, client port, service port. Raises ValueError for a
    secret under 16 bytes.
    """

    __slots__ = ("_keyed",)

    def __init__(self, secret: bytes) -> None:
        if not MIN_SECRET_BYTES <= len(secret) <= 32:
            raise ValueError(f"a cookie secret takes {MIN_SECRET_BYTES} to 32 bytes, not {len(secret)}")
        self._keyed = hashlib.blake2s(key=secret, digest_size=10)

    def bake(self, connection: bytes, client_isn: int, terms: int, offer: bytes, now: float) -> Cookie:
        """Return the cookie for a SYN: the same one for each copy of it within a minute."""
        tag, mask, tsval = self._digest(connection, client_isn, offer, int(now // COUNTER_S))
        return Cookie(tag << TERMS_BITS | (terms ^ mask), tsval)

    def check(
        self, connection: bytes, client_isn: int, isn: int, offers: Iterable[bytes], now: float
    ) -> tuple[int, bytes, int] | None:
        """Return (terms, offer, tsval) when `isn` is a cookie of this connection not older than two minutes, else None."""
        counter = int(now // COUNTER_S)
        for offer in offers:
            for count in (counter, counter - 1):
                tag, mask, tsval = self._digest(connection, client_isn, offer, count)
                if isn >> TERMS_BITS == tag:
                    return (isn & _TERMS_MASK) ^ mask, offer, tsval
        return None

    def _digest(self, connection: bytes, client_isn: int, offer: bytes, counter: int) -> tuple[int, int, int]:
        keyed = self._keyed.copy()
        keyed.update(b"%b%b%b%b" % (connection, client_isn.to_bytes(4, "big"), counter.to_bytes(8, "big", signed=True), offer))
        digest = keyed.digest()
        number = int.from_bytes(digest[:6], "big")
        return number >> 25, number & _TERMS_MASK, int.from_bytes(digest[6:], "big")
