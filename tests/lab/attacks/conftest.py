"""A site and somebody who means it harm."""

from collections.abc import Callable, Iterator

import attackers
import pytest
from attackers import Siege

from kracauer.lab.topology import Lab, Topology


@pytest.fixture
def build_siege(build_lab: Callable[[Topology], Lab]) -> Iterator[Callable[..., Siege]]:
    """Build sieges with tables of the configuration; afterwards the daemon must stop without having met an error of its own."""
    sieges: list[Siege] = []

    def build(**tables: dict[str, object]) -> Siege:
        sieges.append(Siege(build_lab(attackers.topology()), **tables))
        return sieges[-1]

    yield build
    for siege in sieges:
        siege.close()
        assert siege.daemon.stop() == 0, siege.daemon.log[-2000:]
        assert siege.daemon.events[-1]["internal_errors"] == 0
        assert "Traceback" not in siege.daemon.log


@pytest.fixture
def siege(build_siege: Callable[..., Siege]) -> Siege:
    return build_siege()
