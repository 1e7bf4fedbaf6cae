"""What the build tools share: places, profiles, the environment of a notebook."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "_build"
NOTEBOOKS = ROOT / "notebooks"
COURSE = ROOT / "book" / "heclip_course"
TOOLS = ROOT / "book" / "tools"
RESULTS = BUILD / "results"  # where a notebook writes its own NN_*.json
# What editors and Python leave beside sources: JupyterLab's checkpoints, .DS_Store, __pycache__.
LITTER = (".*", "__pycache__")


class BuildError(Exception):
    """Something the reader has to mend; its message is shown without a traceback."""


def notebooks() -> list[Path]:
    """The course's notebooks ``NN_*.ipynb``, in order."""
    return sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def files_in(folder: Path) -> list[Path]:
    """All files in and below a folder, in order, but for what `LITTER` names."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(path for path in files if not _is_litter(path.relative_to(folder)))


def _is_litter(path: Path) -> bool:
    return any(fnmatchcase(part, pattern) for part in path.parts for pattern in LITTER)


def run_folder(data: str, profile: str) -> Path:
    """Where the executed notebooks of one run are kept."""
    return BUILD / "notebooks" / f"{data}_{profile}"


def profile_path(data: str, profile: str) -> Path:
    """File with the parameters of one run; raises where there is none."""
    path = NOTEBOOKS / "params" / f"{data}_{profile}.yml"
    if not path.exists():
        known = sorted(p.stem.rsplit("_", 1) for p in path.parent.glob("*_*.yml"))
        offer = ", ".join(f"DATA={d} PROFILE={p}" for d, p in known) or "none"
        raise BuildError(f"No profile for DATA={data} PROFILE={profile}. There are: {offer}.")
    return path


def parameters(data: str, profile: str, notebook: str) -> dict:
    """Parameters of one notebook: the common ones, then its own from ``notebooks: <stem>:``."""
    values = yaml.safe_load(profile_path(data, profile).read_text(encoding="utf-8")) or {}
    own = (values.pop("notebooks", None) or {}).get(notebook) or {}
    return {**values, **own, "DATA": data, "PROFILE": profile}


@contextmanager
def notebook_environment() -> Iterator[None]:
    """Set what a notebook's kernel inherits; what the user has set already stays.

    A kernel runs in the folder of the notebooks, so relative folders are made absolute first.
    """
    before = dict(os.environ)
    os.environ.setdefault("HECLIP_LITE_CACHE", str(BUILD / "cache"))
    os.environ.setdefault("PYTHONHASHSEED", "0")
    for name in ("HECLIP_LITE_DATA", "HECLIP_LITE_CACHE"):
        if os.environ.get(name):
            os.environ[name] = str(Path(os.environ[name]).expanduser().absolute())
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def site_address(*, repository: bool = False) -> str:
    """Where the published site is, ending with a slash; or the repository's address."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    address = config["repository"]["url"].rstrip("/")
    owner, name = address.split("/")[-2:]
    return address if repository else f"https://{owner}.github.io/{name}/"


def shown(path: Path) -> str:
    """`path` as a reader types it: relative to the project."""
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)
