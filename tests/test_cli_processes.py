"""The command line in processes of its own: every command once, layouts in and out, kills."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import anndata
import layouts
import pytest
from cli_tools import SMALL, command, contents, environment, run, start, write

from heclip_lite import readers, sections

pytestmark = pytest.mark.slow
ALL = ["P1-1.h5ad", "P1-2.h5ad", "P2-1.h5ad", "P2-2.h5ad"]


@pytest.fixture(scope="module")
def folder(small_sections, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sections")
    write(small_sections, folder)
    return folder


def test_every_command_once(folder, monkeypatch):
    monkeypatch.setenv("HECLIP_LITE_DATA", str(folder / "data"))
    say = {"cwd": folder}
    assert "heclip-lite" in start("--version", **say).out
    assert json.loads(start("check", ALL[0], "--json", **say).out)["usable"]
    start("train", *ALL[:2], "--out", "model", *SMALL, **say)
    start("predict", "model", ALL[2], "--out", "p.zarr", **say)
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
    monkeypatch.chdir(tmp_path)
    places = []
    for number, name in enumerate(("S1", "S2")):
        section = layouts.drawn_section(layouts.LATTICES.get(layout, "hex"), name=name, seed=number)
        given = layouts.WRITERS[layout](section, tmp_path / f"in-{name}")
        flags = [f"--{k.replace('_', '-')}={v}" for k, v in given.options.items() if v is not None]
        if "donor" in given.options:  # a writer names the donor of both sections alike
            flags = [flag for flag in flags if not flag.startswith("--donor")]
        flags.append(f"--donor=D{number}")
        for ending in ("h5ad", "zarr"):
            run("check", given.path, *flags, "--save", f"{name}.{ending}")
        places.append(f"{name}.h5ad")
        again = [readers.read_section(f"{name}.{ending}") for ending in ("h5ad", "zarr")]
        assert (again[0].X != again[1].X).nnz == 0
        assert sections.donor_of(again[0]) == f"D{number}"
    small = ["--scales", "16", "--scales", "8", "--members", "1", "--epochs", "1"]
    run("train", places[0], "--out", "model", "-m", "ridge", *small)
    run("predict", "model", "S2.zarr", "--out", "p.h5ad")
    assert anndata.read_h5ad("p.h5ad").n_obs == again[0].n_obs
    run("domains", places[1], "-n", "2", "--out", "d.zarr")
    run("evaluate", *places, "-m", "ridge", *small, "--no-controls", "--out", "ev")


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


@pytest.mark.parametrize("code", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_training_ends_in_the_same_model(code, folder, tmp_path):
    places = [folder / name for name in ALL[:2]]
    arguments = ["train", *places, *SMALL, "--members", "3", "--epochs", "12", "--out"]
    start(*arguments, "whole", cwd=tmp_path)
    member = tmp_path / "model/training/member-1/state.json"
    kill([*arguments, "model"], tmp_path, member.exists, code)
    assert not (tmp_path / "model/model.json").exists()
    done = start(*arguments, "model", cwd=tmp_path)
    assert "Going on" in done.err
    one, two = contents(tmp_path / "model"), contents(tmp_path / "whole")
    assert one.keys() == two.keys()
    assert all(one[name] == two[name] for name in one if name.startswith("heclip"))


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
