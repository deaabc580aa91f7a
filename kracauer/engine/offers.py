"""What a port may promise its clients: the least that all of its backends do, kept up as one or the other of them changes."""

from collections import Counter

from kracauer.profile import BackendProfile
from kracauer.routes import Backend
from kracauer.tcp.terms import Offer, make_offer


class OfferPool:
    """The backends behind one port, with what is known of each; each may be there several times over, under several names.

    Thousands of backends mostly have a handful of profiles, and those are all that an offer is made of.
    """

    __slots__ = ("_known", "_offer", "_seen", "_uses", "assumed")

    def __init__(self, assumed: BackendProfile) -> None:
        self.assumed = assumed  # of a backend that is not there yet
        self._uses: Counter[Backend] = Counter()
        self._known: dict[Backend, tuple[BackendProfile, int]] = {}
        self._seen: Counter[tuple[BackendProfile, int]] = Counter()
        self._offer: tuple[int, int, Offer] | None = None

    def __contains__(self, backend: Backend) -> bool:
        return backend in self._known

    def add(self, backend: Backend, profile: BackendProfile, mtu: int) -> None:
        """Count `backend`, to which packets of `mtu` bytes get through."""
        self._uses[backend] += 1
        self.update(backend, profile, mtu, is_new=True)

    def remove(self, backend: Backend) -> None:
        """Take one `add` back."""
        self._uses[backend] -= 1
        if not self._uses[backend]:
            del self._uses[backend]
            self._forget(self._known.pop(backend))

    def update(self, backend: Backend, profile: BackendProfile, mtu: int, *, is_new: bool = False) -> None:
        """Note what is known of `backend` now; nothing where it is none of these."""
        known, wanted = self._known.get(backend), (profile, mtu)
        if known == wanted or (known is None and not is_new):
            return
        self._known[backend] = wanted
        self._seen[wanted] += 1
        if self._seen[wanted] == 1:
            self._offer = None
        if known is not None:
            self._forget(known)

    def offer(self, ipv4_mtu: int, ipv6_mtu: int) -> Offer:
        """The most that all of them keep, within both MTUs."""
        if self._offer is None or self._offer[:2] != (ipv4_mtu, ipv6_mtu):
            profiles = {profile: None for profile, _ in self._seen} or {self.assumed: None}
            mtu = min((ipv6_mtu, *(mtu for _, mtu in self._seen)))
            self._offer = (ipv4_mtu, ipv6_mtu, make_offer(profiles, ipv4_mtu, mtu))
        return self._offer[2]

    def _forget(self, known: tuple[BackendProfile, int]) -> None:
        self._seen[known] -= 1
        if not self._seen[known]:
            del self._seen[known]
            self._offer = None
