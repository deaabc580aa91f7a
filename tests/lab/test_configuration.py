"""The lab's configurations are such as the daemon takes."""

from ipaddress import IPv4Address

from kracauer.config import parse_config
from kracauer.lab import configuration
from kracauer.lab.topology import ORIGIN_1, ORIGIN_2, SERVICE_2


def test_hosts_listeners_and_tables_are_read_as_they_were_meant() -> None:
    text = configuration.render(
        {"www.example.com": ORIGIN_1, "*.example.org": [ORIGIN_1, f"[{ORIGIN_2}]:8443"]},
        [(SERVICE_2, 8080, "auto")],
        network={"ipv6_mtu": 1280, "offloads": False},
    )
    config = parse_config(text)
    [listener] = config.listeners
    assert (listener.address, listener.port, listener.protocol) == (IPv4Address(SERVICE_2), 8080, "auto")
    route = config.routes.lookup("a.example.org")
    assert route is not None
    assert [(str(backend.address), backend.port) for backend in config.backends] == [(ORIGIN_1, None), (ORIGIN_2, 8443)]
    assert (config.network.ipv6_mtu, config.network.offloads) == (1280, False)
