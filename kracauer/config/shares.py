"""The part of a configuration's limits that one of several workers has."""

from dataclasses import replace

from kracauer.config.values import Config
from kracauer.routes import RouteTable


def share_of(config: Config, workers: int) -> Config:
    """`config` as each of so many workers goes by it: limits divided among them and rounded up, all else as it is.

    A limit of 0 stands for none, and stays. `held_bytes` never falls below what the largest first message takes.
    """
    if workers == 1:
        return config
    whole = config.limits
    limits = replace(
        whole,
        flows=_part(whole.flows, workers),
        held_bytes=max(_part(whole.held_bytes, workers), whole.peek_bytes),
        unproven=_part(whole.unproven, workers),
        unproven_per_client=_part(whole.unproven_per_client, workers),
        flows_per_client=_part(whole.flows_per_client, workers),
        new_per_second_per_client=whole.new_per_second_per_client / workers,
    )
    if not any(route.max_flows for route in config.routes):
        return replace(config, limits=limits)
    routes = RouteTable(replace(route, max_flows=_part(route.max_flows, workers)) for route in config.routes)
    return replace(config, limits=limits, routes=routes)


def _part(limit: int, workers: int) -> int:
    return -(-limit // workers)
