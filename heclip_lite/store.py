"""Files on disk: where caches live, how they are named by content, how they are written safely.

Every file this package writes appears under its final name only when it is complete,
so that a killed process never leaves half a result behind.
"""

from __future__ import annotations

import ast
import errno
import hashlib
import io
import json
import os
import platform
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from heclip_lite.runtime import without_tokens

if TYPE_CHECKING:
    import h5py

DATA_VARIABLE = "HECLIP_LITE_DATA"
CACHE_VARIABLE = "HECLIP_LITE_CACHE"
CORE = "core"  # in `code_key`: the files at the top of the package
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{8}(\.[a-z0-9]+)?")
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_SAID = re.compile(r"\(os error (\d+)\)|requested and \d+ written")  # by safetensors, NumPy
_LOCKED = {errno.EACCES, errno.EPERM, errno.EROFS}


def _user_cache() -> Path:
    import pooch

    return Path(pooch.os_cache("heclip-lite"))


def data_dir() -> Path:
    """Folder of downloaded data sets: ``HECLIP_LITE_DATA``, else the user's cache folder."""
    named = os.environ.get(DATA_VARIABLE)
    return Path(named).expanduser() if named else _user_cache() / "data"


def cache_dir() -> Path:
    """Folder of what can be recomputed: ``HECLIP_LITE_CACHE``, else the user's cache folder."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else _user_cache() / "cache"


def content_key(*parts: object) -> str:
    """SHA-256 of arrays, bytes, strings and JSON-like values: the same content, the same key.

    Raises
    ------
    TypeError
        If a part is neither an array nor something JSON can hold.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"array {part.dtype.str} {part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
        elif isinstance(part, bytes):
            digest.update(b"bytes " + str(len(part)).encode() + b" " + part)
        else:
            text = json.dumps(part, sort_keys=True, separators=(",", ":"))
            digest.update(f"json {len(text)} {text}".encode())
    return digest.hexdigest()


@lru_cache(maxsize=256)
def _hash_of(path: Path, size: int, modified: int) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def file_hash(path: str | os.PathLike) -> str:
    """SHA-256 of a file; remembered within the process while its size and time do not change."""
    path = Path(path).resolve()
    status = path.stat()
    return _hash_of(path, status.st_size, status.st_mtime_ns)


@contextmanager
def told_of(path: Path, temporary: Path) -> Iterator[None]:
    """Tell by its final name what could not be written to `temporary`, and what to do.

    Libraries say it each in their own way, most of them without a name.

    Raises
    ------
    OSError
        If the disk is full, or may not be written to.
    """
    try:
        yield
    except Exception as error:
        about = getattr(error, "filename", None)
        number = getattr(error, "errno", None)
        if number is None and (said := _SAID.search(str(error))):
            number = int(said[1] or errno.ENOSPC)
        other = about is not None and not str(about).startswith(str(temporary))
        if other or number not in FULL | _LOCKED:
            raise
        remedy = "Make room there" if number in FULL else "Make it writable"
        text = f"{os.strerror(number)}. {remedy} or choose another place, and run the same again"
        raise OSError(number, text, str(path)) from error


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the block ends well.

    Raises
    ------
    OSError
        If the disk is full, or may not be written to.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid4().hex[:8]}{path.suffix}")
    try:
        with told_of(path, temporary):
            yield temporary
            os.replace(temporary, path)
    finally:
        with suppress(OSError):  # the error that brought us here says more
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_hdf5(path: str | os.PathLike) -> Iterator[h5py.File]:
    """Yield an HDF5 file; write it to `path` when the block ends well.

    It is made in memory: HDF5 may notice only at the end that a disk is full, and raises nothing.
    """
    import h5py

    made = io.BytesIO()
    with h5py.File(made, "w") as file:
        yield file
    with atomic_path(path) as temporary:
        temporary.write_bytes(made.getbuffer())


@contextmanager
def alone_in(folder: str | os.PathLike) -> Iterator[None]:
    """Work in a folder as the only process that does; another one waits here, with a word.

    The folder is made where it is missing, and freed when its process ends, however it ends.
    What a killed process had not finished writing in it is removed first.
    """
    from filelock import FileLock, Timeout

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        warnings.warn(f"Another process works in {folder}; waiting for its end.", stacklevel=3)
        lock.acquire()
    try:
        for path in folder.glob(".*"):  # only names as `atomic_path` gives them
            if path.is_file() and _UNFINISHED.fullmatch(path.name):
                path.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def write_json(path: str | os.PathLike, value: object) -> None:
    """Write `value` as indented JSON, atomically."""
    text = json.dumps(value, indent=2, sort_keys=True) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_array(path: str | os.PathLike, array: np.ndarray) -> None:
    """Write an array, atomically, in NumPy's format with the SHA-256 of its content behind it."""
    with atomic_path(path) as temporary:
        np.save(temporary, array, allow_pickle=False)
        with open(temporary, "ab") as file:
            file.write(bytes.fromhex(content_key(array)))


def load_array(path: str | os.PathLike, *, mapped: bool = False) -> np.ndarray:
    """Read what :func:`save_array` wrote.

    Parameters
    ----------
    path
        The file.
    mapped
        Leave it on disk until it is looked at. Only its header and length are checked then, so
        it may be any file in NumPy's format.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged.
    """
    with open(path, "rb") as file:
        try:
            if mapped:
                return np.load(path, mmap_mode="r", allow_pickle=False)
            array = np.load(file, allow_pickle=False)
        except (OSError, MemoryError):  # says nothing about the file
            raise
        except Exception as error:  # NumPy raises many kinds
            raise ValueError(f"{path} is damaged ({error})") from error
        if file.read() != bytes.fromhex(content_key(array)):
            raise ValueError(f"{path} is damaged (its SHA-256 is another)")
    return array


def cached_array(kind: str, key: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Array stored under ``cache_dir()/kind/key.npy``; computed by `make` where it is missing.

    A damaged file is computed again, with a warning.
    """
    path = cache_dir() / kind / f"{key}.npy"
    if path.exists():
        try:
            return load_array(path)
        except (ValueError, OSError) as error:
            warnings.warn(f"{error}; computing it again.", stacklevel=2)
    array = make()
    save_array(path, array)
    return array


def cached_json(path: str | os.PathLike, make: Callable[[], Any]) -> Any:
    """What a JSON file holds; computed by `make` where it is missing or damaged."""
    path = Path(path)
    if path.exists():
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            warnings.warn(f"{path} is damaged ({error}); computing it again.", stacklevel=2)
    write_json(path, make())
    return json.loads(path.read_text(encoding="utf-8"))


@lru_cache(maxsize=1)
def package_hash() -> str:
    """First 16 digits of the SHA-256 over the source of this package, words and all."""
    root = Path(__file__).parent
    files = sorted(root.rglob("*.py"))
    named = [(f.relative_to(root).as_posix(), f.read_bytes()) for f in files]
    return content_key(*[part for pair in named for part in pair])[:16]


def code_key(*folders: str) -> str:
    """SHA-256 over the code of some folders of this package: what a result rests on.

    Comments, docstrings and layout do not count; nor do folders inside those that are named.

    Parameters
    ----------
    *folders
        ``"core"`` is the files at the top; others go by their path, such as ``"data/readers"``.
        All of them where none is named.

    Raises
    ------
    ValueError
        If the package has no such folder with code in it.

    Examples
    --------
    >>> from heclip_lite import store
    >>> store.code_key("core") == store.code_key("core", "core")
    True
    """
    root, parts = Path(__file__).parent, []
    within = {file.parent.relative_to(root).as_posix() for file in root.rglob("*.py")}
    folders = folders or tuple(CORE if name == "." else name for name in within)
    for name in sorted(set(folders)):
        files = sorted((root if name == CORE else root / name).glob("*.py"))
        if not files:
            raise ValueError(f"{root.name} has no folder {name!r} with code in it.")
        for file in files:
            parts += [file.relative_to(root).as_posix(), _code_of(file, file.stat().st_mtime_ns)]
    return content_key(*parts)


@lru_cache(maxsize=512)
def _code_of(path: Path, modified: int) -> str:
    """The syntax tree of a file without its docstrings."""
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return content_key(ast.dump(tree))


def provenance(device: str = "cpu") -> dict:
    """What made a result: command, device, package hash and versions of what it rests on."""
    names = ["anndata", "numpy", "scanpy", "scikit-learn", "squidpy", "timm", "torch"]
    return {
        "command": without_tokens(" ".join([Path(sys.argv[0]).name, *sys.argv[1:]])),
        "device": device,
        "package_hash": package_hash(),
        "platform": f"{platform.system()} {platform.machine()}",
        "versions": {
            "python": platform.python_version(),
            **{n: metadata.version(n) for n in names},
        },
    }
