"""Flows of which a fast path has carried a FIN: each is brought to where its record stands already."""

from collections.abc import Iterable
from typing import Final

from kracauer.engine.context import Context
from kracauer.flows import client_key
from kracauer.replies import Endpoints
from kracauer.tcp.splice import Splice
from kracauer.tcp.state import State

# A table that is full is no reason to have all records read for each connection that asks for a place: 65,536 busy flows take a
# tenth of a second. Who is turned away repeats itself, and finds room then.
_LOOK_EVERY_S: Final = 0.5


class Following:
    """Has flows follow their records, many at a time; `Context.refresh` does that for one that is about to be looked at."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._looked_at = 0.0

    def follow(self, moved: Iterable[Splice]) -> None:
        """Move the flows of these records on, and off the fast path at their end."""
        context, ended = self._context, []
        for splice in moved:
            constants = splice.constants
            service, client = constants.v4_addresses[:4], constants.v4_addresses[4:]
            key = client_key(Endpoints(client, service, constants.client_port, constants.service_port))
            flow = context.flows.by_client.get(key)
            # It may have ended since, and have another one in its place: which is where its own record stands, so all is well.
            if flow is None or flow.splice is None:
                continue
            context.catch_up(flow)
            if flow.state is State.BOTH_FIN:
                flow.take_fast_path()
                ended.append(flow.splice)
        context.fast_path.remove_all(ended)

    def look(self, now: float) -> bool:
        """Find out which flows have ended without us; False where that was done a moment ago."""
        if not self._context.has_fast_path or now - self._looked_at < _LOOK_EVERY_S:
            return False
        self._looked_at = now
        self.follow(self._context.fast_path.sweep(now))
        return True
