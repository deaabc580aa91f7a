"""What may be offered, what was agreed, and how nine bits carry it (RFC 9293 §3.7.1, RFC 7323, RFC 2018, RFC 3168 §6.1.1)."""

import bisect
from collections.abc import Iterable
from typing import Final, NamedTuple

from kracauer.profile import DEFAULT_MSS_V6, BackendProfile
from kracauer.tcp.cookie import LIFETIME_S
from kracauer.wire import tcp
from kracauer.wire.tcp import TcpOptions

IPV4_OVERHEAD: Final = 40  # IPv4 and TCP headers without options
IPV6_OVERHEAD: Final = 60

# A client's MSS is carried as the largest class that is not above it. The classes are what clients really send: the IPv4
# minimum, IPv6-sized, mobile and tunnelled paths, PPPoE, Ethernet, jumbo. Like Linux, no less than 88 is taken seriously.
MSS_CLASSES: Final = (88, 536, 1220, 1340, 1400, 1440, 1460, 8900)
_NO_SCALE: Final = 15


class Offer(NamedTuple):
    """What a listener's SYN-ACK may promise: what every backend it could lead to will really do."""

    mss: int
    window_scale: int | None
    sack: bool
    timestamps: bool
    ecn: bool
    window: int


class Terms(NamedTuple):
    """What client and listener agreed in their handshake; scales are None, both of them, where scaling was not agreed."""

    mss: int
    client_window_scale: int | None
    window_scale: int | None
    sack: bool
    timestamps: bool
    ecn: bool


def make_offer(profiles: Iterable[BackendProfile], ipv4_mtu: int, ipv6_mtu: int) -> Offer:
    """Return the most that all of `profiles` (at least one) keep, within both MTUs in bytes."""
    known = tuple(profiles)
    scales = [profile.window_scale for profile in known if profile.window_scale is not None]
    return Offer(
        mss=min(ipv6_mtu - IPV6_OVERHEAD, ipv4_mtu - IPV4_OVERHEAD, *(profile.mss for profile in known)),
        # The largest scale loses a few bytes of rounding where a backend's is smaller; the smallest would cap windows.
        window_scale=max(scales) if len(scales) == len(known) else None,
        sack=all(profile.sack for profile in known),
        timestamps=all(profile.timestamps for profile in known),
        ecn=all(profile.ecn for profile in known),
        window=min(profile.window for profile in known),
    )


def encode_terms(offer: Offer, options: TcpOptions, asks_ecn: bool) -> int:
    """Return nine bits of what a SYN with `options` and `offer` agree on."""
    mss_class = max(bisect.bisect_right(MSS_CLASSES, options.mss or tcp.DEFAULT_MSS) - 1, 0)
    scale = _NO_SCALE if offer.window_scale is None or options.window_scale is None else options.window_scale
    return mss_class | scale << 3 | (offer.sack and options.sack_permitted) << 7 | (offer.ecn and asks_ecn) << 8


def decode_terms(code: int, window_scale: int | None, has_timestamps: bool) -> Terms:
    """Return the terms behind nine bits, the offered `window_scale`, and whether the client's ACK carries timestamps.

    A client sends those only where the SYN-ACK did (RFC 7323 §3.2).
    """
    scale = code >> 3 & 0x0F
    return Terms(
        mss=MSS_CLASSES[code & 0x07],
        client_window_scale=None if scale == _NO_SCALE else scale,
        window_scale=None if scale == _NO_SCALE else window_scale,
        sack=bool(code >> 7 & 1),
        timestamps=has_timestamps,
        ecn=bool(code >> 8 & 1),
    )


def syn_ack_options(offer: Offer, options: TcpOptions, tsval: int) -> TcpOptions:
    """Return the options of the SYN-ACK: of the offer just what the client's SYN asked for."""
    timestamps = (tsval, options.timestamps[0]) if offer.timestamps and options.timestamps is not None else None
    return TcpOptions(
        mss=offer.mss,
        window_scale=None if options.window_scale is None else offer.window_scale,
        sack_permitted=offer.sack and options.sack_permitted,
        timestamps=timestamps,
    )


def backend_syn_options(terms: Terms, mss: int, tsval: int | None) -> TcpOptions:
    """Return the options of the SYN to a backend: what the client agreed to, its MSS clamped to `mss`."""
    return TcpOptions(
        mss=min(terms.mss, mss),
        window_scale=terms.client_window_scale,
        sack_permitted=terms.sack,
        timestamps=None if tsval is None else (tsval, 0),
    )


def learn(profile: BackendProfile, terms: Terms, options: TcpOptions, is_ecn: bool) -> BackendProfile:
    """Return what a backend's SYN-ACK shows of it; about what the SYN did not ask for it shows nothing.

    `profile` itself where that is no news. The window is left as it was: stacks vary it from one connection to the next, and
    what is held is not bound by it.
    """
    # Every IPv6 host takes segments of 1220 bytes. One that claims otherwise would have all clients send crumbs.
    mss = max(options.mss or DEFAULT_MSS_V6, min(profile.mss, DEFAULT_MSS_V6))
    window_scale = profile.window_scale if terms.client_window_scale is None else options.window_scale
    sack = options.sack_permitted if terms.sack else profile.sack
    timestamps = options.timestamps is not None if terms.timestamps else profile.timestamps
    ecn = is_ecn if terms.ecn else profile.ecn
    known = profile.mss, profile.window_scale, profile.sack, profile.timestamps, profile.ecn
    if (mss, window_scale, sack, timestamps, ecn) == known:
        return profile
    return BackendProfile(mss, window_scale, sack, timestamps, ecn, profile.window)


def encode_scale(window_scale: int | None) -> int:
    """Return the code, 0 to 15, under which the cookie knows an offer: all that is asked of it when the client's ACK comes."""
    return _NO_SCALE if window_scale is None else window_scale


def decode_scale(code: int) -> int | None:
    """Return the window scale that `encode_scale` made `code` of."""
    return None if code == _NO_SCALE else code


class OfferHistory:
    """A listener's offer, and the codes of the window scales it has offered within a cookie's life.

    In its first two minutes it takes every scale for possible: a cookie may be of a process that has gone before, and had
    learnt what this one has not.
    """

    __slots__ = ("_any_scale_until", "_every_code", "_former", "current", "scale_code")

    def __init__(self, offer: Offer, now: float) -> None:
        self._former: dict[int, float] = {}
        self._any_scale_until = now + LIFETIME_S
        self._make_current(offer)

    def replace(self, offer: Offer, now: float) -> None:
        """Make `offer` the current one; cookies that were baked with the last one stay good for their life."""
        self._former[self.scale_code] = now
        self._make_current(offer)

    def candidates(self, now: float) -> tuple[int, ...]:
        """What a cookie still valid at `now` can have been baked with, the current offer first."""
        if now <= self._any_scale_until:
            return self._every_code
        if self._former:
            self._former = {code: at for code, at in self._former.items() if now - at <= LIFETIME_S}
        return self.scale_code, *(code for code in self._former if code != self.scale_code)

    def _make_current(self, offer: Offer) -> None:
        self.current, self.scale_code = offer, encode_scale(offer.window_scale)
        self._every_code = self.scale_code, *(code for code in range(_NO_SCALE + 1) if code != self.scale_code)
