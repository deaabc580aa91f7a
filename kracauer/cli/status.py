"""`kracauer status`: what the running service does."""

import json
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from kracauer.cli.exit_codes import ExitCode
from kracauer.cli.running_service import add_service_arguments, ask, find_device

NAME: Final = "status"
HELP: Final = "show what the running service does"
_MOST_SHOWN: Final = 20


def add_arguments(parser: ArgumentParser) -> None:
    """Add `-c FILE`, `--device NAME` and `--json`."""
    add_service_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")


def run(arguments: Namespace) -> int:
    """Print it and return 0, or say why it cannot be had."""
    reply = ask(find_device(arguments), "status")
    if isinstance(reply, ExitCode):
        return reply
    if arguments.json:
        print(json.dumps(reply, indent=2))
    else:
        for name, value in render_status(reply):
            print(f"{name:<12} {value}")
    return ExitCode.OK


def render_status(status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is worth knowing at a glance, as a name and a value a line."""
    flows, counters, last = status["flows"], status["counters"], status["last_reload"]
    yield "version", status["version"]
    yield "process", f"{status['pid']}, for {render_duration(status['uptime_s'])}"
    yield "device", f"{status['device']}, prefix {status['prefix']}"
    yield "listening", ", ".join(status["listening"])
    yield "names", str(status["names"])
    states = ", ".join(f"{count} {state}" for state, count in sorted(flows.items()))
    yield "connections", f"{sum(flows.values())}{f': {states}' if states else ''}"
    yield from render_workers(status.get("workers", ()))
    yield from render_backends(status["backends"])
    yield "kept", f"{status['flows_kept']} of them would outlive this process"
    if last is not None:
        problems = last["problems"]
        yield "last reload", f"{last['at']}, {'refused: ' + '; '.join(problems) if problems else 'done'}"
    yield "packets", f"{counters['packets_read']} read, {counters['packets_written']} written"
    if "offload" in status:  # which an older service does not say
        yield "fast path", render_fast_path(status["offload"], counters.get("carried"))
    for table, shown in (("offload_refused", "not taken"), *((name, name) for name in ("dropped", "refused", "events"))):
        if table in counters:
            yield shown, ", ".join(f"{count} {name}" for name, count in sorted(counters[table].items()))
    yield "mistakes", f"{counters['internal_errors']} internal errors"


def render_fast_path(offload: Mapping[str, Any], carried: Mapping[str, int] | None) -> str:
    """What the kernel carries, or why it carries nothing."""
    if offload["hook"] is None:
        return f"none: {offload['cause']}"
    packets, size = (carried["packets"], carried["bytes"]) if carried else (0, 0)
    said = f"by {offload['hook']}: {_count(offload['flows'], 'connection')}; {_count(packets, 'packet')} carried, {size} bytes"
    said += f"; {_count(carried.get('syns', 0) if carried else 0, 'SYN')} answered"  # which an older service does not say
    if not offload["survives"]:
        return f"{said}; ends with this process"
    keeper = offload.get("kept_by")  # which an older service does not say
    return f"{said}; kept by the {keeper}" if keeper else said


def render_workers(workers: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """How many workers there are, where there are several, and a line for each of them."""
    if workers:
        yield "workers", str(len(workers))
    for worker in workers:
        said = f"process {worker['pid']}, for {render_duration(worker['uptime_s'])}"
        flows = "nothing heard yet" if worker["flows"] is None else _count(worker["flows"], "connection")
        starts = "" if worker["starts"] == 1 else f", started {worker['starts']} times"
        yield "worker", f"{worker['number']}  {said}: {flows}{starts}"


def render_backends(backends: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """How many backends there are in which state, and a line for each of them, or, where they are many, for those not up."""
    counts = Counter(backend["state"] for backend in backends)
    yield "backends", ", ".join(f"{counts[state]} {state}" for state in ("up", "down", "unknown") if counts[state]) or "none"
    shown = backends if len(backends) <= _MOST_SHOWN else [backend for backend in backends if backend["state"] != "up"]
    for backend in shown[:_MOST_SHOWN]:
        yield "backend", f"[{backend['address']}]:{backend['port']}  {_render_backend(backend)}"
    if len(shown) > _MOST_SHOWN:
        yield "backend", f"and {len(shown) - _MOST_SHOWN} more that are not up: see --json"


def _render_backend(backend: Mapping[str, Any]) -> str:
    has_answered = backend["answered_before_s"] is not None
    said = f"{backend['state']} for {render_duration(backend['state_for_s'])}"
    if backend["state"] != "up" and backend["last_failure"] is not None:
        said += f": {backend['last_failure']}"
        if backend["last_failure"] == "silent" and not has_answered:
            said += " (never answered: its answers may not find the way back)"
    parts = [said]
    if backend["state"] == "up" and backend["round_trip_s"] is not None:
        parts.append(f"{backend['round_trip_s'] * 1000:.1f} ms")
    parts += ["to be emptied"] if backend["draining"] else []
    parts += [_count(backend["flows"], "connection"), _count(backend["names"], "name")]
    return ", ".join(parts)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def render_duration(seconds: float) -> str:
    """`seconds` in the two largest units."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    units = [(days, "d"), (hour, "h"), (minute, "min"), (second, "s")]
    first = next((index for index, (count, _) in enumerate(units) if count), len(units) - 1)
    return " ".join(f"{count} {unit}" for count, unit in units[first : first + 2])
