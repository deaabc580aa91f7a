"""Timestamps made where a backend speaks none, for a client that was promised them (RFC 7323 §3.2, §5.3)."""

from typing import Final

from kracauer.errors import ParseError
from kracauer.tcp import sequence
from kracauer.tcp.record import write_constants
from kracauer.tcp.splice import MAX_TOTAL_LENGTH, TIMESTAMP_LAYOUT, TIMESTAMPS, V6_TCP_AT, VNET, Splice
from kracauer.wire.buffer import Frame
from kracauer.wire.checksum import MODULUS, update, word_sum
from kracauer.wire.tcp import TcpOptions, build_options, parse_options


class TimestampingSplice(Splice):
    """A splice whose client was promised timestamps that its backend then did not speak: they are made here (RFC 7323 §3.2).

    An IPv4 header is 20 bytes shorter than the IPv6 header it replaces, so the 12 bytes of the option fit any path that the
    packet fitted before.

    Deviation: RFC 7323 §3.2 has timestamps sent only where both ends have agreed to them. The client's own pass on to the
    backend, which ignores an option it has not agreed to; to take them out would cost each packet a copy.
    """

    INSERTED_BYTES = len(TIMESTAMP_LAYOUT) + TIMESTAMPS.size

    __slots__ = ()

    def start_clock(self, tsval: int, client_tsval: int, now: float) -> None:
        """Show `tsval`, what the SYN-ACK promised, at `now`, and a millisecond more each millisecond; echo `client_tsval`."""
        origin = (tsval - int(now * 1000)) & sequence.MASK
        write_constants(self.memory, self.at, self.constants._replace(clock_origin=origin))
        self.client_tsval = client_tsval

    def to_backend(self, frame: Frame, now: float, *, vetted: bool = False) -> memoryview | None:
        """As `Splice.to_backend`, and note the client's TSval for the echo."""
        view = super().to_backend(frame, now, vetted=vetted)
        if view is not None:
            data_at = 50 + (view[62] >> 2 & 0x3C)
            timestamps = _find_timestamps(frame.buffer, 70, data_at)
            # RFC 7323 §4.3 echoes the latest TSval; wrapping, so that an old duplicate does not set it back.
            if timestamps is not None and sequence.distance(self.client_tsval, timestamps[0]) > 0:
                self.client_tsval = timestamps[0]
        return view

    def to_client(self, frame: Frame, now: float, *, vetted: bool = False) -> memoryview | None:
        """As `Splice.to_client`, with the option put before the others, where no end of options can hide it.

        Not plain when the result would pass IPv4's 65,535 bytes.
        """
        if frame.end - V6_TCP_AT > MAX_TOTAL_LENGTH - 20 - self.INSERTED_BYTES:
            return None
        view = super().to_client(frame, now, vetted=vetted)
        if view is None:
            return None
        buffer = frame.buffer
        data_at = 70 + (buffer[82] >> 2 & 0x3C)
        options = bytes(buffer[90:data_at])
        if len(options) > _MAX_OPTIONS - 12:
            # Only SACK makes options this long: three blocks and the timestamps are what 40 bytes hold (RFC 2018 §3).
            options = _first_sack_blocks(options)
        added = TIMESTAMP_LAYOUT + TIMESTAMPS.pack((self.clock_origin + int(now * 1000)) & sequence.MASK, self.client_tsval)
        return _replace_options(frame, data_at, added + options)


_MAX_OPTIONS: Final = 40


def _find_timestamps(buffer: bytearray, at: int, end: int) -> tuple[int, int] | None:
    """Return (TSval, TSecr) from the options between `at` and `end`."""
    while at < end - 1 and buffer[at] != 0:
        if buffer[at] == 1:
            at += 1
            continue
        if buffer[at] == 8 and buffer[at + 1] == 10 and at + 10 <= end:
            tsval, tsecr = TIMESTAMPS.unpack_from(buffer, at + 2)
            return tsval, tsecr
        if buffer[at + 1] < 2:
            break
        at += buffer[at + 1]
    return None


def _first_sack_blocks(options: bytes) -> bytes:
    """Return a SACK option of at most three of the blocks in `options`, padded; nothing when they hold none."""
    try:
        blocks = parse_options(options).sack[:3]
    except ParseError:
        return b""
    return build_options(TcpOptions(sack=blocks))


def _replace_options(frame: Frame, data_at: int, options: bytes) -> memoryview:
    """Give the IPv4 result in `frame` (vnet header at 40, payload at `data_at`) other options; the payload stays in place."""
    buffer = frame.buffer
    vnet, headers = bytes(buffer[40:50]), bytearray(buffer[50:90])
    growth = len(options) - (data_at - 90)
    is_partial = bool(vnet[0] & 1)
    old_length = int.from_bytes(headers[2:4], "big")
    old_word = int.from_bytes(headers[32:34], "big")
    new_word = old_word & 0x0FFF | (20 + len(options)) << 10
    # The length is in the IP header and, less that header, in the pseudo-header; a partial checksum holds just the latter.
    headers[2:4] = (old_length + growth).to_bytes(2, "big")
    headers[10:12] = update(int.from_bytes(headers[10:12], "big"), 0, growth).to_bytes(2, "big")
    headers[32:34] = new_word.to_bytes(2, "big")
    old_checksum = int.from_bytes(headers[36:38], "big")
    if is_partial:
        new_checksum = (old_checksum + growth) % MODULUS
    else:
        removed = old_word + word_sum(buffer[90:data_at])
        new_checksum = update(old_checksum, removed, new_word + word_sum(options) + growth)
    headers[36:38] = new_checksum.to_bytes(2, "big")
    start = 40 - growth
    if is_partial:
        flags, gso_type, hdr_len, gso_size, csum_start, csum_offset = VNET.unpack(vnet)
        vnet = VNET.pack(flags, gso_type, hdr_len + growth, gso_size, csum_start, csum_offset)
    buffer[start : start + 10] = vnet
    buffer[start + 10 : start + 50] = headers
    buffer[start + 50 : data_at] = options
    return frame.view[start : frame.end]
