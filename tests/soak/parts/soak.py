"""A soak from its beginning to its end: everybody acts in a thread of their own until the time is over, then all is checked."""

import json
import shutil
import tempfile
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from foes import Foe
from guests import Dawdlers, Idlers, Transfers, Visits
from scene import Pace, Scene
from troublemakers import Operator, Outages, Weather
from watch import Watch, check_drained, check_forgotten

from kracauer.lab.topology import Lab, Topology
from kracauer.lab.wire import Impairment

GROUPS: Final = ("visit", "transfer", "idle", "slow", "attack", "reload", "restart", "host", "outage", "weather")
WORDS: Final = {"kill": "restart"}  # other words for the same
MOST_LATE_S: Final = 180.0  # what a client has begun is brought to its end


class Actor(Protocol):
    """Who acts until the scene says stop."""

    actor: str

    def run(self) -> None:
        """Act."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it; `summary` for people."""

    directory: Path
    violations: list[str]
    summary: dict[str, object]


def soak(seconds: float, seed: int, *, only: frozenset[str] = frozenset(GROUPS), pace: Pace | None = None) -> Outcome:
    """Run it; LabError where there can be no lab."""
    directory = Path(tempfile.mkdtemp(prefix="kracauer-soak-"))
    # A wire costs each packet a walk through a process of its own, offloads included.
    topology = Topology(has_attacker=True, client_wire=Impairment() if "weather" in only else None)
    with Lab(topology) as lab:
        scene = Scene(lab, directory, seed, pace or Pace())
        try:
            scene.start()
            summary = _play(scene, seconds, only)
        except BaseException as error:
            scene.timeline.violate("soak", "it broke off", error=repr(error), traceback=traceback.format_exc())
            if not isinstance(error, Exception):
                raise
            summary = {}
        finally:
            scene.stop.set()
            shutil.copy(lab.directory / "kracauer.log", directory / "kracauer.log")
            scene.timeline.close()
    return Outcome(directory, scene.timeline.violations, summary)


def _cast(scene: Scene, only: frozenset[str]) -> list[Actor]:
    actors: list[Actor] = []
    if "visit" in only:
        actors += [Visits(scene, number) for number in range(4)]
    if "transfer" in only:
        actors += [Transfers(scene, number) for number in range(3)]
    if "idle" in only:
        actors.append(Idlers(scene, 8))
    if "slow" in only:
        actors += [Dawdlers(scene, number) for number in range(2)]
    if "attack" in only:
        actors += [Foe(scene, number) for number in range(2)]
    if only & {"reload", "restart", "host"}:
        actors.append(Operator(scene, set(only)))
    if "outage" in only:
        actors.append(Outages(scene))
    if "weather" in only:
        actors.append(Weather(scene))
    return actors


def _play(scene: Scene, seconds: float, only: frozenset[str]) -> dict[str, object]:
    actors, watch = _cast(scene, only), Watch(scene)
    scene.timeline.note("soak", "begin", seed=scene.seed, seconds=seconds, only=sorted(only), pace=scene.pace)
    threads = [threading.Thread(target=_act, args=(scene, each), name=each.actor, daemon=True) for each in (*actors, watch)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        scene.stop.wait(max(min(until - time.monotonic(), 1), 0))
    scene.stop.set()
    scene.timeline.note("soak", "the time is over")
    deadline = time.monotonic() + MOST_LATE_S
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0.1))
        if thread.is_alive():
            scene.timeline.violate("soak", f"{thread.name} does not come to its end")
    check_drained(scene)
    watch.look()
    connections = sum(getattr(each, "made", 0) for each in actors)
    watch.check_lines(connections)
    watch.check_memory()
    check_forgotten(scene)
    watch.read_log()
    return _summary(scene, actors, watch)


def _act(scene: Scene, actor: Actor) -> None:
    try:
        actor.run()
    except Exception as error:
        scene.timeline.violate(actor.actor, "the actor fell", error=repr(error), traceback=traceback.format_exc())


def _summary(scene: Scene, actors: list[Actor], watch: Watch) -> dict[str, object]:
    done: dict[str, int] = {}
    for each in actors:
        for name, count in getattr(each, "done", {}).items():
            done[name] = done.get(name, 0) + count
    visits = [each for each in actors if isinstance(each, Visits)]
    transfers = [each for each in actors if isinstance(each, Transfers)]
    last = watch.lives[-1].memory if watch.lives else []
    summary: dict[str, object] = {
        "seconds": round(scene.timeline.elapsed_s, 1),
        "visits": sum(each.made for each in visits),
        "slowest visit": max((each.slowest_s for each in visits), default=0.0),
        "transfers": sum(each.made for each in transfers),
        "transferred MiB": sum(each.bytes for each in transfers) >> 20,
        "asked on idle connections": sum(each.asked for each in actors if isinstance(each, Idlers)),
        "slow hellos": sum(each.made for each in actors if isinstance(each, Dawdlers)),
        "excused": dict(scene.timeline.excused.most_common()),
        "actions": dict(sorted(done.items())),
        "lives of the daemon": len(watch.lives),
        "resident MiB, least and most": [
            round(f(size for life in watch.lives for _, size in life.memory) / (1 << 20), 1) for f in (min, max)
        ]
        if last
        else [],
        "slopes in KiB a minute": [round(life.slope * 60 / 1024, 1) for life in watch.lives if life.slope is not None],
        "log lines": dict(watch.lines.most_common()),
    }
    scene.timeline.note("soak", "end", **summary)
    (scene.timeline.directory / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    return summary
