"""The proxies and translators of Debian that can stand where Kracauer stands, each as its own manual sets it up for that.

They choose a server by the name in the ClientHello and pass the bytes on, without logs: HAProxy and nginx with two threads or
processes as on two cores, sniproxy with its one. TAYGA knows no names: it maps one address to the server, port by port.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from kracauer.lab.topology import ORIGIN_1

PORT: Final = 443
MOST_CONNECTIONS: Final = 7500  # at once: HAProxy has two and a half descriptors for each, where a process may have 20,000
NGINX_MODULES: Final = Path("/usr/lib/nginx/modules")
_ADMINISTRATORS: Final = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # not on everybody's path

Routes = Mapping[str, int]  # the server's port by hostname


def find(program: str) -> str | None:
    """Return the path of a program, wherever administrators have theirs."""
    return shutil.which(program, path=os.pathsep.join((os.environ.get("PATH", ""), *_ADMINISTRATORS)))


def version(package: str) -> str | None:
    """Return the version of an installed Debian package; None where it is not, or this is no Debian."""
    command = ["dpkg-query", "--show", "--showformat=${db:Status-Abbrev} ${Version}", package]
    if shutil.which(command[0]) is None:
        return None
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    status, _, found = result.stdout.partition(" ")
    return found.strip() if result.returncode == 0 and status.startswith("ii") else None


@dataclass(frozen=True, slots=True)
class Peer:
    """One of them: `write` puts its configuration into a directory and returns the file that `command` starts it with.

    `check` is the command by which it checks that file itself, where it can. `needs` are files that have to be there besides.
    """

    way: str
    label: str
    packages: tuple[str, ...]
    address: str
    write: Callable[[Path, str, Routes], Path]
    command: Callable[[str, Path], list[str | Path]]
    check: Callable[[str, Path], list[str | Path]] | None = None
    needs: tuple[Path, ...] = ()
    has_names: bool = True

    @property
    def program(self) -> str | None:
        """The path of the program, None where it or what it needs is not installed."""
        return find(self.packages[0]) if all(path.exists() for path in self.needs) else None

    @property
    def remedy(self) -> str:
        """How to get it."""
        return f"apt install {' '.join(self.packages)}"


def _ports(routes: Routes) -> list[int]:
    return sorted(set(routes.values()))


def write_haproxy(directory: Path, address: str, routes: Routes) -> Path:
    """As configuration.txt has it at req.ssl_sni and use_backend, with a map as it has for many names."""
    names, path = directory / f"haproxy-{address}.map", directory / f"haproxy-{address}.cfg"
    names.write_text("".join(f"{name} port{port}\n" for name, port in routes.items()), encoding="ascii")
    backends = "".join(f"\nbackend port{port}\n    server origin [{ORIGIN_1}]:{port}\n" for port in _ports(routes))
    path.write_text(
        f"""global
    maxconn {MOST_CONNECTIONS}
    nbthread 2

defaults
    mode tcp
    option splice-auto
    timeout connect 5s
    timeout client 2h
    timeout server 2h

frontend tls
    bind {address}:{PORT}
    tcp-request inspect-delay 5s
    tcp-request content accept if {{ req.ssl_hello_type 1 }}
    use_backend %[req.ssl_sni,lower,map({names})]
{backends}""",
        encoding="ascii",
    )
    return path


def write_nginx(directory: Path, address: str, routes: Routes) -> Path:
    """As ngx_stream_ssl_preread_module has it, with the tables of ngx_stream_map_module sized for many names."""
    path = directory / f"nginx-{address}.conf"
    names = "".join(f"        {name} port{port};\n" for name, port in routes.items())
    upstreams = "".join(f"    upstream port{port} {{ server [{ORIGIN_1}]:{port}; }}\n" for port in _ports(routes))
    path.write_text(
        f"""load_module {NGINX_MODULES}/ngx_stream_module.so;
user root;
worker_processes auto;
worker_rlimit_nofile {2 * MOST_CONNECTIONS + 1000};
daemon off;
pid {directory}/nginx-{address}.pid;
error_log stderr error;

events {{
    worker_connections {2 * MOST_CONNECTIONS};
}}

stream {{
    access_log off;
    map_hash_max_size 65536;
    map_hash_bucket_size 128;
    map $ssl_preread_server_name $chosen {{
{names}    }}
{upstreams}    server {{
        listen {address}:{PORT} backlog=4096;
        ssl_preread on;
        proxy_timeout 2h;
        proxy_pass $chosen;
    }}
}}
""",
        encoding="ascii",
    )
    return path


def write_sniproxy(directory: Path, address: str, routes: Routes) -> Path:
    """As sniproxy.conf(5) has it: a table of regular expressions."""
    path = directory / f"sniproxy-{address}.conf"
    patterns = {name.replace(".", r"\\."): port for name, port in routes.items()}
    table = "".join(f"    ^{pattern}$ [{ORIGIN_1}]:{port}\n" for pattern, port in patterns.items())
    path.write_text(
        f"""user root
pidfile {directory}/sniproxy-{address}.pid

error_log {{
    filename {directory}/sniproxy-{address}.log
    priority error
}}

listener {address}:{PORT} {{
    protocol tls
    table names
}}

table names {{
{table}}}
""",
        encoding="ascii",
    )
    return path


TAYGA_DEVICE: Final = "nat64"
TAYGA_PREFIX: Final = "2001:db8:64::/96"
_TAYGA_V4, _TAYGA_V6 = "203.0.113.254", "2001:db8:ffff::1"


def write_tayga(directory: Path, address: str, _routes: Routes) -> Path:
    """As tayga.conf(5) has it for a server at an address of its own; clients are where RFC 6052 puts them."""
    path = directory / "tayga.conf"
    path.write_text(
        f"""tun-device {TAYGA_DEVICE}
ipv4-addr {_TAYGA_V4}
ipv6-addr {_TAYGA_V6}
prefix {TAYGA_PREFIX}
map {address} {ORIGIN_1}
""",
        encoding="ascii",
    )
    return path


HAPROXY: Final = Peer(
    way="haproxy",
    label="HAProxy",
    packages=("haproxy",),
    address="198.51.100.11",
    write=write_haproxy,
    command=lambda program, path: [program, "-db", "-f", path],
    check=lambda program, path: [program, "-c", "-f", path],
)
NGINX: Final = Peer(
    way="nginx",
    label="nginx stream",
    packages=("nginx", "libnginx-mod-stream"),
    address="198.51.100.12",
    write=write_nginx,
    command=lambda program, path: [program, "-e", "stderr", "-c", path],
    check=lambda program, path: [program, "-e", "stderr", "-t", "-c", path],
    needs=(NGINX_MODULES / "ngx_stream_module.so",),
)
SNIPROXY: Final = Peer(
    way="sniproxy",
    label="sniproxy",
    packages=("sniproxy",),
    address="198.51.100.13",
    write=write_sniproxy,
    command=lambda program, path: [program, "-f", "-n", str(2 * MOST_CONNECTIONS + 1000), "-c", path],
)
TAYGA: Final = Peer(
    way="tayga",
    label="TAYGA",
    packages=("tayga",),
    address="198.51.100.14",
    write=write_tayga,
    command=lambda program, path: [program, "--nodetach", "-c", path],
    has_names=False,
)
PEERS: Final = {peer.way: peer for peer in (HAPROXY, NGINX, SNIPROXY, TAYGA)}
