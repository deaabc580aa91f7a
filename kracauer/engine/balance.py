"""Which backend first: in the order of the configuration, or by the client's address (Thaler and Ravishankar 1998).

Each client has a score for each backend, a number that only the secret tells, and is led to the backend with the highest. When
one comes, goes or fails, only those move whose highest score it had or has.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import Final, NamedTuple

from kracauer.engine.health import Health
from kracauer.routes import Backend, Balance

_DIGEST_BYTES: Final = 6  # no more than a float holds: none comes out as 1, whose logarithm is 0
_DIGESTS: Final = 1 << 8 * _DIGEST_BYTES


class Choice(NamedTuple):
    """One backend of a route, its port filled in; `weight` is its share of the clients in proportion to the others'."""

    backend: Backend
    weight: float = 1.0
    is_draining: bool = False


class Balancer:
    """Puts the backends of a route into the order in which a client is to try them.

    With one `secret` an order is the same in every process; no client knows what address would lead it elsewhere.
    """

    def __init__(self, health: Health, secret: bytes) -> None:
        self._health = health
        self._key = hashlib.blake2b(b"balance", key=secret, digest_size=32).digest()

    def order(self, choices: Sequence[Choice], balance: Balance, client: bytes, now: float) -> list[Backend]:
        """What `client` (4 bytes) is to try, one after the other.

        First those that are there, then those to be emptied, and those that are known to be down at last: better a hopeless
        attempt than none. Where one of them is tried in vain, the first gets what is left of the time.
        """
        if len(choices) == 1:
            return [choices[0].backend]
        if balance is Balance.CLIENT:
            choices = sorted(choices, key=lambda choice: self._score(choice, client), reverse=True)
        first: list[Choice] = []
        last: list[Choice] = []
        for choice in choices:
            (first if self._health.is_usable(choice.backend, client, now) else last).append(choice)
        order = [choice.backend for group in (first, last) for choice in sorted(group, key=_is_draining)]
        return [*order, order[0]] if first and last else order

    def _score(self, choice: Choice, client: bytes) -> float:
        backend = choice.backend
        covered = client + backend.address.packed + (backend.port or 0).to_bytes(2, "big")
        digest = hashlib.blake2b(covered, key=self._key, digest_size=_DIGEST_BYTES).digest()
        # With the logarithm of a number between 0 and 1 each is the highest as often as its weight says.
        return -choice.weight / math.log((int.from_bytes(digest, "big") + 0.5) / _DIGESTS)


def _is_draining(choice: Choice) -> bool:
    return choice.is_draining
