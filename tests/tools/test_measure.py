"""What holds commits against each other, and tests against faults, does so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from book.tools.measure import faults, yardstick

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "tests" / "golden" / "yardstick.json"
RUN = {
    "contest/truth": np.arange(12.0).reshape(4, 3) ** 2,
    "contest/ridge": np.arange(12.0).reshape(4, 3),
    "domains/place_kmeans": np.array([1, 2, 1, 1]),
}


def kept(folder: Path, **changes: np.ndarray | None) -> Path:
    arrays = {name: changes.get(name.rpartition("/")[2], values) for name, values in RUN.items()}
    folder.mkdir()
    np.savez(folder / "made.npz", **{n: v for n, v in arrays.items() if v is not None})
    return folder


@pytest.mark.parametrize(
    ("changes", "apart"),
    [
        ({}, 0),
        ({"ridge": RUN["contest/ridge"] + 5e-7}, 0),
        ({"ridge": RUN["contest/ridge"] + [0, 0, 2e-6]}, 1),
        ({"ridge": np.full((4, 3), np.nan)}, 1),
        ({"ridge": RUN["contest/ridge"][:2]}, 1),
        ({"place_kmeans": np.array([1, 2, 1, 2])}, 1),
        ({"place_kmeans": None}, 1),
    ],
)
def test_runs_that_lie_apart_are_told(tmp_path, changes, apart, capsys):
    old, new = kept(tmp_path / "old"), kept(tmp_path / "new", **changes)
    assert yardstick.compare(old, new) == apart
    if apart:
        assert f"made/{next(n for n in RUN if n.endswith(next(iter(changes))))}:" in (
            capsys.readouterr().out
        )


@pytest.mark.parametrize(
    ("changes", "apart"),
    [({}, 0), ({"ridge": -RUN["contest/ridge"]}, 1), ({"place_kmeans": None}, 1)],
)
def test_a_run_is_held_against_recorded_figures(tmp_path, changes, apart):
    yardstick.record(kept(tmp_path / "old"), tmp_path / "figures.json")
    assert yardstick.check(tmp_path / "figures.json", kept(tmp_path / "new", **changes)) == apart


@pytest.mark.slow
def test_every_method_predicts_what_is_recorded(tmp_path):
    """On the synthetic tissue; the recorded figures are of the code before it had folders."""
    script = ROOT / "book" / "tools" / "measure" / "yardstick.py"
    command = [sys.executable, str(script), "make", str(tmp_path / "run"), "--data", "synthetic"]
    subprocess.run(command, check=True, cwd=ROOT)
    assert yardstick.check(RECORDED, tmp_path / "run") == 0


TESTS = """
from heclip_lite.sums import add, less


def test_add():
    assert add(1, 2) == 3


def test_less_is_called_and_never_looked_at():
    less(1, 2)
"""
FAULTS = """
[[fault]]
room = "core"
what = "adds the wrong way"
old = "return a + b"
new = "return a - b"

[[fault]]
room = "core"
what = "takes the wrong way"
old = "return a - b"
new = "return a + b"
"""


@pytest.mark.slow
def test_planted_faults_are_caught_or_said_not_to_be(tmp_path, monkeypatch, capsys):
    checkout = tmp_path / "checkout"
    code = "def add(a, b):\n    return a + b\n\n\ndef less(a, b):\n    return a - b\n"
    for name, text in {
        "heclip_lite/__init__.py": "",
        "heclip_lite/sums.py": code,
        "tests/test_sums.py": TESTS,
    }.items():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text(text)
    who = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "All"]):
        subprocess.run(["git", *words], cwd=checkout, check=True)
    data = tmp_path / "coverage"
    subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q"),
            *("--cov=heclip_lite", "--cov-context=test", "--cov-report="),
        ],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout), "COVERAGE_FILE": str(data)},
        check=True,
    )
    (tmp_path / "faults.toml").write_text(FAULTS)
    monkeypatch.setattr(faults, "FAULTS", tmp_path / "faults.toml")
    monkeypatch.setattr(faults, "BUILD", tmp_path / "build")
    for _ in range(2):  # the second time nothing is planted again
        faults.plant(checkout, data, "not slow", "", 1)
        said = capsys.readouterr().out
        assert "adds the wrong way: tests/test_sums.py::test_add\n" in said
        assert "takes the wrong way: NOT CAUGHT\n" in said
        assert "1 of 2 faults caught" in said
        monkeypatch.setattr(faults, "caught_by", lambda *_: pytest.fail("planted again"))
