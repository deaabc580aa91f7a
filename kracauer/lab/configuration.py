"""Configurations for the daemon in the lab, written as an operator would write them."""

import json
from collections.abc import Mapping, Sequence
from typing import Final

from kracauer.lab.topology import PREFIX, SERVICE

LISTENERS: Final = ((SERVICE, 443, "tls"), (SERVICE, 80, "http"))


def render(
    hosts: Mapping[str, str | Sequence[str]],
    listeners: Sequence[tuple[str, int, str]] = LISTENERS,
    **tables: Mapping[str, object],
) -> str:
    """Return a configuration as TOML; `tables` are its other tables, such as `network={"ipv6_mtu": 1280}`."""
    lines = [f'prefix = "{PREFIX}"']
    for address, port, protocol in listeners:
        lines += ["", "[[listen]]", f'address = "{address}"', f"port = {port}", f'protocol = "{protocol}"']
    for name, content in {"hosts": hosts, **tables}.items():
        lines += ["", f"[{name}]", *(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in content.items())]
    return "\n".join([*lines, ""])
