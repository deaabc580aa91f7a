"""What of the fast path outlives its process without a bpffs: given to the service manager, found, replaced, taken away."""

import errno
import fcntl
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from offload_trials import traffic
from service_manager import ServiceManager, hand_over
from splice_setup import PLAIN
from survivors import Host, die
from two_devices import Router

from kracauer.daemon import descriptor_store
from kracauer.daemon.descriptor_store import MOST, DescriptorStore
from kracauer.daemon.notify import notify
from kracauer.fast_path import Standing
from kracauer.lab import syscalls
from kracauer.offload import bpf, bytecode, layout
from kracauer.offload.bpf import OffloadError
from kracauer.offload.kernel import KernelPath
from kracauer.offload.pins import KEPT, Former
from kracauer.wire import ipv4

pytestmark = pytest.mark.lab

OTHERS = "kracauer-of-another/link"


class Service(Host):
    """A host whose service manager holds descriptors, and which has a bpffs from `mount` on."""

    def __init__(self, ip: Callable[[str], str], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(ip, root)
        self.monkeypatch = monkeypatch
        self.manager = ServiceManager(root.parent)
        self.given: list[int] = []
        self.mounted: Path | None = None

    def find(self) -> Former:
        self.given = self.manager.lend(self.monkeypatch)
        return Former.find(self.device, self.root, DescriptorStore(self.device))

    def die(self, path: KernelPath) -> None:
        """As `die`, and with what the process was handed closed, too."""
        die(path)
        self.let_go()

    def let_go(self) -> None:
        """Close what the process was handed, as far as it has not done so."""
        for fd in self.given:
            with suppress(OSError):
                os.close(fd)
        self.given = []

    def held(self) -> list[str]:
        """What the manager holds for the device."""
        prefix = f"kracauer-{self.device}/"
        return [name.removeprefix(prefix) for name in self.manager.names if name.startswith(prefix)]

    def links(self) -> set[int]:
        return bpf.links_of(socket.if_nametoindex(self.device))

    def mount(self) -> None:
        syscalls.mount_bpffs(self.root)
        self.mounted = self.root


@pytest.fixture(params=("tcx", "clsact"))
def host(
    request: pytest.FixtureRequest, own_netns: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Service]:
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
    host = Service(own_netns, root, monkeypatch)
    try:
        yield host
    finally:
        host.let_go()
        host.manager.close()
        host.router.close()
        if host.mounted is not None:
            syscalls.detach_mount(host.mounted)


def needs_links(host: Service) -> None:
    if "link" not in host.held():
        pytest.skip("needs links: Linux 6.6")


def maps(number: int) -> list[str]:
    return [f"v1_{number}_{name}" for name in sorted(KEPT)]


def test_flows_go_on_without_a_process_and_the_next_one_knows_what_was_carried(host: Service) -> None:
    splice = host.splice()
    path = host.begin(splice)
    assert path.standing == Standing(path.standing.hook, survives=True, kept_by="descriptor store")
    host.carry()
    host.die(path)
    for _ in range(3):
        host.carry()
    assert traffic(splice)[:2] == (0, 0)
    path, former = host.start()
    assert path.inherits(splice)
    assert traffic(splice) == (4, 12, 2000 - PLAIN.seq_delta & 0xFFFFFFFF, 4, 20, 2000)
    assert path.install(splice)
    host.carry()  # while flows are taken up, by the old program
    path.attach(host.device)
    former.collect(host.records)
    former.close()
    assert traffic(splice)[:2] == (5, 15)
    host.carry()
    path.refresh(splice)
    assert traffic(splice)[:2] == (6, 18)
    assert [name for name in host.held() if name != "link"] == maps(2)
    path.close()
    assert host.manager.names == []  # and not a moment later: of a process that has ended nothing is heard
    host.check_left_alone()


def test_what_is_kept_is_left_there_with_records_that_tell_all(host: Service) -> None:
    splice = host.splice()
    path = host.begin(splice)
    host.carry()
    path.keep()
    host.let_go()
    assert traffic(splice)[:2] == (1, 3)
    host.carry()
    host.begin().close()
    assert traffic(splice)[:2] == (2, 6)


def test_numbers_of_packets_go_on_where_they_were(host: Service) -> None:
    splice = host.splice()
    path = host.begin(splice)
    before = ipv4.parse(host.carry()).identification
    for _ in range(2):
        host.die(path)
        path = host.begin(splice)
        before = before + 1 & 0x7FFF
        assert ipv4.parse(host.carry()).identification == 0x8000 | before
    path.close()


@pytest.mark.parametrize("is_swapped", [False, True])
def test_a_process_that_dies_while_it_takes_over_costs_nothing(
    host: Service, monkeypatch: pytest.MonkeyPatch, is_swapped: bool
) -> None:
    splice, other = host.splice(), host.splice(replace(PLAIN, client=bytes((192, 0, 2, 99))))
    host.die(host.begin(splice, other))
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
    host.let_go()
    host.carry()
    # The maps of both; but one that is in both is held once, by its later name.
    assert [name for name in host.held() if name != "link"] == [*maps(1)[::2], *maps(2)]
    path, former = host.start()
    assert path.inherits(splice)
    assert not path.inherits(other)  # which the later one may have left alone, and answered a SYN
    assert traffic(splice)[:2] == (3, 9)
    path.attach(host.device)
    former.close()
    assert [name for name in host.held() if name != "link"] == maps(3)
    path.close()
    assert host.manager.names == []


def test_there_is_room_for_the_maps_of_some_that_died_while_they_took_over(
    host: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    splice = host.splice()
    host.manager.most = MOST
    for _ in range(5):
        path, former = host.start()
        path.install(splice)
        with monkeypatch.context() as patch:
            patch.setattr(former, "drop", lambda *_: None)
            path.attach(host.device)
        assert path.standing.survives
        host.carry()
        host.die(path)
        former.close()
    host.begin(splice).close()
    assert traffic(splice)[:2] == (5, 15)
    assert host.manager.names == []


def test_maps_that_lost_the_numbers_of_packets_on_their_way_are_read_all_the_same(host: Service) -> None:
    splice = host.splice()
    host.die(host.begin(splice))
    host.carry()
    (lost,) = [each for each in host.manager.held if each.name.endswith("identifications")]
    host.manager.held.remove(lost)
    os.close(lost.fd)
    path, former = host.start()
    assert (path.inherits(splice), former.unreadable, traffic(splice)[:2]) == (True, [], (1, 3))
    path.attach(host.device)
    former.close()
    assert [name for name in host.held() if name != "link"] == maps(2)
    path.close()


@pytest.mark.parametrize("limit", ["", "3", "none"])
@pytest.mark.parametrize("most", [0, 1, 3])
def test_a_manager_that_has_no_room_is_noticed(host: Service, most: int, limit: str) -> None:
    host.manager.most = most
    host.monkeypatch.setenv("FDSTORE", limit)
    path = host.begin(host.splice())
    assert not path.standing.survives
    assert "there is no bpffs" in path.standing.cause
    assert f"holds {'3 descriptors and no more' if limit == '3' else 'no descriptors, or no more'}" in path.standing.cause
    assert f"FileDescriptorStoreMax={MOST}" in path.standing.remedy
    assert host.manager.names == []
    host.carry()
    path.keep()
    host.check_left_alone()


def test_a_manager_that_closes_what_it_has_no_room_for_a_moment_later_is_noticed(host: Service) -> None:
    host.manager.most, host.manager.lag_s = 3, 0.02
    path = host.begin()
    assert not path.standing.survives
    path.close()


def test_just_enough_room_is_enough(host: Service) -> None:
    host.manager.most = 4
    path = host.begin(host.splice())
    assert path.standing.survives
    host.die(path)
    host.carry()
    host.begin().close()


@pytest.mark.parametrize("address", ["", "vsock:2:1", "relative"])
def test_without_a_manager_it_says_so_and_ends_with_the_process(host: Service, address: str) -> None:
    host.manager.lend(host.monkeypatch)
    host.monkeypatch.setenv("NOTIFY_SOCKET", address)
    former = Former.find(host.device, host.root, DescriptorStore(host.device))
    path = KernelPath.open(16, former=former)
    path.attach(host.device)
    assert not path.standing.survives
    assert "no bpffs" in path.standing.cause
    assert "no service manager" in path.standing.cause
    assert host.manager.said == []
    path.keep()
    host.check_left_alone()


@pytest.mark.parametrize("said_before", [0, 1000])
def test_a_manager_that_does_not_answer_is_waited_for_once(host: Service, tmp_path: Path, said_before: int) -> None:
    (tmp_path / "mute").mkdir()
    mute = ServiceManager(tmp_path / "mute", is_mute=True)
    host.monkeypatch.setattr(descriptor_store, "_TIMEOUT_S", 0.3)
    former = host.find()
    host.monkeypatch.setenv("NOTIFY_SOCKET", mute.address)
    path = KernelPath.open(16, former=former)
    for _ in range(said_before):  # more than fits in
        notify("STATUS=busy")
    began = time.monotonic()
    path.attach(host.device)
    path.close()
    assert time.monotonic() - began < 0.6
    assert not path.standing.survives
    mute.close()


def test_where_a_bpffs_has_appeared_all_moves_there_and_back_again_when_it_is_gone(host: Service) -> None:
    splice = host.splice()
    host.die(host.begin(splice))
    host.carry()
    host.mount()
    path = host.begin(splice)
    assert (path.standing.kept_by, host.held()) == ("bpffs", [])
    assert traffic(splice)[:2] == (1, 3)
    assert [name for name in host.pinned() if name != "link"] == maps(2)
    host.carry()
    host.die(path)
    host.carry()
    host.monkeypatch.setattr(bpf, "is_bpffs", lambda _: False)  # what is in it can still be read
    path = host.begin(splice)
    assert (path.standing.kept_by, host.pinned()) == ("descriptor store", [])
    assert [name for name in host.held() if name != "link"] == maps(3)
    host.carry()
    path.close()
    assert traffic(splice)[:2] == (4, 12)
    assert host.manager.names == []
    host.check_left_alone()


def test_of_two_sets_the_later_one_is_believed_whoever_keeps_it(host: Service) -> None:
    splice = host.splice()
    host.mount()
    host.die(host.begin())
    host.die(host.begin(splice))
    visible, host.root = host.root, host.root / "elsewhere"
    path = host.begin(splice)  # one that cannot see what is pinned
    path.remove(splice)  # and has answered a SYN
    host.die(path)
    host.root = visible
    assert [name[:4] for name in host.pinned() if name != "link"] == ["v1_2"] * 3
    assert [name[:4] for name in host.held() if name != "link"] == ["v1_1"] * 3
    path, former = host.start()
    assert not path.inherits(splice)
    path.attach(host.device)
    former.close()
    if path.standing.hook == "tcx":
        assert len(host.links()) == 1  # the program that nobody saw is gone as well
    assert (host.held(), [name[:4] for name in host.pinned() if name != "link"]) == ([], ["v1_3"] * 3)
    path.close()
    host.check_left_alone()


def test_everything_is_taken_away_at_once_and_what_is_others_stays(host: Service) -> None:
    reader, writer = os.pipe()
    host.manager.put(OTHERS, writer)
    host.die(host.begin(host.splice()))
    host.carry()
    former = host.find()
    (others,) = [fd for fd, each in zip(host.given, host.manager.held, strict=True) if each.name == OTHERS]
    assert former.remove()
    assert host.manager.names == [OTHERS]
    assert fcntl.fcntl(others, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
    host.check_left_alone()
    host.let_go()
    assert not host.find().remove()
    os.close(reader)


def test_what_is_of_another_layout_or_no_map_at_all_costs_its_counts_alone(host: Service) -> None:
    splice = host.splice()
    host.die(host.begin(splice))
    prefix = f"kracauer-{host.device}/"
    renamed = []
    for each in host.manager.held:
        assert each.name.startswith(prefix)
        name = each.name if each.name == f"{prefix}link" else each.name.replace("v1_", "v9_")
        renamed.append(each._replace(name=name))
    host.manager.held = renamed
    ends = [fd for _ in range(3) for fd in os.pipe()]
    for name, fd in zip([*maps(5), "link" if "link" not in host.held() else "x", "", "v1_٣_traffic"], ends, strict=True):
        host.manager.put(prefix + name, fd)
    host.carry()
    path, former = host.start()
    assert {*maps(5), "v9_1_traffic", ""} <= set(former.unreadable)
    assert former.unreadable_at == ["the service manager's descriptor store"]
    assert not path.inherits(splice)
    path.attach(host.device)
    former.close()
    assert path.standing.survives
    assert [name for name in host.held() if name != "link"] == maps(6)
    path.close()
    assert host.manager.names == []


def test_a_map_of_another_type_is_not_gone_on_with(host: Service) -> None:
    host.die(host.begin(host.splice()))
    (place,) = [at for at, each in enumerate(host.manager.held) if each.name.endswith("identifications")]
    _, key_bytes, value_bytes, _ = bytecode.MAPS["identifications"]
    other = bpf.Map.create(bpf.MAP_HASH, key_bytes, value_bytes, layout.IDENTIFICATIONS)
    os.dup2(other.fd, host.manager.held[place].fd)
    other.close()
    former = host.find()
    assert former.identifications is None
    former.remove()


def test_what_was_left_for_a_device_that_has_gone_is_read_and_replaced(host: Service) -> None:
    splice = host.splice()
    path = host.begin(splice)
    host.carry()
    host.die(path)
    host.router.close()
    host.router = Router(host.ip)
    path = host.begin(splice)
    assert traffic(splice)[:2] == (1, 3)
    assert path.standing.survives
    host.carry()
    host.die(path)
    host.carry()
    host.begin().close()
    assert traffic(splice)[:2] == (3, 9)
    assert host.manager.names == []


def test_what_belongs_to_another_network_namespace_is_left_alone(host: Service) -> None:
    first = host.begin(host.splice())
    needs_links(host)
    before = host.manager.names
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
    host.let_go()
    assert host.manager.names == before
    host.carry()
    first.close()


def test_where_a_bpffs_is_another_network_namespaces_the_store_serves(host: Service) -> None:
    host.mount()
    first = host.begin(host.splice())
    if "link" not in host.pinned():
        pytest.skip("a filter does not tell whose it is")
    pinned = host.pinned()
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    syscalls.unshare(syscalls.CLONE_NEWNET)
    try:
        second = Service.__new__(Service)
        second.__dict__ |= host.__dict__ | {"router": Router(host.ip)}
        path = second.begin()
        assert path.standing.kept_by == "descriptor store"
        assert "link" in second.held()
        path.close()
        assert second.manager.names == []
        second.router.close()
    finally:
        syscalls.enter_network_namespace(Path(f"/proc/self/fd/{home}"))
        os.close(home)
    assert host.pinned() == pinned
    host.carry()
    first.close()


def test_of_two_by_one_name_the_younger_stays_and_no_program_that_nobody_knows(host: Service) -> None:
    splice = host.splice()
    path = host.begin(splice)
    needs_links(host)
    path.close()
    old = KernelPath.open(1)
    old_link = bpf.attach_link(old.program, socket.if_nametoindex(host.device))
    old.close()
    host.die(host.begin(splice))
    host.manager.put(f"kracauer-{host.device}/link", old_link)
    assert (host.held().count("link"), len(host.links())) == (2, 2)
    path = host.begin(splice)
    assert host.held().count("link") == 1
    assert len(host.links()) == 1
    host.carry()
    host.die(path)
    host.carry()
    assert traffic(splice)[:2] == (0, 0)
    host.begin(splice).close()
    assert traffic(splice)[:2] == (2, 6)


def test_a_link_that_goes_over_to_the_store_again_and_again_is_one(host: Service) -> None:
    path = host.begin(host.splice())
    needs_links(host)
    link = host.links()
    for _ in range(3):
        host.die(path)
        path = host.begin()
        assert host.links() == link
    path.close()
    assert host.links() == set()


def test_a_trial_that_was_left_is_no_map(host: Service) -> None:
    reader, writer = os.pipe()
    host.manager.put(f"kracauer-{host.device}.trial", writer)
    former = host.find()
    assert former.unreadable == []
    path = KernelPath.open(1, former=former)
    path.attach(host.device)
    path.close()
    assert host.manager.names == []
    os.close(reader)


def test_what_is_handed_over_by_no_manager_is_put_to_no_use(host: Service) -> None:
    reader, writer = os.pipe()
    numbers = hand_over(host.monkeypatch, [f"kracauer-{host.device}/link", "x"], [reader, writer])
    host.monkeypatch.setenv("LISTEN_PID", "1")
    assert DescriptorStore(host.device).names() == []
    assert "LISTEN_FDS" not in os.environ
    for number in numbers:
        os.close(number)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.binary(min_size=1, max_size=15).filter(lambda name: not {*b"/:\0"} & {*name})
        | st.sampled_from((b"a", b"a-b", b"a.trial", b"a%2Fb")),
        min_size=2,
        unique=True,
    )
)
def test_every_device_has_names_of_its_own_that_the_manager_takes(
    monkeypatch: pytest.MonkeyPatch, notices: ServiceManager, devices: list[bytes]
) -> None:
    names = []
    for device in devices:
        notices.said.clear()
        DescriptorStore(os.fsdecode(device)).drop(["v1_1_client_flows"])
        (name,) = [said.partition("FDNAME=")[2] for said in notices.said if "FDNAME=" in said]
        assert re.fullmatch(r"[ -9;-~]{1,255}", name)
        names.append(name)
    assert len(set(names)) == len(names)
    for device, name in zip(devices, names, strict=True):
        for other in devices:
            numbers = hand_over(monkeypatch, [name], [os.dup(0)])
            assert DescriptorStore(os.fsdecode(other)).names() == (["v1_1_client_flows"] if other == device else [])
            os.close(numbers[0])


@pytest.fixture
def notices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServiceManager]:
    """A manager that this process may speak to."""
    manager = ServiceManager(tmp_path)
    monkeypatch.setenv("NOTIFY_SOCKET", manager.address)
    yield manager
    manager.close()
