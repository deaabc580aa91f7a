"""The daemon with a program that is wrong on purpose: `altered_daemon.py OLD NEW run -c FILE`.

In a copy of the program's source NEW stands in the place of OLD, which has to be there once. Needs clang.
"""

import sys
import tempfile
from pathlib import Path

from kracauer.cli import main
from kracauer.offload import build, bytecode

if __name__ == "__main__":
    old, new = sys.argv[1:3]
    del sys.argv[1:3]
    program = build.SPLICE
    source = program.source.read_text(encoding="utf-8")
    if source.count(old) != 1:
        sys.exit(f"{old!r} is to be found once in {program.source.name}, not {source.count(old)} times")
    with tempfile.TemporaryDirectory() as directory:
        altered = program._replace(source=Path(directory) / program.source.name)
        altered.source.write_text(source.replace(old, new), encoding="utf-8")
        built = build.compile_source(altered, sys.byteorder)
    bytecode.INSTRUCTIONS[sys.byteorder] = built.instructions
    bytecode.RELOCATIONS[sys.byteorder] = built.relocations
    sys.exit(main())
