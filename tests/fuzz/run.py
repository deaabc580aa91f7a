"""Fuzz one target, guided by coverage where atheris is installed (`pip install kracauer[fuzz]`).

    python tests/fuzz/run.py engine --seconds 600
    python tests/fuzz/run.py engine --calls 10000000 --corpus /var/tmp/engine
    python tests/fuzz/run.py tls --runs 100000 --plain
    python tests/fuzz/run.py engine FILE

Ends at the first finding, which is made small and written to a file, with status 1. With files it plays those and shows, of the
engine, every packet. A run counts inputs; what it counts as calls is, of the engine, each packet taken in and each firing of
timers, of the other targets the inputs again.
"""

import argparse
import hashlib
import importlib
import os
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, Final, NoReturn

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parent.parent


class Session:
    """One run: what it is to do, and how far it has come."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        from targets import TARGETS  # noqa: PLC0415 - what it imports has to be instrumented first

        self.name, self.target = name, TARGETS[name]
        self._runs, self._calls, self._seconds = arguments.runs, arguments.calls, arguments.seconds
        self._findings = arguments.findings
        self._started, self._began = time.monotonic(), time.process_time()
        self.inputs = self.calls = 0

    def play(self, data: bytes) -> None:
        """Play one input; ends the process at a finding and when there is nothing left to do."""
        try:
            self.calls += self.target.play(data)
        except Exception as error:
            self._report(data, error)
        self.inputs += 1
        if self.inputs & 15 == 0 or self._runs:
            self._check_end()

    def _check_end(self) -> None:
        elapsed = time.monotonic() - self._started
        is_over = (self._runs and self.inputs >= self._runs) or (self._calls and self.calls >= self._calls)
        if is_over or (self._seconds and elapsed >= self._seconds):
            self.end(0)

    def end(self, status: int) -> NoReturn:
        """Say how far it has come, and end the process as it stands: a fuzzer's own clean-up has nothing to add."""
        elapsed = time.monotonic() - self._started
        rate, own = (self.calls / max(seconds, 0.001) for seconds in (elapsed, time.process_time() - self._began))
        said = f"{self.inputs} inputs, {self.calls} calls in {elapsed:.1f} s, {rate:.0f} calls/s, {own:.0f} a CPU second"
        print(f"{self.name}: {said}", flush=True)
        sys.stderr.flush()
        os._exit(status)

    def _report(self, data: bytes, error: Exception) -> NoReturn:
        from mutation import shrink  # noqa: PLC0415 - beside the targets

        traceback.print_exception(error)
        small = shrink(data, lambda smaller: self._fails_alike(smaller, error))
        self._findings.mkdir(parents=True, exist_ok=True)
        path = self._findings / f"{self.name}-{hashlib.sha256(small).hexdigest()[:12]}"
        path.write_bytes(small)
        print(f"{self.name}: finding: {error!r}\n{self.name}: {len(small)} bytes in {path}", flush=True)
        self.end(1)

    def _fails_alike(self, data: bytes, error: Exception) -> bool:
        try:
            self.target.play(data)
        except Exception as other:
            return type(other) is type(error) and _place(other) == _place(error)
        return False


def _place(error: Exception) -> tuple[str, int]:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return frame.filename, frame.lineno or 0


def show(name: str, files: list[Path]) -> int:
    """Play files; returns 1 where one of them is a finding."""
    from targets import TARGETS  # noqa: PLC0415

    status = 0
    for path in files:
        data = path.read_bytes()
        if name == "engine":
            from engine_target import explain  # noqa: PLC0415

            print(f"{path}:", *explain(data), sep="\n")
        try:
            TARGETS[name].play(data)
        except Exception:
            traceback.print_exc()
            status = 1
    return status


def run_guided(atheris: Any, name: str, arguments: argparse.Namespace, corpus: Path) -> None:
    """Have libFuzzer choose the inputs; what reaches new code is kept in `corpus`."""
    with atheris.instrument_imports(include=["kracauer"]):
        session = Session(name, arguments)
    from targets import CORPUS  # noqa: PLC0415

    for number, seed in enumerate(session.target.seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    command = [
        sys.argv[0],
        f"-max_len={session.target.max_bytes}",
        "-len_control=0",
        "-print_final_stats=0",
        f"-seed={arguments.seed}",
    ]
    command += ["-verbosity=1" if arguments.verbose else "-verbosity=0", str(corpus)]
    if (CORPUS / name).is_dir():
        command.append(str(CORPUS / name))
    atheris.Setup(command, session.play)
    atheris.Fuzz()


def run_plain(name: str, arguments: argparse.Namespace) -> None:
    """Choose the inputs at random."""
    from mutation import mutations  # noqa: PLC0415
    from targets import findings  # noqa: PLC0415

    session = Session(name, arguments)
    for data in mutations([*session.target.seeds(), *findings(name)], session.target.max_bytes, arguments.seed):
        session.play(data)


def find_atheris() -> Any:
    """The fuzzer, or None where it is not installed."""
    try:
        return importlib.import_module("atheris")
    except ImportError:
        return None


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=("ipv4", "ipv6", "tcp", "icmp", "vnet", "tls", "http", "auto", "engine"))
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="play these and nothing else")
    parser.add_argument("--runs", type=int, default=0, help="end after so many inputs")
    parser.add_argument("--calls", type=int, default=0, help="end after so many calls of what is under test")
    parser.add_argument("--seconds", type=float, default=0.0, help="end after so long")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the chance that inputs are made by (without: another each time)"
    )
    parser.add_argument("--plain", action="store_true", help="choose inputs at random, without coverage")
    parser.add_argument("--corpus", type=Path, help="keep what reaches new code here, and go on from it the next time")
    parser.add_argument(
        "--findings", type=Path, default=Path(tempfile.gettempdir()) / "fuzz-findings", help="where findings go"
    )
    parser.add_argument("--verbose", action="store_true", help="show what libFuzzer has to say")
    return parser.parse_args()


def main() -> int:
    """Do what the command line says; returns the exit status."""
    arguments = parse_arguments()
    sys.path[:0] = [str(ROOT), str(HERE), str(HERE.parent / "support")]
    if arguments.files:
        return show(arguments.target, arguments.files)
    arguments.seed = arguments.seed or random.SystemRandom().randrange(1, 1 << 31)
    atheris = None if arguments.plain else find_atheris()
    print(f"{arguments.target}: {'guided by coverage' if atheris else 'at random'}, seed {arguments.seed}", flush=True)
    if atheris is None:
        run_plain(arguments.target, arguments)
    else:
        with tempfile.TemporaryDirectory(prefix="fuzz-corpus-") as directory:
            corpus = arguments.corpus or Path(directory)
            corpus.mkdir(parents=True, exist_ok=True)
            run_guided(atheris, arguments.target, arguments, corpus)
    return 0


if __name__ == "__main__":
    sys.exit(main())
