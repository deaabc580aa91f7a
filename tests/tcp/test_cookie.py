import pytest
from hypothesis import given
from hypothesis import strategies as st

from kracauer.tcp.cookie import COUNTER_S, LIFETIME_S, CookieJar

SECRET = b"0123456789abcdef"
CONNECTION = bytes((192, 0, 2, 7, 198, 51, 100, 1, 0xC0, 0x00, 0x01, 0xBB))
OFFER, OTHER_OFFER = b"offer-1", b"offer-2"
ISN = 0x12345678
NOW = 1_000_000 * COUNTER_S  # the beginning of a minute

terms_codes = st.integers(0, 511)
connections = st.binary(min_size=12, max_size=12)
isns = st.integers(0, 2**32 - 1)
times = st.floats(0, 1e9)


@given(connections, isns, terms_codes, st.binary(max_size=10), times, st.floats(0, COUNTER_S))
def test_a_cookie_brings_back_what_it_was_baked_with(
    connection: bytes, isn: int, terms: int, offer: bytes, now: float, later: float
) -> None:
    jar = CookieJar(SECRET)
    cookie = jar.bake(connection, isn, terms, offer, now)
    assert 0 <= cookie.isn < 2**32
    assert 0 <= cookie.tsval < 2**32
    assert jar.check(connection, isn, cookie.isn, [offer], now + later) == (terms, offer, cookie.tsval)


def test_every_code_of_terms_comes_back() -> None:
    jar = CookieJar(SECRET)
    codes = range(512)
    cookies = [jar.bake(CONNECTION, ISN, code, OFFER, NOW) for code in codes]
    assert [jar.check(CONNECTION, ISN, cookie.isn, [OFFER], NOW) for cookie in cookies] == [
        (code, OFFER, cookies[0].tsval) for code in codes
    ]
    assert len({cookie.isn for cookie in cookies}) == 512


def test_copies_of_a_syn_get_one_cookie_within_a_minute() -> None:
    jar = CookieJar(SECRET)
    assert jar.bake(CONNECTION, ISN, 5, OFFER, NOW) == jar.bake(CONNECTION, ISN, 5, OFFER, NOW + 59.9)


def test_the_next_minute_has_another_cookie() -> None:
    jar = CookieJar(SECRET)
    assert jar.bake(CONNECTION, ISN, 5, OFFER, NOW) != jar.bake(CONNECTION, ISN, 5, OFFER, NOW + COUNTER_S)


@pytest.mark.parametrize("baked_after", [0.0, 30.0, 59.9])
def test_a_cookie_is_good_for_a_minute_at_least(baked_after: float) -> None:
    jar = CookieJar(SECRET)
    cookie = jar.bake(CONNECTION, ISN, 5, OFFER, NOW + baked_after)
    assert jar.check(CONNECTION, ISN, cookie.isn, [OFFER], NOW + baked_after + COUNTER_S) is not None


@pytest.mark.parametrize("baked_after", [0.0, 30.0, 59.9])
def test_a_cookie_is_good_for_two_minutes_at_most(baked_after: float) -> None:
    jar = CookieJar(SECRET)
    cookie = jar.bake(CONNECTION, ISN, 5, OFFER, NOW + baked_after)
    assert jar.check(CONNECTION, ISN, cookie.isn, [OFFER], NOW + baked_after + LIFETIME_S) is None


def test_a_cookie_from_the_future_is_none() -> None:
    jar = CookieJar(SECRET)
    cookie = jar.bake(CONNECTION, ISN, 5, OFFER, NOW)
    assert jar.check(CONNECTION, ISN, cookie.isn, [OFFER], NOW - 1) is None


@pytest.mark.parametrize("at", range(12))
def test_a_cookie_holds_for_its_own_connection_alone(at: int) -> None:
    jar = CookieJar(SECRET)
    cookie = jar.bake(CONNECTION, ISN, 5, OFFER, NOW)
    other = CONNECTION[:at] + bytes((CONNECTION[at] ^ 1,)) + CONNECTION[at + 1 :]
    assert jar.check(other, ISN, cookie.isn, [OFFER], NOW) is None


def test_a_cookie_holds_for_the_client_isn_it_was_baked_for() -> None:
    jar = CookieJar(SECRET)
    cookie = jar.bake(CONNECTION, ISN, 5, OFFER, NOW)
    assert jar.check(CONNECTION, ISN + 1, cookie.isn, [OFFER], NOW) is None


def test_a_cookie_of_another_secret_is_none() -> None:
    cookie = CookieJar(SECRET).bake(CONNECTION, ISN, 5, OFFER, NOW)
    assert CookieJar(b"another secret, 16+").check(CONNECTION, ISN, cookie.isn, [OFFER], NOW) is None


def test_jars_with_one_secret_accept_each_others_cookies() -> None:
    cookie = CookieJar(SECRET).bake(CONNECTION, ISN, 5, OFFER, NOW)
    assert CookieJar(SECRET).check(CONNECTION, ISN, cookie.isn, [OFFER], NOW) == (5, OFFER, cookie.tsval)


def test_a_cookie_of_an_offer_that_is_not_valid_is_none() -> None:
    jar = CookieJar(SECRET)
    cookie = jar.bake(CONNECTION, ISN, 5, OFFER, NOW)
    assert jar.check(CONNECTION, ISN, cookie.isn, [OTHER_OFFER], NOW) is None
    assert jar.check(CONNECTION, ISN, cookie.isn, [], NOW) is None


@pytest.mark.parametrize("age", [0.0, COUNTER_S])
def test_each_offer_still_valid_is_tried(age: float) -> None:
    jar = CookieJar(SECRET)
    offers = [b"offer-%d" % number for number in range(5)]
    for offer in offers:
        cookie = jar.bake(CONNECTION, ISN, 7, offer, NOW)
        assert jar.check(CONNECTION, ISN, cookie.isn, offers, NOW + age) == (7, offer, cookie.tsval)


def test_a_changed_tag_is_none() -> None:
    jar = CookieJar(SECRET)
    cookie = jar.bake(CONNECTION, ISN, 5, OFFER, NOW)
    for bit in range(9, 32):
        assert jar.check(CONNECTION, ISN, cookie.isn ^ 1 << bit, [OFFER], NOW) is None


def test_terms_do_not_show_in_the_number() -> None:
    jar = CookieJar(SECRET)
    low_bits = {jar.bake(CONNECTION, isn, 5, OFFER, NOW).isn & 511 for isn in range(200)}
    assert len(low_bits) > 100


@pytest.mark.parametrize("length", [0, 15, 33])
def test_a_secret_of_a_wrong_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="16 to 32 bytes"):
        CookieJar(bytes(length))


@pytest.mark.parametrize("length", [16, 32])
def test_secrets_of_16_to_32_bytes_do(length: int) -> None:
    CookieJar(bytes(length)).bake(CONNECTION, ISN, 0, OFFER, NOW)
