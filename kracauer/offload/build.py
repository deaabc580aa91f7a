"""From programs in C to modules of bytecode: `python -m kracauer.offload.build`, or with `--check` just the comparison.

Needs clang at development time (Debian's package `clang`), and nothing else: no headers, no libbpf. A program is built for
either byte order. What clang makes differs from version to version, so the module says which one made it; `--check` compares
the source's hash always, and the instructions where a clang of the same major version is there.
"""

import argparse
import hashlib
import importlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from kracauer.errors import RemediableError

TARGETS: Final = {"little": "bpfel", "big": "bpfeb"}
# v3 has 32-bit arithmetic and atomics that return a value: every kernel from 5.12 on.
OPTIONS: Final = ("-O2", "-Wall", "-Wextra", "-Werror", "-mcpu=v3", "-g0")

_ELF_HEADER: Final = "16sHHIQQQIHHHHHH"
_SECTION: Final = "IIQQQQIIQQ"
_SYMBOL: Final = "IBBHQQ"
_RELOCATION: Final = "QQ"
_MAP: Final = "IIII"
_R_BPF_64_64: Final = 1
_INSTRUCTION_BYTES: Final = 8
_LINE_BYTES: Final = 7 * _INSTRUCTION_BYTES


class BuildError(RemediableError):
    """The program cannot be built, or is not what was built."""


class Program(NamedTuple):
    """A program: its source, what that includes, the module that is made of it, and the numbers that the loader puts in."""

    source: Path
    included: tuple[Path, ...]
    module: Path
    constants: tuple[str, ...]


_HERE: Final = Path(__file__).parent
SPLICE: Final = Program(
    _HERE / "splice.bpf.c",
    (_HERE / "packets.bpf.h", _HERE / "syns.bpf.h", _HERE / "workers.bpf.h"),
    _HERE / "bytecode.py",
    ("link_header_length", "workers"),
)
STEER: Final = Program(
    _HERE / "steer.bpf.c", (_HERE / "packets.bpf.h", _HERE / "workers.bpf.h"), _HERE / "steering_bytecode.py", ("workers",)
)
PROGRAMS: Final = (SPLICE, STEER)


class Section(NamedTuple):
    """One section of an object file."""

    name: str
    data: bytes
    link: int
    info: int


class MapLayout(NamedTuple):
    """A map as the program declares it; `type` and `flags` are the kernel's numbers."""

    type: int
    key_bytes: int
    value_bytes: int
    flags: int


class Built(NamedTuple):
    """The program for one byte order: its maps by name, and which instruction refers to which name."""

    instructions: bytes
    relocations: dict[int, str]
    maps: dict[str, MapLayout]


def read_object(data: bytes, constants: Sequence[str]) -> Built:
    """Take apart what clang made (ELF-64, of either byte order)."""
    order = "<" if data[5] == 1 else ">"
    sections = list(_sections(data, order))
    by_name = {section.name: section for section in sections}
    strings = by_name[".strtab"].data
    symbols = list(struct.iter_unpack(order + _SYMBOL, by_name[".symtab"].data))
    names = [_string(strings, symbol[0]) for symbol in symbols]
    maps = {}
    for name, (_, _, _, section, value, size) in zip(names, symbols, strict=True):
        if section < len(sections) and sections[section].name == "maps" and size:
            maps[name] = MapLayout._make(struct.unpack_from(order + _MAP, sections[section].data, value))
    relocations = {}
    for offset, info in struct.iter_unpack(order + _RELOCATION, by_name[".relprogram"].data):
        name = names[info >> 32]
        if info & 0xFFFFFFFF != _R_BPF_64_64 or name not in (*maps, *constants):
            raise BuildError(f"the program refers to {name}", f"only maps and {', '.join(constants)} can be referred to")
        relocations[offset // _INSTRUCTION_BYTES] = name
    return Built(by_name["program"].data, relocations, dict(sorted(maps.items())))


def _sections(data: bytes, order: str) -> Iterator[Section]:
    header = struct.unpack_from(order + _ELF_HEADER, data)
    start, size, count, names_at = header[6], header[11], header[12], header[13]
    rows = [struct.unpack_from(order + _SECTION, data, start + index * size) for index in range(count)]
    names = data[rows[names_at][4] : rows[names_at][4] + rows[names_at][5]]
    for name, _, _, _, offset, length, link, info, _, _ in rows:
        yield Section(_string(names, name), data[offset : offset + length], link, info)


def _string(strings: bytes, at: int) -> str:
    return strings[at : strings.index(0, at)].decode("ascii")


def source_hash(program: Program) -> str:
    """The SHA-256 of the program's source, what it includes behind it, in hexadecimal digits."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in (program.source, *program.included))).hexdigest()


def clang_version() -> str | None:
    """The version of the clang that is there, as "14.0.6"; None where there is none."""
    clang = shutil.which("clang")
    if clang is None:
        return None
    output = subprocess.run([clang, "--version"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"version (\d+(?:\.\d+)*)", output)
    return found[1] if found else None


def compile_source(program: Program, byte_order: str) -> Built:
    """Compile the program for a `byte_order` as `sys.byteorder` names it; raises BuildError."""
    if clang_version() is None:
        raise BuildError("there is no clang", "install Debian's package `clang`; only development needs it")
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / "program.o"
        source = program.source
        options = [*OPTIONS, *(word for path in {path.parent for path in program.included} for word in ("-I", str(path)))]
        command = ["clang", *options, "-target", TARGETS[byte_order], "-c", source.name, "-o", str(target)]
        result = subprocess.run(command, cwd=source.parent, capture_output=True, text=True, check=False)
        if result.returncode:
            raise BuildError(f"clang cannot compile {source.name}", result.stderr)
        return read_object(target.read_bytes(), program.constants)


def render(program: Program) -> str:
    """The text of the module; raises BuildError."""
    built = {order: compile_source(program, order) for order in TARGETS}
    layouts = built["little"].maps
    if built["big"].maps != layouts:
        raise BuildError("the maps differ with the byte order", "give every field an explicit size and padding")
    name = program.source.name
    lines = [
        f'"""The program of {name} for the kernel; made by `python -m kracauer.offload.build`, not to be edited."""',
        "",
        "from typing import Final",
        "",
        f'SOURCE_SHA256: Final = "{source_hash(program)}"',
        f'CLANG: Final = "{clang_version()}"',
        "",
        "# By name: type, bytes of a key, bytes of a value, flags.",
        f"MAPS: Final[dict[str, tuple[int, int, int, int]]] = {'{' if layouts else '{}'}",
        *(f'    "{name}": {tuple(layout)},' for name, layout in layouts.items()),
        *(["}"] if layouts else []),
        "",
        "# By byte order: which instruction refers to which map or constant.",
        "RELOCATIONS: Final[dict[str, dict[int, str]]] = {",
    ]
    for order, made in built.items():
        lines += [f'    "{order}": {{', *(f'        {at}: "{name}",' for at, name in made.relocations.items()), "    },"]
    lines += ["}", "", "# By byte order, seven instructions a line.", "INSTRUCTIONS: Final = {"]
    for order, made in built.items():
        parts = [made.instructions[at : at + _LINE_BYTES] for at in range(0, len(made.instructions), _LINE_BYTES)]
        lines += [f'    "{order}": bytes.fromhex(', *(f'        "{part.hex()}"' for part in parts), "    ),"]
    return "\n".join([*lines, "}", ""])


def check(program: Program) -> str:
    """Compare the module with the source; says how far it could look. Raises BuildError where they differ."""
    module, source = program.module.name, program.source.name
    remedy = "build it anew with `python -m kracauer.offload.build`"
    # By name: the first build has none yet.
    bytecode = importlib.import_module(f"kracauer.offload.{program.module.stem}")
    if source_hash(program) != bytecode.SOURCE_SHA256:
        raise BuildError(f"{module} was made from another {source}", remedy)
    version = clang_version()
    if version is None or version.partition(".")[0] != bytecode.CLANG.partition(".")[0]:
        has = "there is none" if version is None else f"this is {version}"
        return f"the hash of {source} fits; {module} was made by clang {bytecode.CLANG}, {has}: instructions were not compared"
    built = {order: compile_source(program, order) for order in TARGETS}
    layouts = {name: tuple(layout) for name, layout in built["little"].maps.items()}
    if (
        {order: made.instructions for order, made in built.items()} != bytecode.INSTRUCTIONS
        or {order: made.relocations for order, made in built.items()} != bytecode.RELOCATIONS
        or layouts != bytecode.MAPS
    ):
        raise BuildError(f"{module} is not what clang {version} makes of {source}", remedy)
    return f"{module} is what clang {version} makes of {source}"


def main() -> None:
    """Write the modules, or compare them."""
    parser = argparse.ArgumentParser(prog="python -m kracauer.offload.build", description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a module does not fit its source")
    is_checking = parser.parse_args().check
    try:
        for program in PROGRAMS:
            if is_checking:
                print(check(program))
            else:
                program.module.write_text(render(program), encoding="ascii")
    except BuildError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
