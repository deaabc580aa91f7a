from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy_oracle import TCP, Raw
from segment_strategies import number, option_lists, tcp_headers, word

from kracauer.errors import ParseError
from kracauer.wire import tcp
from kracauer.wire.tcp import NO_OPTIONS, TcpHeader, TcpOptions

HEADER = TcpHeader(49152, 443, 0x01020304, 0x05060708, tcp.ACK | tcp.PSH, 500, 0xABCD, 7)
SEGMENT = tcp.build(HEADER) + b"data"

option_values = st.builds(
    TcpOptions,
    mss=st.one_of(st.none(), word),
    window_scale=st.one_of(st.none(), st.integers(0, 14)),
    sack_permitted=st.booleans(),
    timestamps=st.one_of(st.none(), st.tuples(number, number)),
    sack=st.lists(st.tuples(number, number), max_size=4).map(tuple),
    is_authenticated=st.sampled_from((False,)),
)


@given(tcp_headers, st.integers(0, 70), st.binary(max_size=20))
def test_what_was_built_is_parsed_again(header: TcpHeader, offset: int, payload: bytes) -> None:
    data = bytes(offset) + tcp.build(header) + payload
    assert tcp.parse(data, offset) == header
    assert tcp.parse(memoryview(data), offset) == header
    assert len(tcp.build(header)) == header.length


@given(tcp_headers.map(lambda header: header._replace(options=b"")))
def test_scapy_reads_what_was_built(header: TcpHeader) -> None:
    segment = TCP(tcp.build(header))
    assert (segment.sport, segment.dport, segment.seq, segment.ack) == header[:4]
    assert (int(segment.flags) | int(segment.reserved) << 9, segment.window) == (header.flags, header.window)
    assert (segment.chksum, segment.urgptr, segment.dataofs) == (header.checksum, header.urgent, 5)


@given(st.integers(0, 0x1FF), number, st.binary(max_size=9))
def test_what_scapy_built_is_parsed(flags: int, seq: int, payload: bytes) -> None:
    options = [("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1, 2)), ("NOP", None), ("WScale", 7)]
    built = bytes(TCP(sport=1, dport=2, seq=seq, ack=3, flags=flags, window=4, urgptr=5, options=options) / Raw(payload))
    header = tcp.parse(built)
    assert header[:6] == (1, 2, seq, 3, flags, 4)
    assert (header.urgent, header.length) == (5, 40)
    assert tcp.parse_options(header.options) == TcpOptions(1460, 7, True, (1, 2))  # noqa: FBT003


@given(option_values)
def test_options_that_were_built_are_parsed_again(options: TcpOptions) -> None:
    built = tcp.build_options(options)
    assert len(built) % 4 == 0
    assert tcp.parse_options(built) == options


@given(option_values.filter(lambda options: len(tcp.build_options(options)) <= 40))
def test_scapy_reads_the_options_that_were_built(options: TcpOptions) -> None:
    built = tcp.build_options(options)
    read = dict(TCP(tcp.build(HEADER._replace(options=built))).options)
    assert read.get("MSS") == options.mss
    assert read.get("WScale") == options.window_scale
    assert ("SAckOK" in read) == options.sack_permitted
    assert read.get("Timestamp") == options.timestamps
    assert tuple(read.get("SAck") or ()) == tuple(edge for block in options.sack for edge in block)


def test_the_options_of_a_modern_syn_take_twenty_bytes() -> None:
    options = TcpOptions(mss=1460, window_scale=7, sack_permitted=True, timestamps=(1, 0))
    assert tcp.build_options(options).hex() == "020405b40402080a000000010000000001030307"


@pytest.mark.parametrize("blocks", [3, 4])
def test_timestamps_and_three_sack_blocks_fit_and_four_do_not(blocks: int) -> None:
    options = TcpOptions(timestamps=(1, 2), sack=((3, 4),) * blocks)
    assert (len(tcp.build_options(options)) <= 40) is (blocks == 3)


@given(st.binary(max_size=80), st.integers(0, 90))
def test_bytes_of_any_kind_are_parsed_or_refused(data: bytes, offset: int) -> None:
    try:
        header = tcp.parse(data, offset)
    except ParseError:
        return
    assert tcp.build(header) == data[offset : offset + header.length]


@given(st.one_of(st.binary(max_size=40), option_lists))
def test_options_of_any_kind_are_parsed_or_refused(options: bytes) -> None:
    try:
        assert isinstance(tcp.parse_options(options), TcpOptions)
    except ParseError:
        return


@pytest.mark.parametrize(
    ("segment", "match"),
    [
        (b"", "0 bytes where a header takes 20"),
        (SEGMENT[:19], "19 bytes where a header takes 20"),
        (SEGMENT[:12] + b"\x40" + SEGMENT[13:], "data offset of 16"),
        (SEGMENT[:12] + b"\x70" + SEGMENT[13:], "data offset of 28 bytes with 24"),
    ],
)
def test_a_data_offset_outside_the_segment_is_refused(segment: bytes, match: str) -> None:
    with pytest.raises(ParseError, match=match):
        tcp.parse(segment)


@pytest.mark.parametrize("options", [b"\x01", bytes(41), bytes(44)])
def test_options_that_fit_no_header_are_not_built(options: bytes) -> None:
    with pytest.raises(ValueError, match="32-bit words"):
        tcp.build(HEADER._replace(options=options))


@pytest.mark.parametrize(
    "options",
    [
        b"\x02\x03\x05",  # MSS
        b"\x02\x05\x05\xb4\x00",
        b"\x03\x02",  # window scale
        b"\x04\x03\x00",  # SACK-permitted
        b"\x05\x09" + bytes(7),  # SACK
        b"\x08\x08" + bytes(6),  # timestamps
        b"\x13\x11" + bytes(15),  # MD5
        b"\xfe\x00",  # unknown
        b"\xfe\x01",
        b"\xfe",
        b"\x01\x01\x01\x02",
        b"\xfe\x05\x00\x00",
        b"\x08\x0a" + bytes(7),
    ],
)
def test_an_option_of_an_illegal_length_is_refused(options: bytes) -> None:
    with pytest.raises(ParseError, match="with length"):
        tcp.parse_options(options)


def test_options_behind_the_end_of_the_list_are_not_there() -> None:
    assert tcp.parse_options(b"\x01\x00\x02\x04\x05\xb4") == NO_OPTIONS


def test_options_not_known_are_skipped() -> None:
    assert tcp.parse_options(b"\xfe\x04\x02\x04\x1e\x02\x02\x04\x05\xb4") == TcpOptions(mss=1460)


def test_a_window_scale_past_14_is_taken_as_14() -> None:
    assert tcp.parse_options(b"\x03\x03\xff").window_scale == 14


STAMPED = bytes.fromhex("0101080a0000000100000002")
OPENING = bytes.fromhex("020405b40402080a000000010000000201030307")


@pytest.mark.parametrize("layout", [STAMPED, OPENING])
@given(changes=st.lists(st.tuples(st.integers(0, 19), st.integers(0, 255)), max_size=2))
def test_usual_layouts_and_what_is_nearly_one_are_read_as_step_by_step(layout: bytes, changes: list[tuple[int, int]]) -> None:
    options = bytearray(layout)
    for at, value in changes:
        options[at % len(options)] = value

    def read(function: Callable[[bytes], TcpOptions]) -> TcpOptions | str:
        try:
            return function(bytes(options))
        except ParseError as error:
            return str(error)

    assert read(tcp.parse_options) == read(tcp.walk_options)


@pytest.mark.parametrize("options", [b"\x13\x12" + bytes(16), b"\x1d\x04\x00\x00", b"\x1d\x10" + bytes(14)])
def test_an_authenticated_segment_is_told(options: bytes) -> None:
    assert tcp.parse_options(options).is_authenticated


def test_authentication_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="authentication"):
        tcp.build_options(TcpOptions(is_authenticated=True))
