"""Whole slides predicted tile by tile, against the same slide predicted at once."""

from __future__ import annotations

import copy
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import anndata
import giant
import numpy as np
import pytest
import tifffile
from cli_tools import run

from heclip_lite import config, methods
from heclip_lite.data import sections
from heclip_lite.data.pyramid import Pyramid
from heclip_lite.data.readers import spatialdata as readers_spatialdata
from heclip_lite.data.synthetic import tissue
from heclip_lite.features import encoders
from heclip_lite.features import maps as slide_maps
from heclip_lite.methods import saved
from heclip_lite.spatial import slide_job, superres, wholeslide
from heclip_lite.spatial.wholeslide import image_of, predict_slide

ROOT = Path(__file__).resolve().parents[2]
MAPS = config.MapInput(
    config.Encoder("test_resnet"),
    um_per_px=(4.0, 2.0),
    widths_um=(44.0, 100.0),
    components=16,
)
ONE = config.Training(epochs=1, batch_size=16)
PITCH = 60.0
TILES = {"pitch_um": PITCH, "tile_um": 300.0, "device": "cpu"}
COARSE = {"pitch_um": 100.0, "tile_um": 300.0, "device": "cpu"}
LIMIT_MIB = 1024


@pytest.fixture(scope="module", autouse=True)
def small_tiles():
    """The encoder's tiles are smaller than these slides, in memory and on disk alike."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "TILE", 128)
        patch.setattr(encoders, "HALO", 32)
        yield


@pytest.fixture(scope="module")
def section(small_sections):
    return small_sections[3]


@pytest.fixture(scope="module")
def slide(section, tmp_path_factory):
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    um = sections.um_per_px(section)
    tifffile.imwrite(
        path,
        sections.read_image(section),
        photometric="rgb",
        tile=(128, 128),
        compression="deflate",
        metadata=None,
        resolution=(1e4 / um, 1e4 / um),
        resolutionunit="CENTIMETER",
    )
    # The tag is a fraction of whole numbers: say exactly what the section says.
    return Pyramid(path, um_per_px=um, background=sections.background_of(section))


@pytest.fixture(scope="module")
def ridge(small_sections):
    return methods.KernelRidge(MAPS, rank=5).fit(small_sections[:2])


def patched(trainable):
    return config.PatchInput(trainable=trainable, size=32)


@pytest.fixture(scope="module")
def expected(section, ridge):
    return superres.predict(ridge, superres.grid(section, PITCH))


@pytest.fixture(scope="module")
def tiled(slide, ridge, tmp_path_factory):
    """The slide predicted in tiles, its points setting the scale."""
    out = tmp_path_factory.mktemp("tiled") / "t.zarr"
    return anndata.read_zarr(predict_slide(ridge, slide, out, **TILES))


@pytest.fixture(scope="module")
def whole(slide, ridge, tmp_path_factory):
    """What a run that nothing disturbed makes of the slide."""
    out = tmp_path_factory.mktemp("whole") / "w.zarr"
    return anndata.read_zarr(predict_slide(ridge, slide, out, **COARSE))


def matched(found, expected):
    """Rows of both in one order, by their numbers on the grid."""
    number = found.obs_names.str.rpartition("_").get_level_values(2)
    names = expected.obs_names.str.rpartition("_").get_level_values(2)
    assert sorted(number) == sorted(names)
    return np.asarray(found.X), np.asarray(expected.X)[names.get_indexer(number)]


def test_features_of_tiles_are_those_of_the_whole_slide(section, slide, tmp_path):
    points = np.asarray(superres.grid(section, PITCH).obsm["spatial"])
    whole = encoders.raw_features(section, MAPS, points, "cpu")
    maps = slide_maps.SlideMaps(slide, MAPS, tmp_path, points, "cpu")
    assert len(maps.tiles()) > 4
    needed = maps.bytes_needed()
    for tile in maps.tiles():
        assert not maps.is_made(tile)
        maps.make(tile)
        assert maps.is_made(tile)
    kept = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert needed <= kept <= needed + 128 * len(list(tmp_path.iterdir()))
    order = np.random.default_rng(0).permutation(len(points))
    for some in np.array_split(order, 4):
        # Windows end at four standard deviations of the outermost point asked for at once,
        # and Pillow rounds its weights: nothing else differs.
        np.testing.assert_allclose(maps.describe(points[some]), whole[some], atol=2e-3)


def test_pooling_few_channels_at_once_changes_nothing(section, slide, tmp_path, monkeypatch):
    points = np.asarray(section.obsm["spatial"])[:12]
    maps = slide_maps.SlideMaps(slide, MAPS, tmp_path, points, "cpu")
    for tile in maps.tiles():
        maps.make(tile)
    once = maps.describe(points)
    monkeypatch.setattr(slide_maps, "_WINDOW", 20_000)
    np.testing.assert_allclose(maps.describe(points), once, atol=1e-5)


def test_a_slide_in_tiles_is_predicted_as_at_once(slide, ridge, section, expected, tmp_path):
    out = predict_slide(
        ridge, slide, tmp_path / "out.zarr", spots=section.obsm["spatial"],
        name="s", donor="d", **TILES,
    )  # fmt: skip
    assert os.listdir(tmp_path) == ["out.zarr"]
    made = anndata.read_zarr(out)
    found, wanted = matched(made, expected)
    # Columns that hardly vary over the slide are divided by very little: rounding grows there.
    np.testing.assert_allclose(found, wanted, atol=0.01 * wanted.std())
    assert list(made.var_names) == list(ridge.genes)
    sections.check_section(made, counts=False)
    assert sections.um_per_px(made) == slide.um_per_px
    names = made.obs_names.str.removeprefix("s_")
    order = expected.obs_names.str.rpartition("_").get_level_values(2).get_indexer(names)
    np.testing.assert_allclose(made.obsm["spatial"], expected.obsm["spatial"][order])
    for column in ("array_row", "array_col"):
        assert (made.obs[column].to_numpy() == expected.obs[column].to_numpy()[order]).all()


def test_tiles_do_not_change_the_result(slide, ridge, tiled, tmp_path):
    """Statistics are the slide's: with those of a tile, the size of tiles would matter much."""
    out = predict_slide(ridge, slide, tmp_path / "o.zarr", **{**TILES, "tile_um": None})
    one = anndata.read_zarr(out)
    assert list(one.obs_names) != list(tiled.obs_names), "tiles order the points"
    found, wanted = matched(one, tiled)
    np.testing.assert_allclose(found, wanted, atol=0.01 * wanted.std())


def test_without_spots_the_points_set_the_scale(ridge, section, tiled):
    points = superres.grid(section, PITCH)
    entry = points.uns["spatial"][sections.name_of(points)]
    del entry["metadata"]["spots"]  # then every point is a spot of its own
    found, wanted = matched(tiled, superres.predict(ridge, points))
    np.testing.assert_allclose(found, wanted, atol=0.01 * wanted.std())


@pytest.mark.parametrize("trainable", [False, True])
def test_methods_on_patches_predict_as_at_once(slide, small_sections, section, trainable, tmp_path):
    fitted = methods.HECLIP(
        patched(trainable), config.Contrast(head="projection", dim=16), config.Decode(k=5), ONE
    ).fit(small_sections[:2])
    out = predict_slide(fitted, slide, tmp_path / "o.zarr", **TILES)
    wanted = superres.predict(fitted, superres.grid(section, PITCH))
    found, wanted = matched(anndata.read_zarr(out), wanted)
    # Batches differ, so similarities round differently, and near ties may swap their ranks.
    assert (np.abs(found - wanted).max(1) < 1e-3).mean() > 0.98


def test_spatialdata_holds_the_same(slide, ridge, tmp_path):
    spatialdata = pytest.importorskip("spatialdata")
    options = {"pitch_um": 150.0, "device": "cpu", "name": "my slide (2)"}
    plain = anndata.read_zarr(predict_slide(ridge, slide, tmp_path / "a.zarr", **options))
    predict_slide(ridge, slide, tmp_path / "s.zarr", layout="spatialdata", **options)
    store = spatialdata.read_zarr(tmp_path / "s.zarr")
    np.testing.assert_array_equal(np.asarray(store["my_slide__2_"].X), plain.X)
    assert len(store["my_slide__2__points"]) == plain.n_obs
    points = readers_spatialdata.read_points(tmp_path / "s.zarr")
    assert sections.name_of(points) == sections.name_of(plain) == "my slide (2)"


def stopped_after(monkeypatch, step, calls):
    """Stop the run as an interrupt does, at the given call of a pass."""
    real, count = getattr(slide_job.Job, step), iter(range(1000))

    def interrupted(self, task):
        if next(count) == calls:
            raise KeyboardInterrupt
        real(self, task)

    monkeypatch.setattr(slide_job.Job, step, interrupted)


@pytest.mark.parametrize(
    ("step", "calls"), [("make_map", 3), ("describe", 2), ("make_from_features", 0),
                        ("make_from_features", 4)]
)  # fmt: skip
def test_a_stopped_run_goes_on_to_the_same_result(slide, ridge, whole, step, calls, tmp_path):
    out = tmp_path / "o.zarr"
    with pytest.MonkeyPatch.context() as patch:
        stopped_after(patch, step, calls)
        with pytest.raises(KeyboardInterrupt):
            predict_slide(ridge, slide, out, **COARSE)
    assert not out.exists()
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "o.zarr.parts").rglob("*.npy")}
    assert len(kept) > calls
    made = []
    with pytest.MonkeyPatch.context() as patch:
        real = getattr(slide_job.Job, step)
        patch.setattr(slide_job.Job, step, lambda job, task: made.append(task) or real(job, task))
        predict_slide(ridge, slide, out, **COARSE)
    assert made and len(made) == len(set(map(str, made)))
    again = anndata.read_zarr(out)
    np.testing.assert_array_equal(whole.X, again.X)
    assert whole.obs.equals(again.obs)


def test_parts_of_another_run_are_not_mixed_in(slide, ridge, small_sections, tmp_path):
    out, options = tmp_path / "o.zarr", {"pitch_um": 150.0, "device": "cpu"}
    with pytest.MonkeyPatch.context() as patch:
        stopped_after(patch, "make_from_features", 0)
        with pytest.raises(KeyboardInterrupt):
            predict_slide(ridge, slide, out, **options)
    with pytest.raises(FileExistsError, match=r"another .*pitch_um"):
        predict_slide(ridge, slide, out, pitch_um=120.0, device="cpu")
    other = methods.KernelRidge(MAPS, rank=2).fit(small_sections[1:3])
    other.panel = ridge.panel
    with pytest.raises(FileExistsError, match=r"another (method|genes)"):
        predict_slide(other, slide, out, **options)
    predict_slide(ridge, slide, out, pitch_um=120.0, device="cpu", overwrite=True)
    before = anndata.read_zarr(out).n_obs
    with pytest.raises(FileExistsError, match="exists already"):
        predict_slide(ridge, slide, out, **options)
    predict_slide(ridge, slide, out, overwrite=True, **options)
    assert anndata.read_zarr(out).n_obs < before
    assert os.listdir(tmp_path) == ["o.zarr"]


def test_only_results_and_parts_are_ever_deleted(slide, ridge, tmp_path):
    mine = {}
    for name in ("notes.zarr", "fresh.zarr.parts"):
        (tmp_path / name).mkdir()
        mine[tmp_path / name / "thesis.txt"] = "years of work"
    mine |= {tmp_path / "file.zarr": "a file", tmp_path / "file2.zarr.parts": "a file"}
    for path, text in mine.items():
        path.write_text(text)
    options = {"pitch_um": 150.0, "device": "cpu"}
    for name, what in (
        ("notes.zarr", "no zarr store"),
        ("file.zarr", "no zarr store"),
        ("fresh.zarr", "other things than parts"),
        ("file2.zarr", "other things than parts"),
    ):
        for overwrite in (False, True) if "parts" in what else (True,):
            with pytest.raises(FileExistsError, match=what):
                predict_slide(ridge, slide, tmp_path / name, overwrite=overwrite, **options)
    with pytest.raises(ValueError, match=r"must end in \.zarr"):
        predict_slide(ridge, slide, tmp_path / "out", overwrite=True, **options)
    assert {path: path.read_text() for path in mine} == mine
    (tmp_path / "new.zarr.parts").mkdir()
    predict_slide(ridge, slide, tmp_path / "new.zarr", **options)
    assert not (tmp_path / "new.zarr.parts").exists()


def test_what_appears_during_the_work_is_not_replaced(slide, ridge, tmp_path, monkeypatch):
    out, options = tmp_path / "o.zarr", {"pitch_um": 150.0, "device": "cpu"}
    real = slide_job.Job.run

    def meanwhile(job, client):
        real(job, client)
        out.mkdir()
        (out / "zarr.json").write_text("of another run")

    with monkeypatch.context() as patch:
        patch.setattr(slide_job.Job, "run", meanwhile)
        with pytest.raises(FileExistsError, match="exists already"):
            predict_slide(ridge, slide, out, **options)
    assert (out / "zarr.json").read_text() == "of another run"
    predict_slide(ridge, slide, out, overwrite=True, **options)
    assert os.listdir(tmp_path) == ["o.zarr"]


def test_parts_dropped_half_are_dropped_whole(slide, ridge, tmp_path, monkeypatch):
    out, options = tmp_path / "o.zarr", {"pitch_um": 150.0, "device": "cpu"}

    def killed(path, *_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(slide_job.shutil, "rmtree", killed)
        patch.setattr(slide_job.Job, "run", lambda job, client: killed(job))
        with pytest.raises(KeyboardInterrupt):
            predict_slide(ridge, slide, out, **options)
        with pytest.raises(KeyboardInterrupt):
            predict_slide(ridge, slide, out, **{**options, "pitch_um": 120.0}, overwrite=True)
    predict_slide(ridge, slide, out, **options)
    assert os.listdir(tmp_path) == ["o.zarr"]


@pytest.mark.parametrize(
    ("part", "step"),
    [
        ("maps", "describe"),
        ("features", "make_from_features"),
        ("expression", "make_from_features"),
    ],
)
def test_a_damaged_part_is_dropped_and_made_anew(slide, ridge, whole, part, step, tmp_path):
    out = tmp_path / "o.zarr"
    with pytest.MonkeyPatch.context() as patch:
        stopped_after(patch, step, 2)
        with pytest.raises(KeyboardInterrupt):
            predict_slide(ridge, slide, out, **COARSE)
    damaged = sorted((tmp_path / "o.zarr.parts" / part).glob("*.npy"))[0]
    damaged.write_bytes(damaged.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"is damaged .* and was dropped"):
        predict_slide(ridge, slide, out, **COARSE)
    predict_slide(ridge, slide, out, **COARSE)
    np.testing.assert_array_equal(whole.X, anndata.read_zarr(out).X)


def test_another_model_that_says_nearly_the_same_is_another(slide, ridge, tmp_path):
    out, options = tmp_path / "o.zarr", {"pitch_um": 150.0, "device": "cpu"}
    with pytest.MonkeyPatch.context() as patch:
        stopped_after(patch, "make_from_features", 0)
        with pytest.raises(KeyboardInterrupt):
            predict_slide(ridge, slide, out, **options)
    near = copy.deepcopy(ridge)
    near.model.dual_coef_ *= 1 + 1e-6
    with pytest.raises(FileExistsError, match="another method"):
        predict_slide(near, slide, out, **options)
    predict_slide(copy.deepcopy(ridge), slide, out, **options)


def test_workers_whose_disk_is_another_are_refused(slide, ridge, tmp_path, monkeypatch):
    """They have a folder of that name, and the slide, but not what is written here."""
    distributed = pytest.importorskip("distributed")
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    real = wholeslide._missing

    def elsewhere(*paths):
        return real(*(path.replace(str(here), str(there)) for path in paths)).replace(
            str(there), str(here)
        )

    monkeypatch.setattr(wholeslide, "_missing", elsewhere)
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None,
            protocol="tcp://", host="127.0.0.1",
        ) as cluster,
        pytest.raises(ConnectionError, match=rf"does not see {here}; 1 of 1 workers"),
    ):  # fmt: skip
        predict_slide(
            ridge, slide, here / "o.zarr", pitch_um=150.0, cluster=cluster.scheduler_address
        )
    assert not list(here.iterdir())


@pytest.mark.slow
def test_a_cluster_gives_the_same(slide, ridge, tmp_path, monkeypatch):
    """With workers in processes of their own, which find nothing but what was sent and the disk."""
    distributed = pytest.importorskip("distributed")
    saved.save(ridge, tmp_path / "model")
    monkeypatch.setattr(encoders, "TILE", 1024)  # as they are there
    monkeypatch.setattr(encoders, "HALO", 128)
    monkeypatch.setattr(slide_job, "_TILE_POINTS", 16)  # some tiles for each
    given = ["slide", tmp_path / "model", slide.path, "--um-per-px", slide.um_per_px]
    given += ["--pitch-um", 100, "--device", "cpu"]
    alone, together = tmp_path / "a.zarr", tmp_path / "c.zarr"
    run(*given, "--out", alone)
    for step in ("make_map", "describe", "make_from_features"):
        monkeypatch.setattr(slide_job.Job, step, None)  # no more work is done in this process
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None,
        host="127.0.0.1",
    ) as cluster:  # fmt: skip
        run(*given, "--out", together, "--cluster", cluster.scheduler_address)
    wanted, found = anndata.read_zarr(alone), anndata.read_zarr(together)
    assert (wanted.obs_names == found.obs_names).all()
    # Workers run on one thread each, which rounds otherwise.
    np.testing.assert_allclose(found.X, wanted.X, atol=0.01 * wanted.X.std())


def test_clusters_that_cannot_help_are_named(slide, ridge, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    options = {"pitch_um": 150.0, "device": "cpu"}
    real = distributed.Client
    monkeypatch.setattr(
        distributed, "Client", lambda address, **o: real(address, **{**o, "timeout": "1s"})
    )
    with pytest.raises(ConnectionError, match=r"No Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        predict_slide(ridge, slide, tmp_path / "o.zarr", cluster="tcp://127.0.0.1:9", **options)
    with (
        distributed.LocalCluster(
            n_workers=0,
            processes=False,
            dashboard_address=None,
            protocol="tcp://",
            host="127.0.0.1",
        ) as cluster,
        pytest.raises(ConnectionError, match="has no workers"),
    ):
        predict_slide(
            ridge, slide, tmp_path / "o.zarr", cluster=cluster.scheduler_address, **options
        )
    assert not list(tmp_path.iterdir())


class Anything(methods.Method):
    def _fit(self, training):
        pass

    def _predict(self, section):
        return np.zeros((section.n_obs, len(self.genes)))


def test_methods_that_need_more_are_refused(slide, small_sections, tmp_path):
    maps = config.MapInput(um_per_px=(8.0,), widths_um=(100.0,), components=8)
    training = small_sections[:2]
    refused = [
        (methods.Mean(), "more than a description"),
        (Anything(), "more than a description"),
        (methods.Ridge(config.AppearanceInput()), "threshold over the whole slide"),
        (methods.HisToSGE(maps, config.Attention(hidden=8, rank=2), ONE), "look at one another"),
        (methods.DepthOracle(), "is told a part"),
        (methods.Average([methods.Ridge(maps), methods.Ridge(patched(False))]), "different ways"),
    ]
    for method, what in refused:
        with pytest.raises(TypeError, match=what):
            predict_slide(method.fit(training), slide, tmp_path / "o.zarr", pitch_um=PITCH)
    with pytest.raises(RuntimeError, match="not fitted"):
        predict_slide(methods.Ridge(maps), slide, tmp_path / "o.zarr", pitch_um=PITCH)
    assert not list(tmp_path.iterdir())
    wrappers = [
        methods.Shuffled(methods.Ridge(maps)),
        methods.TrainHarmony(methods.Ridge(maps)),
        methods.Average([methods.Ridge(maps), methods.KernelRidge(maps, rank=2)]),
    ]
    for wrapped in wrappers:
        fitted = wrapped.fit(training)
        assert image_of(fitted) == maps
        assert predict_slide(
            fitted, slide, tmp_path / f"{type(wrapped).__name__}.zarr", pitch_um=200.0
        ).exists()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"pitch_um": 0.1}, "closer than a pixel"),
        ({"pitch_um": float("nan")}, "closer than a pixel"),
        ({"pitch_um": 5000.0}, "Choose a finer pitch_um"),
        ({"pitch_um": 60.0, "tile_um": 10.0}, "one point at least"),
        ({"pitch_um": 60.0, "layout": "csv"}, "layout is 'csv'"),
        ({"pitch_um": 60.0, "name": "a/b"}, "without a slash"),
        ({"pitch_um": 60.0, "spots": np.array([[1e6, 1.0], [2.0, 2.0]])}, "inside the slide"),
        ({"pitch_um": 60.0, "spots": np.zeros((3, 3))}, "spots have shape"),
    ],
)
def test_settings_out_of_range_are_named(slide, ridge, options, what, tmp_path):
    with pytest.raises(ValueError, match=what):
        predict_slide(ridge, slide, tmp_path / "o.zarr", **options)
    assert not list(tmp_path.iterdir())


def test_a_disk_too_small_is_noticed_before_any_work(slide, ridge, tmp_path, monkeypatch):
    monkeypatch.setattr(slide_job.shutil, "disk_usage", lambda _: type("U", (), {"free": 1000}))
    with pytest.raises(OSError, match="another disk") as caught:
        predict_slide(ridge, slide, tmp_path / "o.zarr", pitch_um=PITCH)
    assert caught.value.errno == errno.ENOSPC


def test_a_disk_that_fills_up_keeps_what_is_finished(slide, ridge, whole, tmp_path, monkeypatch):
    real, left = np.save, iter(range(40))

    def full(*arguments, **keywords):
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(OSError, match=r"stays in .*parts: make room"):
            predict_slide(ridge, slide, tmp_path / "o.zarr", **COARSE)
    assert len(list((tmp_path / "o.zarr.parts").rglob("*.npy"))) == 40
    made = predict_slide(ridge, slide, tmp_path / "o.zarr", **COARSE)
    np.testing.assert_array_equal(anndata.read_zarr(made).X, whole.X)


# -- a slide too large for memory, in processes of their own --------------------------------------


def child(*arguments: object, **options) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    return subprocess.Popen(
        [sys.executable, giant.__file__, *map(str, arguments)],
        env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
    )  # fmt: skip


def finished(process: subprocess.Popen) -> str:
    said, complaint = process.communicate()
    assert process.returncode == 0, complaint
    return said


@pytest.fixture(scope="module")
def giant_slide(tmp_path_factory):
    """A speck of tissue of 0.6 mm on 15 mm of glass."""
    slide = tmp_path_factory.mktemp("giant") / "giant.tif"
    finished(child("write", slide, 30_000, "speck"))
    return slide


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read in /proc")
@pytest.mark.parametrize(
    ("kind", "layout", "table"),
    [("maps", "anndata", "."), ("patches", "spatialdata", "tables/giant")],
)
def test_a_slide_of_900_million_pixels_takes_less_than_a_gibibyte(
    giant_slide, kind, layout, table, tmp_path
):
    """Also where its largest level is read: for maps of the finest scale, and for patches."""
    training = tissue.synthetic_sections(1, 1, size_um=600, n_genes=60, seed=1)
    giant.fit(training, tmp_path / "model", kind)
    assert Pyramid(giant_slide).size == (30_000, 30_000)
    asked = ("predict", tmp_path / "model", giant_slide, tmp_path / "o.zarr", 50, layout)
    record = json.loads(finished(child(*asked)).splitlines()[-1])
    made = anndata.read_zarr(tmp_path / "o.zarr" / table)
    assert made.n_obs > 100 and np.isfinite(made.X).all() and made.X.std() > 0
    assert record["largest_level_px"] > 1200**2, "all of the speck"
    assert record["took"] < LIMIT_MIB, record
