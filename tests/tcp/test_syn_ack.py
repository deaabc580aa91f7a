from hypothesis import given
from hypothesis import strategies as st

from kracauer.replies import Endpoints, build_segment
from kracauer.tcp.syn_ack import SynAck
from kracauer.tcp.terms import Offer, syn_ack_options
from kracauer.wire import tcp
from kracauer.wire.tcp import TcpOptions

numbers = st.integers(0, 2**32 - 1)
shorts = st.integers(0, 0xFFFF)
addresses = st.binary(min_size=4, max_size=4)
scales = st.none() | st.integers(0, 14)
offers = st.builds(Offer, shorts, scales, st.booleans(), st.booleans(), st.booleans(), shorts)
syns = st.builds(TcpOptions, st.none() | shorts, scales, st.booleans(), st.none() | st.tuples(numbers, numbers))
ways = st.builds(Endpoints, addresses, addresses, shorts, shorts)


@given(offers, syns, st.booleans(), ways, numbers, numbers, numbers)
def test_a_filled_answer_is_the_segment_that_would_be_built(
    offer: Offer, asked: TcpOptions, asks_ecn: bool, way: Endpoints, seq: int, ack: int, tsval: int
) -> None:
    syn_ack = SynAck(offer, asked, asks_ecn=asks_ecn)
    key = way.src + way.dst + way.src_port.to_bytes(2, "big") + way.dst_port.to_bytes(2, "big")
    expected = build_segment(
        way.reversed,
        seq=seq,
        ack=ack,
        flags=tcp.SYN | tcp.ACK | (tcp.ECE if offer.ecn and asks_ecn else 0),
        window=offer.window,
        options=tcp.build_options(syn_ack_options(offer, asked, tsval)),
    )
    for _ in range(2):
        assert bytes(syn_ack.fill(key, seq, ack, tsval, asked.timestamps)) == expected
