"""The content of transfers is the same everywhere, and tells when a block is missing, doubled or out of place."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from kracauer.lab import content


@given(st.integers(0, 3 * content.BLOCK + 1))
def test_content_has_the_length_asked_for_and_its_digest(length: int) -> None:
    data = content.content(length)
    assert len(data) == length
    assert hashlib.sha256(data).hexdigest() == content.digest(length)


def test_blocks_in_another_order_have_another_digest() -> None:
    first, second = content.blocks(2 * content.BLOCK)
    assert hashlib.sha256(second + first).hexdigest() != content.digest(2 * content.BLOCK)


def test_shorter_content_is_the_beginning_of_longer() -> None:
    assert content.content(1 << 20).startswith(content.content(1000))
