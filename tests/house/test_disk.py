"""A disk that is full and a folder that cannot be written: a message, and nothing half-written."""

from __future__ import annotations

import ast
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from killing import ROOT, command_of

from heclip_lite import store
from heclip_lite.features import maps as slide_maps

SMALL = 4096  # bytes that a file may have where the disk is "full"
ATOMIC = {"atomic_path", "atomic_folder", "atomic_hdf5", "files_into"}
WRITERS = {
    *("write_text", "write_bytes", "to_csv", "to_parquet", "to_hdf", "to_excel", "to_pickle"),
    *("write_h5ad", "write_zarr", "savefig", "imwrite", "save", "savez", "savez_compressed"),
    *("savetxt", "tofile", "save_file", "dump", "write", "copy", "copy2", "copyfile", "copytree"),
    *("make_archive", "touch"),
}
OURS = ("saved", "method", "state")  # what these save is written atomically
OPEN = ("file", "handle", "self._stream")  # opened elsewhere
COPIERS = ("shutil", "json", "pickle", "joblib")  # `copy` and `dump` of others write no file
# Where files are written otherwise, and why nobody finds half of one.
ELSEWHERE = {
    "export.py write_spatialdata": "into a hidden folder that is renamed when it is whole",
    "spaceranger.py to_spaceranger": "into a hidden folder that is renamed when it is whole",
    "slide_job.py finish": "into the folder of parts; renamed when it is whole",
    "wholeslide.py _seen_by": "an empty file, for a moment",
    "store.py atomic_hdf5": "into memory, then atomically",
    "faults.py": "into copies that are thrown away; its record by store.write_json",
    "style.py png": "into memory",
    "make_cover.py draw": "into memory",
    "make_cover.py main": "into memory, then atomically",
    "bootstrap.py install": "renamed there: the package is not installed yet",
    "wholeslide.py train": "HECLIP.save writes atomically",
    "memory.py start_peak_anew": "/proc is no disk",
    "offline.py": "/proc is no disk",
    **dict.fromkeys(
        ("build_book.py", "decks.py", "freshness.py", "page_figures.py", "stage.py",
         "handouts.py", "student.py"),
        "into a work folder, made anew each time and renamed when it is whole",
    ),
}  # fmt: skip


def run(command: list[str], prepare=None, **environment) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"} | environment
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment, preexec_fn=prepare
    )


def full_disk() -> None:
    """Let no file of this process grow beyond a few kilobytes, as a full disk does."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (SMALL, SMALL))


def complete_files(folder: Path) -> None:
    """Every file under `folder` can be read whole, and none is left from an unfinished write."""
    for path in folder.rglob("*"):
        assert not (path.is_file() and path.name.startswith(".")), f"left behind: {path}"
        if path.suffix == ".npy":
            np.load(path, allow_pickle=False)


@pytest.mark.slow
@pytest.mark.parametrize("job", ["train", "contest"])
def test_a_full_disk_stops_the_work_and_what_is_there_stays_whole(job, tmp_path):
    stopped = run(command_of(job, tmp_path), full_disk)
    assert stopped.returncode != 0
    last = stopped.stderr.strip().splitlines()[-1]
    assert "Make room there" in last and str(tmp_path) in last, last
    complete_files(tmp_path)
    again = run(command_of(job, tmp_path))
    assert again.returncode == 0, again.stderr[-2000:]
    assert list(tmp_path.glob("result.*"))


def test_an_unfinished_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "record.json"
    store.write_json(path, {"finished": True})
    with pytest.raises(OSError), store.atomic_path(path) as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise OSError(28, os.strerror(28), str(temporary))
    assert path.read_text(encoding="utf-8").strip().startswith('{\n  "finished"')
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_only_unfinished_files_are_removed(tmp_path):
    mine = {".env", ".gitignore", ".DS_Store", ".state-0001.safetensors", "result.npz"}
    for name in mine:
        (tmp_path / name).write_text("mine")
    with pytest.raises(KeyboardInterrupt), store.atomic_path(tmp_path / "state-1.json") as left:
        names = {left.name}
        raise KeyboardInterrupt
    for name in names | {".plain.0123abcd", ".state-0001.0123abcd.safetensors"}:
        (tmp_path / name).touch()
    with store.alone_in(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == mine | {"lock"}


@pytest.mark.parametrize(
    "array",
    [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.eye(3)), np.zeros((0, 4), np.uint8)],
    ids=["rows", "columns", "empty"],
)
def test_an_array_is_read_as_it_was_written_or_not_at_all(array, tmp_path):
    """Whichever byte of its file changes, and wherever it ends."""
    path = tmp_path / "array.npy"
    store.save_array(path, array)
    for found in (store.load_array(path), store.load_array(path, mapped=True), np.load(path)):
        np.testing.assert_array_equal(found, array)
        assert found.dtype == array.dtype
    whole = path.read_bytes()
    changed = [whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :] for at in range(len(whole))]
    refused = 0
    for content in [whole[:end] for end in range(len(whole))] + changed:
        path.write_bytes(content)
        try:
            found = store.load_array(path)
        except ValueError as error:
            refused += "is damaged" in str(error)
        else:  # a space of the header became another sign that means nothing
            assert found.dtype == array.dtype and found.shape == array.shape
            assert found.tobytes() == array.tobytes()
    assert refused > 2 * len(whole) - 10


def test_a_changed_part_of_a_slide_is_dropped(tmp_path):
    path = tmp_path / "part.npy"
    store.save_array(path, np.arange(6.0))
    np.testing.assert_array_equal(slide_maps.read_part(path), np.arange(6.0))
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"part.npy is damaged .* and was dropped. Run the same"):
        slide_maps.read_part(path)
    assert not path.exists()


def writes_a_file(call: ast.Call) -> bool:
    """Whether a call is of a kind that writes a file."""
    base, _, name = ast.unparse(call.func).rpartition(".")
    if name in ("open", "File", "ZipFile"):
        words = [*call.args, *(word.value for word in call.keywords)]
        modes = (word.value for word in words if isinstance(word, ast.Constant))
        return any(re.fullmatch(r"[wax]b?\+?|r\+b?", str(mode)) for mode in modes)
    if base in (*OURS, *OPEN) or (name in ("copy", "dump") and base not in COPIERS):
        return False
    return name in WRITERS and (base != "" or name == "save_file")


def written_otherwise(node: ast.AST, function: str = "") -> Iterator[str]:
    """Functions that write a file, but not in a block that gives it its name when it is whole."""
    if isinstance(node, ast.FunctionDef):
        function = node.name
    if isinstance(node, ast.With):
        heads = [item.context_expr for item in node.items]
        names = {ast.unparse(head.func) for head in heads if isinstance(head, ast.Call)}
        if {name.rpartition(".")[2] for name in names} & ATOMIC:
            return
    if isinstance(node, ast.Call) and writes_a_file(node):
        yield function
    for inner in ast.iter_child_nodes(node):
        yield from written_otherwise(inner, function)


def test_every_file_is_written_atomically():
    found = set()
    for path in [*ROOT.glob("heclip_lite/**/*.py"), *ROOT.glob("book/**/*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in set(written_otherwise(tree)):
            known = path.name if path.name in ELSEWHERE else f"{path.name} {function}"
            found.add(known)
    assert found == set(ELSEWHERE), "write within store.atomic_path, or say here why not"


def read_only(folder: Path, command: list[str]) -> list[str]:
    """`command` where `folder` cannot be written; root may write anywhere but on such a mount."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        folder.chmod(0o555)
        return command
    mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", mount, str(folder), *command]


@pytest.mark.slow
def test_a_read_only_folder_is_named(tmp_path):
    """By commands before they read anything, and by what writes there later."""
    folder = tmp_path / "locked"
    folder.mkdir()
    code = (
        "import cli_tools, sys\n"
        "from heclip_lite import store\n"
        "for words in (['train', 'S', '--out', 'm'], ['predict', 'M', 'S', '--out', 'p.zarr'],\n"
        "              ['check', 'S', '--save', 's.h5ad'], ['check', 'S', '--picture', 's.png']):\n"
        "    done = cli_tools.run(*words[:-1], f'{sys.argv[1]}/{words[-1]}', code=1)\n"
        "    assert done.err == f'Error: The folder {sys.argv[1]} cannot be written to. '\\\n"
        "        'Choose another place.\\n' and not done.out, done.err\n"
        "store.write_json(sys.argv[1] + '/record.json', {})\n"
    )
    command = read_only(folder, [sys.executable, "-c", code, str(folder)])
    done = run(command, PYTHONPATH=os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    folder.chmod(0o755)
    last = done.stderr.strip().splitlines()[-1]
    assert re.search(r"(Read-only|Permission).*Make it writable .*locked/record.json", last), last
    assert not list(folder.iterdir())


@pytest.mark.slow
def test_data_may_lie_in_a_read_only_folder(tmp_path):
    folder = tmp_path / "data"
    (folder / "slow").mkdir(parents=True)
    (folder / "slow" / "part0.bin").write_bytes(b"held")
    code = (
        "from heclip_lite import store\n"
        "from heclip_lite.data import download\n"
        f"path = {str(folder / 'slow' / 'part0.bin')!r}\n"
        "found = download.fetch('slow', ['part0.bin'], address='http://127.0.0.1:9/',"
        " registry={'part0.bin': store.file_hash(path)})\n"
        "print(found[0])\n"
    )
    command = read_only(folder, [sys.executable, "-c", code])
    done = run(command, HECLIP_LITE_DATA=str(folder))
    folder.chmod(0o755)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().endswith("part0.bin")


def test_no_pickle_is_ever_loaded():
    """Nothing in the package, the tools or the notebooks loads or writes a pickle."""
    words = ("pickle.load", "torch.load(", "joblib.load", "allow_pickle=True", "read_pickle")
    folders = ("heclip_lite", "book", "notebooks")
    for path in (p for folder in folders for p in (ROOT / folder).rglob("*")):
        if path.suffix in {".py", ".ipynb"}:
            text = path.read_text(encoding="utf-8")
            assert not [word for word in words if word in text], path


def test_no_archive_is_ever_unpacked():
    """Only tests and build tools may know how to; the package never does."""
    words = ("tarfile", "zipfile.ZipFile", "unpack_archive", "extractall")
    for path in [
        *(ROOT / "heclip_lite").rglob("*.py"),
        *(ROOT / "book/heclip_course").rglob("*.py"),
    ]:
        text = path.read_text(encoding="utf-8")
        assert not [word for word in words if word in text], path
