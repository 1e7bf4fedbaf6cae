"""The command line: what each command does, on small sections that the tests write."""

from __future__ import annotations

import json
import subprocess
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
from cli_tools import SMALL, contents, run, write
from PIL import Image

from heclip_lite import __version__, config, evaluation, training
from heclip_lite.cli.methods import Settings
from heclip_lite.cli.results import read_prediction
from heclip_lite.data import datasets, readers, sections
from heclip_lite.evaluation import audit, benchmark
from heclip_lite.methods import saved

NAMES = ["P1-1", "P1-2", "P2-1", "P2-2"]
ALL = [f"{name}.h5ad" for name in NAMES]
COMMANDS = "check train predict superres slide evaluate audit domains data".split()


@pytest.fixture(scope="module")
def written(small_sections, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sections")
    write(small_sections, folder)
    return folder


@pytest.fixture
def here(written, tmp_path, monkeypatch):
    """A folder of its own, with the sections in it."""
    for path in written.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def model(written, tmp_path_factory):
    """A ridge regression, trained once."""
    folder = tmp_path_factory.mktemp("models") / "ridge"
    places = [written / name for name in ALL[:2]]
    run("train", *places, "--out", folder, "-m", "ridge", *SMALL)
    return folder


# -- the program ------------------------------------------------------------------------------


def test_version_and_help():
    assert run("--version").out == f"heclip-lite {__version__}\n"
    text = run("--help").out
    assert all(name in text for name in COMMANDS) and "130" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name):
    text = run(name, "--help").out
    assert f"heclip-lite {name} " in text.partition("Example:")[2]
    assert "--json" in text and "--config" in text


def test_help_imports_nothing_heavy():
    heavy = {"torch", "scanpy", "squidpy", "spatialdata", "matplotlib", "sklearn", "anndata"}
    code = f"import sys, heclip_lite.cli.program; print(sorted({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


WRONG = [
    ["nothing"],
    ["check"],
    ["check", "a.h5ad", "--colour", "red"],
    ["train", "a.h5ad", "--out", "m", "--epochs", "0"],
    ["train", "a.h5ad", "--out", "m", "--epochs", "many"],
    ["train", "a.h5ad", "--out", "m", "--method", "ridgy"],
    ["evaluate", "a.h5ad", "--out", "m", "--by", "spot"],
    ["evaluate", "a.h5ad", "--out", "m", "-m", "ridge", "-m", "ridge"],
    ["audit", "a.h5ad", "--by", "spot"],
    ["predict", "m", "--out", "p.h5ad"],
    ["predict", "m", "--out", "p.h5ad", "--image", "a.png"],
    ["predict", "m", "a.h5ad", "--out", "p.h5ad", "--pitch-um", "50"],
    ["predict", "m", "--out", "p.h5ad", "--image", "a.png", "--um-per-px", "1", "--counts", "c"],
    ["superres", "m", "a.h5ad", "--out", "p.h5ad", "--factor", "4", "--pitch-um", "50"],
    ["domains", "a.h5ad", "-n", "1", "--out", "d.csv"],
    ["domains", "a.h5ad", "-n", "3", "--out", "d.csv", "--method", "magic"],
    ["data", "steal"],
    ["check", "a.h5ad", "b.h5ad", "c.h5ad", "--donor", "A", "--donor", "B"],
    ["check", "a.h5ad", "b.h5ad", "--save", "c.h5ad"],
    ["check", "a.h5ad", "--columns", "x"],
]


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_wrong_usage_ends_with_2(arguments, here):
    done = run(*arguments, code=2)
    assert done.out == "" and done.err


def test_a_near_name_is_offered(here):
    assert "kernel_ridge" in run("train", ALL[0], "--out", "m", "-m", "kernel", code=2).err


# -- check ------------------------------------------------------------------------------------


def test_check_reports_a_section(here, small_sections):
    done = run("check", ALL[0], "--picture", "look.png", "--save", "again.h5ad", "--json")
    (about,) = done.json["sections"]
    section = small_sections[0]
    assert about["usable"] and (about["spots"], about["genes"]) == section.shape
    assert about["um_per_px"] == sections.um_per_px(section)
    assert about["lattice"] == "hexagonal" and about["on_tissue"] > 0.9
    assert about["median_counts_per_spot"] == np.median(np.asarray(section.X.sum(axis=1)))
    assert Image.open("look.png").format == "PNG"
    again = readers.read_section("again.h5ad")
    assert sections.section_key(again) == sections.section_key(section)
    assert "hexagonal" in run("check", "again.h5ad").out


def test_check_compares_genes(here):
    half = anndata.read_h5ad(ALL[1])[:, 20:].copy()
    half.write_h5ad("half.h5ad")
    done = run("check", ALL[0], "half.h5ad", "--json", "--picture", "both.png")
    assert done.json["shared_genes"] == 40
    assert [row["kept"] for row in done.json["genes"]] == [40, 40]
    assert "share 40 genes" in run("check", ALL[0], "half.h5ad").out


def test_check_says_which_section_is_unusable(here):
    (here / "broken.h5ad").write_bytes(b"not HDF5")
    done = run("check", ALL[0], "broken.h5ad", "--json", "--picture", "p.png", code=1)
    good, bad = done.json["sections"]
    assert good["usable"] and not bad["usable"] and "broken.h5ad" in bad["problem"]
    assert not (here / "p.png").exists()


@pytest.mark.parametrize("name", ["synthetic:P9-1", "her2st:Z9", "dlpfc:1", "nowhere.h5ad"])
def test_unknown_sections(name, here):
    assert run("check", name, code=1).out.startswith(f"{name}: not usable")


# -- train, predict, superres, domains --------------------------------------------------------


@pytest.mark.parametrize("method", ["heclip", "histosge"])
def test_a_model_goes_all_the_way(method, here):
    trained = run("train", *ALL[:2], "--out", "model", "-m", method, *SMALL, "--json").json
    assert trained["sections"] == NAMES[:2] and trained["epochs"] == 2
    record = json.loads((here / "model/model.json").read_text())
    assert record["about"]["provenance"]["command"].startswith("heclip-lite train P1-1.h5ad")
    assert not (here / "model/training").exists()

    done = run("predict", "model", ALL[2], "--out", "spots.h5ad", "--json").json
    found, section = anndata.read_h5ad("spots.h5ad"), anndata.read_h5ad(ALL[2])
    assert found.n_obs == done["points"] == section.n_obs
    direct = saved.load("model", device="cpu").method
    np.testing.assert_array_equal(found.X, direct.predict(sections.hide_expression(section)))
    counts = section[:, list(found.var_names)].X.toarray()
    np.testing.assert_array_equal(found.layers["counts"].toarray(), counts)
    assert "prediction" in found.uns["heclip_lite_run"]

    run("superres", "model", ALL[2], "--out", "dense.h5ad", "--factor", "4")
    dense = anndata.read_h5ad("dense.h5ad")
    assert dense.n_obs > 3 * section.n_obs and dense.obs["spot"].sum() == section.n_obs
    done = run("domains", "dense.h5ad", "-n", "3", "--out", "d.csv", "--picture", "d.png", "--json")
    assert done.json["grouped_by"] == "predicted expression"
    table = pd.read_csv("d.csv")
    assert len(table) == dense.n_obs and set(table["domain"]) == {1, 2, 3}
    done = run("domains", ALL[2], "-n", "3", "--out", "d.h5ad", "--model", "model", "--json").json
    assert sum(done["sizes"].values()) == section.n_obs and 0 <= done["scores"]["nmi"] <= 1


def test_an_image_alone_is_enough(here, model):
    scale = ["--um-per-px", "1.2"]
    done = run("predict", model, "--image", "P2-1.png", *scale, "--out", "p.h5ad", "--json").json
    found = anndata.read_h5ad("p.h5ad")
    assert done["points"] == found.n_obs > 20 and np.isfinite(found.X).all()
    assert found.X.std(axis=0).max() > 0.05, "the grid's points are told apart"
    run("superres", model, "--image", "P2-1.png", *scale, "--pitch-um", "60", "--out", "q.zarr")
    section = anndata.read_h5ad(ALL[2])
    places = pd.DataFrame(section.obsm["spatial"], section.obs_names, ["x", "y"])
    places.rename_axis("barcode").to_csv("places.csv")
    run("predict", model, "--image", "P2-1.png", *scale, "--positions", "places.csv", "--out",
        "r.h5ad", "--name", "P2-1")  # fmt: skip
    run("predict", model, ALL[2], "--out", "s.h5ad")
    with_spots, alone = anndata.read_h5ad("s.h5ad"), anndata.read_h5ad("r.h5ad")
    np.testing.assert_allclose(alone.X, with_spots.X, atol=0.1)


def test_a_model_warns_of_its_own_training_slide(here, model):
    assert "trained on the slide" in run("predict", model, ALL[0], "--out", "p.h5ad").err
    assert run("predict", model, ALL[2], "--out", "q.h5ad").err.count("Warning") == 0


@pytest.mark.parametrize("layout", ["anndata", "spatialdata"])
def test_a_whole_slide_becomes_domains(layout, here, model):
    pytest.importorskip("tifffile")
    given = ["P2-1.png", "--um-per-px", "1.2", "--pitch-um", "60", "--layout", layout]
    done = run("slide", model, *given, "--out", "s.zarr", "--json").json
    assert done["genes"] > 0 and done["um_per_px"] == 1.2
    assert "already there" in run("slide", model, *given, "--out", "s.zarr", code=1).err
    found = run("domains", "s.zarr", "-n", "3", "--out", "d.csv", "--json").json
    assert found["grouped_by"] == "predicted expression"
    run("predict", model, "--image", *given[:5], "--out", "whole.h5ad", "--name", "P2-1")
    whole = anndata.read_h5ad("whole.h5ad")
    made = read_prediction(here / "s.zarr")[whole.obs_names]
    np.testing.assert_allclose(made.X, whole.X, atol=1e-3)


@pytest.mark.parametrize("method", ["knn", "histosge", "mean_colour", "colour"])
def test_methods_that_predict_no_whole_slide_are_refused_in_words(method, here):
    run("train", *ALL[:2], "--out", "m", "-m", method, *SMALL)
    given = ["P2-1.png", "--um-per-px", "1.2", "--pitch-um", "60", "--out", "s.zarr"]
    done = run("slide", "m", *given, code=1)
    assert "predicts no whole slide" in done.err and "--debug" not in done.err
    assert not list(here.glob("s.*"))


@pytest.mark.parametrize("layout", ["anndata", "spatialdata"])
def test_predicted_points_need_no_slide(layout, here, model):
    """Many slides are of formats that only OpenSlide reads, and they may lie elsewhere."""
    pytest.importorskip("tifffile")
    (here / "slide.png").write_bytes((here / "P2-1.png").read_bytes())
    scale = ["--um-per-px", "1.2", "--pitch-um", "60"]
    run("slide", model, "slide.png", *scale, "--layout", layout, "--name", "the slide", "--out",
        "s.zarr")  # fmt: skip
    run("predict", model, "--image", "slide.png", *scale, "--out", "p.h5ad")
    run("predict", model, "--image", "slide.png", *scale, "--out", "p.zarr")
    run("superres", model, ALL[2], "--out", "d.zarr")  # its image is in the section's own file
    (here / "slide.png").unlink()
    for name in ("s.zarr", "p.h5ad", "p.zarr", "d.zarr"):
        table = f"{name}.csv"
        done = run("domains", name, "-n", "3", "--out", table, "--picture", f"{name}.png", "--json")
        assert done.json["grouped_by"] == "predicted expression"
        assert len(pd.read_csv(table)) == done.json["spots"]
    assert done.json["section"] == "P2-1"
    assert run("domains", "s.zarr", "-n", "3", "--out", "e.csv", "--json").json["section"] == (
        "the slide"
    )


def test_the_context_of_an_audit_is_that_of_the_contest(here, monkeypatch):
    seen = []
    real = audit.audit
    monkeypatch.setattr(audit, "audit", lambda *given: seen.append(given[2]) or real(*given))
    run("audit", *ALL[:2], "--by", "section")
    run("audit", *ALL[:2], "--by", "section", "--context-um", "75")
    assert {one.context_um for one in seen} == {2 * max(config.MapInput().widths_um), 75.0}


def test_domains_of_measured_expression_are_scored(here):
    done = run("domains", ALL[0], "-n", "4", "--out", "d.zarr", "--smooth", "1", "--json").json
    assert done["grouped_by"] == "measured expression" and "ari" in done["scores"]
    assert (here / "d.zarr/zarr.json").exists() or (here / "d.zarr/.zattrs").exists()


def test_genes_can_be_chosen(here):
    (here / "genes.txt").write_text("﻿EPCAM\r\nMKI67\r\n\r\n")
    run("train", ALL[0], "--out", "m", "-m", "mean", "--genes", "genes.txt")
    assert saved.load("m").method.genes == ("EPCAM", "MKI67")
    (here / "genes.txt").write_text("EPCAM\nNOGENE\n")
    done = run("train", ALL[0], "--out", "n", "-m", "mean", "--genes", "genes.txt", code=1)
    assert "NOGENE" in done.err and not (here / "n").exists()


def test_every_training_loop_can_be_compiled():
    size = Settings(compile=True).size(600, 1.2, seed=0, device="cpu")
    loops = [value for value in vars(size).values() if isinstance(value, config.Training)]
    assert loops and all(loop.compile for loop in loops)


def test_what_cannot_be_saved_is_not_trained(here):
    done = run("train", *ALL[:2], "--out", "m", "-m", "average", *SMALL, code=1)
    assert "cannot be saved" in done.err and not (here / "m").exists()


# -- once more, and after an interruption -----------------------------------------------------


@pytest.mark.slow
def test_the_same_command_gives_identical_files(here, monkeypatch):
    both = []
    for folder in ("one", "two"):
        place = here / folder
        place.mkdir()
        for path in here.glob("P*"):
            (place / path.name).symlink_to(path)
        monkeypatch.chdir(place)
        run("train", *ALL[:2], "--out", "model", *SMALL, "--seed", "3")
        run("predict", "model", ALL[2], "--out", "p.h5ad")
        run("predict", "model", ALL[2], "--out", "p.zarr")
        run("audit", *ALL, "--by", "section", "--out", "audit.csv")
        both.append({k: v for k, v in contents(place).items() if k[0] != "P"})
    assert both[0].keys() == both[1].keys()
    assert [name for name in both[0] if both[0][name] != both[1][name]] == []


def stop_after(monkeypatch, where, name, calls):
    """Press Ctrl+C in the middle of the call after so many."""
    real, seen = getattr(where, name), []

    def stopping(*args, **kwargs):
        seen.append(1)
        if len(seen) > calls:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(where, name, stopping)


@pytest.mark.slow
def test_an_interrupted_training_goes_on(here, monkeypatch):
    arguments = [*ALL[:2], *SMALL, "--members", "2", "--epochs", "4"]
    run("train", *arguments, "--out", "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, training._State, "save", 6)
        done = run("train", *arguments, "--out", "model", code=130)
    assert "Interrupted" in done.err and done.out == ""
    assert not (here / "model/model.json").exists()
    assert "interrupted" in run("predict", "model", ALL[2], "--out", "p.h5ad", code=1).err
    other = run("train", *arguments, "--out", "model", "--seed", "1", code=1)
    assert "unfinished training of other sections" in other.err
    done = run("train", *arguments, "--out", "model")
    assert "Going on" in done.err
    files = [contents(here / name) for name in ("model", "whole")]
    assert files[0].keys() == files[1].keys()
    for name in ("heclip.safetensors", "heclip.json"):
        assert files[0][name] == files[1][name]


@pytest.mark.slow
def test_finished_folds_are_kept(here, monkeypatch):
    arguments = ["evaluate", *ALL, "--by", "donor", "-m", "ridge", "--no-controls", *SMALL]
    run(*arguments, "--out", "whole", "--keep", "elsewhere")
    fits = []
    real = benchmark._checked
    with monkeypatch.context() as patch:
        stop_after(patch, benchmark, "_checked", 2)  # two held-out sections of the first donor
        run(*arguments, "--out", "ev", "--keep", "folds", code=130)
    assert not (here / "ev").exists() and len(list((here / "folds").glob("*.npz"))) == 1
    monkeypatch.setattr(benchmark, "_checked", lambda *a: fits.append(a[2]) or real(*a))
    run(*arguments, "--out", "ev", "--keep", "folds")
    assert len(fits) == 2, "only the second donor was computed"
    ours, theirs = contents(here / "ev"), contents(here / "whole")
    assert ours.pop("record.json") and theirs.pop("record.json") and ours == theirs


# -- evaluate and audit -----------------------------------------------------------------------


def test_evaluate_and_the_audit_of_its_folds(here):
    done = run("evaluate", *ALL, "--out", "ev", "-m", "knn", "--oracles", *SMALL, "--json").json
    methods = {row["method"] for row in done["summary"]}
    assert {"knn", "mean", "position", "mean_colour", "shuffled", "oracle_depth"} <= methods
    table = pd.read_csv("ev/table.csv")
    assert list(table.columns) == evaluation.COLUMNS and set(table["split"]) == {"donor"}
    assert Image.open("ev/contest.png").format == "PNG"
    assert len(json.loads((here / "ev/table.json").read_text())) == len(table)
    kinds = {row["method"]: row["kind"] for row in done["summary"]}
    assert kinds["mean"] == "control" and kinds["oracle_depth"] == "oracle"
    audited = run("audit", *ALL, "--contest", "ev", "--strict", "--json").json
    assert audited["leaks"] == 0 and audited["folds"] == done["folds"]


def test_audit_finds_the_donor_on_both_sides(here):
    done = run("audit", *ALL, "--by", "section", "--json").json
    found = {row["leak"] for row in done["table"] if row["found"] == "yes"}
    assert {"shared donor", "position overlap"} <= found
    assert "shared donor" in run("audit", *ALL, "--by", "section", "--strict", code=1).out
    done = run("audit", *ALL, "--truth", "corrected", "--out", "a.csv").out
    assert "batch-corrected truth" in done
    assert (pd.read_csv("a.csv")["found"] == "yes").any()
    assert "truth is 'no'" in run("audit", *ALL, "--truth", "no", code=1).err


# -- data -------------------------------------------------------------------------------------


def test_data_where_and_verify(here, monkeypatch):
    monkeypatch.setenv("HECLIP_LITE_DATA", str(here / "data"))
    done = run("data", "where", "her2st:C6", "--json").json
    assert done["counts"]["missing"] == 3 and done["folder"] == str(here / "data")
    path = here / "data/her2st/data/ST-cnts/C6.tsv.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    done = run("data", "verify", "her2st:C6", "--json", code=1).json
    assert done["counts"]["damaged"] == 1 and done["counts"]["missing"] == 2
    assert "no data set" in run("data", "where", "her2st:Z1", code=1).err
    assert "damaged" in run("data", "fetch", "her2st:C6", code=1).err


def test_data_fetches_what_was_asked_for(here, monkeypatch):
    monkeypatch.setenv("HECLIP_LITE_DATA", str(here / "data"))  # where nothing is yet
    asked = []
    monkeypatch.setattr(datasets.download, "fetch", lambda name, files, **_: asked.append(files))
    run("data", "fetch", "her2st:B4", code=1)  # nothing came, so files are still missing
    assert asked == [[file.name for file in datasets.files(["her2st:B4"])]]
