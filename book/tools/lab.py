"""Open JupyterLab on the notebooks, with this environment's kernel and the course's settings."""

from __future__ import annotations

import subprocess
import sys

from book.tools.settings import ROOT, notebook_environment, notebooks


def main() -> int:
    """Run JupyterLab until the reader ends it; further arguments go to it."""
    first = notebooks()[0].name if notebooks() else ""
    page = f"--LabApp.default_url=/lab/tree/notebooks/{first}"
    command = [sys.executable, "-m", "jupyterlab", page, *sys.argv[1:]]
    with notebook_environment():
        try:
            return subprocess.call(command, cwd=ROOT)
        except KeyboardInterrupt:
            return 0


if __name__ == "__main__":
    sys.exit(main())
