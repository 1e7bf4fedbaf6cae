"""Running the command line in tests: in this process, or in one of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from heclip_lite.cli.program import app
from heclip_lite.data import sections

ROOT = Path(__file__).resolve().parents[1]
# As small as a training can be: two scales, one network, two epochs.
SMALL = ["--scales", "4.8", "--scales", "2.4", "--members", "1", "--epochs", "2"]


class Done:
    """What a command left behind."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self):
        return json.loads(self.out)


def run(*arguments: object, code: int = 0) -> Done:
    """Run a command in this process; its exit code must be `code`, and there is no traceback."""
    found = CliRunner().invoke(app, [str(a) for a in arguments], prog_name="heclip-lite")
    done = Done(found.exit_code, found.stdout, found.stderr)
    assert done.code == code, f"{arguments}: {done.code}\n{done.out}\n{done.err}\n{found.exception}"
    assert "Traceback" not in done.out + done.err
    return done


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "heclip_lite.cli", *map(str, arguments)]


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path}


def start(*arguments: object, cwd: Path, code: int = 0) -> Done:
    """Run a command in a process of its own."""
    found = subprocess.run(
        command(*arguments), cwd=cwd, env=environment(), capture_output=True, text=True
    )
    assert found.returncode == code, f"{arguments}: {found.returncode}\n{found.stderr}"
    assert "Traceback" not in found.stdout + found.stderr
    return Done(found.returncode, found.stdout, found.stderr)


def write(all_sections, folder: Path) -> None:
    """Write sections as ``.h5ad``, and their images as PNG."""
    from PIL import Image

    for section in all_sections:
        name = sections.name_of(section)
        section.write_h5ad(folder / f"{name}.h5ad")
        Image.fromarray(sections.read_image(section)).save(folder / f"{name}.png")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
