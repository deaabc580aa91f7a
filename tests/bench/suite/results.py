"""What was measured: figures by part, point, way and round; how they are kept, and what is said of them.

A ratio is taken between two ways in the same round, in which they were measured within seconds of each other: what the
machine's other work does to both cancels. What is shown is the median of the rounds, with the least and the most beside it.
"""

import json
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, TypeAlias

FILE: Final = "results.json"
VERSION: Final = 1  # of the file

Figures: TypeAlias = dict[str, float]
Point: TypeAlias = dict[str, int | str]
Where: TypeAlias = Mapping[str, int | str]
EVERYWHERE: Final[Where] = {}


@dataclass(frozen=True, slots=True)
class Spread:
    """The rounds of one figure, or of one ratio."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread | None":
        """None where there is none."""
        return cls(statistics.median(values), min(values), max(values)) if values else None


@dataclass(slots=True)
class Series:
    """What one way did at one point, round after round; None stands for a round that brought no figures."""

    point: Point
    way: str
    rounds: list[Figures | None] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)

    def values(self, figure: str) -> list[float]:
        """The figure in every round that has it."""
        return [each[figure] for each in self.rounds if each is not None and figure in each]

    def spread(self, figure: str) -> Spread | None:
        """What is shown of a figure."""
        return Spread.of(self.values(figure))

    def ratios(self, other: "Series", figure: str) -> Spread | None:
        """What is shown of the quotient of this and another way, or point, round by round."""
        pairs = [
            (own[figure], its[figure])
            for own, its in zip(self.rounds, other.rounds, strict=False)
            if own is not None and its is not None and figure in own and its.get(figure)
        ]
        return Spread.of([own / its for own, its in pairs])

    def differences(self, other: "Series", figure: str) -> Spread | None:
        """Likewise of what this one has more than the other."""
        pairs = [(own, its) for own, its in zip(self.rounds, other.rounds, strict=False) if own is not None and its is not None]
        return Spread.of([own[figure] - its[figure] for own, its in pairs if figure in own and figure in its])


@dataclass(slots=True)
class Part:
    """All that was measured of one kind, in one go.

    `left_out` says of ways why they are not there. `busy` is the share of the machine that somebody else used just before it
    began, `stolen` what its host took of it meanwhile.
    """

    name: str
    series: list[Series] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    measured: str = ""
    commit: str = ""
    seconds: float = 0.0
    rounds: int = 0
    took_s: float = 0.0
    busy: float = 0.0
    stolen: float = 0.0

    def find(self, way: str, where: Where = EVERYWHERE) -> Series | None:
        """The series of a way at the first point of this kind."""
        return next(self.select(way, where), None)

    def select(self, way: str | None = None, where: Where = EVERYWHERE) -> Iterator[Series]:
        """All series of a way, or of all, at points of this kind: those that have all that `where` has."""
        for each in self.series:
            if way in (None, each.way) and all(each.point.get(key) == value for key, value in where.items()):
                yield each

    def points(self, key: str, where: Where = EVERYWHERE) -> list[int | str]:
        """The values of `key` at points of this kind, in the order in which they were measured."""
        return list(dict.fromkeys(each.point[key] for each in self.select(where=where) if key in each.point))

    def ways(self, where: Where = EVERYWHERE) -> list[str]:
        """The ways that were measured at such points, in order."""
        return list(dict.fromkeys(each.way for each in self.select(where=where)))


@dataclass(slots=True)
class Results:
    """The parts there are, all from one machine."""

    machine: dict[str, str]
    parts: dict[str, Part] = field(default_factory=dict)

    def render(self) -> str:
        """Return it as JSON, a line for each series."""
        lines = ["{", f'"version": {VERSION},', f'"machine": {json.dumps(self.machine, indent=1)},', '"parts": {']
        rendered = [f"{json.dumps(name)}: {_render_part(part)}" for name, part in self.parts.items()]
        return "\n".join([*lines, ",\n".join(rendered), "}", "}", ""])

    @classmethod
    def parse(cls, text: str) -> "Results":
        """Return what `render` has made into text; ValueError where it is something else."""
        document = json.loads(text)
        if not isinstance(document, dict) or document.get("version") != VERSION:
            raise ValueError(f"not results of version {VERSION}")
        return cls(document["machine"], {name: _parse_part(name, part) for name, part in document["parts"].items()})

    def save(self, directory: Path) -> None:
        """Write the file, whole or not at all."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / f"{FILE}.new"
        path.write_text(self.render(), encoding="utf-8")
        path.replace(directory / FILE)


def load(directory: Path) -> Results | None:
    """Return the results in a directory; None where there are none, or some of another version."""
    try:
        return Results.parse((directory / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _render_part(part: Part) -> str:
    head = {key: value for key, value in asdict(part).items() if key not in ("name", "series")}
    rows = ",\n".join(f"  {json.dumps(_plain(series))}" for series in part.series)
    return f'{json.dumps(head)[:-1]}, "series": [\n{rows}\n]}}'


def _plain(series: Series) -> dict[str, Any]:
    rounds = [each and {key: _short(value) for key, value in each.items()} for each in series.rounds]
    return {"point": series.point, "way": series.way, "rounds": rounds, "failures": dict(series.failures)}


def _short(value: float) -> float:
    """`value` with as many digits as it can be trusted for, and some."""
    return float(f"{value:.5g}")


def _parse_part(name: str, fields: Mapping[str, Any]) -> Part:
    rows = [
        Series(row["point"], row["way"], row["rounds"], Counter(row["failures"]))  # shapes as `_plain` has made them
        for row in fields["series"]
    ]
    return Part(name, rows, **{key: value for key, value in fields.items() if key != "series"})
