"""SYN cookies: a handshake answered without keeping any of it (RFC 4987 §3.6).

    digest of 64 bytes:               | word of scale 0 | word of scale 1 | ... | word of scale 14 | word of no scale |
    sequence number of the SYN-ACK:   | 23 bits of the offered scale's word | its other 9 bits, the terms laid over them |

The digest is keyed, and covers the connection, the client's initial sequence number and a counter that steps once a minute. The
window scale that was offered is the choice of the word, which so takes none of the 32 bits; whatever scales may have been
offered, one digest a counter tells. The terms are the client's MSS class (3 bits), its window scale (4), SACK (1) and ECN (1);
whether timestamps were agreed shows in the client's own ACK. The TSval of the SYN-ACK is the sum of all words: it says nothing
of any other one to whom the SYN-ACK shows its own.

A guess is right once in 2**23 / (2 counters × scales offered lately, mostly 1; in a process's first two minutes all 16): at
100,000 guesses a second a flow comes of one every 42 seconds, in those two minutes every 2.6, and has to say a hostname to live
on.
"""

import hashlib
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

COUNTER_S: Final = 60.0
LIFETIME_S: Final = 2 * COUNTER_S
TERMS_BITS: Final = 9
MIN_SECRET_BYTES: Final = 16
DIGEST_BYTES: Final = 64

_TERMS_END: Final = 1 << TERMS_BITS
_WORDS: Final = struct.Struct("!16I")
_SUM_MODULUS: Final = 0xFFFFFFFF
_COVERED: Final = struct.Struct("!12sIq")


class Cookie(NamedTuple):
    """What a SYN-ACK carries: its sequence number, and the TSval it shows where timestamps are agreed."""

    isn: int
    tsval: int


class Found(NamedTuple):
    """What a cookie was baked with, and the TSval that went with it."""

    terms: int
    scale_code: int
    tsval: int


class CookieJar:
    """Bakes and checks cookies with one secret; two jars with the same secret accept each other's.

    `connection` is the 12 bytes of client address, service address, client port, service port; a scale code is 0 to 15, as
    `kracauer.tcp.terms.encode_scale` makes them. Raises ValueError for a secret under 16 bytes.
    """

    __slots__ = ("_keyed",)

    def __init__(self, secret: bytes) -> None:
        if not MIN_SECRET_BYTES <= len(secret) <= 32:
            raise ValueError(f"a cookie secret takes {MIN_SECRET_BYTES} to 32 bytes, not {len(secret)}")
        self._keyed = hashlib.blake2b(key=secret, digest_size=_WORDS.size)

    def bake(self, connection: bytes, client_isn: int, terms: int, scale_code: int, now: float) -> Cookie:
        """Return the cookie for a SYN: the same one for each copy of it within a minute."""
        digest = self._digest(connection, client_isn, int(now // COUNTER_S))
        return Cookie(_WORDS.unpack(digest)[scale_code] ^ terms, _sum(digest))

    def check(self, connection: bytes, client_isn: int, isn: int, scale_codes: Iterable[int], now: float) -> Found | None:
        """Return what `isn` was baked with when it is a cookie of this connection not older than two minutes, else None."""
        counter = int(now // COUNTER_S)
        for count in (counter, counter - 1):
            digest = self._digest(connection, client_isn, count)
            words = _WORDS.unpack(digest)
            for scale_code in scale_codes:
                terms = words[scale_code] ^ isn
                if terms < _TERMS_END:
                    return Found(terms, scale_code, _sum(digest))
        return None

    def _digest(self, connection: bytes, client_isn: int, counter: int) -> bytes:
        keyed = self._keyed.copy()
        keyed.update(_COVERED.pack(connection, client_isn, counter))
        return keyed.digest()


def _sum(digest: bytes) -> int:
    """The words' sum modulo 2**32 - 1: the digest as one number, because 2**32 ≡ 1."""
    return int.from_bytes(digest, "big") % _SUM_MODULUS
