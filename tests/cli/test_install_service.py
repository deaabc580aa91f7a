"""The unit, and what writing it changes; systemd's own tools say what they think of it."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kracauer.cli import main
from kracauer.cli.exit_codes import ExitCode
from kracauer.cli.systemd_unit import NOTIFY_RELOAD_SINCE, Service, render_unit, unreachable
from kracauer.daemon.descriptor_store import MOST

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "run-under-systemd.md"
CONFIG = (ROOT / "kracauer-config.toml").read_text(encoding="utf-8")
USUAL = Service(("/opt/kracauer/bin/kracauer",), Path("/etc/kracauer/kracauer-config.toml"))
# Where the interpreter that runs the tests lies in somebody's home, the command has to be tried with another one.
PYTHON = "/usr/bin/python3"
NAME = "kracauer.service"
OLD = NOTIFY_RELOAD_SINCE - 1


def analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze: apt install systemd")
    command = ["systemd-analyze", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture(params=[OLD, NOTIFY_RELOAD_SINCE], ids=["notify", "notify-reload"])
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The usual unit for a systemd of before and one of after a change, its program one that is there."""
    found = re.match(r"systemd (\d+)", analyze("--version").stdout)
    assert found is not None
    if int(found[1]) < request.param:
        pytest.skip(f"needs systemd {request.param} or later")
    path = tmp_path / NAME
    path.write_text(render_unit(USUAL._replace(command=("/bin/true",)), request.param), encoding="utf-8")
    return path


def test_systemd_finds_nothing_wrong_with_the_unit(unit: Path) -> None:
    result = analyze("verify", "--man=no", unit)
    assert result.returncode == 0, result.stderr
    assert [line for line in result.stderr.splitlines() if NAME in line] == []


@pytest.mark.parametrize(
    "change",
    [{"is_sharing": True}, {"is_offloading": False}, {"name_servers": None}, {"name_servers": ("2001:db8::53",)}],
    ids=str,
)
def test_systemd_finds_nothing_wrong_with_one_that_may_do_more_or_less(change: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_text(render_unit(USUAL._replace(command=("/bin/true",))._replace(**change), OLD), encoding="utf-8")  # type: ignore[arg-type]
    result = analyze("verify", "--man=no", path)
    assert (result.returncode, [line for line in result.stderr.splitlines() if NAME in line]) == (0, [])


def test_one_whose_address_is_shared_may_hear_icmp() -> None:
    shared, usual = (render_unit(USUAL._replace(is_sharing=sharing), OLD) for sharing in (True, False))
    names = "CAP_NET_ADMIN CAP_BPF CAP_NET_RAW"
    assert f"\nAmbientCapabilities={names}\nCapabilityBoundingSet={names}\n" in shared
    assert "\nIPAddressDeny=" not in shared
    assert "CAP_NET_RAW" not in usual
    assert "\nIPAddressDeny=any\n" in usual


def test_one_without_a_fast_path_has_nothing_to_do_with_bpf() -> None:
    without, usual = (render_unit(USUAL._replace(is_offloading=offloading), OLD) for offloading in (False, True))
    assert "bpf" not in without.lower()
    assert "\nAmbientCapabilities=CAP_NET_ADMIN\nCapabilityBoundingSet=CAP_NET_ADMIN\n" in without
    assert "\nAmbientCapabilities=CAP_NET_ADMIN CAP_BPF\nCapabilityBoundingSet=CAP_NET_ADMIN CAP_BPF\n" in usual
    assert "\nSystemCallFilter=bpf capset fchown\n" in usual
    assert "FileDescriptorStoreMax" not in without
    assert f"\nFileDescriptorStoreMax={MOST}\n" in usual
    assert "\nExecStartPre=-+/usr/bin/install --directory --mode=0700 --owner=kracauer /sys/fs/bpf/kracauer\n" in usual


def test_systemd_rates_the_unit_as_locked_up(unit: Path) -> None:
    result = analyze("security", "--offline=yes", unit)
    if "Unknown" in result.stderr or "unrecognized option" in result.stderr:
        pytest.skip("needs systemd 250 or later")
    found = re.search(r"Overall exposure level for \S+: ([\d.]+) (\w+)", result.stdout)
    assert found is not None, result.stdout + result.stderr
    assert float(found[1]) < 2.0, result.stdout


def test_the_page_shows_the_unit_that_is_written() -> None:
    shown = re.search(r"^```ini kracauer.service\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert shown is not None
    assert shown[1] == render_unit(USUAL, OLD)


def kinds(text: str) -> list[str]:
    return re.findall(r"^Type=(.*)$", text, re.MULTILINE)


def test_a_reload_begins_with_a_signal_where_systemd_knows_of_that() -> None:
    assert kinds(render_unit(USUAL, NOTIFY_RELOAD_SINCE)) == kinds(render_unit(USUAL, 300)) == ["notify-reload"]
    assert kinds(render_unit(USUAL, OLD)) == kinds(render_unit(USUAL, None)) == ["notify"]


@pytest.mark.parametrize("systemd", [None, OLD, NOTIFY_RELOAD_SINCE])
def test_a_refused_reload_fails_with_every_systemd(systemd: int | None) -> None:
    command = "ExecReload=/opt/kracauer/bin/kracauer reload -c /etc/kracauer/kracauer-config.toml"
    assert command in render_unit(USUAL, systemd).splitlines()


def test_but_for_the_type_and_its_reason_the_unit_is_the_same_for_every_systemd() -> None:
    old, new = (render_unit(USUAL, systemd).splitlines() for systemd in (OLD, NOTIFY_RELOAD_SINCE))
    at = old.index("Type=notify")
    assert new[at] == "Type=notify-reload"
    assert old[: at - 1] + old[at + 1 :] == new[: at - 1] + new[at + 1 :]


def test_words_keep_their_meaning_in_the_unit(tmp_path: Path) -> None:
    text = render_unit(Service(("/opt/my py/python", "-m", "kracauer"), Path('/etc/100%/a "b" $c.toml'), "other"), OLD)
    assert 'ExecStart="/opt/my py/python" -m kracauer run -c "/etc/100%%/a \\"b\\" $$c.toml"' in text
    assert "Documentation=file:/etc/100%%25/a%%20%%22b%%22%%20%%24c.toml" in text
    assert "\nUser=other\n" in text
    path = tmp_path / NAME
    path.write_text(text.replace('"/opt/my py/python"', "/bin/true"), encoding="utf-8")
    assert [line for line in analyze("verify", "--man=no", path).stderr.splitlines() if NAME in line] == []


def test_a_wrong_configuration_is_what_it_does_not_come_back_from() -> None:
    assert f"RestartPreventExitStatus={ExitCode.USAGE:d} {ExitCode.CONFIG_UNUSABLE:d}" in render_unit(USUAL, OLD)


@pytest.mark.parametrize("place", ["/home/somebody/x", "/root/x", "/run/user/1/x", "/tmp/x", "/var/tmp/x"])
def test_what_the_unit_hides_is_told(place: str) -> None:
    (line,) = unreachable({"the program": Path(place)}, "kracauer")
    assert line.startswith(f"the program {place}: ")
    assert "is hidden from the service" in line


@pytest.fixture
def shown() -> Iterator[Path]:
    """A directory that the unit would not hide."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with tempfile.TemporaryDirectory(prefix="kracauer-test-", dir="/dev/shm") as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory


def test_what_the_user_may_not_read_is_told(shown: Path) -> None:
    inner = shown / "inner"
    inner.mkdir()
    path = inner / "file"
    path.write_text("", encoding="utf-8")
    for barred, mode in ((path, 0o640), (inner, 0o750)):
        before = barred.stat().st_mode & 0o7777
        barred.chmod(mode)
        assert list(unreachable({"it": path}, "nobody")) == [f"it {path}: nobody may not read {barred}: chmod o+rX {barred}"]
        assert list(unreachable({"it": path}, "root")) == []
        barred.chmod(before)
    assert list(unreachable({"it": path}, "nobody")) == []


# ------------------------------------------------------------------------------------------------------- the command


class Host:
    """Where to install to: a configuration, a directory for units, and stand-ins of systemctl and useradd, which take notes."""

    def __init__(self, directory: Path) -> None:
        self.config = directory / "kracauer-config.toml"
        self.config.write_text(CONFIG, encoding="utf-8")
        self.units = directory / "units"
        self.units.mkdir()
        self.unit = self.units / NAME
        self._programs = directory / "bin"
        self._programs.mkdir()
        self.search = f"{self._programs}:/usr/bin:/bin"
        self._notes = directory / "notes"
        for name in ("systemctl", "useradd"):
            self.stand_in(name, 0)

    def stand_in(self, name: str, status: int, version: str = f"systemd {OLD} ({OLD}.1-1)") -> None:
        path = self._programs / name
        lines = (
            "#!/bin/sh",
            f'[ "$1" != --version ] || {{ echo "{version}"; exit; }}',
            f'echo {name} "$@" >> {self._notes}',
            f"exit {status}",
        )
        path.write_text("\n".join((*lines, "")), encoding="utf-8")
        path.chmod(0o755)

    @property
    def called(self) -> list[str]:
        return self._notes.read_text(encoding="utf-8").splitlines() if self._notes.exists() else []

    def install(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [
            PYTHON,
            "-m",
            "kracauer",
            "install-service",
            "-c",
            str(self.config),
            "--unit-directory",
            str(self.units),
            *words,
        ]
        modules = [str(ROOT), *(path for path in sys.path if path.endswith("-packages"))]
        environment = {"PATH": self.search, "PYTHONPATH": os.pathsep.join(modules)}
        return subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def host(shown: Path) -> Host:
    needs = "import sys; sys.exit(sys.version_info < (3, 11))"
    if not Path(PYTHON).exists() or subprocess.run([PYTHON, "-c", needs], check=False, timeout=30).returncode:
        pytest.skip(f"needs a Python 3.11 at {PYTHON}")
    if list(unreachable({"this checkout": ROOT / "kracauer"}, "nobody")):
        pytest.skip("needs a checkout that everybody may read")
    return Host(shown)


def test_installing_writes_the_unit_makes_the_user_and_says_what_is_next(host: Host) -> None:
    result = host.install("--user", "kracauer-test")
    assert result.returncode == 0, result.stderr
    assert host.unit.read_text(encoding="utf-8") == render_unit(
        Service((PYTHON, "-m", "kracauer"), host.config, "kracauer-test"), OLD
    )
    assert host.unit.stat().st_mode & 0o777 == 0o644
    useradd, systemctl = host.called
    assert useradd.startswith("useradd --system ")
    assert useradd.endswith(" kracauer-test")
    assert systemctl == "systemctl daemon-reload"
    assert "systemctl enable --now kracauer" in result.stdout
    assert list(host.units.iterdir()) == [host.unit]


def test_a_user_that_is_there_is_taken(host: Host) -> None:
    assert host.install("--user", "nobody").returncode == 0
    assert host.called == ["systemctl daemon-reload"]


def test_installing_again_changes_nothing(host: Host) -> None:
    host.install("--user", "nobody")
    before = host.unit.stat().st_mtime_ns
    result = host.install("--user", "nobody")
    assert result.returncode == 0
    assert "already as it should be" in result.stdout
    assert host.unit.stat().st_mtime_ns == before


def test_another_unit_is_shown_and_kept_unless_forced(host: Host) -> None:
    host.unit.write_text("[Service]\nExecStart=/bin/other\n", encoding="utf-8")
    result = host.install("--user", "nobody")
    assert result.returncode == ExitCode.USAGE
    assert "-ExecStart=/bin/other" in result.stdout
    assert "+User=nobody" in result.stdout
    assert "--force" in result.stderr
    assert host.unit.read_text(encoding="utf-8") == "[Service]\nExecStart=/bin/other\n"
    assert host.called == []

    assert host.install("--user", "nobody", "--force").returncode == 0
    assert "User=nobody" in host.unit.read_text(encoding="utf-8")


def test_printing_changes_nothing(host: Host) -> None:
    result = host.install("--print")
    assert result.returncode == 0
    assert result.stdout == render_unit(Service((PYTHON, "-m", "kracauer"), host.config), OLD)
    assert list(host.units.iterdir()) == []
    assert host.called == []


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        (f"systemd {NOTIFY_RELOAD_SINCE} ({NOTIFY_RELOAD_SINCE}.5)", "notify-reload"),
        ("systemd 260~rc1 (260~rc1-2)", "notify-reload"),
        ("something else", "notify"),
    ],
)
def test_the_unit_is_one_for_the_systemd_that_is_there(host: Host, version: str, expected: str) -> None:
    host.stand_in("systemctl", 0, version)
    assert kinds(host.install("--print").stdout) == [expected]
    assert host.install("--user", "nobody").returncode == 0
    assert kinds(host.unit.read_text(encoding="utf-8")) == [expected]


@pytest.mark.parametrize(("offload", "expected"), [("auto", True), ("require", True), ("off", False)])
def test_the_unit_allows_a_fast_path_where_the_configuration_does(host: Host, offload: str, expected: bool) -> None:
    host.config.write_text(f'{CONFIG}\n[network]\noffload = "{offload}"\n', encoding="utf-8")
    assert ("CAP_BPF" in host.install("--print").stdout) is expected


def test_without_systemctl_the_unit_is_one_for_all(host: Host) -> None:
    host.search = str(host.units)
    assert kinds(host.install("--print").stdout) == ["notify"]


def test_a_configuration_with_problems_is_not_installed(host: Host) -> None:
    host.config.write_text(CONFIG.replace("443", "70000"), encoding="utf-8")
    result = host.install()
    assert result.returncode == ExitCode.CONFIG_UNUSABLE
    assert "70000" in result.stderr
    assert list(host.units.iterdir()) == []


def test_a_configuration_that_the_user_may_not_read_is_not_installed(host: Host) -> None:
    host.config.chmod(0o600)
    result = host.install("--user", "nobody")
    assert result.returncode == ExitCode.USAGE
    assert f"nobody may not read {host.config}" in result.stderr
    assert list(host.units.iterdir()) == []


def test_a_program_that_fails_is_named(host: Host) -> None:
    host.stand_in("systemctl", 1)
    result = host.install("--user", "nobody")
    assert result.returncode == ExitCode.USAGE
    assert "`systemctl daemon-reload` failed" in result.stderr


@pytest.mark.parametrize("name", ["Root", "a b", "-x", "", "a" * 32])
def test_a_name_that_no_user_can_have_is_a_mistake_of_the_command_line(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["install-service", f"--user={name}", "--print"]) == ExitCode.USAGE
    assert "is no name of a user" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("dns", "reach"),
    [
        (None, ["IPAddressDeny=any"]),
        ("", []),
        ('servers = ["192.0.2.53", "[2001:db8::53]:5353"]', ["IPAddressDeny=any", "IPAddressAllow=192.0.2.53 2001:db8::53"]),
    ],
)
def test_who_looks_names_up_reaches_the_resolvers_and_nobody_else(host: Host, dns: str | None, reach: list[str]) -> None:
    if dns is not None:
        text = 'backend_networks = ["2001:db8:1::/64"]\n' + host.config.read_text(encoding="utf-8")
        host.config.write_text(f'{text}\n"names.example.com" = "web1.example.net"\n[dns]\n{dns}\n', encoding="utf-8")
    result = host.install("--print")
    assert result.returncode == 0, result.stderr
    assert [line for line in result.stdout.splitlines() if line.startswith("IPAddress")] == reach
