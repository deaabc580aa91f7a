"""All of it together for a short time, seeded: nobody notices, and nothing is left."""

import pytest
from scene import SHORT
from soak import soak

pytestmark = pytest.mark.lab


def test_nobody_notices_what_is_done_to_the_daemon_and_around_it() -> None:
    outcome = soak(12, 1, pace=SHORT)
    assert outcome.violations == [], outcome
    visits = outcome.summary["visits"]
    assert isinstance(visits, int)
    assert visits > 20
