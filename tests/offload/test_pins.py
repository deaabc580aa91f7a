"""What of the fast path outlives its process: pinned, found, read, replaced, taken away; on a device and a bpffs of its own."""

import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from offload_trials import traffic
from splice_setup import PLAIN
from survivors import Host, die, finished, refuse
from two_devices import Router

from kracauer.lab import syscalls
from kracauer.offload import attachment, bpf, bytecode, layout, pins
from kracauer.offload.bpf import OffloadError
from kracauer.offload.kernel import KernelPath
from kracauer.tcp.state import BY_CODE, State
from kracauer.wire import ipv4
from kracauer.wire.vnet_hdr import NO_OFFLOAD

pytestmark = pytest.mark.lab

HOOKS = ("tcx", "clsact")


@pytest.fixture(params=HOOKS)
def host(
    request: pytest.FixtureRequest, own_netns: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Host]:
    try:
        KernelPath.open(1).close()
    except OffloadError as error:
        pytest.skip(str(error))
    if request.param == "clsact":

        def refuse(*_: Any) -> int:
            raise OSError(errno.EINVAL, "as kernels before 6.6 say it")

        monkeypatch.setattr(bpf, "attach_link", refuse)
    root = tmp_path / "bpf"
    root.mkdir()
    syscalls.mount_bpffs(root)
    try:
        host = Host(own_netns, root)
        yield host
        host.router.close()
    finally:
        syscalls.detach_mount(root)


def test_flows_go_on_without_a_process_and_the_next_one_knows_what_was_carried(host: Host) -> None:
    splice = host.splice()
    path = host.begin(splice)
    assert path.standing.survives
    host.carry()
    die(path)
    for _ in range(3):
        host.carry()
    assert traffic(splice)[:2] == (0, 0)
    path, former = host.start()
    assert path.inherits(splice)
    assert traffic(splice) == (4, 12, 2000 - PLAIN.seq_delta & 0xFFFFFFFF, 4, 20, 2000)
    assert splice.last_seen == pytest.approx(time.monotonic(), abs=10)
    assert path.install(splice)
    host.carry()  # while flows are taken up, by the old program
    path.attach(host.device)
    former.collect(host.records)
    former.close()
    assert traffic(splice)[:2] == (5, 15)
    host.carry()
    path.refresh(splice)
    assert traffic(splice)[:2] == (6, 18)
    assert [name for name in host.pinned() if name.startswith("v")] == [f"v1_2_{name}" for name in sorted(pins.KEPT)]
    path.close()
    host.check_left_alone()
    assert host.pinned() == []


@pytest.mark.parametrize("sides", ["client", "backend", "client backend"])
def test_fins_that_pass_without_a_process_are_found_by_the_next_one(host: Host, sides: str) -> None:
    splice = host.splice()
    die(host.begin(splice))
    for side in sides.split():
        host.finish(side)
    assert BY_CODE[splice.state] is State.ESTABLISHED
    path, former = host.start()
    wanted = {"client": State.CLIENT_FIN, "backend": State.BACKEND_FIN, "client backend": State.BOTH_FIN}[sides]
    assert BY_CODE[splice.state] is wanted
    assert splice.state_since == pytest.approx(time.monotonic(), abs=10)
    former.close()
    path.close()


def test_fins_that_pass_while_flows_are_taken_up_are_told(host: Host) -> None:
    splice, other = host.splice(), host.splice(replace(PLAIN, client=bytes((192, 0, 2, 99))))
    die(host.begin(splice, other))
    path, former = host.start()
    for each in (splice, other):
        assert path.install(each)
    host.finish("client")  # by the old program, which alone knows what was acknowledged last
    path.attach(host.device)
    (moved,) = former.collect(host.records)
    assert (moved.page, moved.at) == (splice.page, splice.at)
    assert former.collect(host.records) == []
    former.close()
    path.note_moved([moved])
    assert list(path.sweep(time.monotonic())) == [moved]
    assert BY_CODE[splice.state] is State.CLIENT_FIN
    # From here on the process judges FINs of flows that it has taken up.
    host.router.send(finished("backend"), NO_OFFLOAD)
    host.router.receive_in_userspace()
    path.close()


def test_what_is_kept_is_left_there_with_records_that_tell_all(host: Host) -> None:
    splice = host.splice()
    path = host.begin(splice)
    host.carry()
    path.keep()
    assert traffic(splice)[:2] == (1, 3)
    host.carry()
    host.begin().close()
    assert traffic(splice)[:2] == (2, 6)


def test_a_flow_that_was_removed_before_the_end_is_not_inherited(host: Host) -> None:
    first, second = host.splice(), host.splice(replace(PLAIN, client=bytes((192, 0, 2, 99))))
    path = host.begin(first, second)
    path.remove(first)
    die(path)
    path, former = host.start()
    assert [path.inherits(splice) for splice in (first, second)] == [False, True]
    former.close()
    path.close()


def test_an_entry_of_another_flow_with_the_same_key_is_nobodys(host: Host) -> None:
    splice = host.splice()
    path = host.begin(splice)
    host.carry()
    die(path)
    host.records.release(splice.page, splice.at)
    other = host.splice(replace(PLAIN, seq_delta=PLAIN.seq_delta + 1))
    path, former = host.start()
    assert not path.inherits(other)
    assert traffic(other)[0] == 0
    former.close()
    path.close()


@pytest.mark.parametrize("is_swapped", [False, True])
def test_a_process_that_dies_while_it_takes_over_costs_nothing(
    host: Host, monkeypatch: pytest.MonkeyPatch, is_swapped: bool
) -> None:
    splice, other = host.splice(), host.splice(replace(PLAIN, client=bytes((192, 0, 2, 99))))
    die(host.begin(splice, other))
    host.carry()
    path, former = host.start()
    assert path.install(splice)
    monkeypatch.setattr(former, "drop", lambda *_: None)  # it does not get there
    if is_swapped:
        path.attach(host.device)
        host.carry()
        die(path)
    else:
        assert path._have_kept({name: path.maps[of].fd for of, name in former.next_names.items()}) is None
        host.carry()
        os.close(path.program)
    former.close()
    host.carry()
    assert len([name for name in host.pinned() if name.startswith("v")]) == 6
    path, former = host.start()
    assert path.inherits(splice)
    assert not path.inherits(other)  # which the later one may have left alone, and answered a SYN
    assert traffic(splice)[:2] == (3, 9)
    path.attach(host.device)
    former.close()
    assert len([name for name in host.pinned() if name.startswith("v")]) == 3
    path.close()


def test_numbers_of_packets_go_on_where_they_were(host: Host) -> None:
    splice = host.splice()
    path = host.begin(splice)
    before = ipv4.parse(host.carry()).identification
    die(path)
    path = host.begin(splice)
    assert ipv4.parse(host.carry()).identification == 0x8000 | before + 1 & 0x7FFF
    path.close()


def test_everything_is_taken_away_at_once_and_packets_are_left_alone(host: Host) -> None:
    die(host.begin(host.splice()))
    host.carry()
    assert host.find().remove()
    assert host.pinned() == []
    host.check_left_alone()
    assert not host.find().remove()


def test_without_a_bpffs_it_says_so_and_ends_with_the_process(host: Host, tmp_path: Path) -> None:
    host.root = tmp_path / "no-bpffs"
    host.root.mkdir()
    path = host.begin(host.splice())
    assert not path.standing.survives
    assert "there is no bpffs" in path.standing.cause
    host.carry()
    path.keep()
    host.check_left_alone()


def test_what_can_be_pinned_no_more_leaves_no_pin_of_before(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    splice = host.splice()
    die(host.begin(splice))
    monkeypatch.setattr(bpf, "pin", refuse)
    path = host.begin(splice)
    assert (path.standing.survives, host.pinned()) == (False, [])
    host.carry()
    path.keep()
    host.check_left_alone()


def test_what_belongs_to_another_network_namespace_is_left_alone(host: Host) -> None:
    first = host.begin(host.splice())
    pinned = host.pinned()
    if "link" not in pinned:
        pytest.skip("a filter does not tell whose it is")
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    syscalls.unshare(syscalls.CLONE_NEWNET)
    try:
        former = host.find()
        assert former.is_foreign
        second = KernelPath.open(16, former=former)
        assert not former.remove()
        second.close()
    finally:
        syscalls.enter_network_namespace(Path(f"/proc/self/fd/{home}"))
        os.close(home)
    assert host.pinned() == pinned
    host.carry()
    first.close()


def test_pins_of_a_device_that_has_gone_are_read_and_replaced(host: Host) -> None:
    splice = host.splice()
    path = host.begin(splice)
    host.carry()
    die(path)
    host.router.close()
    host.router = Router(host.ip)
    path = host.begin(splice)
    assert traffic(splice)[:2] == (1, 3)
    assert path.standing.survives
    host.carry()
    path.close()
    assert host.pinned() == []


def test_a_directory_that_others_may_write_to_is_not_trusted(host: Host) -> None:
    die(host.begin(host.splice()))
    host.directory.chmod(0o777)
    assert host.find().keepers[0].names() == []
    path = host.begin()
    assert "others may write" in path.standing.cause
    path.close()


def test_maps_that_are_damaged_cost_their_counts_alone(host: Host) -> None:
    splice = host.splice()
    die(host.begin(splice))
    (host.directory / "v1_1_traffic").unlink()
    (host.directory / "v1_1_identifications").rename(host.directory / "v1_1_traffic")
    path, former = host.start()
    assert former.unreadable == ["v1_1_client_flows", "v1_1_traffic"]
    assert not path.inherits(splice)
    path.attach(host.device)
    former.close()
    assert [name for name in host.pinned() if "_1_" in name] == []
    path.close()


def test_maps_that_may_not_be_changed_any_more_are_noticed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    path = host.begin(host.splice())
    path.check()
    with monkeypatch.context() as patch:
        patch.setattr(bpf.Map, "delete", refuse)
        with pytest.raises(OffloadError, match="without CAP_BPF"):
            path.check()
        path.close()  # with nothing left to be done by such calls
    host.check_left_alone()
    assert not path.install(host.splice())
    assert path.sweep(0.0) == ()


def test_what_cannot_be_taken_off_the_device_takes_nothing_at_least(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    path = host.begin(host.splice())
    with monkeypatch.context() as patch:  # without CAP_NET_ADMIN, which a service on a device that is not its own gives up
        patch.setattr(attachment, "remove_filter", bool)
        patch.setattr(bpf, "detach_link", refuse)
        path.close()
    host.check_left_alone()
    host.find().remove()


def test_a_full_table_passes_the_trial(host: Host) -> None:
    path = KernelPath.open(1)
    path.sweep(time.monotonic())
    assert path.install(host.splice())
    path.check()
    path.close()


def test_another_layout_has_another_number() -> None:
    """Whoever changes what lies in the maps has to raise the version, and then the digest here.

    The digest alone, where zeros of earlier processes mean what is so: that nothing of what is new has been seen.
    """
    formats = [each.format for each in (layout._TO_BACKEND, layout._TO_CLIENT, layout.CARRIED, layout.COLLECTED)]
    kept = [(name, bytecode.MAPS[name]) for name in pins.KEPT]
    told = repr((formats, layout.COLLECTED_AT, layout.IDENTIFICATIONS, kept))
    assert (layout.VERSION, hashlib.sha256(told.encode()).hexdigest()[:16]) == (1, "651fdb473e1ff7ad")
