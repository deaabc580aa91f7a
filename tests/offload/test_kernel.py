import ctypes
import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from offload_trials import CLIENT_PORT, KernelTrial, from_backend, from_client, make
from splice_setup import PLAIN

from kracauer.offload import bpf
from kracauer.offload.bpf import OffloadError
from kracauer.offload.kernel import KernelPath
from kracauer.wire import ipv4, tcp
from kracauer.wire.tcp import TcpHeader

HEADER = TcpHeader(CLIENT_PORT, 443, 1000, 2000, tcp.ACK, 500)


@pytest.fixture
def trial(kernel_trial: KernelTrial) -> KernelTrial:
    kernel_trial.path.sweep(time.monotonic())
    return kernel_trial


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOMEM, errno.E2BIG])
@pytest.mark.parametrize("works_once", [False, True])
def test_a_flow_that_the_kernel_refuses_stays_with_the_engine_whole(
    trial: KernelTrial, monkeypatch: pytest.MonkeyPatch, number: int, works_once: bool
) -> None:
    update, calls = bpf.Map.update, []

    def refuse(table: bpf.Map, key: bytes, value: bytes, flags: int = bpf.ANY) -> None:
        calls.append(table)
        if works_once and len(calls) == 1:
            update(table, key, value, flags)
        else:
            raise OSError(number, "refused")

    def refuse_too(_: bpf.Map, key: bytes) -> bool:
        raise OSError(number, f"refused {len(key)}")

    splice = make(PLAIN)
    trial.path.refused.clear()
    with monkeypatch.context() as patch:
        patch.setattr(bpf.Map, "update", refuse)
        if not works_once:  # on old kernels nothing at all may be done without CAP_BPF
            patch.setattr(bpf.Map, "delete", refuse_too)
        assert not trial.path.install(splice)
    assert trial.path.refused == {errno.errorcode[number]: 1}
    assert trial.receive(from_client(PLAIN, HEADER, b"")) is None
    assert trial.receive(from_backend(PLAIN, HEADER, b"")) is None
    assert trial.path.install(splice)
    trial.path.remove(splice)


def test_what_was_refused_for_lack_of_privileges_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(bpf.Map, "create", refuse)
    with pytest.raises(OffloadError, match="CAP_BPF and CAP_NET_ADMIN"):
        KernelPath.open(4)


def test_two_capabilities_are_enough_for_the_verifier(trial: KernelTrial) -> None:
    """Without CAP_PERFMON it lets nobody compute where to look, and with what it then tells apart it may take for ever."""
    assert trial.path.program >= 0
    if os.geteuid() or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv: apt install util-linux")
    script = "from kracauer.offload.kernel import KernelPath; path = KernelPath.open(16); path.check(); path.close()"
    narrow = ("setpriv", "--bounding-set=-all,+net_admin,+bpf", "--inh-caps=-all")
    result = subprocess.run([*narrow, sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr


def test_memory_that_cannot_be_had_is_told_and_everything_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: bpf.Map) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    try:
        KernelPath.open(4).close()
    except OffloadError as error:
        pytest.skip(str(error))
    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(bpf.Map, "map_memory", refuse)
    with pytest.raises(OffloadError, match="no memory to map its memory"):
        KernelPath.open(4)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_each_client_has_numbers_of_its_own(trial: KernelTrial) -> None:
    other = replace(PLAIN, client=bytes((192, 0, 2, 8)))
    first, second = make(PLAIN), make(other)
    numbers = []
    for splice, deltas in ((first, PLAIN), (second, other), (first, PLAIN)):
        trial.path.sweep(time.monotonic())
        assert trial.path.install(splice)
        result = trial.receive(from_backend(deltas, HEADER, b""))
        assert result is not None
        numbers.append(ipv4.parse(result).identification)
        trial.path.remove(splice)
    assert numbers[2] == 0x8000 | (numbers[0] + 1) & 0x7FFF


def test_the_verifier_takes_the_program_with_no_more_than_what_a_service_has(kernel_trial: KernelTrial) -> None:
    """Root has CAP_PERFMON as well, and with it is allowed more: what it may do with pointers, and with what it never wrote."""
    assert kernel_trial.path.program >= 0  # it can be had at all
    refused: list[Exception] = []

    def load() -> None:
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        admin, bpf_itself = 1 << 12, 1 << (39 - 32)
        libc = ctypes.CDLL(None)
        data = (ctypes.c_uint32 * 6)()  # of this thread alone: effective, permitted, inheritable, and their upper halves
        assert libc.capget(header, data) == 0
        data[0] = data[1] = admin
        data[3] = data[4] = bpf_itself
        assert libc.capset(header, data) == 0
        try:
            KernelPath.open(4).close()
        except OffloadError as error:
            refused.append(error)

    thread = threading.Thread(target=load)
    thread.start()
    thread.join()
    assert refused == []
