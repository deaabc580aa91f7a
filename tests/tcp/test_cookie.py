from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kracauer.tcp.cookie import COUNTER_S, LIFETIME_S, CookieJar

SECRET = b"0123456789abcdef"
CONNECTION = bytes((192, 0, 2, 7, 198, 51, 100, 1, 0xC0, 0x00, 0x01, 0xBB))
SCALE, OTHER_SCALE = 7, 9
EVERY_SCALE = range(16)
ISN = 0x12345678
NOW = 1_000_000 * COUNTER_S  # the beginning of a minute

terms_codes = st.integers(0, 511)
connections = st.binary(min_size=12, max_size=12)
isns = st.integers(0, 2**32 - 1)
times = st.floats(0, 1e9)


@given(connections, isns, terms_codes, st.sampled_from(EVERY_SCALE), times, st.floats(0, COUNTER_S))
def test_a_cookie_brings_back_what_it_was_baked_with(
    connection: bytes, isn: int, terms: int, scale: int, now: float, later: float
) -> None:
    jar = CookieJar(SECRET)
    cookie = jar.bake(connection, isn, terms, scale, now)
    assert 0 <= cookie.isn < 2**32
    assert 0 <= cookie.tsval < 2**32
    assert jar.check(connection, isn, cookie.isn, [scale], now + later) == (terms, scale, cookie.tsval)


def test_every_code_of_terms_comes_back() -> None:
    jar = CookieJar(SECRET)
    codes = range(512)
    cookies = [jar.bake(CONNECTION, ISN, code, SCALE, NOW) for code in codes]
    assert [jar.check(CONNECTION, ISN, cookie.isn, [SCALE], NOW) for cookie in cookies] == [
        (code, SCALE, cookies[0].tsval) for code in codes
    ]
    assert len({cookie.isn for cookie in cookies}) == 512


def test_copies_of_a_syn_get_one_cookie_within_a_minute() -> None:
    jar = CookieJar(SECRET)
    assert jar.bake(CONNECTION, ISN, 5, SCALE, NOW) == jar.bake(CONNECTION, ISN, 5, SCALE, NOW + 59.9)


def test_the_next_minute_has_another_cookie() -> None:
    jar = CookieJar(SECRET)
    assert jar.bake(CONNECTION, ISN, 5, SCALE, NOW) != jar.bake(CONNECTION, ISN, 5, SCALE, NOW + COUNTER_S)


@pytest.mark.parametrize("baked_after", [0.0, 30.0, 59.9])
def test_a_cookie_is_good_for_a_minute_at_least(baked_after: float) -> None:
    jar = CookieJar(SECRET)
    cookie = jar.bake(CONNECTION, ISN, 5, SCALE, NOW + baked_after)
    assert jar.check(CONNECTION, ISN, cookie.isn, [SCALE], NOW + baked_after + COUNTER_S) is not None


@pytest.mark.parametrize("baked_after", [0.0, 30.0, 59.9])
def test_a_cookie_is_good_for_two_minutes_at_most(baked_after: float) -> None:
    jar = CookieJar(SECRET)
    cookie = jar.bake(CONNECTION, ISN, 5, SCALE, NOW + baked_after)
    assert jar.check(CONNECTION, ISN, cookie.isn, [SCALE], NOW + baked_after + LIFETIME_S) is None


def test_a_cookie_from_the_future_is_none() -> None:
    jar = CookieJar(SECRET)
    cookie = jar.bake(CONNECTION, ISN, 5, SCALE, NOW)
    assert jar.check(CONNECTION, ISN, cookie.isn, [SCALE], NOW - 1) is None


@pytest.mark.parametrize("at", range(12))
def test_a_cookie_holds_for_its_own_connection_alone(at: int) -> None:
    jar = CookieJar(SECRET)
    cookie = jar.bake(CONNECTION, ISN, 5, SCALE, NOW)
    other = CONNECTION[:at] + bytes((CONNECTION[at] ^ 1,)) + CONNECTION[at + 1 :]
    assert jar.check(other, ISN, cookie.isn, [SCALE], NOW) is None


def test_a_cookie_holds_for_the_client_isn_it_was_baked_for() -> None:
    jar = CookieJar(SECRET)
    cookie = jar.bake(CONNECTION, ISN, 5, SCALE, NOW)
    assert jar.check(CONNECTION, ISN + 1, cookie.isn, [SCALE], NOW) is None


def test_a_cookie_of_another_secret_is_none() -> None:
    cookie = CookieJar(SECRET).bake(CONNECTION, ISN, 5, SCALE, NOW)
    assert CookieJar(b"another secret, 16+").check(CONNECTION, ISN, cookie.isn, [SCALE], NOW) is None


def test_jars_with_one_secret_accept_each_others_cookies() -> None:
    cookie = CookieJar(SECRET).bake(CONNECTION, ISN, 5, SCALE, NOW)
    assert CookieJar(SECRET).check(CONNECTION, ISN, cookie.isn, [SCALE], NOW) == (5, SCALE, cookie.tsval)


def test_a_cookie_of_a_scale_that_was_not_offered_is_none() -> None:
    jar = CookieJar(SECRET)
    cookie = jar.bake(CONNECTION, ISN, 5, SCALE, NOW)
    others = [scale for scale in EVERY_SCALE if scale != SCALE]
    assert jar.check(CONNECTION, ISN, cookie.isn, others, NOW) is None
    assert jar.check(CONNECTION, ISN, cookie.isn, [], NOW) is None


@pytest.mark.parametrize("age", [0.0, COUNTER_S])
def test_each_scale_still_valid_is_tried(age: float) -> None:
    jar = CookieJar(SECRET)
    for scale in EVERY_SCALE:
        cookie = jar.bake(CONNECTION, ISN, 7, scale, NOW)
        assert jar.check(CONNECTION, ISN, cookie.isn, EVERY_SCALE, NOW + age) == (7, scale, cookie.tsval)


def test_the_numbers_for_two_scales_and_the_tsval_have_nothing_in_common() -> None:
    """Whoever is shown one of them has no better guess at another."""
    jar = CookieJar(SECRET)
    numbers = [jar.bake(CONNECTION, ISN, 0, scale, NOW).isn for scale in EVERY_SCALE]
    numbers.append(jar.bake(CONNECTION, ISN, 0, SCALE, NOW).tsval)
    assert all(4 < (one ^ other).bit_count() < 28 for one, other in combinations(numbers, 2))


@given(connections, isns, isns)
def test_a_guess_is_right_for_one_tag_a_scale_and_counter(connection: bytes, client_isn: int, terms_bits: int) -> None:
    """What the module says of guessing: of all tags only as many as scales and counters are right."""
    jar = CookieJar(SECRET)
    tags = {jar.bake(connection, client_isn, 0, scale, at).isn >> 9 for scale in EVERY_SCALE for at in (NOW, NOW - COUNTER_S)}
    near = {tag + step & 0x7FFFFF for tag in tags for step in (-1, 0, 1)}
    isns = {tag: tag << 9 | terms_bits & 511 for tag in near}
    accepted = {tag for tag, isn in isns.items() if jar.check(connection, client_isn, isn, EVERY_SCALE, NOW) is not None}
    assert accepted == tags


def test_a_changed_tag_is_none() -> None:
    jar = CookieJar(SECRET)
    cookie = jar.bake(CONNECTION, ISN, 5, SCALE, NOW)
    for bit in range(9, 32):
        assert jar.check(CONNECTION, ISN, cookie.isn ^ 1 << bit, [SCALE], NOW) is None


def test_terms_do_not_show_in_the_number() -> None:
    jar = CookieJar(SECRET)
    low_bits = {jar.bake(CONNECTION, isn, 5, SCALE, NOW).isn & 511 for isn in range(200)}
    assert len(low_bits) > 100


@pytest.mark.parametrize("length", [0, 15, 33])
def test_a_secret_of_a_wrong_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="16 to 32 bytes"):
        CookieJar(bytes(length))


@pytest.mark.parametrize("length", [16, 32])
def test_secrets_of_16_to_32_bytes_do(length: int) -> None:
    CookieJar(bytes(length)).bake(CONNECTION, ISN, 0, SCALE, NOW)
