"""The quoted datagram and the extensions behind it, taken apart and put together again (RFC 4884 §3, §4, RFC 7915 §4.2, §5.2).

The extensions are opaque here: whatever addresses they hold stay as they are (RFC 7915 §4.2).
"""

from typing import Final

# A quote that extensions follow is padded with zeros to at least this (RFC 4884 §3), and never cut below it.
MIN_QUOTE: Final = 128


def split(body: bytes, original_length: int) -> tuple[bytes, bytes]:
    """Return the quoted datagram and the extensions, padding still on the former.

    A length that says nothing (0), or that reaches past the body, makes all of it the quote: routers that predate the
    attribute leave it zero, and a wrong one is no reason to lose the error itself.
    """
    if not 0 < original_length < len(body):
        return body, b""
    return body[:original_length], body[original_length:]


def join(quote: bytes, extensions: bytes, unit: int, limit: int) -> tuple[bytes, int]:
    """Return a body of at most `limit` bytes and its length attribute, which counts in `unit` bytes (4 or 8).

    The quote gives way before the extensions, down to 128 bytes. Extensions that do not fit even then are left out whole:
    their checksum covers them all, so a part of them would be thrown away where it arrives (RFC 4884 §7).
    """
    room = (limit - len(extensions)) // unit * unit
    if not extensions or room < MIN_QUOTE:
        return quote[:limit], 0
    kept = quote[:room]
    # RFC 4884 §4 pads to the unit, so nothing of a quote that fits is cut to reach it.
    padded = max(-(-len(kept) // unit) * unit, MIN_QUOTE)
    return kept.ljust(padded, b"\0") + extensions, padded // unit
