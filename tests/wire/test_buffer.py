from kracauer.wire.buffer import HEADROOM, MAX_PACKET, PACKET_START, SIZE, VNET_START, Frame


def test_a_packet_stands_behind_its_vnet_header_and_the_headroom() -> None:
    frame = Frame(b"packet", b"vnetheader")
    assert frame.buffer[VNET_START : frame.end] == b"vnetheaderpacket"
    assert (HEADROOM, PACKET_START, frame.end) == (20, 30, 36)


def test_a_frame_without_a_packet_is_empty() -> None:
    assert Frame().end == PACKET_START


def test_the_largest_packet_of_either_family_fits() -> None:
    frame = Frame(bytes(40 + 65_535))
    assert frame.end == SIZE == len(frame.buffer) == PACKET_START + MAX_PACKET


def test_a_frame_can_be_loaded_again_where_it_is() -> None:
    frame = Frame(b"a long packet", b"vnetheader")
    buffer = frame.buffer
    frame.load(memoryview(b"short"))
    assert frame.buffer is buffer
    assert frame.buffer[VNET_START : frame.end] == bytes(10) + b"short"


def test_the_view_shows_the_buffer() -> None:
    frame = Frame(b"packet")
    frame.buffer[PACKET_START] = ord("P")
    assert bytes(frame.view[PACKET_START : frame.end]) == b"Packet"
