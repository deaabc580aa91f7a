"""From splice.bpf.c to bytecode.py: `python -m kracauer.offload.build`, or with `--check` just the comparison.

Needs clang at development time (Debian's package `clang`), and nothing else: no headers, no libbpf. The program is built for
either byte order. What clang makes differs from version to version, so the module says which one made it; `--check` compares
the source's hash always, and the instructions where a clang of the same major version is there.
"""

import argparse
import hashlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from kracauer.errors import RemediableError

SOURCE: Final = Path(__file__).with_name("splice.bpf.c")
INCLUDED: Final = Path(__file__).with_name("syns.bpf.h")
MODULE: Final = Path(__file__).with_name("bytecode.py")
TARGETS: Final = {"little": "bpfel", "big": "bpfeb"}
# v3 has 32-bit arithmetic and atomics that return a value: every kernel from 5.12 on.
OPTIONS: Final = ("-O2", "-Wall", "-Wextra", "-Werror", "-mcpu=v3", "-g0")
CONSTANT: Final = "link_header_length"

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


def read_object(data: bytes) -> Built:
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
        if info & 0xFFFFFFFF != _R_BPF_64_64 or name not in (*maps, CONSTANT):
            raise BuildError(f"the program refers to {name}", f"only maps and {CONSTANT} can be referred to")
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


def source_hash() -> str:
    """The SHA-256 of the program's source, what it includes behind it, in hexadecimal digits."""
    return hashlib.sha256(SOURCE.read_bytes() + INCLUDED.read_bytes()).hexdigest()


def clang_version() -> str | None:
    """The version of the clang that is there, as "14.0.6"; None where there is none."""
    clang = shutil.which("clang")
    if clang is None:
        return None
    output = subprocess.run([clang, "--version"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"version (\d+(?:\.\d+)*)", output)
    return found[1] if found else None


def compile_source(byte_order: str) -> Built:
    """Compile the program for a `byte_order` as `sys.byteorder` names it; raises BuildError."""
    if clang_version() is None:
        raise BuildError("there is no clang", "install Debian's package `clang`; only development needs it")
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / "splice.o"
        options = [*OPTIONS, "-I", str(INCLUDED.parent), "-target", TARGETS[byte_order]]
        command = ["clang", *options, "-c", SOURCE.name, "-o", str(target)]
        result = subprocess.run(command, cwd=SOURCE.parent, capture_output=True, text=True, check=False)
        if result.returncode:
            raise BuildError(f"clang cannot compile {SOURCE.name}", result.stderr)
        return read_object(target.read_bytes())


def render() -> str:
    """The text of the module; raises BuildError."""
    built = {order: compile_source(order) for order in TARGETS}
    layouts = built["little"].maps
    if built["big"].maps != layouts:
        raise BuildError("the maps differ with the byte order", "give every field an explicit size and padding")
    lines = [
        '"""The program of splice.bpf.c for the kernel; made by `python -m kracauer.offload.build`, not to be edited."""',
        "",
        "from typing import Final",
        "",
        f'SOURCE_SHA256: Final = "{source_hash()}"',
        f'CLANG: Final = "{clang_version()}"',
        "",
        "# By name: type, bytes of a key, bytes of a value, flags.",
        "MAPS: Final = {",
        *(f'    "{name}": {tuple(layout)},' for name, layout in layouts.items()),
        "}",
        "",
        "# By byte order: which instruction refers to which map or constant.",
        "RELOCATIONS: Final[dict[str, dict[int, str]]] = {",
    ]
    for order, program in built.items():
        lines += [f'    "{order}": {{', *(f'        {at}: "{name}",' for at, name in program.relocations.items()), "    },"]
    lines += ["}", "", "# By byte order, seven instructions a line.", "INSTRUCTIONS: Final = {"]
    for order, program in built.items():
        parts = [program.instructions[at : at + _LINE_BYTES] for at in range(0, len(program.instructions), _LINE_BYTES)]
        lines += [f'    "{order}": bytes.fromhex(', *(f'        "{part.hex()}"' for part in parts), "    ),"]
    return "\n".join([*lines, "}", ""])


def check() -> str:
    """Compare the module with the source; says how far it could look. Raises BuildError where they differ."""
    from kracauer.offload import bytecode  # noqa: PLC0415  the first build has none yet

    remedy = "build it anew with `python -m kracauer.offload.build`"
    if source_hash() != bytecode.SOURCE_SHA256:
        raise BuildError(f"{MODULE.name} was made from another {SOURCE.name}", remedy)
    version = clang_version()
    if version is None or version.partition(".")[0] != bytecode.CLANG.partition(".")[0]:
        has = "there is none" if version is None else f"this is {version}"
        return f"the source's hash fits; its instructions were made by clang {bytecode.CLANG}, {has}, and were not compared"
    built = {order: compile_source(order) for order in TARGETS}
    layouts = {name: tuple(layout) for name, layout in built["little"].maps.items()}
    if (
        {order: program.instructions for order, program in built.items()} != bytecode.INSTRUCTIONS
        or {order: program.relocations for order, program in built.items()} != bytecode.RELOCATIONS
        or layouts != bytecode.MAPS
    ):
        raise BuildError(f"{MODULE.name} is not what clang {version} makes of {SOURCE.name}", remedy)
    return f"{MODULE.name} is what clang {version} makes of {SOURCE.name}"


def main() -> None:
    """Write the module, or compare it."""
    parser = argparse.ArgumentParser(prog="python -m kracauer.offload.build", description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the module does not fit the source")
    try:
        if parser.parse_args().check:
            print(check())
        else:
            MODULE.write_text(render(), encoding="ascii")
    except BuildError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
