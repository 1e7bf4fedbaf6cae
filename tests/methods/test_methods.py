"""The methods of this room: fit, predict, save, load, and what they refuse."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from heclip_lite import config, evaluation, features, methods
from heclip_lite.data import genes, sections
from heclip_lite.methods import heclip

ENCODER = config.Encoder("test_resnet")
MAPS = config.MapInput(ENCODER, um_per_px=(2.4,), widths_um=(50.0, 150.0), components=32)
PATCHES = config.PatchInput(replace(ENCODER, colour="bgr", scaling="none"), size=32)
QUICK = config.Training(epochs=3, batch_size=32, device="cpu")


def recipes() -> dict[str, methods.HECLIP]:
    return {
        "recommended": methods.HECLIP.recommended(MAPS, QUICK, members=2),
        "hvg": methods.HECLIP.reference_hvg(PATCHES, QUICK),
        "heg": methods.HECLIP.reference_heg(PATCHES, QUICK),
        "bleep": methods.HECLIP(
            replace(PATCHES, trainable=False),
            config.Contrast(loss="bleep", head="projection", dim=16),
            config.Decode(k=5, against="spots", weights="similarity"),
            QUICK,
        ),
    }


ALL = [*recipes(), "mean", "position", "ridge", "ridge on patches"]


def made(name: str) -> methods.Method:
    others = {
        "mean": methods.Mean(),
        "position": methods.Position(),
        "ridge": methods.Ridge(MAPS),
        "ridge on patches": methods.Ridge(replace(PATCHES, trainable=False)),
    }
    return (others | recipes())[name]


@pytest.mark.parametrize("name", ALL)
def test_predicts_the_panel_from_the_image_alone(small_sections, name):
    *training, test = small_sections
    method = made(name).fit(training)
    hidden = sections.hide_expression(test)
    predicted = method.predict(hidden)
    assert predicted.shape == (test.n_obs, len(method.genes)) and predicted.dtype == np.float32
    assert np.isfinite(predicted).all()
    assert method.genes == genes.fit_panel(training).genes
    np.testing.assert_array_equal(predicted, method.predict(test))  # its counts change nothing
    again = made(name).fit(training).predict(hidden)
    np.testing.assert_array_equal(predicted, again)


def test_the_image_methods_learn(small_sections):
    """On tissue whose markers the image determines, held-out correlation is far above nothing."""
    *training, test = small_sections
    panel = genes.fit_panel(training)
    columns = panel.index("svg50")
    truth = genes.expression(test, panel)[:, columns]
    recommended = methods.HECLIP.recommended(MAPS, replace(QUICK, epochs=30), members=2)
    for method in (methods.Ridge(MAPS), recommended):
        predicted = method.fit(training).predict(sections.hide_expression(test))
        r = evaluation.pearson_per_gene(truth, predicted[:, columns])
        assert np.nanmean(r) > 0.15, type(method).__name__


def test_the_mean_is_what_it_says(small_sections):
    first, second, *_ = small_sections
    expression = genes.expression(first, genes.fit_panel([first]))
    mean = methods.Mean().fit([first]).predict(second)
    np.testing.assert_allclose(mean[0], expression.mean(0), rtol=1e-5)
    assert (mean == mean[0]).all()


def test_rows_of_a_published_recipe_are_marked():
    reduced = methods.HECLIP.reference_hvg(PATCHES, QUICK)
    assert reduced.setting == reduced.with_seed(3).setting == "reduced"
    assert methods.HECLIP.reference_hvg().setting == "published"
    assert methods.HECLIP.reference_heg().with_seed(5).setting == "published"
    compiled = replace(heclip.PUBLISHED_TRAINING, compile=True)
    assert methods.HECLIP.reference_hvg(settings=compiled).setting == "published"
    assert methods.HECLIP.recommended(MAPS).setting == "ours"


def test_the_published_losses_are_the_published_settings():
    contrast = methods.HECLIP.reference_hvg().contrast
    assert (contrast.loss, contrast.temperature, contrast.head) == ("image_centric", 1.0, "none")
    assert not contrast.options
    assert methods.HECLIP.reference_heg().contrast.dim == 256
    assert methods.HECLIP.reference_hvg().decode == config.Decode(k=50, weights=None)


@pytest.mark.parametrize("name", recipes())
def test_a_saved_model_predicts_the_same(small_sections, tmp_path, name):
    *training, test = small_sections
    method = recipes()[name].fit(training)
    method.save(tmp_path)
    loaded = methods.HECLIP.load(tmp_path, panel=method.panel)
    np.testing.assert_array_equal(loaded.predict(test), method.predict(test))
    assert loaded.setting == method.setting and loaded.genes == method.genes
    for one, other in zip(
        loaded.predict_with_spread(test), method.predict_with_spread(test), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_faulty_saved_models_are_named(small_sections, tmp_path):
    method = recipes()["bleep"].fit(small_sections[:3])
    method.save(tmp_path)
    other = genes.fit_panel(small_sections, n_hvg=20, n_small=10)
    with pytest.raises(ValueError, match=r"trained on another gene panel: .* Train on this panel"):
        methods.HECLIP.load(tmp_path, panel=other)
    with pytest.raises(FileNotFoundError, match=r"no saved model in .*nowhere"):
        methods.HECLIP.load(tmp_path / "nowhere")
    record = json.loads((tmp_path / "heclip.json").read_text(encoding="utf-8"))
    tensors = tmp_path / "heclip.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"is damaged .* train and save it again"):
        methods.HECLIP.load(tmp_path)
    (tmp_path / "heclip.json").write_text(json.dumps(record)[:-20], encoding="utf-8")
    with pytest.raises(ValueError, match="is damaged"):
        methods.HECLIP.load(tmp_path)


def test_a_stopped_fit_goes_on_where_it_was(small_sections, tmp_path, monkeypatch):
    from heclip_lite import training as loop

    *training, test = small_sections
    whole = recipes()["recommended"].fit(training).predict(test)
    original = loop._State.save

    def stop_in_second_member(self, history):
        original(self, history)
        if self.folder.name == "member-1" and len(history) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop._State, "save", stop_in_second_member)
    stopped = recipes()["recommended"]
    stopped.checkpoint = tmp_path
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(training)
    monkeypatch.setattr(loop._State, "save", original)
    resumed = recipes()["recommended"]
    resumed.checkpoint = tmp_path
    np.testing.assert_array_equal(resumed.fit(training).predict(test), whole)


def test_faults_are_named_before_long_work(small_sections):
    with pytest.raises(RuntimeError, match="Mean is not fitted yet"):
        methods.Mean().predict(small_sections[0])
    with pytest.raises(RuntimeError, match="has no gene panel yet"):
        methods.Mean().genes  # noqa: B018
    with pytest.raises(ValueError, match="holds out one whole training section"):
        methods.HECLIP.recommended(MAPS, replace(QUICK, patience=2)).fit(small_sections[:1])
    with pytest.raises(ValueError, match="500 components need more than"):
        methods.HECLIP.recommended(replace(MAPS, components=500), QUICK).fit(small_sections)
    with pytest.raises(ValueError, match="a contrast needs 2 spots or more"):
        methods.HECLIP.recommended(MAPS, replace(QUICK, batch_size=1))
    big = methods.HECLIP.reference_hvg(PATCHES, QUICK)
    big.decode = config.Decode(k=5000)
    with pytest.raises(ValueError, match="k is 5000, but there are only"):
        big.fit(small_sections)


def test_early_stopping_judges_by_a_whole_section(small_sections):
    settings = replace(QUICK, epochs=4, patience=1)
    method = methods.HECLIP.recommended(MAPS, settings, members=1).fit(small_sections)
    assert all("validation" in epoch for epoch in method.history[0])
    assert len(method.bank) == sum(s.n_obs for s in small_sections)  # it still serves as reference


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (config.Encoder, {"colour": "grey"}, "colour is 'grey'"),
        (config.Encoder, {"scaling": "255"}, "scaling is '255'"),
        (config.PatchInput, {"width_um": 0}, "width_um is 0"),
        (config.PatchInput, {"size": 8}, "size is 8 px"),
        (config.MapInput, {"um_per_px": ()}, "um_per_px is"),
        (config.MapInput, {"widths_um": (1, -1)}, "widths_um is"),
        (config.Contrast, {"loss": "siglip"}, "loss is 'siglip'"),
        (config.Contrast, {"head": "mlp"}, "head is 'mlp'"),
        (config.Decode, {"k": 0}, "k is 0"),
        (config.Decode, {"against": "genes"}, "against is 'genes'"),
        (config.Training, {"epochs": 0}, "epochs is 0"),
        (config.Training, {"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_settings_are_checked_when_made(kind, values, message):
    with pytest.raises(ValueError, match=message):
        kind(**values)


def test_settings_survive_json():
    for settings in (MAPS, PATCHES, config.Contrast(options={"cosine": True}), QUICK):
        text = json.dumps(config.as_dict(settings))
        assert config.from_dict(type(settings), json.loads(text)) == settings
    with pytest.raises(ValueError, match="Training has no setting lr; it has"):
        config.from_dict(config.Training, {"lr": 1})


def test_points_described_elsewhere_are_predicted_alike(small_sections):
    """A slide read in tiles is described piece by piece; the prediction must not know."""
    training, test = small_sections[:2], sections.hide_expression(small_sections[2])
    for method in (
        methods.HECLIP.recommended(MAPS, QUICK, members=1),
        methods.KernelRidge(MAPS),
        methods.Ridge(MAPS),
        methods.Average([methods.Ridge(MAPS), methods.KernelRidge(MAPS)]),
    ):
        fitted = method.fit(training)
        found = fitted.predict_described(features.describe(test, MAPS))
        np.testing.assert_allclose(found, fitted.predict(test), rtol=1e-6, atol=1e-6)
    with pytest.raises(TypeError, match="Mean needs more than a description"):
        methods.Mean().fit(training).predict_described([])
