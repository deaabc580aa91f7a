from flow_samples import handshake

from kracauer.tcp.held import HeldStream


def test_the_first_byte_towards_the_client_follows_the_cookie() -> None:
    assert handshake(isn=0xFFFFFFFF).next_isn == 0


def test_a_client_is_not_relieved_of_anything_at_first() -> None:
    sample = handshake(held=HeldStream(1001, 100))
    sample.held.add(1001, b"hello", has_fin=False)
    assert not sample.is_relieved
    assert sample.acknowledged == 1001


def test_a_client_is_relieved_once_something_was_acknowledged() -> None:
    sample = handshake(held=HeldStream(1001, 100))
    sample.held.add(1001, b"hello", has_fin=False)
    sample.acknowledged = sample.held.next_seq
    assert sample.is_relieved
