"""One lab with two origins and the daemon, for every test that does no lasting harm to it."""

from collections.abc import Callable, Iterator

import pytest

from kracauer.lab import configuration
from kracauer.lab.processes import BackgroundProcess
from kracauer.lab.topology import ORIGIN_1, ORIGIN_2, SERVICE, SERVICE_2, Lab, Topology

CERTIFICATES = {
    "origin1": ("www.example.com", "api.example.com"),
    "origin2": ("shop.example.net", "*.example.org"),
}
HOSTS = {
    "www.example.com": ORIGIN_1,
    "api.example.com": f"[{ORIGIN_1}]:8443",
    "shop.example.net": ORIGIN_2,
    "*.example.org": ORIGIN_2,
    "refused-first.example.org": [f"[{ORIGIN_1}]:9", ORIGIN_2],
    "silent-first.example.org": ["2001:db8:1::dead", ORIGIN_2],
    "dead.example.org": f"[{ORIGIN_1}]:9",
}
LISTENERS = (
    *configuration.LISTENERS,
    (SERVICE_2, 443, "auto"),
    (SERVICE_2, 80, "auto"),
)
NAMES = ("www.example.com", "api.example.com", "shop.example.net", "blog.example.org", "unknown.example.com")


def start_site(lab: Lab, **tables: dict[str, object]) -> None:
    lab.start_origin("origin1", CERTIFICATES["origin1"], https=(443, 8443))
    lab.start_origin("origin2", CERTIFICATES["origin2"])
    lab.name_services(dict.fromkeys(NAMES, SERVICE))
    lab.start_daemon(configuration.render(HOSTS, LISTENERS, **tables))


def check_daemon_stops_cleanly(daemon: BackgroundProcess) -> None:
    assert daemon.stop() == 0, daemon.log
    stopped = daemon.events[-1]
    assert stopped["event"] == "stopped"
    assert stopped["internal_errors"] == 0
    assert [event for event in daemon.events if event["level"] in ("error", "critical")] == []
    assert "Traceback" not in daemon.log


@pytest.fixture(scope="session")
def site() -> Iterator[Lab]:
    """The site as everybody uses it; at the end the daemon must stop without having met an error of its own."""
    with Lab() as lab:
        start_site(lab)
        yield lab
        assert lab.daemon is not None
        check_daemon_stops_cleanly(lab.daemon)


@pytest.fixture(scope="session")
def site_in_userspace() -> Iterator[Lab]:
    """The same with a daemon that carries all packets itself."""
    with Lab() as lab:
        start_site(lab, network={"offload": "off"})
        yield lab
        assert lab.daemon is not None
        check_daemon_stops_cleanly(lab.daemon)


@pytest.fixture(params=["auto", "off"])
def either_site(request: pytest.FixtureRequest) -> Lab:
    """Both of them, one after the other: whatever carries the packets, what arrives is to be the same."""
    lab = request.getfixturevalue("site" if request.param == "auto" else "site_in_userspace")
    assert isinstance(lab, Lab)
    return lab


@pytest.fixture
def build_site(build_lab: Callable[[Topology], Lab]) -> Iterator[Callable[..., Lab]]:
    """Build sites of a test's own wish, with tables of the configuration; their daemons, if alive, must stop cleanly."""
    labs = []

    def build(topology: Topology | None = None, **tables: dict[str, object]) -> Lab:
        lab = build_lab(topology or Topology())
        start_site(lab, **tables)
        labs.append(lab)
        return lab

    yield build
    for lab in labs:
        if lab.daemon is not None and lab.daemon.is_running:
            check_daemon_stops_cleanly(lab.daemon)


@pytest.fixture(params=["auto", "off"])
def build_either_site(request: pytest.FixtureRequest, build_site: Callable[..., Lab]) -> Callable[..., Lab]:
    """Likewise of a test's own wish."""

    def build(topology: Topology | None = None, **tables: dict[str, object]) -> Lab:
        network = {"offload": request.param, **tables.pop("network", {})}
        return build_site(topology, network=network, **tables)

    return build
