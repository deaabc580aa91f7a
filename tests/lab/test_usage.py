"""What processes use is told as the kernel counts it."""

import subprocess
import sys
import time

from kracauer.lab import usage


def spawn(script: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def test_who_works_is_busy_and_who_sleeps_is_not() -> None:
    worker = spawn("print('x', flush=True)\nwhile True: pass")
    sleeper = spawn("import time; print('x', flush=True); time.sleep(60)")
    try:
        for process in (worker, sleeper):
            assert process.stdout is not None
            process.stdout.read(1)
        before = [usage.busy_s([process.pid]) for process in (worker, sleeper)]
        machine, started = usage.machine_busy_s(), time.monotonic()
        time.sleep(0.5)
        elapsed = time.monotonic() - started
        worked, slept = (usage.busy_s([p.pid]) - b for p, b in zip((worker, sleeper), before, strict=True))
        assert 0.1 < worked < elapsed + 0.1
        assert slept < 0.05
        assert usage.machine_busy_s() - machine > worked - 0.1
    finally:
        finish(worker)
        finish(sleeper)


def test_threads_are_counted_with_their_process() -> None:
    script = """
import threading, time
def work():
    while True:
        pass
threading.Thread(target=work, daemon=True).start()
print("x", flush=True)
time.sleep(60)
"""
    process = spawn(script)
    try:
        assert process.stdout is not None
        process.stdout.read(1)
        before = usage.busy_s([process.pid])
        time.sleep(0.3)
        assert usage.busy_s([process.pid]) - before > 0.05
    finally:
        finish(process)


def test_a_family_is_a_process_and_all_that_descend_from_it() -> None:
    parent = subprocess.Popen(["sh", "-c", "sh -c 'sleep 60 & echo x; wait' & wait"], stdout=subprocess.PIPE)
    try:
        assert parent.stdout is not None
        parent.stdout.read(1)
        family = usage.family(parent.pid)
        assert family[0] == parent.pid
        assert len(family) == 3
    finally:
        for pid in reversed(family):
            subprocess.run(["kill", str(pid)], check=False)
        parent.communicate()


def test_memory_grows_with_what_is_used_of_it() -> None:
    small, large = (
        spawn(f"kept = b'x' * {size}; print('x', flush=True); import time; time.sleep(60)") for size in (1, 50_000_000)
    )
    try:
        for process in (small, large):
            assert process.stdout is not None
            process.stdout.read(1)
        sizes = [usage.memory_bytes([process.pid]) for process in (small, large)]
        assert 48_000_000 < sizes[1] - sizes[0] < 52_000_000
        both = usage.memory_bytes([small.pid, large.pid])
        assert abs(both - sum(sizes)) < 4_000_000
    finally:
        finish(small)
        finish(large)


def test_the_kernel_s_own_memory_is_told() -> None:
    assert usage.slab_bytes() > 1_000_000
    assert usage.machine_stolen_s() >= 0
