"""Every test of the engine runs twice: alone, and behind a fast path that takes what it may before the engine sees it."""

from collections.abc import Iterator

import pytest
from engines import behind_fast_path


@pytest.fixture(autouse=True, params=["alone", "offloaded"])
def engine_kind(request: pytest.FixtureRequest) -> Iterator[str]:
    """What stands before the engines of this test. engine_kinds.alone is for those that are of one kind only."""
    if request.param == "alone":
        yield request.param
        return
    with behind_fast_path():
        yield request.param
