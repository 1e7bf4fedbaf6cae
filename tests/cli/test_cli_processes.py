"""The command line in processes of its own: every command once, layouts in and out, kills."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time

import anndata
import layouts
import numpy as np
import pandas as pd
import pytest
from cli_tools import SMALL, command, contents, environment, run, start, write

from heclip_lite.data import readers, sections
from heclip_lite.methods import saved

pytestmark = pytest.mark.slow
ALL = ["P1-1.h5ad", "P1-2.h5ad", "P2-1.h5ad", "P2-2.h5ad"]


@pytest.fixture(scope="module")
def folder(small_sections, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sections")
    write(small_sections, folder)
    return folder


def test_every_command_once(folder, monkeypatch):
    monkeypatch.setenv("HECLIP_LITE_DATA", str(folder / "data"))
    monkeypatch.setenv("HECLIP_LITE_CACHE", str(folder / "cache"))  # so that there is work to show
    say = {"cwd": folder}
    assert "heclip-lite" in start("--version", **say).out
    assert json.loads(start("check", ALL[0], "--json", **say).out)["usable"]
    done = start("train", *ALL[:2], "--out", "model", *SMALL, "--json", **say)
    assert json.loads(done.out)["epochs"] == 2
    assert re.search(r"\d%\|.*\d/\d", done.err), "progress is shown, but not among the results"
    monkeypatch.setenv("TQDM_DISABLE", "1")
    assert not start("predict", "model", ALL[2], "--out", "p.zarr", **say).err
    start("superres", "model", ALL[2], "--out", "d.h5ad", **say)
    start("domains", "d.h5ad", "-n", "3", "--out", "domains.csv", **say)
    start("evaluate", *ALL, "-m", "ridge", *SMALL, "--out", "contest", **say)
    done = start("audit", *ALL, "--contest", "contest", "--json", **say)
    assert json.loads(done.out)["leaks"] == 0
    assert json.loads(start("data", "where", "--json", **say).out)["files"]
    start("data", "verify", "coral", cwd=folder, code=1)
    start("train", **say, code=2)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("layout", layouts.WRITERS)
def test_every_layout_goes_all_the_way(layout, tmp_path, monkeypatch):
    """As its files are: commands are told of each only what it does not say itself."""
    monkeypatch.chdir(tmp_path)
    drawn, raw = [], []
    for number, name in enumerate(("S1", "S2")):
        section = layouts.drawn_section(layouts.LATTICES.get(layout, "hex"), name=name, seed=number)
        given = layouts.WRITERS[layout](section, tmp_path / f"in-{name}")
        options = given.options | {"donor": f"D{number}", "name": name}
        drawn.append(section)
        raw.append((given.path, [f"--{k.replace('_', '-')}={v}" for k, v in options.items()]))
    (one, of_one), (two, of_two) = raw
    for ending in ("h5ad", "zarr"):
        run("check", two, *of_two, "--save", f"S2.{ending}")
        found = readers.read_section(f"S2.{ending}")
        assert (sections.name_of(found), sections.donor_of(found)) == ("S2", "D1")
        counts = found[:, list(drawn[1].var_names)].X
        assert counts.sum() == drawn[1].X.sum() and counts.shape == drawn[1].shape

    small = ["-m", "ridge", "--scales", "16", "--components", "4"]
    run("train", one, *of_one, "--out", "model", *small)
    run("predict", "model", two, *of_two, "--out", "p.h5ad")
    made = anndata.read_h5ad("p.h5ad")
    assert list(made.obs_names) == list(found.obs_names)
    assert set(made.var_names) == set(saved.load("model").method.genes) <= set(found.var_names)
    assert np.isfinite(made.X).all() and made.X.std(axis=0).max() > 0
    measured = found[:, list(made.var_names)].X
    assert (made.layers["counts"] != measured).nnz == 0

    run("domains", two, *of_two, "-n", "2", "--out", "d.csv")
    table = pd.read_csv("d.csv", index_col="spot")
    assert list(table.columns) == ["section", "domain", "x", "y"]
    assert set(table["domain"]) == {1, 2} and set(table["section"]) == {"S2"}
    np.testing.assert_allclose(table.loc[found.obs_names, ["x", "y"]], found.obsm["spatial"])

    run("evaluate", one, two, *of_one, *of_two, *small, "--no-controls", "--out", "ev")
    scores = pd.read_csv("ev/table.csv")
    assert set(scores["method"]) == {"ridge"} and set(scores["split"]) == {"donor"}
    assert set(scores.loc[scores["scope"] == "per_section", "n_spots"]) == {found.n_obs}
    assert scores["fold"].nunique() >= 2
    assert scores.loc[scores["metric"] == "rmse", "value"].between(0, 10).all()


def kill(arguments: list[str], cwd, ready, code: int) -> None:
    """Start a command and stop it as soon as `ready` says so."""
    process = subprocess.Popen(
        command(*arguments), cwd=cwd, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        # A shell's background jobs ignore interrupts, and so would all that they start.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    while process.poll() is None and not ready():
        time.sleep(0.01)
    process.send_signal(code)
    process.communicate()
    assert process.returncode != 0, "it was done before it could be stopped"


TRAIN = ["train", *ALL[:2], *SMALL, "--members", "3", "--epochs", "12", "--out"]


@pytest.fixture(scope="module")
def whole(folder):
    """A model whose training nothing disturbed."""
    start(*TRAIN, "whole", cwd=folder)
    return contents(folder / "whole")


@pytest.mark.parametrize("code", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_training_ends_in_the_same_model(code, folder, whole, tmp_path):
    arguments = [folder / word if word in ALL else word for word in TRAIN]
    member = tmp_path / "model/training/member-1/state.json"
    kill([*arguments, "model"], tmp_path, member.exists, code)
    assert not (tmp_path / "model/model.json").exists()
    done = start(*arguments, "model", cwd=tmp_path)
    assert "Going on" in done.err
    found = contents(tmp_path / "model")
    assert found.keys() == whole.keys()
    assert all(found[name] == whole[name] for name in found if name.startswith("heclip"))


def test_a_killed_contest_ends_in_the_same_tables(folder, tmp_path):
    places = [folder / name for name in ALL]
    arguments = ["evaluate", *places, "--by", "section", *SMALL, "-m", "ridge", "-m", "heclip"]
    arguments.append("--no-controls")
    start(*arguments, "--keep", "one", "--out", "whole", cwd=tmp_path)

    def ready() -> bool:
        return len(list((tmp_path / "two").glob("*.npz"))) >= 3

    kill([*arguments, "--keep", "two", "--out", "ev"], tmp_path, ready, signal.SIGKILL)
    assert not (tmp_path / "ev").exists()
    start(*arguments, "--keep", "two", "--out", "ev", cwd=tmp_path)
    one, two = contents(tmp_path / "ev"), contents(tmp_path / "whole")
    assert one.pop("record.json") and two.pop("record.json") and one == two
