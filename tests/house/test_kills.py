"""``kill -9`` early, midway and at the end, then again: every job ends where it would have."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar

import anndata
import giant
import numpy as np
import pytest
from killing import JOBS, ROOT, contest, download, end, execute, start, survive, train

pytestmark = pytest.mark.slow
# Each of five jobs is killed five times; at least four must hit the work: twenty in all.


def leftovers(folder) -> list[str]:
    """Files of the kind that a write leaves before it is complete."""
    return [str(p.relative_to(folder)) for p in folder.rglob(".*") if p.is_file()]


def test_training_ends_with_the_same_parameters(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    end(start(train, whole))
    moments = [(f"*/state-{epoch:04d}.*", 0.05) for epoch in (3, 20, 40)]
    moments += [("*/state-0060.*", 0), ("*/state.json", 0)]  # both of the last epoch
    hits = survive(train, killed, moments=moments, seed=1)
    assert hits >= 4, "the kills must hit the work"
    with np.load(whole / "result.npz") as right, np.load(killed / "result.npz") as found:
        assert set(right) == set(found)
        for name in right:
            np.testing.assert_array_equal(found[name], right[name])


def test_a_contest_ends_with_the_same_table(tmp_path, whole_contest):
    moments = [*[("*/contest/*.npz", 0.2)] * 3, ("*/contest/*.npz", 0), ("*/result.csv", 0)]
    hits = survive(contest, tmp_path, moments=moments, seed=2)
    assert hits >= 4
    assert (tmp_path / "result.csv").read_bytes() == (whole_contest / "result.csv").read_bytes()


class _Slow(http.server.BaseHTTPRequestHandler):
    """Gives three files, a piece at a time."""

    files: ClassVar = {f"part{n}.bin": np.random.default_rng(n).bytes(300_000) for n in range(3)}

    def do_GET(self):
        body = self.files[self.path.strip("/")]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            for at in range(0, len(body), 30_000):
                self.wfile.write(body[at : at + 30_000])
                time.sleep(0.05)
        except OSError:
            pass  # whoever asked was killed

    def log_message(self, *arguments):
        pass


def test_a_download_never_leaves_half_a_file_under_its_name(tmp_path):
    hashes = {name: hashlib.sha256(body).hexdigest() for name, body in _Slow.files.items()}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        asked = {"address": f"http://127.0.0.1:{server.server_port}/", "files": hashes}
        (tmp_path / "asked.json").write_text(json.dumps(asked), encoding="utf-8")
        parts = [(f"*/part{n}.bin", seconds) for n, seconds in enumerate((0.4, 0.4, 0))]
        moments = [("*/part0.bin", 0), parts[0], ("*/part1.bin", 0), *parts[1:]]
        hits = survive(download, tmp_path, moments=moments, seed=3)
        server.shutdown()
    assert hits >= 4
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8")) == hashes
    for path in (tmp_path / "data" / "slow").glob("*.bin"):
        assert path.read_bytes() == _Slow.files[path.name]


def test_dense_prediction_of_a_slide_ends_with_the_same_expression(tmp_path, small_sections):
    slide, model = tmp_path / "giant.tif", tmp_path / "model"
    giant.write(slide, 6000)
    giant.fit(small_sections[:2], model)

    def predict(out: str) -> tuple:
        return giant.predict, model, slide, tmp_path / out, "100", "anndata", "800"

    end(start(*predict("whole.zarr")))
    moments = [("*/maps/scale1_*", 0.1), ("*/features/3.npy", 0.1), ("*/expression/3.npy", 0.01)]
    moments += [("*/result.zarr/X", 0), ("*/killed.zarr", 0)]
    hits = survive(*predict("killed.zarr"), moments=moments, seed=5)
    assert hits >= 4
    whole, killed = (anndata.read_zarr(tmp_path / f"{n}.zarr") for n in ("whole", "killed"))
    np.testing.assert_array_equal(whole.X, killed.X)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"giant.tif", "model", "whole.zarr", "killed.zarr"}


NOTEBOOK = "02_contrastive_training"


def without_times(path: Path) -> dict:
    record = json.loads(path.read_text(encoding="utf-8"))
    return {key: record[key] for key in ("results", "sections", "training", "test", "seed")}


def test_a_notebook_run_ends_with_the_same_results(tmp_path, executed):
    """In a copy of the repository with one chapter, so that its own results stay untouched."""
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    others = {p.name for p in (ROOT / "notebooks").glob("*.ipynb")} - {f"{NOTEBOOK}.ipynb"}
    for name in filter(None, tracked):
        if (ROOT / name).is_file() and Path(name).name not in others:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tmp_path / name)
    hits = survive(
        execute,
        tmp_path,
        *(sys.executable, "-m", "book.tools.build.build_book", "--notebooks-only"),
        moments=[
            ("*/workspace/synthetic_fast", 2),  # the chapter, not its kernel, has begun
            ("*/reference_hvg-*/state-0002.*", 0.5),
            ("*/recommended-*/state-0020.*", 0.5),
            ("*/recommended-*/heclip.json", 0),
            (f"*/synthetic_fast/{NOTEBOOK}.json", 0),
        ],
        seed=4,
        PYTHONPATH=os.pathsep.join([str(tmp_path), str(tmp_path / "book")]),
    )
    assert hits >= 4
    found = tmp_path / "_build" / "results" / f"{NOTEBOOK}.json"
    assert without_times(found) == without_times(executed / "results" / f"{NOTEBOOK}.json")
    assert not leftovers(tmp_path / "_build" / "workspace")


@pytest.mark.parametrize("job", ["contest", "chapter"])
def test_two_processes_share_a_cache_and_a_workspace(job, tmp_path, whole_contest):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    if job == "contest":
        alone = whole_contest
    else:
        end(start(JOBS[job], alone))
    both = [start(JOBS[job], shared) for _ in range(2)]
    for process in both:
        end(process)
    assert (shared / "result.csv").read_bytes() == (alone / "result.csv").read_bytes()
    assert not leftovers(shared)
