"""Flows that an earlier process has left: each record is checked, and what holds up goes on where it stood."""

from typing import Final, NamedTuple

from kracauer.engine.context import Context
from kracauer.engine.spliced import Spliced
from kracauer.flows import Flow, Renewal, backend_key
from kracauer.replies import Endpoints
from kracauer.tcp.cookie import LIFETIME_S
from kracauer.tcp.record import MAKES_TIMESTAMPS, Constants, Place, read_constants
from kracauer.tcp.splice import Splice
from kracauer.tcp.state import BY_CODE, SUPERSEDABLE
from kracauer.tcp.timestamping import TimestampingSplice
from kracauer.translate import addresses

_CLOCK_LEEWAY_S: Final = 1.0
_MAX_SHIFT: Final = 14  # RFC 7323 §2.3


class Adoption(NamedTuple):
    """How many flows go on, and how many records were none that can be trusted and have been erased."""

    adopted: int
    discarded: int


def adopt(context: Context, spliced: Spliced, now: float) -> Adoption:
    """Make flows of what the records of `context` hold."""
    adopted = discarded = 0
    for place in list(context.records.occupied()):
        flow = _resume(context, place, now)
        if flow is None:
            context.records.release(place.page, place.at)
            discarded += 1
        else:
            spliced.resume(flow, now)
            adopted += 1
    # Those of connections that have outlived their listener are ours, too.
    context.service_addresses |= {flow.service for flow in context.flows}
    context.promise()
    return Adoption(adopted, discarded)


def _resume(context: Context, place: Place, now: float) -> Flow | None:
    memory, at = place.page.memory, place.at
    constants = read_constants(memory, at)
    state = BY_CODE.get(memory[at])
    if constants is None or state is None or not _is_plausible(context, constants):
        return None
    kind = TimestampingSplice if constants.kind & MAKES_TIMESTAMPS else Splice
    splice = kind(place, context.identifications)
    if not all(_is_past(moment, now) for moment in (constants.created, splice.last_seen, splice.state_since)):
        return None
    mapped, address = constants.v6_addresses[:16], constants.v6_addresses[16:]
    from_backend = Endpoints(address, mapped, constants.backend_port, constants.client_port)
    flow = Flow.resume(splice, state, context.resolve_address(address, constants.backend_port))
    key = backend_key(from_backend)
    if flow.client_key in context.flows.by_client or key in context.flows.by_backend:
        return None
    context.enter(flow)
    context.flows.bind(flow, key)
    route = context.config.routes.lookup(constants.hostname)
    if route is not None:
        context.take_route(flow, route)
    if state in SUPERSEDABLE:
        context.flows.retire(flow)
    splice.limit(**context.size_limits)
    if not context.fast_path.inherits(splice):
        # The earlier process may have answered a SYN of the same addresses and ports, and told nobody.
        flow.renewal = Renewal(None, now + LIFETIME_S, since=now)
    return flow


def _is_plausible(context: Context, constants: Constants) -> bool:
    """Whether the record is of this prefix, and its addresses are such as a flow may have."""
    service, client = constants.v4_addresses[:4], constants.v4_addresses[4:]
    mapped = constants.v6_addresses[:16]
    backend = constants.v6_addresses[16:]
    return (
        mapped == addresses.embed(context.prefix, client)
        and addresses.is_legal_source_v4(client)
        and addresses.is_legal_source_v4(service)
        and addresses.is_legal_source_v6(backend)
        and addresses.extract(context.prefix, backend) is None
        and 0 <= constants.window_shift_to_backend <= _MAX_SHIFT
        and -_MAX_SHIFT <= constants.window_shift_to_client <= _MAX_SHIFT
        and 0 not in (constants.client_port, constants.service_port, constants.backend_port)
    )


def _is_past(moment: float, now: float) -> bool:
    """Whether `moment` is one of this clock: one that lies ahead is of a machine that has been started anew since."""
    return 0 <= moment <= now + _CLOCK_LEEWAY_S
