"""A disk that is full and a folder that cannot be written: a message, and nothing half-written."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from killing import ROOT, command_of

from heclip_lite import slide_maps, store

SMALL = 4096  # bytes that a file may have where the disk is "full"


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
    assert "OSError" in stopped.stderr or "File too large" in stopped.stderr
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


def read_only(folder: Path, command: list[str]) -> list[str]:
    """`command` where `folder` cannot be written; root may write anywhere but on such a mount."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        folder.chmod(0o555)
        return command
    mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", mount, str(folder), *command]


@pytest.mark.slow
def test_a_read_only_folder_is_named(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    done = run(read_only(folder, command_of("train", folder)))
    folder.chmod(0o755)
    assert done.returncode != 0
    assert str(folder) in done.stderr, done.stderr[-500:]
    assert "Read-only file system" in done.stderr or "Permission denied" in done.stderr
    assert not list(folder.iterdir())


@pytest.mark.slow
def test_data_may_lie_in_a_read_only_folder(tmp_path):
    folder = tmp_path / "data"
    (folder / "slow").mkdir(parents=True)
    (folder / "slow" / "part0.bin").write_bytes(b"held")
    code = (
        "from heclip_lite import download, store\n"
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
    folders = ("heclip_lite", "book/tools", "notebooks")
    for path in (p for folder in folders for p in (ROOT / folder).rglob("*")):
        if path.suffix in {".py", ".ipynb"}:
            text = path.read_text(encoding="utf-8")
            assert not [word for word in words if word in text], path


def test_no_archive_is_ever_unpacked():
    """Only tests and build tools may know how to; the package never does."""
    words = ("tarfile", "zipfile.ZipFile", "unpack_archive", "extractall")
    for path in (ROOT / "heclip_lite").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not [word for word in words if word in text], path
