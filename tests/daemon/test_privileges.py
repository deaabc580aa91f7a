"""Privileges given up: seen by a process of its own each time, for there is no way back."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NET_ADMIN = f"{1 << 12:016x}"
NONE = f"{0:016x}"
SETS = ("CapInh", "CapPrm", "CapEff", "CapAmb")
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
NOBODY_WITH_NET_ADMIN = (*NOBODY, "--inh-caps=+net_admin", "--ambient-caps=+net_admin")
SCRIPT = """
import json, sys, threading
sys.path.insert(0, {root!r})
from kracauer.daemon.privileges import drop_privileges
{before}
kept = drop_privileges(keep_net_admin={keep})
lines = open("/proc/self/status").read().splitlines()
status = {{key: value.strip() for key, _, value in (line.partition(":") for line in lines)}}
{after}
print(json.dumps({{"kept": kept, **status}}))
"""

is_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def run(*, keep: bool, wrapper: Sequence[str] = (), before: str = "", after: str = "") -> dict[str, Any]:
    script = SCRIPT.format(root=str(ROOT), keep=keep, before=before, after=after)
    command = [*wrapper, sys.executable, "-I", "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def sets(status: dict[str, Any]) -> dict[str, str]:
    return {name: status[name] for name in SETS}


@is_root
def test_root_keeps_one_capability_and_can_win_back_none() -> None:
    status = run(keep=True)
    assert status["kept"] == ["cap_net_admin"]
    assert sets(status) == {"CapInh": NONE, "CapPrm": NET_ADMIN, "CapEff": NET_ADMIN, "CapAmb": NONE}
    assert status["CapBnd"] == NONE
    assert status["NoNewPrivs"] == "1"


@is_root
def test_root_keeps_nothing_where_nothing_is_needed() -> None:
    status = run(keep=False)
    assert status["kept"] == []
    assert set(sets(status).values()) == {NONE}


@is_root
def test_a_user_with_the_ambient_capability_keeps_it_and_passes_it_on_to_nobody() -> None:
    status = run(keep=True, wrapper=NOBODY_WITH_NET_ADMIN)
    assert status["kept"] == ["cap_net_admin"]
    assert sets(status) == {"CapInh": NONE, "CapPrm": NET_ADMIN, "CapEff": NET_ADMIN, "CapAmb": NONE}
    assert status["NoNewPrivs"] == "1"


@pytest.mark.parametrize("keep", [True, False])
def test_a_user_without_any_has_nothing_to_drop(keep: bool) -> None:
    status = run(keep=keep, wrapper=NOBODY if os.geteuid() == 0 else ())
    assert status["kept"] == []
    assert set(sets(status).values()) == {NONE}
    assert status["NoNewPrivs"] == "1"


@is_root
def test_a_program_started_later_has_no_capability_though_it_is_root() -> None:
    after = "import subprocess; status['child'] = subprocess.check_output(['grep', '^Cap', '/proc/self/status'], text=True)"
    child = run(keep=True, after=after)["child"].split()
    assert dict(zip(child[::2], child[1::2], strict=True)) == {f"{name}:": NONE for name in (*SETS, "CapBnd")}


@is_root
def test_no_other_process_of_the_user_can_read_the_memory() -> None:
    after = """
import os
if (child := os.fork()) == 0:
    try:
        open("/proc/{}/mem".format(os.getppid()), "rb").close()
    except PermissionError:
        os._exit(13)
    os._exit(0)
status["read"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""
    assert run(keep=True, wrapper=NOBODY_WITH_NET_ADMIN, after=after)["read"] == 13


@is_root
def test_what_a_thread_holds_that_was_there_before_is_told() -> None:
    before = "event = threading.Event(); threading.Thread(target=event.wait).start()"
    kept = run(keep=True, before=before, after="event.set()")["kept"]
    assert "cap_net_admin" in kept
    assert "cap_sys_admin" in kept


@is_root
def test_a_thread_started_later_holds_what_its_process_does() -> None:
    after = """
found = []
read = lambda: found.extend(line for line in open("/proc/thread-self/status") if line.startswith("CapEff"))
thread = threading.Thread(target=read); thread.start(); thread.join()
status["thread"] = found[0].split()[1]
"""
    assert run(keep=True, after=after)["thread"] == NET_ADMIN
