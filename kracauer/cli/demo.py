"""`kracauer demo`: watch IPv4 clients reach two IPv6-only servers, in network namespaces that are gone afterwards."""

import os
import shlex
import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from kracauer.cli.exit_codes import ExitCode
from kracauer.errors import LabError

if TYPE_CHECKING:
    from kracauer.lab.demonstration import Expectation
    from kracauer.lab.namespaces import NetworkNamespace
    from kracauer.lab.topology import Lab
    from kracauer.lab.visits import Visit

NAME: Final = "demo"
HELP: Final = "Watch IPv4 clients reach two IPv6-only servers by name, in network namespaces"

NOT_AS_EXPECTED: Final = 1

PICTURE: Final = """\
One IPv4 address, two servers that have IPv6 only:

  client                     router                            ┌─ origin1 [2001:db8:1::2]
  192.0.2.7 ── 198.51.100.1 (Kracauer) 2001:db8:46::192.0.2.7 ─┤
                                                               └─ origin2 [2001:db8:2::2]
"""
HEADINGS: Final = ("request", "answered by", "status", "caller, as the server saw it", "certificate")
CONCLUSION: Final = """\
Each request went to the one IPv4 address, and its name chose the server. The servers saw the client's own address and port.
The client verified each server's own certificate: Kracauer has none, and never saw a key.
"""


def add_arguments(parser: ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "--keep", action="store_true", help="leave everything running until Ctrl-C, and print commands to play with it"
    )


def run(arguments: Namespace) -> int:
    """Build the lab, show what it does, and take it down whatever happens; returns an exit status."""
    from kracauer.lab.interrupts import Interrupted, interruptible  # noqa: PLC0415 - only this command needs the lab

    try:
        with interruptible():
            return _run(is_kept=arguments.keep)
    except Interrupted as interruption:
        print(f"\nkracauer demo: {interruption}: everything is taken down", file=sys.stderr)
        return interruption.exit_code
    except LabError as error:
        print(f"kracauer demo: {error.cause}\n  → {error.remedy}", file=sys.stderr)
        return ExitCode.UNAVAILABLE if isinstance(error.__cause__, ImportError) else ExitCode.DEVICE


def _run(*, is_kept: bool) -> int:
    from kracauer.lab import demonstration, privileges  # noqa: PLC0415
    from kracauer.lab.topology import Lab  # noqa: PLC0415

    privileges.prepare()
    with Lab() as lab:
        print(PICTURE)
        demonstration.start(lab)
        outcomes = list(demonstration.show(lab))
        print(render_table([HEADINGS, *(render_row(*outcome) for outcome in outcomes)]))
        print(render_log(lab))
        is_as_expected = all(expectation.is_met_by(visit) for expectation, visit in outcomes)
        print(CONCLUSION if is_as_expected else render_failure(lab))
        if is_kept and is_as_expected:
            print(render_commands(lab), flush=True)
            _wait_for_the_end()
    return ExitCode.OK if is_as_expected else NOT_AS_EXPECTED


def _wait_for_the_end() -> None:
    from kracauer.lab.interrupts import Interrupted  # noqa: PLC0415

    try:
        while True:
            signal.pause()
    except Interrupted:
        print("\nTaking everything down.")


def render_row(expectation: "Expectation", visit: "Visit") -> tuple[str, ...]:
    """Return the cells of one request's row; a last one says so when it is not as it should be."""
    request = f"{visit.scheme}://{visit.name}/"
    status = visit.failure or str(visit.status)
    if visit.status is not None and visit.status != HTTPStatus.OK:
        status = f"{visit.status} {HTTPStatus(visit.status).phrase}"
    caller, certificate = "–", "–"
    if visit.seen:
        agreement = "its own" if visit.is_caller_seen else f"but it is {visit.local}"
        caller = f"{visit.seen['client']} port {visit.seen['port']}, {agreement}"
    if visit.certificate:
        certificate = f"{visit.certificate_owner}'s ({', '.join(visit.certificate_names)}), verified"
    cells = (request, str(visit.seen.get("server", "–")), status, caller, certificate)
    return cells if expectation.is_met_by(visit) else (*cells, "◀ NOT AS EXPECTED")


def render_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as lines in columns, the first row being the headings."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in _pairs(row, widths)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("─" * width for width in widths), *lines[1:], ""])


def _pairs(row: Sequence[str], widths: Sequence[int]) -> Iterable[tuple[str, int]]:
    return zip(row, [*widths, 0], strict=False)


def render_log(lab: "Lab") -> str:
    """Return what the servers printed."""
    lines = (line for process in lab.origins for line in process.log.splitlines()[1:])
    return "\n".join(["What the servers logged:", *(f"  {line}" for line in lines), ""])


def render_failure(lab: "Lab") -> str:
    """Return what helps to find out why a row was not as expected: what the daemon said."""
    return "Not everything was as expected. Kracauer's log:\n" + (lab.daemon.log if lab.daemon else "")


def render_commands(lab: "Lab") -> str:
    """Return commands that play with the running lab, to be pasted into another terminal."""
    root = lab.authority.root
    curl = _inside(lab.client)
    lines = [
        "Everything keeps running until Ctrl-C. In another terminal, try:",
        "",
        f"  {curl} curl --cacert {root} --resolve www.example.com:443:198.51.100.1 https://www.example.com/",
        f"  {curl} curl --cacert {root} --resolve any.example.org:443:198.51.100.1 https://any.example.org/",
        f"  {curl} curl --resolve shop.example.net:80:198.51.100.1 http://shop.example.net/",
        f"  {curl} curl --resolve nobody.example:443:198.51.100.1 https://nobody.example/",
        f"  {_inside(lab.router)} sh",
        *(f"  tail -f {process.log_path}" for process in (*lab.origins, lab.daemon) if process),
    ]
    return "\n".join([*lines, ""])


def _inside(namespace: "NetworkNamespace") -> str:
    from kracauer.lab.privileges import is_in_user_namespace  # noqa: PLC0415

    enter = f"nsenter --net={shlex.quote(str(namespace.path))}"
    return f"nsenter -t {os.getpid()} -U -m --preserve-credentials {enter}" if is_in_user_namespace() else enter
