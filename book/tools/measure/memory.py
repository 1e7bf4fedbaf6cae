"""How much memory a process took."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_mib() -> float:
    """Most memory that this process itself ever held, MiB.

    A child's ``ru_maxrss`` begins with the peak of whoever started it; ``VmHWM`` does not, and is
    read wherever there is one.
    """
    if STATUS.exists():
        return _kib("VmHWM") / 2**10
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes on macOS, else KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def resident_mib() -> float:
    """Memory that this process holds now, MiB; where the system does not say, its peak."""
    return _kib("VmRSS") / 2**10 if STATUS.exists() else peak_mib()


def start_peak_anew() -> bool:
    """Forget the peak so far, where the system can (Linux); whether it did."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _kib(name: str) -> int:
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))
