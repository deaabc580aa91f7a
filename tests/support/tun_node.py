"""The TUN driver's device file as udev makes it: open to every user, whatever the machine of the tests has."""

from typing import Final

_SCRIPT: Final = """
set -e
mount --make-rprivate /
node=$(mktemp --dry-run)
mknod --mode=0666 "$node" c 10 200
mount --bind "$node" /dev/net/tun
rm "$node"
exec "$@"
"""

# Words before a command of root's.
OPEN_TO_ALL: Final = ("unshare", "--mount", "sh", "-c", _SCRIPT, "sh")
