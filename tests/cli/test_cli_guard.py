"""The command line when something is wrong: outputs, configuration files, errors, secrets."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import anndata
import damage
import layouts
import malformed_commands
import pytest
from cli_tools import SMALL, contents, environment, run, write
from malformed import CASES, Templates
from typer.testing import CliRunner

from heclip_lite import store
from heclip_lite.cli import check as cli_check
from heclip_lite.cli import files as cli_files
from heclip_lite.cli import train as cli_train
from heclip_lite.cli.program import app
from heclip_lite.data import sections
from heclip_lite.methods import saved


@pytest.fixture(scope="module")
def written(small_sections, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sections")
    write(small_sections[:2], folder)
    return folder


@pytest.fixture
def here(written, tmp_path, monkeypatch):
    for path in written.glob("*.h5ad"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -- bad input --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    return Templates(tmp_path_factory.mktemp("templates"))


def _flags(options: dict) -> list[str]:
    """Options of a reader as they are typed."""
    found = []
    for key, value in options.items():
        if value is None:
            continue
        if isinstance(value, dict):
            value = ",".join(f"{k}={v}" for k, v in value.items())
        found.append(f"--{key.replace('_', '-')}={value}")
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_malformed_input_ends_in_a_message(case, templates, tmp_path, monkeypatch):
    given = templates.make(case, tmp_path / "in")
    monkeypatch.chdir(tmp_path)
    damage.where_permissions_hold(tmp_path, lambda: checked(case, given))


def checked(case, given):
    outputs = ["--picture", "out/look.png", "--save", "out/section.h5ad"]
    code = 0 if case.says is None else 1
    done = run("check", given.path, *_flags(given.options), *outputs, "--json", code=code)
    (about,) = done.json["sections"]
    assert about["usable"] is (case.says is None)
    if case.says is not None:
        assert re.search(case.says, about["problem"], re.IGNORECASE), about["problem"]
        assert not Path("out").exists(), "nothing is half-written"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("workplace")
    malformed_commands.workplace(folder)
    return folder


@pytest.mark.parametrize(
    "wrong", malformed_commands.COMMANDS, ids=lambda wrong: f"{wrong.line}: {wrong.says}"
)
def test_every_command_says_what_is_wrong(wrong, workplace, tmp_path, monkeypatch):
    stores = [path.name for path in workplace.glob("*.zarr") if path.name not in wrong.line]
    ignored = shutil.ignore_patterns(*stores)  # of many files
    shutil.copytree(workplace, tmp_path, ignore=ignored, dirs_exist_ok=True)
    for step in wrong.damage:
        step(tmp_path, None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HECLIP_LITE_DATA", "data")
    before = sorted(tmp_path.rglob("*")), contents(tmp_path)
    command, *rest = shlex.split(wrong.line)
    done = run(command, *rest, code=wrong.code)
    assert re.search(wrong.says, done.out + done.err), done.err
    assert "--debug" not in done.err, "it is the input's fault and not ours"
    assert command == "data" or not done.out
    assert (sorted(tmp_path.rglob("*")), contents(tmp_path)) == before


# -- outputs ----------------------------------------------------------------------------------


def _fails(*arguments: object, says: str) -> None:
    assert says in run("check", "P1-1.h5ad", *arguments, code=1).err


def test_outputs_are_judged_before_anything_is_read(here, monkeypatch):
    monkeypatch.setattr(cli_check, "read", lambda *a, **k: pytest.fail("something was read"))
    (here / "there.png").write_bytes(b"mine")
    (here / "folder.png").mkdir()
    (here / "link.png").symlink_to(here / "there.png")
    _fails("--picture", "look.jpg", says="this command writes .png")
    _fails("--picture", "there.png", says="already there")
    _fails("--picture", "there.png/look.png", says="is a file")
    _fails("--picture", "link.png", "--overwrite", says="is a link")
    _fails("--save", "P1-1.h5ad", "--overwrite", says="what the command reads")
    assert (here / "there.png").read_bytes() == b"mine"


def test_overwriting_replaces_results_only(here):
    (here / "mine").mkdir()
    (here / "mine/thesis.txt").write_text("years of work")
    before = contents(here / "mine")
    for arguments in (["train", "P1-1.h5ad", "-m", "mean"], ["evaluate", "P1-1.h5ad", "P1-2.h5ad"]):
        done = run(*arguments, "--out", "mine", "--overwrite", code=1)
        assert "not replaced" in done.err and contents(here / "mine") == before
    run("train", "P1-1.h5ad", "-m", "mean", "--out", "model")
    first = contents(here / "model")
    assert "already there" in run("train", "P1-2.h5ad", "-m", "mean", "--out", "model", code=1).err
    assert contents(here / "model") == first
    run("train", "P1-2.h5ad", "-m", "mean", "--out", "model", "--overwrite")
    assert saved.load("model").about["sections"][0]["section"] == "P1-2"
    run("predict", "model", "P1-1.h5ad", "--out", "p.zarr")
    run("predict", "model", "P1-1.h5ad", "--out", "p.zarr", "--overwrite")
    assert not [p for p in here.iterdir() if p.name.startswith(".")]


def test_what_a_command_reads_is_never_written_over(here):
    (here / "run").mkdir()
    for name in ("counts.h5ad", "look.png", "spots.csv"):
        (here / "run" / name).write_text("measured")
    before = contents(here / "run")
    for arguments, says in (
        (["check", "P1-1.h5ad", "--image", "run/look.png", "--picture", "run/look.png"], "reads"),
        (["check", "run", "--picture", "run/look.png"], "lies in run"),
        (["check", "run/counts.h5ad", "--save", "run/counts.h5ad"], "reads"),
        (["audit", "P1-1.h5ad", "P1-2.h5ad", "--counts", "run/spots.csv", "--out",
          "run/spots.csv"], "reads"),
        (["train", "run/counts.h5ad", "--out", "run"], "holds run/counts.h5ad"),
        (["evaluate", "P1-1.h5ad", "run/counts.h5ad", "--out", "run"], "holds run/counts.h5ad"),
        (["domains", "run", "-n", "2", "--out", "run/spots.csv"], "lies in run"),
    ):  # fmt: skip
        assert says in run(*arguments, "--overwrite", code=1).err
        assert contents(here / "run") == before


def test_the_slide_of_a_section_is_never_written_over(here, small_sections):
    section = layouts.drawn_section()
    slide = layouts.write_image(section, here / "slide.png")
    entry = section.uns["spatial"][sections.name_of(section)]
    del entry["images"]["fullres"]
    entry["metadata"]["source_image_path"] = str(slide)
    section.write_h5ad("s.h5ad")
    before = slide.read_bytes()
    for arguments in (["check", "s.h5ad"], ["domains", "s.h5ad", "-n", "2", "--out", "d.csv"]):
        done = run(*arguments, "--picture", "slide.png", "--overwrite", code=1)
        assert "is the slide of" in done.err and slide.read_bytes() == before


def test_only_what_this_package_wrote_is_replaced(here):
    section = anndata.read_h5ad("P1-1.h5ad")
    section.write_h5ad("mine.h5ad")
    section.write_zarr("mine.zarr")
    before = {name: contents(here)[name] for name in contents(here) if name.startswith("mine")}
    for name in ("mine.h5ad", "mine.zarr"):
        for arguments in (
            ["check", "P1-2.h5ad", "--save"],
            ["domains", "P1-2.h5ad", "-n", "2", "--out"],
        ):
            done = run(*arguments, name, "--overwrite", code=1)
            assert "not written by heclip-lite" in done.err
    after = contents(here)
    assert {name: after[name] for name in before} == before
    for name in ("ours.h5ad", "ours.zarr"):
        run("check", "P1-1.h5ad", "--save", name)
        run("check", "P1-2.h5ad", "--save", name, "--overwrite")
        assert "P1-2" in run("check", name).out
        run("domains", "P1-2.h5ad", "-n", "2", "--out", name, "--overwrite")
        run("domains", "P1-1.h5ad", "-n", "2", "--out", name, "--overwrite")
    (here / "table.csv").write_text("old")
    run("domains", "P1-1.h5ad", "-n", "2", "--out", "table.csv", "--overwrite")
    assert (here / "table.csv").read_text() != "old"


def test_a_contest_takes_only_its_own_files_away(here):
    arguments = ["evaluate", "P1-1.h5ad", "P1-2.h5ad", "--by", "section", "-m", "mean"]
    run(*arguments, "--no-controls", "--out", "ev")
    first = contents(here / "ev")
    (here / "ev/notes.txt").write_text("my notes")
    (here / "ev/more").mkdir()
    (here / "ev/more/figure.svg").write_text("my figure")
    run(*arguments, "--out", "ev", "--overwrite")
    second = contents(here / "ev")
    assert second.pop("notes.txt") == b"my notes" and second.pop("more/figure.svg") == b"my figure"
    assert second.keys() == first.keys() and second["table.csv"] != first["table.csv"]
    assert not [p for p in here.iterdir() if p.name.startswith(".")]


TINY = ["train", "P1-1.h5ad", *SMALL[2:], "--encoder", "test_resnet"]  # at one scale
MEAN = ["train", "P1-1.h5ad", "-m", "mean", "--out", "out"]
FULL = (  # bytes that a file may have, a command, and the first file that needs more
    (50, MEAN, "out/training/run.json"),
    (100, MEAN, "out/model.safetensors"),
    (500, MEAN, "out/model.json"),
    (500, [*TINY, "--out", "new"], r"\S+/\w+.npy|new/training/\S+"),
    (500, ["predict", "model", "P1-1.h5ad", "--out", "out.h5ad"], "out.h5ad"),
    (500, ["predict", "model", "P1-1.h5ad", "--out", "out.zarr"], "out.zarr"),
    (500, ["check", "P1-1.h5ad", "--save", "out.h5ad"], "out.h5ad"),
    (500, ["check", "P1-1.h5ad", "--picture", "out.png"], "out.png"),
)


def test_a_full_disk_stops_every_command_with_a_message(here, full_disk):
    run("train", "P1-1.h5ad", "-m", "mean", "--out", "model")
    before = contents(here)
    for room, arguments, path in FULL:
        with full_disk(room):
            done = run(*arguments, code=1)
        reason = "(File too large|No space left on device)"
        said = rf"Error: ({path}): {reason}\. Make room there or choose another place, .*"
        assert re.fullmatch(said, done.err.splitlines()[-1]) and not done.out, done.err
        left = {name for name in contents(here) if name not in before}
        # Of a model what is whole stays, so that the same command goes on.
        assert left <= {"out/training/run.json", "out/model.safetensors"}, arguments
    run(*MEAN)


def test_files_that_fail_leave_the_earlier_ones(tmp_path):
    place = tmp_path / "result"
    with cli_files.files_into(place, "last") as folder:
        for name in ("a", "last"):
            (folder / name).write_text("first")
    with pytest.raises(OSError), cli_files.files_into(place, "last") as folder:
        (folder / "a").write_text("second")
        raise OSError(28, "No space left on device")
    assert contents(tmp_path) == {"result/a": b"first", "result/last": b"first"}


def test_a_failing_folder_leaves_the_earlier_one(tmp_path):
    place = tmp_path / "result"
    with cli_files.atomic_folder(place) as folder:
        folder.mkdir()
        (folder / "a").write_text("first")
    with pytest.raises(OSError), cli_files.atomic_folder(place) as folder:
        folder.mkdir()
        (folder / "a").write_text("second")
        raise OSError(28, "No space left on device")
    assert contents(tmp_path) == {"result/a": b"first"}


def test_a_killed_command_leaves_the_earlier_result(tmp_path):
    """A kill between two renames runs nothing that could tidy up: the next run does."""
    place = tmp_path / "p.zarr"
    with cli_files.atomic_folder(place) as folder:
        folder.mkdir()
        (folder / "a").write_text("first")
    script = (
        "import os, pathlib, sys\n"
        "from heclip_lite.cli import files as cli_files\n"
        "real, left = os.replace, int(sys.argv[2])\n"
        "def replace(a, b):\n"
        "    global left\n"
        "    left -= 1\n"
        "    real(a, b) if left >= 0 else os.kill(os.getpid(), 9)\n"
        "os.replace = replace\n"
        "with getattr(cli_files, sys.argv[3])(pathlib.Path(sys.argv[1]), *sys.argv[4:]) as made:\n"
        "    made.mkdir(exist_ok=True)\n"
        "    for name in 'ab':\n"
        "        (made / name).write_text('second')\n"
    )

    def killed(path, *arguments: str) -> None:
        done = subprocess.run([sys.executable, "-c", script, path, *arguments], env=environment())
        assert done.returncode == -9

    killed(place, "1", "atomic_folder")
    assert not place.exists()
    with pytest.raises(FileExistsError, match="already there"):
        cli_files.check_output(place)
    assert contents(tmp_path) == {"p.zarr/a": b"first"}
    # Files that were all made when the kill came, and half moved, are moved on.
    killed(tmp_path / "ev", "2", "files_into", "a")
    assert not (tmp_path / "ev" / "a").exists()
    cli_files.check_output(tmp_path / "ev", overwrite=True, mark="a")
    made = {"ev/a": b"second", "ev/b": b"second"}
    assert contents(tmp_path) == {"p.zarr/a": b"first"} | made


# -- configuration files ----------------------------------------------------------------------


def _config(here, text: str) -> list[str]:
    (here / "run.toml").write_text(text, encoding="utf-8")
    return ["--config", "run.toml"]


def test_a_file_gives_options_and_flags_win(here):
    config = _config(
        here,
        'seed = 5\n[train]\nsections = ["P1-1.h5ad"]\nmethod = "mean"\nout = "one"\n'
        "[evaluate]\nby = 'section'\n",
    )
    assert run("train", *config, "--json").json | {"model": 0} == {
        "model": 0, "method": "mean", "sections": ["P1-1"], "spots": 48, "genes": 60, "seed": 5,
        "device": "cpu",
    }  # fmt: skip
    done = run("train", "P1-2.h5ad", *config, "--out", "two", "--seed", "7", "--json").json
    assert (done["sections"], done["seed"], done["model"]) == (["P1-2"], 7, "two")


CONFIGS = {
    "an unknown key": ("colour = 1", 2, "no command has an option 'colour'"),
    "a near name": ("[train]\nepoch = 3", 2, "near names: epochs"),
    "a key of another command": ("[train]\nstrict = true", 2, "train has no option 'strict'"),
    "an unknown table": ("[tran]\nseed = 1", 2, "near names: train"),
    "no TOML": ("seed = ", 1, "not valid TOML"),
    "a list for one value": ("[train]\nseed = [1, 2]", 1, "takes one value"),
    "a word for a flag": ('[train]\noverwrite = "yes"', 1, "true or false"),
    "a truth for a number": ("[train]\nseed = true", 1, "text or a number"),
    "a date": ("[train]\nmethod = 2024-01-01", 1, "text or numbers"),
    "a word for a number": ('[train]\nseed = "many"', 2, "seed"),
    "too small a number": ("[train]\nepochs = 0", 2, "epochs"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_wrong_file_is_refused(name, here):
    text, code, message = CONFIGS[name]
    done = run("train", "P1-1.h5ad", "--out", "m", *_config(here, text), code=code)
    assert message in done.err and not (here / "m").exists()


def test_a_file_that_cannot_be_read_is_named(here):
    assert "There is no" in run("data", "where", "--config", "none.toml", code=1).err
    (here / "run.toml").write_bytes("seed = 1 # ä".encode("utf-16"))
    assert "UTF-8" in run("data", "where", "--config", "run.toml", code=1).err


def test_a_file_with_a_byte_order_mark_and_dashes_is_read(here):
    config = _config(here, "﻿[train]\r\nbatch-size = 8\r\n")
    run("train", "P1-1.h5ad", "-m", "mean", "--out", "m", *config)


# -- errors and secrets -----------------------------------------------------------------------


def test_a_fault_of_ours_is_said_to_be_one(here, monkeypatch):
    def faulty(*args):
        raise KeyError("surprise")

    monkeypatch.setattr(cli_check, "describe", faulty)
    done = run("check", "P1-1.h5ad", code=1)
    assert "KeyError" in done.err and "--debug" in done.err


def _debug(*arguments: str) -> str:
    """What a command that fails shows with --debug, which is the one place for a traceback."""
    done = CliRunner().invoke(app, [*arguments, "--debug"])
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit) and not done.stdout
    return done.stderr


def test_debug_shows_where(here):
    said = _debug("train", "none.h5ad", "--out", "m")
    assert "Traceback" in said and "in existing" in said and "FileNotFoundError" not in said[:40]


def test_tokens_are_neither_shown_nor_kept(here, monkeypatch):
    secret = "hf_" + "abcdefghijklmnop"  # in two parts: no file may hold a token's form
    monkeypatch.setenv("HF_TOKEN", secret)

    def refused(*args, **kwargs):
        print(f"asking with {secret}")
        try:
            raise OSError(f"401 for https://hub/?token={secret}")
        except OSError as error:
            raise RuntimeError(f"could not be fetched ({error})") from error

    train = ["train", "P1-1.h5ad", "-m", "mean", "--out"]
    shown = [run(*train, f"model-{secret}"), run(*train, f"json-{secret}", "--json")]
    shown.append(run(*train, "m", f"--{secret}", code=2))
    shown.append(run(*train, f"P1-1.h5ad/{secret}", code=1))
    assert secret not in (here / f"model-{secret}/model.json").read_text()
    monkeypatch.setattr(cli_train, "build", refused)
    shown.append(run("train", "P1-1.h5ad", "--out", "m", *SMALL, code=1))
    for text in [done.out + done.err for done in shown] + [_debug(*train, "m")]:
        assert secret not in text and "***" in text
    monkeypatch.setattr("sys.argv", ["run.py", "--token", secret])
    assert store.provenance()["command"] == "run.py --token ***"


def test_json_is_alone_on_stdout(here, monkeypatch):
    real = cli_check.describe

    def chatty(section):
        print("a library that talks")
        return real(section)

    monkeypatch.setattr(cli_check, "describe", chatty)
    done = run("check", "P1-1.h5ad", "--json")
    assert json.loads(done.out)["usable"] and "talks" in done.err
