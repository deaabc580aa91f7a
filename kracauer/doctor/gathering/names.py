"""The DNS names of backends, looked up as the service does it."""

import asyncio
from dataclasses import replace
from typing import Final

from kracauer.config import Config
from kracauer.daemon.lookup import Lookup, LookupFailedError
from kracauer.doctor.facts import Name

TIMEOUT_S: Final = 2.0
AT_MOST: Final = 256


def look_up_names(config: Config) -> tuple[Name, ...]:
    """What each name of a backend stands for; of very many, the first."""
    names = config.routes.names[:AT_MOST]
    return asyncio.run(_look_up_all(names, config)) if names else ()


async def _look_up_all(names: tuple[str, ...], config: Config) -> tuple[Name, ...]:
    lookup = Lookup(replace(config.dns, timeout_s=min(config.dns.timeout_s, TIMEOUT_S)))
    return tuple(await asyncio.gather(*(_look_up(name, lookup, config) for name in names)))


async def _look_up(name: str, lookup: Lookup, config: Config) -> Name:
    try:
        answer = await lookup.ask(name)
    except LookupFailedError as error:
        return Name(name, error=f"no resolver tells what it has ({error})")
    inside = tuple(address for address in answer.addresses if any(address in net for net in config.backend_networks))
    return Name(name, inside, tuple(address for address in answer.addresses if address not in inside))
