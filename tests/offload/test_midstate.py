import hashlib

from hypothesis import given
from hypothesis import strategies as st

from kracauer.offload.midstate import finish, keyed_state


@given(st.binary(min_size=1, max_size=64), st.binary(min_size=1, max_size=128))
def test_from_the_keys_state_a_digest_is_one_block_away(key: bytes, data: bytes) -> None:
    assert finish(keyed_state(key, 64), data) == hashlib.blake2b(data, key=key, digest_size=64).digest()
