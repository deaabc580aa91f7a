"""The house has floors: every module imports from lower floors only, and below the line nothing touches the world."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parent.parent / "kracauer"

# The first name after "kracauer." and its floor. A new module must be given one here before this test passes.
LEVELS = {
    "": 0,  # kracauer/__init__.py
    "errors": 0,
    "wire": 1,
    "access": 1,  # below the routes, each of which has such a list
    "routes": 2,
    "peek": 2,
    "translate": 2,
    "replies": 2,
    "profile": 2,
    "ratelimit": 2,
    "path_mtu": 2,
    "timers": 2,
    "config": 3,
    "tcp": 3,
    "steering": 3,
    "fast_path": 4,
    "flows": 4,
    "events": 4,
    "engine": 5,
    "tun": 6,
    "host": 6,
    "offload": 6,
    "metrics": 6,
    "logs": 6,
    "daemon": 7,
    "doctor": 8,
    "lab": 8,
    "cli": 9,
    "__main__": 10,
}
LINE = 5  # this floor and all below it: no I/O, clock, randomness or logging

# The standard library's modules that reach outside, or keep the time of day; with each, all that is inside it.
WORLDLY_MODULES = (
    *("asyncio", "concurrent", "multiprocessing", "queue", "sched", "select", "selectors", "signal", "subprocess", "threading"),
    *("ftplib", "http.client", "http.server", "poplib", "smtplib", "socket", "socketserver", "ssl", "urllib", "xmlrpc"),
    *("fcntl", "glob", "io", "mmap", "os", "pathlib", "pty", "shelve", "shutil", "sqlite3", "tempfile", "termios", "tty"),
    *("datetime", "random", "secrets", "time", "uuid", "logging", "syslog", "warnings"),
    *("builtins", "ctypes", "getpass", "importlib", "platform", "resource", "sys", "_thread"),
)
# Other packages that the floors below the line may use: pure functions of their arguments.
PURE_PACKAGES = frozenset({"idna", "tomli"})
WORLDLY_CALLS = frozenset({"open", "print", "input", "breakpoint", "exec", "eval", "__import__"})


class Import(NamedTuple):
    """One import: the importing module, its line, and the whole name imported."""

    module: str
    line: int
    target: str


def modules(package: Path) -> dict[str, Path]:
    """Every module under `package` by its dotted name, itself included."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(module: str, path: Path, known: dict[str, Path]) -> Iterator[Import]:
    """Every import in `path`, wherever it stands, relative ones made absolute."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (Import(module, node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                package = module if path.name == "__init__.py" else module.rpartition(".")[0]
                anchor = package.split(".")[: len(package.split(".")) - node.level + 1]
                origin = ".".join([*anchor, origin] if origin else anchor)
            for alias in node.names:
                whole = f"{origin}.{alias.name}"
                is_module = whole in known or whole in WORLDLY_MODULES
                yield Import(module, node.lineno, whole if is_module else origin)


def floor_name(module: str) -> str:
    """The name that decides a module's floor: "wire" for kracauer.wire.tcp, "" for kracauer itself."""
    return module.partition(".")[2].partition(".")[0]


def breaches(package: Path) -> list[str]:
    """Everything under `package` that breaks the order of the floors, one line each."""
    known = modules(package)
    root = package.name
    found = [f"{module}: has no level: give it one in LEVELS" for module in known if floor_name(module) not in LEVELS]
    for module, path in known.items():
        own = LEVELS.get(floor_name(module))
        if own is None:
            continue
        for entry in imports(module, path, known):
            place = f"{module}:{entry.line}: {entry.target}"
            if entry.target.partition(".")[0] != root:
                found += [f"{place}: {why}" for why in foreign_breach(own, entry.target)]
            elif floor_name(entry.target) != floor_name(module):
                other = LEVELS.get(floor_name(entry.target))
                if other is None:
                    found.append(f"{place}: has no level")
                elif other >= own and floor_name(entry.target):
                    found.append(f"{place}: level {other} from level {own}")
        if own <= LINE:
            found += [f"{module}:{line}: calls {name}()" for line, name in worldly_calls(path)]
    return found


def foreign_breach(level: int, target: str) -> Iterator[str]:
    """Why a module of another package may not be imported on `level`, if it may not."""
    top = target.partition(".")[0]
    if level > LINE or top in PURE_PACKAGES:
        return
    if any(f"{target}.".startswith(f"{module}.") for module in WORLDLY_MODULES):
        yield "touches the world below the line"
    elif top not in sys.stdlib_module_names:
        yield "is no package for use below the line"


def worldly_calls(path: Path) -> Iterator[tuple[int, str]]:
    """Every call of a built-in that reaches outside."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in WORLDLY_CALLS:
            yield node.lineno, node.func.id


def test_the_package_keeps_to_its_floors() -> None:
    assert breaches(PACKAGE) == []


def test_every_module_of_the_package_is_walked() -> None:
    files = set(PACKAGE.rglob("*.py"))
    assert set(modules(PACKAGE).values()) == files
    assert len(files) > 20


@pytest.mark.parametrize(
    ("path", "source", "breach"),
    [
        ("wire/tcp.py", "from kracauer.routes import Route", "kracauer.wire.tcp:1: kracauer.routes: level 2 from level 1"),
        ("routes.py", "from kracauer import peek", "kracauer.routes:1: kracauer.peek: level 2 from level 2"),
        ("peek/tls.py", "from ..config import Config", "kracauer.peek.tls:1: kracauer.config: level 3 from level 2"),
        ("peek/__init__.py", "from ..config import Config", "kracauer.peek:1: kracauer.config: level 3 from level 2"),
        ("tun/device.py", "import kracauer.host", "kracauer.tun.device:1: kracauer.host: level 6 from level 6"),
        ("engine.py", "def f():\n    import socket", "kracauer.engine:2: socket: touches the world below the line"),
        ("flows.py", "from os.path import join", "kracauer.flows:1: os.path: touches the world below the line"),
        ("flows.py", "from http import client", "kracauer.flows:1: http.client: touches the world below the line"),
        ("config.py", "import pyroute2", "kracauer.config:1: pyroute2: is no package for use below the line"),
        ("config.py", "open('x')", "kracauer.config:1: calls open()"),
        ("novelty.py", "", "kracauer.novelty: has no level: give it one in LEVELS"),
        ("engine.py", "import kracauer.novelty", "kracauer.engine:1: kracauer.novelty: has no level"),
        ("errors.py", "from kracauer.wire import tcp", "kracauer.errors:1: kracauer.wire: level 1 from level 0"),
        ("__init__.py", "import kracauer.wire", "kracauer:1: kracauer.wire: level 1 from level 0"),
    ],
)
def test_a_breach_is_found(tmp_path: Path, path: str, source: str, breach: str) -> None:
    write_package(tmp_path, {"peek/__init__.py": "", "config/__init__.py": "", path: source})
    assert breach in breaches(tmp_path / "kracauer")


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "wire/tcp.py",
            "import struct, http\nfrom kracauer.errors import ParseError\nfrom kracauer.wire import ipv4\nfrom . import udp",
        ),
        ("config/document.py", "import tomli\nfrom kracauer.routes import Route\nfrom kracauer import peek"),
        ("tun/device.py", "import os\nfrom kracauer.engine import Engine\nopen('x')"),
        ("cli/__init__.py", "import kracauer\nfrom kracauer import __version__"),
        ("errors.py", "from kracauer import __version__"),
    ],
)
def test_a_lower_floor_the_own_package_and_pure_modules_are_allowed(tmp_path: Path, path: str, source: str) -> None:
    write_package(tmp_path, {"peek/__init__.py": "", path: source})
    assert breaches(tmp_path / "kracauer") == []


def write_package(folder: Path, sources: dict[str, str]) -> None:
    for name, source in {"__init__.py": "", **sources}.items():
        path = folder / "kracauer" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
