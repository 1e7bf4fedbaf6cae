"""Run a command where there is no network: ``offline.py COMMAND...``, on Linux.

The command starts in a network namespace of its own.
It finds the machine's loopback there, which kernels and their clients need, and nothing else:
no route leads out.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import sys

NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000  # CLONE_NEWUSER, CLONE_NEWNET: <linux/sched.h>
GET_FLAGS, SET_FLAGS, UP = 0x8913, 0x8914, 0x1  # SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP
# Addresses that stand for any (RFC 5737, RFC 3849); asking for the way there sends nothing.
SOMEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}


def route_out() -> bool:
    """Whether this process could send something to another machine."""
    for family, address in SOMEWHERE.items():
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((address, 9))
            return True
        except OSError:
            continue
    return False


def leave_network() -> None:
    """Move this process, and all that it starts, to a network that is the loopback alone.

    An administrator may do so at once; anyone else may as the owner of a new user namespace,
    in which nothing changes but that. Such a process must not have threads yet.

    Raises
    ------
    OSError
        If the system does not know or does not allow it.
    """
    if not sys.platform.startswith("linux"):
        raise OSError(errno.ENOSYS, f"{sys.platform} has no network namespaces, Linux has")
    import fcntl  # Unix alone has it

    user, group = os.getuid(), os.getgid()
    try:
        _unshare(NEW_NETWORK)
    except PermissionError:
        _unshare(NEW_USER | NEW_NETWORK)
        same = {"setgroups": "deny", "uid_map": f"{user} {user} 1", "gid_map": f"{group} {group} 1"}
        for name, text in same.items():
            with open(f"/proc/self/{name}", "w", encoding="ascii") as handle:
                handle.write(text)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
        asked = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16sH14x", fcntl.ioctl(handle, GET_FLAGS, asked))[1]
        fcntl.ioctl(handle, SET_FLAGS, struct.pack("16sH14x", b"lo", flags | UP))
    if route_out():
        raise OSError(errno.EPERM, "a route still leads out of the new network namespace")


def _unshare(what: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(what) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")


def main() -> int:
    """Leave the network, then become the command."""
    command = sys.argv[1:]
    if not command:
        print(__doc__.splitlines()[0], file=sys.stderr)
        return 2
    try:
        leave_network()
    except OSError as error:
        print(f"There is no way to leave the network here: {error.strerror}.", file=sys.stderr)
        return 125
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127


if __name__ == "__main__":
    sys.exit(main())
