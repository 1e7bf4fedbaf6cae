"""A method that was saved and loaded says the same as before."""

from __future__ import annotations

import json

import numpy as np
import pytest

from heclip_lite import config
from heclip_lite.data import sections
from heclip_lite.methods import recipes, saved

MAPS = config.MapInput(um_per_px=(4.8, 2.4), components=16)
HEADS = config.Training(epochs=2, batch_size=16)
SIZE = recipes.Size(
    maps=MAPS,
    patches=config.PatchInput(size=32),
    end_to_end=config.Training(epochs=1, batch_size=16),
    reference=config.Training(epochs=1, batch_size=16),
    heads=HEADS,
    dense=HEADS,
    members=2,
)
METHODS = {
    "histosge": recipes.histosge(SIZE),
    **{
        name: recipes.everyone(SIZE)[name]
        for name in (
            "heclip_recommended",
            "bleep_maps",
            "regression",
            "regression_maps",
            "ridge",
            "kernel_ridge",
            "knn",
            "colour",
            "mean_colour",
            "mean",
        )
    },
}


@pytest.fixture(scope="module")
def fitted(small_sections):
    kept = {}

    def fit(name):
        if name not in kept:
            kept[name] = METHODS[name].fit(small_sections[:2])
        return kept[name]

    return fit


@pytest.mark.parametrize("name", METHODS)
def test_a_loaded_method_predicts_the_same(name, fitted, small_sections, tmp_path):
    method, section = fitted(name), sections.hide_expression(small_sections[2])
    before = method.predict(section)
    saved.save(method, tmp_path / "model", about={"note": "ours"})
    again = saved.load(tmp_path / "model", device="cpu")
    assert again.method.panel == method.panel and again.method.setting == method.setting
    assert again.about == {"note": "ours"}
    np.testing.assert_array_equal(again.method.predict(section), before)
    files = {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()}
    saved.save(again.method, tmp_path / "twice", about={"note": "ours"})
    twice = {p.name: p.read_bytes() for p in (tmp_path / "twice").iterdir()}
    assert twice.keys() == files.keys()
    assert {n: b for n, b in twice.items() if n.endswith("tensors")} == {
        n: b for n, b in files.items() if n.endswith("tensors")
    }


def test_what_cannot_be_saved_says_so(small_sections, tmp_path):
    method = recipes.controls(SIZE)["position"].fit(small_sections[:2])
    assert not saved.can_save(method)
    with pytest.raises(ValueError, match="Position cannot be saved"):
        saved.save(method, tmp_path)
    with pytest.raises(RuntimeError, match="not fitted"):
        saved.save(recipes.controls(SIZE)["mean"], tmp_path)
    assert not list(tmp_path.iterdir())


def _text(change):
    def apply(folder):
        record = json.loads((folder / saved.RECORD).read_text())
        change(record)
        (folder / saved.RECORD).write_text(json.dumps(record))

    return apply


DAMAGE = {
    "no folder": (lambda f: [p.unlink() for p in f.iterdir()] and f.rmdir(), "no saved model"),
    "no record": (lambda f: (f / saved.RECORD).unlink(), "no saved model"),
    "cut record": (lambda f: (f / saved.RECORD).write_text('{"format": 1'), "damaged"),
    "a list": (lambda f: (f / saved.RECORD).write_text("[]"), "damaged"),
    "no arrays": (lambda f: (f / saved.TENSORS).unlink(), "lacks model.safetensors"),
    "cut arrays": (lambda f: (f / saved.TENSORS).write_bytes(b"123"), "is not the file"),
    "another format": (_text(lambda r: r.update(format=99)), "format 99"),
    "another kind": (_text(lambda r: r.update(kind="Oracle")), "'Oracle'"),
    "no settings": (_text(lambda r: r.update(settings={})), "damaged"),
    "other settings": (_text(lambda r: r["settings"].update(image={"Sound": {}})), "damaged"),
    "another panel": (_text(lambda r: r.update(panel={"genes": [], "sets": {}})), "damaged"),
    "another encoder": (_text(lambda r: r.update(encoder_sha256="0" * 64)), "other weights"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named(damage, fitted, tmp_path):
    folder = tmp_path / "model"
    saved.save(fitted("ridge"), folder)
    spoil, message = DAMAGE[damage]
    spoil(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        saved.load(folder)


def test_saving_over_a_model_is_incomplete_until_it_is_done(fitted, tmp_path, monkeypatch):
    saved.save(fitted("mean"), tmp_path)

    def stop(path, value):
        raise KeyboardInterrupt

    monkeypatch.setattr(saved.store, "write_json", stop)
    with pytest.raises(KeyboardInterrupt):
        saved.save(fitted("ridge"), tmp_path)
    with pytest.raises(FileNotFoundError, match="no saved model"):
        saved.load(tmp_path)
