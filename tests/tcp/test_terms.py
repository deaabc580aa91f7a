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
    decode_terms,
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


@given(offers, offers)
def test_different_offers_have_different_encodings(one: Offer, other: Offer) -> None:
    assert (one.encode() == other.encode()) == (one == other)


@pytest.mark.parametrize(
    "change", [{"mss": 1439}, {"window_scale": None}, {"sack": False}, {"timestamps": False}, {"ecn": False}]
)
def test_each_part_of_an_offer_is_encoded(change: dict[str, int | None]) -> None:
    assert FULL._replace(**change).encode() != FULL.encode()  # type: ignore[arg-type]


@given(offers, syn_options, st.booleans(), st.booleans())
def test_nine_bits_bring_back_what_was_agreed(offer: Offer, options: TcpOptions, asks_ecn: bool, has_timestamps: bool) -> None:
    code = encode_terms(offer, options, asks_ecn)
    assert 0 <= code < 512
    is_scaled = offer.window_scale is not None and options.window_scale is not None
    assert decode_terms(code, offer, has_timestamps) == Terms(
        mss=max(size for size in MSS_CLASSES if size <= (options.mss or 536)),
        client_window_scale=options.window_scale if is_scaled else None,
        window_scale=offer.window_scale if is_scaled else None,
        sack=offer.sack and options.sack_permitted,
        timestamps=offer.timestamps and has_timestamps,
        ecn=offer.ecn and asks_ecn,
    )


def options_of(terms: Terms) -> TcpOptions:
    """A SYN's options that lead to `terms`."""
    return TcpOptions(mss=terms.mss, window_scale=terms.client_window_scale, sack_permitted=terms.sack)


def test_each_of_512_codes_stands_for_terms_that_have_it() -> None:
    for code in range(512):
        terms = decode_terms(code, FULL, has_timestamps=False)
        assert encode_terms(FULL, options_of(terms), asks_ecn=terms.ecn) == code


def test_a_syn_without_mss_gets_ipv4s_default() -> None:
    code = encode_terms(FULL, TcpOptions(), asks_ecn=False)
    assert decode_terms(code, FULL, has_timestamps=False).mss == tcp.DEFAULT_MSS


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
    terms = decode_terms(code, offer, has_timestamps=granted.timestamps is not None)
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
    learnt = learn(MODEST, AGREED, options, is_ecn=True, window=4321)
    assert learnt == BackendProfile(mss=1380, window_scale=9, sack=True, timestamps=True, ecn=True, window=4321)


def test_a_syn_ack_shows_what_the_backend_lacks() -> None:
    learnt = learn(CAPABLE, AGREED, TcpOptions(mss=1380), is_ecn=False, window=4321)
    assert learnt == BackendProfile(mss=1380, window_scale=None, sack=False, timestamps=False, ecn=False, window=4321)


@pytest.mark.parametrize("known", [CAPABLE, MODEST])
def test_what_was_not_asked_for_stays_as_it_was_known(known: BackendProfile) -> None:
    learnt = learn(known, BARE, TcpOptions(mss=1380), is_ecn=False, window=4321)
    assert learnt == replace(known, mss=1380, window=4321)


def test_a_syn_ack_without_mss_means_ipv6s_default() -> None:
    assert learn(CAPABLE, AGREED, TcpOptions(), is_ecn=False, window=1).mss == 1220


def test_a_window_of_nothing_is_not_offered_on() -> None:
    assert learn(CAPABLE, AGREED, TcpOptions(), is_ecn=False, window=0).window == 1


def test_an_offer_stays_a_candidate_for_a_cookies_life() -> None:
    history = OfferHistory(FULL)
    history.replace(NONE, now=100.0)
    both = {NONE.encode(): NONE, FULL.encode(): FULL}
    assert history.candidates(100.0 + LIFETIME_S) == both
    assert history.candidates(100.0 + LIFETIME_S + 0.1) == {NONE.encode(): NONE}


def test_the_current_offer_is_the_first_candidate() -> None:
    history = OfferHistory(FULL)
    assert (history.current, history.encoded, history.candidates(0.0)) == (FULL, FULL.encode(), {FULL.encode(): FULL})
    history.replace(NONE, now=1.0)
    assert (history.current, history.encoded, next(iter(history.candidates(1.0)))) == (NONE, NONE.encode(), NONE.encode())


def test_replacing_an_offer_by_itself_changes_nothing() -> None:
    history = OfferHistory(FULL)
    history.replace(FULL, now=1.0)
    assert history.candidates(1.0) == {FULL.encode(): FULL}


def test_an_offer_that_comes_back_is_current_and_counts_once() -> None:
    history = OfferHistory(FULL)
    history.replace(NONE, now=1.0)
    history.replace(FULL, now=2.0)
    assert list(history.candidates(2.0).values()) == [FULL, NONE]
    assert list(history.candidates(2.1 + LIFETIME_S).values()) == [FULL]


def test_an_offer_that_came_back_ages_from_when_it_was_last_made() -> None:
    history = OfferHistory(FULL)
    history.replace(NONE, now=0.0)
    history.replace(FULL, now=100.0)
    history.replace(NONE, now=200.0)
    assert FULL in history.candidates(200.0 + LIFETIME_S).values()


def test_each_offer_of_the_last_minutes_is_a_candidate() -> None:
    made = [FULL._replace(mss=mss) for mss in range(1000, 1010)]
    history = OfferHistory(made[0])
    for at, offer in enumerate(made[1:]):
        history.replace(offer, now=float(at))
    assert set(history.candidates(9.0).values()) == set(made)
