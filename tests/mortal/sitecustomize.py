"""Run by every Python that finds this folder on its path, here the jobs of `killing.survive`.

`DIES_AT` is a pattern of paths. As soon as a file is about to get a name like that, or a folder
like that is asked for, the process dies as by ``kill -9``, and so do those that it was started by;
with `DIES_AFTER`, so many seconds later. No clock of another process hits such a moment.
"""

import fnmatch
import os
import signal
import sys
import threading


def _die() -> None:
    os.killpg(int(os.environ["DIES_WITH"]), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)  # a kernel has a group of its own


def _watch(event: str, arguments: tuple) -> None:
    # (from, to) of a rename; the path of a folder
    path = {"os.rename": arguments[1:2], "os.mkdir": arguments[:1]}.get(event)
    if path and fnmatch.fnmatch(os.fsdecode(path[0]), os.environ["DIES_AT"]):
        after = float(os.environ.get("DIES_AFTER", 0))
        if after:
            threading.Timer(after, _die).start()
        else:
            _die()


if "DIES_AT" in os.environ:
    os.environ.setdefault("DIES_WITH", str(os.getpid()))
    sys.addaudithook(_watch)
