from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kracauer.profile import BackendProfile
from kracauer.tcp.cookie import LIFETIME_S
from kracauer.tcp.terms import (
    MSS_CLASSES,
    Offer,
    OfferHistory,
    Terms,
    backend_syn_options,
    decode_scale,
    decode_terms,
    encode_scale,
    encode_terms,
    learn,
    make_offer,
    syn_ack_options,
)
from kracauer.wire import tcp
from kracauer.wire.tcp import TcpOptions

MODEST = BackendProfile(mss=1220, window_scale=None, sack=False, timestamps=False, ecn=False, window=8192)
CAPABLE = BackendProfile(mss=1440, window_scale=7, sack=True, timestamps=True, ecn=True, window=65535)
FULL = Offer(mss=1440, window_scale=7, sack=True, timestamps=True, ecn=True, window=65535)
NONE = Offer(mss=1220, window_scale=None, sack=False, timestamps=False, ecn=False, window=8192)
MODERN_SYN = TcpOptions(mss=1460, window_scale=8, sack_permitted=True, timestamps=(99, 0))

scales = st.one_of(st.none(), st.integers(0, 14))
offers = st.builds(
    Offer,
    mss=st.integers(1, 65_535),
    window_scale=scales,
    sack=st.booleans(),
    timestamps=st.booleans(),
    ecn=st.booleans(),
    window=st.integers(1, 65_535),
)
profiles = st.builds(
    BackendProfile,
    mss=st.integers(1, 65_535),
    window_scale=scales,
    sack=st.booleans(),
    timestamps=st.booleans(),
    ecn=st.booleans(),
    window=st.integers(1, 65_535),
)
syn_options = st.builds(
    TcpOptions,
    mss=st.one_of(st.none(), st.integers(88, 65_535)),
    window_scale=scales,
    sack_permitted=st.booleans(),
    timestamps=st.one_of(st.none(), st.tuples(st.integers(0, 2**32 - 1), st.just(0))),
    sack=st.just(()),
    is_authenticated=st.sampled_from((False,)),
)


@given(st.lists(profiles, min_size=1, max_size=6))
def test_the_offer_is_what_every_backend_keeps(known: list[BackendProfile]) -> None:
    offer = make_offer(known, ipv4_mtu=9000, ipv6_mtu=9000)
    assert offer.mss == min(8940, *(profile.mss for profile in known))
    assert offer.sack == (not any(not profile.sack for profile in known))
    assert offer.timestamps == (not any(not profile.timestamps for profile in known))
    assert offer.ecn == (not any(not profile.ecn for profile in known))
    assert offer.window == sorted(profile.window for profile in known)[0]
    assert (offer.window_scale is None) == any(profile.window_scale is None for profile in known)


def test_one_backend_that_lacks_an_option_takes_it_from_the_offer() -> None:
    for field in ("sack", "timestamps", "ecn"):
        offer = make_offer([CAPABLE, replace(CAPABLE, **{field: False}), CAPABLE], 1500, 1500)
        assert offer == FULL._replace(**{field: False})


def test_one_backend_without_scaling_takes_it_from_the_offer() -> None:
    assert make_offer([CAPABLE, MODEST], 1500, 1500).window_scale is None


def test_the_scale_offered_is_the_largest_of_any_backend() -> None:
    known = [replace(CAPABLE, window_scale=scale) for scale in (7, 9, 0)]
    assert make_offer(known, 1500, 1500).window_scale == 9


@pytest.mark.parametrize(
    ("ipv4_mtu", "ipv6_mtu", "mss"), [(1500, 1500, 1440), (1500, 1280, 1220), (1400, 1500, 1360), (1480, 1500, 1440)]
)
def test_the_mss_offered_fits_both_mtus(ipv4_mtu: int, ipv6_mtu: int, mss: int) -> None:
    assert make_offer([replace(CAPABLE, mss=8940)], ipv4_mtu, ipv6_mtu).mss == mss


def test_the_mss_offered_is_never_above_a_backends_own() -> None:
    assert make_offer([CAPABLE, replace(CAPABLE, mss=536)], 1500, 1500).mss == 536


EVERY_SCALE = [None, *range(15)]


def test_each_of_16_codes_stands_for_a_scale_or_none() -> None:
    codes = [encode_scale(scale) for scale in EVERY_SCALE]
    assert sorted(codes) == list(range(16))
    assert [decode_scale(code) for code in codes] == EVERY_SCALE


@given(offers, syn_options, st.booleans(), st.booleans())
def test_nine_bits_bring_back_what_was_agreed(offer: Offer, options: TcpOptions, asks_ecn: bool, has_timestamps: bool) -> None:
    code = encode_terms(offer, options, asks_ecn)
    assert 0 <= code < 512
    is_scaled = offer.window_scale is not None and options.window_scale is not None
    assert decode_terms(code, offer.window_scale, has_timestamps) == Terms(
        mss=max(size for size in MSS_CLASSES if size <= (options.mss or 536)),
        client_window_scale=options.window_scale if is_scaled else None,
        window_scale=offer.window_scale if is_scaled else None,
        sack=offer.sack and options.sack_permitted,
        timestamps=has_timestamps,
        ecn=offer.ecn and asks_ecn,
    )


def options_of(terms: Terms) -> TcpOptions:
    """A SYN's options that lead to `terms`."""
    return TcpOptions(mss=terms.mss, window_scale=terms.client_window_scale, sack_permitted=terms.sack)


def test_each_of_512_codes_stands_for_terms_that_have_it() -> None:
    for code in range(512):
        terms = decode_terms(code, FULL.window_scale, has_timestamps=False)
        assert encode_terms(FULL, options_of(terms), asks_ecn=terms.ecn) == code


def test_a_syn_without_mss_gets_ipv4s_default() -> None:
    code = encode_terms(FULL, TcpOptions(), asks_ecn=False)
    assert decode_terms(code, FULL.window_scale, has_timestamps=False).mss == tcp.DEFAULT_MSS


def test_the_syn_ack_grants_a_modern_syn_the_whole_offer() -> None:
    assert syn_ack_options(FULL, MODERN_SYN, tsval=5) == TcpOptions(
        mss=1440, window_scale=7, sack_permitted=True, timestamps=(5, 99)
    )


def test_the_syn_ack_holds_nothing_that_was_not_asked_for() -> None:
    assert syn_ack_options(FULL, TcpOptions(), tsval=5) == TcpOptions(mss=1440)


def test_the_syn_ack_holds_nothing_that_is_not_offered() -> None:
    assert syn_ack_options(NONE, MODERN_SYN, tsval=5) == TcpOptions(mss=1220)


@given(offers, syn_options, st.integers(0, 2**32 - 1))
def test_the_syn_ack_and_the_terms_agree(offer: Offer, options: TcpOptions, tsval: int) -> None:
    granted = syn_ack_options(offer, options, tsval)
    code = encode_terms(offer, options, asks_ecn=False)
    terms = decode_terms(code, offer.window_scale, has_timestamps=granted.timestamps is not None)
    assert (terms.window_scale, terms.sack) == (granted.window_scale, granted.sack_permitted)
    assert terms.timestamps == (granted.timestamps is not None)
    assert granted.mss == offer.mss


TERMS = Terms(mss=1400, client_window_scale=8, window_scale=7, sack=True, timestamps=True, ecn=False)


def test_the_backend_is_asked_for_what_the_client_agreed_to() -> None:
    asked = TcpOptions(mss=1400, window_scale=8, sack_permitted=True, timestamps=(99, 0))
    assert backend_syn_options(TERMS, mss=1440, tsval=99) == asked


def test_the_mss_told_to_a_backend_fits_the_ipv6_path() -> None:
    assert backend_syn_options(TERMS, mss=1220, tsval=None).mss == 1220


def test_the_backend_is_asked_for_nothing_that_was_not_agreed() -> None:
    bare = Terms(mss=536, client_window_scale=None, window_scale=None, sack=False, timestamps=False, ecn=False)
    assert backend_syn_options(bare, mss=1440, tsval=None) == TcpOptions(mss=536)


AGREED = TERMS._replace(ecn=True)
BARE = Terms(mss=536, client_window_scale=None, window_scale=None, sack=False, timestamps=False, ecn=False)


def test_a_syn_ack_shows_what_the_backend_has() -> None:
    options = TcpOptions(mss=1380, window_scale=9, sack_permitted=True, timestamps=(1, 2))
    learnt = learn(MODEST, AGREED, options, is_ecn=True)
    assert learnt == BackendProfile(mss=1380, window_scale=9, sack=True, timestamps=True, ecn=True, window=MODEST.window)


def test_a_syn_ack_shows_what_the_backend_lacks() -> None:
    learnt = learn(CAPABLE, AGREED, TcpOptions(mss=1380), is_ecn=False)
    assert learnt == BackendProfile(mss=1380, window_scale=None, sack=False, timestamps=False, ecn=False, window=CAPABLE.window)


@pytest.mark.parametrize("known", [CAPABLE, MODEST])
def test_what_was_not_asked_for_stays_as_it_was_known(known: BackendProfile) -> None:
    assert learn(known, BARE, TcpOptions(mss=1380), is_ecn=False) == replace(known, mss=1380)


def test_a_syn_ack_without_mss_means_ipv6s_default() -> None:
    assert learn(CAPABLE, AGREED, TcpOptions(), is_ecn=False).mss == 1220


@pytest.mark.parametrize(("shown", "taken"), [(0, 1220), (88, 1220), (1219, 1220), (1221, 1221), (8940, 8940)])
def test_no_backend_talks_the_offer_down_to_crumbs(shown: int, taken: int) -> None:
    """Every IPv6 host takes segments of 1220 bytes (RFC 8200 §5)."""
    assert learn(CAPABLE, AGREED, TcpOptions(mss=shown), is_ecn=False).mss == taken


def test_a_smaller_mss_than_that_may_be_configured() -> None:
    known = replace(CAPABLE, mss=1000)
    assert [learn(known, AGREED, TcpOptions(mss=mss), is_ecn=False).mss for mss in (600, 1000, 1100)] == [1000, 1000, 1100]


# When a history of offers begins, and when it is old enough to know every cookie that can come.
BEGUN = 1000.0
SETTLED = BEGUN + LIFETIME_S + 1


def offering(window_scale: int | None) -> Offer:
    return FULL._replace(window_scale=window_scale)


def scales_of(history: OfferHistory, now: float) -> list[int | None]:
    return [decode_scale(code) for code in history.candidates(now)]


@pytest.mark.parametrize("now", [BEGUN, BEGUN + LIFETIME_S])
def test_for_a_cookies_life_after_the_start_each_scale_may_have_been_offered(now: float) -> None:
    assert scales_of(OfferHistory(offering(7), BEGUN), now) == [7, *range(7), *range(8, 15), None]


def test_from_then_on_only_what_was_offered_may_have_been() -> None:
    assert scales_of(OfferHistory(offering(7), BEGUN), SETTLED) == [7]


def test_what_was_offered_in_the_beginning_counts_after_it_too() -> None:
    history = OfferHistory(offering(7), BEGUN)
    history.replace(offering(9), now=BEGUN + LIFETIME_S)
    assert scales_of(history, SETTLED) == [9, 7]


def test_a_scale_stays_a_candidate_for_a_cookies_life() -> None:
    history = OfferHistory(offering(7), BEGUN)
    history.replace(offering(None), now=SETTLED)
    assert scales_of(history, SETTLED + LIFETIME_S) == [None, 7]
    assert scales_of(history, SETTLED + LIFETIME_S + 0.1) == [None]


@pytest.mark.parametrize("now", [BEGUN, SETTLED])
def test_the_current_offer_is_the_first_candidate(now: float) -> None:
    history = OfferHistory(offering(7), BEGUN)
    assert (history.current, history.scale_code, history.candidates(now)[0]) == (FULL, encode_scale(7), encode_scale(7))
    history.replace(NONE, now)
    assert (history.current, history.scale_code, history.candidates(now)[0]) == (NONE, encode_scale(None), encode_scale(None))


def test_offers_that_differ_in_something_else_than_the_scale_are_one_candidate() -> None:
    history = OfferHistory(FULL, BEGUN)
    for mss in range(500, 1440):
        history.replace(FULL._replace(mss=mss), now=SETTLED)
    assert history.current.mss == 1439
    assert scales_of(history, SETTLED) == [7]


def test_a_scale_that_comes_back_is_current_and_counts_once() -> None:
    history = OfferHistory(offering(7), BEGUN)
    history.replace(offering(9), now=SETTLED)
    history.replace(offering(7), now=SETTLED + 1)
    assert scales_of(history, SETTLED + 1) == [7, 9]
    assert scales_of(history, SETTLED + 1.1 + LIFETIME_S) == [7]


def test_a_scale_that_came_back_ages_from_when_it_was_last_offered() -> None:
    history = OfferHistory(offering(7), BEGUN)
    history.replace(offering(9), now=SETTLED)
    history.replace(offering(7), now=SETTLED + 100)
    history.replace(offering(9), now=SETTLED + 200)
    assert scales_of(history, SETTLED + 200 + LIFETIME_S) == [9, 7]


def test_each_scale_of_the_last_minutes_is_a_candidate() -> None:
    history = OfferHistory(offering(0), BEGUN)
    for scale in range(1, 10):
        history.replace(offering(scale), now=SETTLED + scale)
    assert scales_of(history, SETTLED + 10) == [9, *range(9)]
