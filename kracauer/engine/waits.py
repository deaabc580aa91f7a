"""Flows that cannot go on before it is known what addresses a DNS name has."""

from collections import Counter
from dataclasses import dataclass

from kracauer.flows import Flow
from kracauer.peek import Peeked


@dataclass(slots=True)
class Wait:
    """What one flow waits for: the `names` that nothing is known of yet, until `until` at the latest.

    `peeked` is what it has said, should it have to be told no. `client` is whose choice the name was, if any client's.
    """

    peeked: Peeked
    names: dict[str, None]
    until: float
    client: int | None = None


class Waits:
    """Who waits, found by flow and by name."""

    __slots__ = ("_by_flow", "_by_name", "asking")

    def __init__(self) -> None:
        self._by_flow: dict[Flow, Wait] = {}
        self._by_name: dict[str, dict[Flow, None]] = {}
        self.asking: Counter[int] = Counter()  # by client: waits that it has brought about with a name of its own choice

    def __len__(self) -> int:
        return len(self._by_flow)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def add(self, flow: Flow, wait: Wait) -> None:
        """Have `flow` wait."""
        self._by_flow[flow] = wait
        for name in wait.names:
            self._by_name.setdefault(name, {})[flow] = None
        if wait.client is not None:
            self.asking[wait.client] += 1

    def of(self, name: str) -> list[tuple[Flow, Wait]]:
        """All who wait for `name`, whoever came first first."""
        return [(flow, self._by_flow[flow]) for flow in self._by_name.get(name, ())]

    def satisfy(self, name: str) -> None:
        """Have nobody wait for `name` any more; who waits for nothing else still has its wait."""
        for flow in self._by_name.pop(name, ()):
            del self._by_flow[flow].names[name]

    def discard(self, flow: Flow) -> Wait | None:
        """Have `flow` wait no longer; returns what it waited for, if it did."""
        wait = self._by_flow.pop(flow, None)
        if wait is None:
            return None
        for name in wait.names:
            flows = self._by_name[name]
            del flows[flow]
            if not flows:
                del self._by_name[name]
        if wait.client is not None:
            self.asking[wait.client] -= 1
            if not self.asking[wait.client]:
                del self.asking[wait.client]
        return wait
