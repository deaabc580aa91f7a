"""The backends of one name: a single one, or a list whose items may be tables with a weight and a drain of their own."""

from typing import Final, NamedTuple, TypeAlias

from kracauer.config import checks
from kracauer.config.problems import Problems, child
from kracauer.config.reader import Check, Table, checked
from kracauer.routes import Backend, NamedBackend

AnyBackend: TypeAlias = Backend | NamedBackend

HIGHEST_WEIGHT: Final = 1000
_ADDRESS_EXAMPLE: Final = 'address = "2001:db8:1::2"'


class BackendList(NamedTuple):
    """What was read: the backends, their weights (none where none is given), those to be emptied, and where a weight stands."""

    backends: tuple[AnyBackend, ...] = ()
    weights: tuple[int, ...] = ()
    draining: frozenset[AnyBackend] = frozenset()
    weight_path: str | None = None


class _Item(NamedTuple):
    path: str
    weight: int | None
    is_draining: bool


def read_backends(problems: Problems, path: str, value: object, check: Check[AnyBackend]) -> BackendList:
    """The backends that `value` at `path` says; `check` is that of a single one. What is wrong becomes a problem."""
    if not isinstance(value, list):
        backend = checked(problems, path, value, check, None)
        return BackendList() if backend is None else BackendList((backend,))
    if not value:
        problems.add(path, value, 'must have at least one backend, as in ["2001:db8:1::3", "2001:db8:1::4"]')
    before = len(problems)
    found: dict[AnyBackend, _Item] = {}
    for index, element in enumerate(value):
        place = child(path, index)
        backend, item = _read_item(problems, place, element, check)
        if backend is None:
            continue
        if found.setdefault(backend, item) is not item:
            problems.add(place, element, f"is the same backend as {found[backend].path}: remove one of the two")
    if found and len(problems) == before and all(item.is_draining for item in found.values()):
        problems.add(path, value, "has drain = true everywhere, which leaves no backend for new connections: spare one")
    weighted = [item for item in found.values() if item.weight is not None]
    return BackendList(
        tuple(found),
        tuple(item.weight or 1 for item in found.values()) if weighted else (),
        frozenset(backend for backend, item in found.items() if item.is_draining),
        child(weighted[0].path, "weight") if weighted else None,
    )


def _read_item(problems: Problems, path: str, value: object, check: Check[AnyBackend]) -> tuple[AnyBackend | None, _Item]:
    if not isinstance(value, dict):
        return checked(problems, path, value, check, None), _Item(path, None, is_draining=False)
    table = Table(value, path, problems)
    backend = table.require("address", check, _ADDRESS_EXAMPLE)
    weight = table.read("weight", checks.whole_number(1, HIGHEST_WEIGHT), None)
    is_draining = table.read("drain", checks.boolean, fallback=False)
    table.report_unknown_keys()
    return backend, _Item(path, weight, is_draining)
