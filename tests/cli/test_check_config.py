"""`kracauer check-config`: the summary, the problems, and the files that cannot be read."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from kracauer.cli import config_file, main

ROOT = Path(__file__).parent.parent.parent
VALID = """
prefix = "2001:db8:46::/96"
[[listen]]
address = "198.51.100.1"
port = 443
protocol = "tls"
[[listen]]
address = "198.51.100.1"
port = 80
protocol = "http"
[hosts]
"www.example.com" = "2001:db8:1::2"
"*.Bücher.example" = ["2001:db8:1::3", "[2001:db8:1::4]:8443"]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and a place under it in the stead of /etc."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setattr(config_file, "PLACES", (Path("kracauer-config.toml"), tmp_path / "etc" / "kracauer-config.toml"))
    return work


def written(path: Path, text: str = VALID) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_valid_file_is_summarised_in_aligned_columns(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(folder / "web.toml")
    assert main(["check-config", "-c", "web.toml"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines() == [
        "web.toml: valid",
        "",
        "prefix     2001:db8:46::/96   (backends see 192.0.2.7 as 2001:db8:46::c000:207)",
        "listeners  198.51.100.1:443   tls",
        "           198.51.100.1:80    http",
        "names      www.example.com           2001:db8:1::2",
        "           *.xn--bcher-kva.example   2001:db8:1::3, then [2001:db8:1::4]:8443",
        "           (any other)               refused",
    ]


def test_a_default_takes_the_place_of_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(folder / "kracauer-config.toml", VALID + 'default = "2001:db8:1::2"\n')
    assert main(["check-config"]) == 0
    out = capsys.readouterr().out
    assert "refused" not in out
    assert out.splitlines()[-1].split() == ["default", "2001:db8:1::2"]


def test_every_problem_goes_to_stderr_with_the_name_of_the_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(folder / "wrong.toml", VALID.replace("443", "70000", 1).replace("port = 80", "prt = 80"))
    assert main(["check-config", "-c", "wrong.toml"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "wrong.toml: listen[0].port: 70000: must be a whole number from 1 to 65535",
        "wrong.toml: listen[1].port: is missing: write for example port = 443",
        "wrong.toml: listen[1].prt: 80: is not a key of listen[1]: did you mean port?",
        "wrong.toml: 3 problems",
    ]


def test_one_problem_is_counted_as_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(folder / "wrong.toml", VALID.replace("443", "70000", 1))
    assert main(["check-config", "-c", "wrong.toml"]) == 1
    assert capsys.readouterr().err.endswith("wrong.toml: 1 problem\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"prefix = 2001:db8:46::/96\n", "line 1, column 14: "),
        (b"# caf\xe9\n", "line 1, column 6: the byte 0xe9 is not UTF-8: save the file as UTF-8"),
        (b"", "prefix: is missing"),
    ],
)
def test_a_file_that_is_no_toml_names_the_place(
    folder: Path, capsys: pytest.CaptureFixture[str], content: bytes, message: str
) -> None:
    (folder / "wrong.toml").write_bytes(content)
    assert main(["check-config", "-c", "wrong.toml"]) == 1
    assert f"wrong.toml: {message}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.toml", "missing.toml: there is no such file"),
        (".", ".: is a directory: name the file inside it"),
        ("file/inside.toml", "file/inside.toml: cannot be read: [Errno 20] Not a directory"),
        ("a\0b", "cannot be read"),
        ("x" * 300, "File name too long"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_a_file_that_cannot_be_read_says_why(capsys: pytest.CaptureFixture[str], name: str, message: str) -> None:
    written(Path("file"))
    assert main(["check-config", "-c", name]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


@pytest.fixture
def nobody() -> Iterator[None]:
    """Makes the test a user whom file modes bind, which root is not."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


def test_a_file_without_the_right_to_read_says_so(
    folder: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    written(folder / "secret.toml").chmod(0)
    request.getfixturevalue("nobody")
    assert main(["check-config", "-c", "secret.toml"]) == 1
    assert "secret.toml: may not be read by this user" in capsys.readouterr().err


def test_the_working_directory_comes_before_etc(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    etc = written(folder.parent / "etc" / "kracauer-config.toml")
    assert main(["check-config"]) == 0
    assert capsys.readouterr().out.startswith(f"{etc}: valid")
    written(folder / "kracauer-config.toml")
    assert main(["check-config"]) == 0
    assert capsys.readouterr().out.startswith("kracauer-config.toml: valid")


@pytest.mark.usefixtures("folder")
def test_without_any_file_both_places_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config"]) == 1
    err = capsys.readouterr().err
    assert all(str(place) in err for place in config_file.PLACES)
    assert "-c FILE" in err


@pytest.mark.parametrize(
    ("target", "message"),
    [("nowhere", "is a link to a file that is not there"), ("kracauer-config.toml", "cannot be read")],
)
def test_a_broken_link_in_the_working_directory_is_not_passed_over(
    folder: Path, capsys: pytest.CaptureFixture[str], target: str, message: str
) -> None:
    written(folder.parent / "etc" / "kracauer-config.toml")
    (folder / "kracauer-config.toml").symlink_to(target)
    assert main(["check-config"]) == 1
    assert capsys.readouterr().err.startswith(f"kracauer: kracauer-config.toml: {message}")


def test_the_shipped_example_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", "--config", str(ROOT / "kracauer-config.toml")]) == 0
    assert "valid" in capsys.readouterr().out


def test_the_reference_shows_what_is_really_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = (ROOT / "docs" / "reference" / "configuration.md").read_text(encoding="utf-8")
    whole = re.search(r"^```toml\n(.*?)^```$", reference, re.MULTILINE | re.DOTALL)
    shown = re.findall(r"^```console\n(.*?)^```$", reference, re.MULTILINE | re.DOTALL)
    assert whole is not None
    written(folder / "kracauer-config.toml", whole[1])
    written(folder / "wrong.toml", whole[1].replace("443", "70000").replace("protocol", "protocl"))
    for session in shown:
        command, _, output = session.partition("\n")
        main(command.removeprefix("$ kracauer ").split())
        printed = capsys.readouterr()
        assert printed.out + printed.err == output
    assert len(shown) == 2


def test_lists_of_clients_are_summed_up_wherever_they_stand(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = VALID.replace(
        'protocol = "http"', 'protocol = "http"\nallow = ["192.0.2.0/24", "203.0.113.8"]\ndeny = ["192.0.2.7"]'
    )
    written(folder / "web.toml", text + 'default = { backends = "2001:db8:1::2", deny = ["192.0.2.7", "192.0.2.9"] }\n')
    assert main(["check-config", "-c", "web.toml"]) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "clients    198.51.100.1:80   2 networks allowed, 1 network denied",
        "           default           2 networks denied",
    ]


DENY_FILE = '[access]\ndeny_file = "lists/denied.txt"\n'


def test_a_file_of_clients_is_looked_for_where_the_configuration_stands(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(folder.parent / "etc" / "web.toml", VALID + DENY_FILE)
    written(folder.parent / "etc" / "lists" / "denied.txt", "192.0.2.0/24\n203.0.113.8\n")
    assert main(["check-config", "-c", "../etc/web.toml"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "clients    (everywhere)   2 networks denied"


def test_a_mistake_in_a_file_of_clients_is_told_with_its_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(folder / "web.toml", VALID + DENY_FILE)
    written(folder / "lists" / "denied.txt", "192.0.2.0/24\n2001:db8::/32\n")
    assert main(["check-config", "-c", "web.toml"]) == 1
    assert capsys.readouterr().err.startswith(
        'web.toml: access.deny_file: "lists/denied.txt", line 2: "2001:db8::/32": is IPv6, and clients are IPv4'
    )


def test_a_file_of_clients_that_is_missing_is_a_problem(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(folder / "web.toml", VALID + DENY_FILE)
    assert main(["check-config", "-c", "web.toml"]) == 1
    assert 'access.deny_file: "lists/denied.txt": cannot be read: there is no such file' in capsys.readouterr().err


@pytest.mark.parametrize("name", ["pipe", "."])
def test_what_is_no_ordinary_file_is_not_read(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    os.mkfifo(folder / "pipe")
    written(folder / "web.toml", VALID + f'[access]\ndeny_file = "{name}"\n')
    assert main(["check-config", "-c", "web.toml"]) == 1
    assert "cannot be read: it is no ordinary file" in capsys.readouterr().err


def test_what_is_looked_up_is_told_apart_and_the_networks_of_backends_are_shown(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = 'backend_networks = ["2001:db8:1::/64", "2001:db8:2::/64"]\n' + VALID
    written(
        folder / "web.toml", text + '"wiki.example.com" = ["web1.example.net:81", "2001:db8:2::7"]\n[dns]\nserve_any = true\n'
    )
    assert main(["check-config", "-c", "web.toml"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "wiki.example.com web1.example.net:81 (looked up), then 2001:db8:2::7" in lines
    assert lines[-2:] == ["(any other) its own AAAA records", "backends all within 2001:db8:1::/64, 2001:db8:2::/64"]


def test_redirects_and_limits_are_shown_where_they_hold(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = VALID.replace('protocol = "http"', 'protocol = "http"\nredirect = "https"')
    text += '[hosts."full.example.com"]\nbackends = "2001:db8:1::9"\nmax_flows = 100\nredirect = "https"\n'
    written(folder / "web.toml", text)
    assert main(["check-config", "-c", "web.toml"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "198.51.100.1:80 http; plain HTTP is sent to HTTPS" in lines
    assert "full.example.com 2001:db8:1::9; plain HTTP is sent to HTTPS; at most 100 connections" in lines
