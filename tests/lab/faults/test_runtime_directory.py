"""What keeps connections for the next daemon comes to harm: full, read-only, gone, cut short, overwritten, or another's."""

import errno
import os
import random
import signal
import socket
import subprocess
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from faults import DEVICE, NAME, Trial, ask

from kracauer.lab import configuration
from kracauer.lab.namespaces import NetworkNamespace, python_module
from kracauer.lab.processes import BackgroundProcess
from kracauer.lab.topology import ORIGIN_1

pytestmark = pytest.mark.lab

BuildTrial = Callable[..., Trial]
COUNT = 20
HEADER_BYTES = 4096
PAGE_KIB = 1024
GROWTH_RETRY_S = 10.0


class Room:
    """A mount namespace in which the runtime directory of `trial` is a filesystem of its own, that ends with the lab."""

    def __init__(self, trial: Trial, kib: int) -> None:
        self._trial = trial
        directory = trial.run_directory
        directory.mkdir()
        script = f"mount -t tmpfs -o mode=700,size={kib}k none {directory} && echo mounted && exec sleep 600"
        words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
        self._holder: BackgroundProcess = trial.lab.start("room", trial.lab.router, words)
        self._holder.wait_for("mounted")
        self.path = Path(f"/proc/{self._holder.pid}/root{directory}")
        trial.wrapper = ("nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt")

    def remount(self, options: str) -> None:
        done = self._trial.lab.router.run(
            [*self._trial.wrapper, "mount", "-o", f"remount,{options}", str(self._trial.run_directory)]
        )
        assert done.returncode == 0, done.stderr.decode()


def adopted_flows(trial: Trial) -> int:
    return trial.adopted[0]


# --------------------------------------------------------------------------------------------------- full, or read-only


def test_a_full_directory_costs_a_warning_and_what_comes_after_there_is_room_is_kept(build_trial: BuildTrial) -> None:
    trial = build_trial()
    room = Room(trial, PAGE_KIB // 2)
    trial.start()
    with trial.lasting(COUNT, has_uploads=True):
        (warning,) = trial.said("flows_not_kept")
        assert (warning["cause"], trial.status()["flows_kept"]) == (os.strerror(errno.ENOSPC), 0)
        room.remount(f"size={4 * PAGE_KIB}k")
        time.sleep(GROWTH_RETRY_S)
    later = trial.connect()
    assert trial.status()["flows_kept"] == 1
    trial.kill()
    trial.start()
    assert ask(later) == 200
    assert trial.adopted == (1, 0)


def test_a_directory_that_fills_up_takes_nothing_from_those_that_are_kept(build_trial: BuildTrial) -> None:
    trial = build_trial()
    room = Room(trial, 2 * PAGE_KIB)
    trial.start()
    with trial.lasting(COUNT, has_uploads=True):
        (room.path / "filler").write_bytes(bytes(2 * PAGE_KIB * 1024 - (PAGE_KIB + 16) * 1024))
        trial.kill()
        trial.start()
        assert trial.adopted == (COUNT, 0)
    trial.check_new_connections()


def test_a_directory_that_is_read_only_at_the_next_start_costs_connections_and_not_the_service(build_trial: BuildTrial) -> None:
    """Not sooner: no filesystem can be made read-only while the flow file is open."""
    trial = build_trial()
    room = Room(trial, 4 * PAGE_KIB)
    trial.start()
    connection = trial.connect()
    trial.kill()
    room.remount("ro")
    trial.start()
    (warning,) = trial.said("flows_not_kept")
    assert warning["cause"] == os.strerror(errno.EROFS)
    trial.check_new_connections()
    with pytest.raises(ConnectionResetError):
        ask(connection)


def test_a_start_with_a_read_only_directory_says_so_and_serves(build_trial: BuildTrial) -> None:
    trial = build_trial()
    room = Room(trial, 4 * PAGE_KIB)
    room.remount("ro")
    trial.start()
    for event in ("flows_not_kept", "secret_not_kept", "control_unavailable", "lock_not_held"):
        (line,) = trial.said(event)
        assert (line["cause"], bool(line["remedy"])) == (os.strerror(errno.EROFS), True)
    with trial.lasting(COUNT, has_uploads=True):
        trial.check_new_connections()


# ------------------------------------------------------------------------------------------- taken away while it is used


def test_a_directory_deleted_while_the_service_runs_costs_no_connection_as_long_as_it_runs(trial: Trial) -> None:
    with trial.lasting(COUNT, has_uploads=True):
        subprocess.run(["rm", "-r", str(trial.run_directory)], check=True)
        trial.check_new_connections()
    trial.kill()
    trial.start()
    trial.check_new_connections()


def test_a_flow_file_cut_short_under_the_service_ends_it_and_the_next_one_serves(trial: Trial) -> None:
    """A page of a file that is not there any more is a SIGBUS to whoever touches it (mmap(2)): nothing can be done about it."""
    connection = trial.connect()
    os.truncate(trial.flow_file, 0)
    connection.sendall(f"GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
    assert trial.daemon.wait() == -signal.SIGBUS
    trial.start()
    (line,) = trial.said("flows_set_aside")
    assert line["cause"] == "its header is cut short"
    trial.check_new_connections()
    with pytest.raises(ConnectionResetError):
        talk_on(connection)


def talk_on(connection: socket.socket) -> None:
    """Where the kernel carries a connection, an answer may come while no process is there."""
    while connection.recv(4096):
        connection.sendall(b"x")


def test_garbage_over_the_flow_file_is_no_more_than_lost_connections(trial: Trial) -> None:
    """What is written there by others may be met as a mistake of ours, which costs the packet that met it."""
    trial.expected_errors.add("internal_error")
    trial.may_have_tracebacks = True
    connections = [trial.connect() for _ in range(COUNT)]
    with trial.flow_file.open("r+b") as file:
        file.seek(HEADER_BYTES)
        file.write(random.Random(1).randbytes(PAGE_KIB * 1024))
    for connection in connections:
        connection.sendall(f"GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
    time.sleep(0.3)
    trial.check_new_connections()
    trial.kill()
    trial.start()
    trial.check_new_connections()
    assert adopted_flows(trial) <= COUNT


# ------------------------------------------------------------------------------------------------ harmed between two runs


def delete(path: Path) -> None:
    path.unlink()


def cut_in_the_header(path: Path) -> None:
    os.truncate(path, HEADER_BYTES // 2)


def cut_in_a_page(path: Path) -> None:
    os.truncate(path, HEADER_BYTES + PAGE_KIB * 512)


def overwrite(path: Path) -> None:
    path.write_bytes(random.Random(2).randbytes(path.stat().st_size))


def overwrite_the_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"KRACFLOW" + random.Random(3).randbytes(64))


def put_a_directory_there(path: Path) -> None:
    path.unlink()
    path.mkdir()


def put_a_link_there(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def put_a_fifo_there(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def open_it_to_others(path: Path) -> None:
    path.chmod(0o666)


def change_the_boot(path: Path) -> None:
    with path.open("r+b") as file:
        content = bytearray(file.read(HEADER_BYTES))
        content[41] ^= 1
        content[-4:] = checksum(content)
        file.seek(0)
        file.write(content)


def change_the_prefix(path: Path) -> None:
    with path.open("r+b") as file:
        content = bytearray(file.read(HEADER_BYTES))
        content[31] ^= 1
        content[-4:] = checksum(content)
        file.seek(0)
        file.write(content)


def checksum(header: bytearray) -> bytes:
    return zlib.crc32(header[:-4]).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (delete, None),
        (cut_in_the_header, "its header is cut short"),
        (cut_in_a_page, "it is cut short"),
        (overwrite, "its header is damaged"),
        (overwrite_the_header, "its header is damaged"),
        (put_a_directory_there, "it is no file"),
        (put_a_link_there, "it is no file"),
        (put_a_fifo_there, "it is no file"),
        (open_it_to_others, "others own it or could have written to it"),
        (change_the_boot, "it is from before the machine was booted"),
        (change_the_prefix, "it is of another prefix"),
    ],
)
def test_a_flow_file_that_cannot_be_used_is_set_aside_and_its_connections_are_told(
    trial: Trial, harm: Callable[[Path], None], reason: str | None
) -> None:
    connection = trial.connect()
    trial.kill()
    harm(trial.flow_file)
    trial.start()
    assert [line["cause"] for line in trial.said("flows_set_aside")] == ([] if reason is None else [reason])
    assert adopted_flows(trial) == 0
    trial.check_new_connections()
    with pytest.raises(ConnectionResetError):
        ask(connection)


def test_a_page_of_garbage_harms_none_of_the_records_that_are_whole(trial: Trial) -> None:
    with trial.lasting(COUNT, has_uploads=True):
        trial.kill()
        with trial.flow_file.open("r+b") as file:
            file.seek(HEADER_BYTES + 256 * 1024)
            file.write(random.Random(4).randbytes(512 * 1024))
        trial.start()
        assert trial.adopted[0] == COUNT
        assert trial.adopted[1] > 1500


# ------------------------------------------------------------------------------------------------------- another daemon


def test_a_second_daemon_on_the_same_device_is_told_who_serves_and_harms_nobody(trial: Trial) -> None:
    with trial.lasting(COUNT, has_uploads=True):
        first = trial.daemon
        command = python_module("kracauer", "run", "-c", trial.path)
        second = trial.lab.start("second", trial.lab.router, command, {"RUNTIME_DIRECTORY": str(trial.run_directory)})
        assert second.wait() == 7
        assert f"process {first.pid}" in second.events[-1]["cause"]
    trial.check_new_connections()


def test_a_second_daemon_with_another_directory_finds_the_device_in_use(trial: Trial) -> None:
    with trial.lasting(COUNT, has_uploads=True):
        command = python_module("kracauer", "run", "-c", trial.path)
        second = trial.lab.start("second", trial.lab.router, command, {"RUNTIME_DIRECTORY": str(trial.lab.directory / "other")})
        assert second.wait() == 4
        assert "in use by another process" in second.events[-1]["cause"]
    trial.check_new_connections()


def test_a_second_daemon_in_another_namespace_does_not_come_near_the_same_table(trial: Trial) -> None:
    namespace = NetworkNamespace(f"kracauer-{trial.lab.token}-elsewhere")
    namespace.create()
    with trial.lasting(COUNT, has_uploads=True):
        command = python_module("kracauer", "run", "-c", trial.path)
        second = trial.lab.start("second", namespace, command, {"RUNTIME_DIRECTORY": str(trial.run_directory)})
        assert second.wait() == 7
        trial.kill()
        trial.start()
        assert trial.adopted == (COUNT, 0)


def test_a_daemon_of_another_prefix_leaves_the_table_to_those_whose_it_is(build_trial: BuildTrial) -> None:
    trial = build_trial()
    trial.start()
    connection = trial.connect()
    trial.kill()
    trial.write_config(configuration.render({NAME: ORIGIN_1}).replace("2001:db8:46::/96", "2001:db8:47::/96"))
    trial.start()
    assert trial.said("flows_set_aside")[0]["cause"] == "it is of another prefix"
    assert trial.flow_file.with_name(f"{DEVICE}.flows.aside").exists()
    with pytest.raises(ConnectionResetError):
        ask(connection)
