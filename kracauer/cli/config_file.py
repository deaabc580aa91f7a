"""Finds and reads the configuration file."""

import sys
from argparse import ArgumentParser
from collections.abc import Callable
from dataclasses import dataclass
from errno import EINVAL
from pathlib import Path
from typing import Final

from kracauer.config import Config, parse_config
from kracauer.errors import ConfigError

PLACES: Final = (Path("kracauer-config.toml"), Path("/etc/kracauer/kracauer-config.toml"))


class ConfigFileError(ConfigError):
    """There is no file to read, or it cannot be read; the one problem says which and what to do."""

    def __init__(self, problem: str) -> None:
        super().__init__((problem,))


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A configuration and the file it stood in."""

    path: Path
    config: Config


def add_config_argument(parser: ArgumentParser) -> None:
    """Add `-c FILE` to a command that reads the configuration; it becomes `arguments.config`, a Path or None."""
    places = ", else ".join(str(place) for place in PLACES)
    parser.add_argument("-c", "--config", metavar="FILE", type=Path, help=f"the configuration (without: {places})")


def find_config(given: Path | None) -> Path:
    """The file `given`, or else the first of `PLACES` that is there; raises ConfigFileError where none is."""
    if given is not None:
        return given
    for place in PLACES:
        if _is_there(place):
            return place
    looked = " and ".join(str(place) for place in PLACES)
    raise ConfigFileError(f"no configuration: looked for {looked}; write one of them, or name another with -c FILE")


def _is_there(place: Path) -> bool:
    """Whether anything has this name, be it a link to nowhere: to go on in silence would use another file than meant."""
    try:
        place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True  # perhaps: reading it will say what is the matter
    return True


def read_config(path: Path) -> ConfigFile:
    """Read and parse `path`; raises ConfigFileError for the file and ConfigError (every problem) for its content."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        why = "is a link to a file that is not there" if path.is_symlink() else "there is no such file"
        raise ConfigFileError(f"{path}: {why}") from None
    except IsADirectoryError:
        raise ConfigFileError(f"{path}: is a directory: name the file inside it") from None
    except PermissionError:
        raise ConfigFileError(f"{path}: may not be read by this user: run as root, or grant reading") from None
    except (OSError, ValueError) as error:
        raise ConfigFileError(f"{path}: cannot be read: {error}") from None
    return ConfigFile(path, parse_config(content, _reader(path.parent)))


def _reader(folder: Path) -> Callable[[str], str]:
    """Reads the files that a configuration names, relative to the `folder` in which it stands."""

    def read_file(name: str) -> str:
        path = folder / name
        if path.exists() and not path.is_file():
            # A pipe would keep the reader waiting, a device without an end for ever.
            raise OSError(EINVAL, "it is no ordinary file")
        return path.read_text(encoding="utf-8")

    return read_file


def read_or_explain(given: Path | None) -> ConfigFile | None:
    """Find and read the configuration; None, and all that is wrong on stderr, where that cannot be."""
    try:
        path = find_config(given)
        return read_config(path)
    except ConfigFileError as error:
        print(f"kracauer: {error}", file=sys.stderr)
    except ConfigError as error:
        for problem in error.problems:
            print(f"{path}: {problem}", file=sys.stderr)
    return None
