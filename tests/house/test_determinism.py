"""The same command gives the same numbers: to the bit on one machine, closely across machines."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from killing import ROOT, command_of, threads

# Of a mean correlation: sums run in another order on more threads or on another device.
ACROSS_THREADS, ACROSS_DEVICES = (
    float(value)
    for value in re.findall(
        r"mean correlations that differ by less than ([0-9.]+)",
        (ROOT / "book" / "how_to_use.md").read_text(encoding="utf-8"),
    )
)


def table_with(number: int, folder, device: str = "cpu") -> bytes:
    environment = {**os.environ, **threads(number), "TQDM_DISABLE": "1"}
    command = command_of("contest", folder, device)
    subprocess.run(command, check=True, cwd=ROOT, env=environment, capture_output=True)
    return (folder / "result.csv").read_bytes()


def differences(one, other) -> np.ndarray:
    """Absolute differences of two tables' mean correlations, row by row."""
    tables = [pd.read_csv(folder / "result.csv") for folder in (one, other)]
    keys = [c for c in tables[0] if c not in ("value", "n_constant")]
    pd.testing.assert_frame_equal(tables[0][keys], tables[1][keys])
    values = [t.loc[t["metric"] == "pearson", "value"].to_numpy() for t in tables]
    return np.abs(values[0] - values[1])


@pytest.mark.slow
def test_twice_the_same_and_nearly_so_on_two_threads(tmp_path, whole_contest):
    assert table_with(1, tmp_path / "again") == (whole_contest / "result.csv").read_bytes()
    table_with(2, tmp_path / "two")
    assert np.nanmax(differences(whole_contest, tmp_path / "two")) < ACROSS_THREADS


@pytest.fixture(scope="session")
def cuda():
    """Skips, visibly, where there is no CUDA device."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("gpu: there is no CUDA device")


@pytest.mark.slow
@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_nearly_the_same_on_a_gpu(tmp_path, whole_contest):
    table_with(1, tmp_path, "cuda")
    assert np.nanmax(differences(whole_contest, tmp_path)) < ACROSS_DEVICES


def test_the_seed_of_hashing_changes_nothing():
    """Sets and dictionaries of names are never walked through in an order that counts."""
    code = (
        "from heclip_lite import store\n"
        "from heclip_lite.data import genes\n"
        "from heclip_lite.data.synthetic import tissue\n"
        "panel = genes.fit_panel(tissue.synthetic_sections(1, 1, size_um=900, n_genes=60))\n"
        "print(store.content_key(panel.to_dict()))\n"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
