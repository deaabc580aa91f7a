import re
import sys
from pathlib import Path

import pytest

from kracauer.offload import build, bytecode
from kracauer.offload.answering import ANSWERED, ANSWERING, KNOWN_BYTES, LISTENER, OFFER
from kracauer.offload.build import BuildError, Program
from kracauer.offload.layout import CARRIED, CONTROL, TRAFFIC_BYTES


def has_clang_of_the_same_major_version() -> bool:
    version = build.clang_version()
    return version is not None and version.partition(".")[0] == bytecode.CLANG.partition(".")[0]


needs_clang = pytest.mark.skipif(
    not has_clang_of_the_same_major_version(),
    reason=f"needs clang {bytecode.CLANG.partition('.')[0]}, as of Debian 12: apt install clang",
)


programs = pytest.mark.parametrize("program", build.PROGRAMS, ids=lambda program: program.source.name)


@programs
def test_the_module_was_made_from_this_source(program: Program) -> None:
    assert build.check(program)


@needs_clang
@programs
def test_the_instructions_are_what_clang_makes_of_the_source(program: Program) -> None:
    assert build.check(program).endswith(f"makes of {program.source.name}")
    assert build.render(program) == program.module.read_text(encoding="ascii")


@programs
def test_another_source_is_noticed(program: Program, tmp_path: Path) -> None:
    source = tmp_path / program.source.name
    source.write_bytes(program.source.read_bytes() + b"\n")
    with pytest.raises(BuildError, match="made from another"):
        build.check(program._replace(source=source))


@needs_clang
def test_other_instructions_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    altered = {order: code[:-8] + bytes(8) for order, code in bytecode.INSTRUCTIONS.items()}
    monkeypatch.setattr(bytecode, "INSTRUCTIONS", altered)
    with pytest.raises(BuildError, match="is not what clang"):
        build.check(build.SPLICE)


def test_without_clang_the_check_says_what_it_could_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "were not compared" in build.check(build.SPLICE)
    with pytest.raises(BuildError, match="install Debian's package `clang`"):
        build.render(build.SPLICE)


@needs_clang
def test_a_mistake_in_the_source_is_shown_with_its_line(tmp_path: Path) -> None:
    source = tmp_path / "splice.bpf.c"
    source.write_text(build.SPLICE.source.read_text(encoding="utf-8") + "int unfinished(void) { return }\n", encoding="utf-8")
    with pytest.raises(BuildError, match=re.escape("splice.bpf.c:") + r"\d+:"):
        build.render(build.SPLICE._replace(source=source))


def test_the_maps_hold_what_python_puts_there() -> None:
    sizes = {name: (key, value) for name, (_, key, value, _) in bytecode.MAPS.items()}
    assert sizes["traffic"] == (4, TRAFFIC_BYTES) == (4, 2 * CARRIED.size)
    assert sizes["control"] == (4, CONTROL.size)
    assert sizes["listeners"] == (LISTENER.size, OFFER.size)
    assert sizes["answering"] == (4, ANSWERING.size)
    assert sizes["answered"] == (4, ANSWERED.size)
    assert sizes["known_flows"] == (4, KNOWN_BYTES)
    assert CARRIED.size == 64  # a cache line: the directions run on different cores


def test_there_is_a_program_for_this_machine() -> None:
    assert sys.byteorder in bytecode.INSTRUCTIONS
    assert len(bytecode.INSTRUCTIONS["little"]) % 8 == len(bytecode.INSTRUCTIONS["big"]) % 8 == 0
