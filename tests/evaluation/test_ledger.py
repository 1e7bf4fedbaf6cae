"""The defect ledger: each choice does what it says, and trained pipelines are shared."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pandas as pd
import pytest

from heclip_lite import config
from heclip_lite.data import genes, sections
from heclip_lite.data.synthetic import tissue
from heclip_lite.evaluation import ledger, switches
from heclip_lite.evaluation.ledger import CLEAN, REFERENCE, Choices, Pipeline
from heclip_lite.evaluation.splits import Fold

IMAGE = config.PatchInput(config.Encoder("resnet10t"), size=32)
SETTINGS = config.Training(epochs=2, batch_size=32)
SPLIT = [Fold(("P1-1", "P2-1"), ("P1-2",))]


def known(section):
    return tissue.truth(section).expression(section.obsm["spatial"])


def fitted(small_sections, **choices):
    training = [small_sections[0], small_sections[2]]
    settings = replace(SETTINGS, patience=SETTINGS.epochs)
    pipeline = Pipeline(Choices(**choices), IMAGE, settings)
    return pipeline.fit(training), training


def test_every_choice_is_described_and_switched_both_ways():
    table = ledger.describe()
    names = [f.name for f in fields(Choices)]
    assert table["choice"].tolist() == names and table["what"].str.len().min() > 10
    made = ledger.configurations(synthetic=True)
    assert len(made) == 2 + 2 * len(names)
    on = {c: choices for c, way, choices in made if way == "one_on_from_clean"}
    off = {c: choices for c, way, choices in made if way == "one_off_from_reference"}
    for name in names:
        assert on[name] == replace(CLEAN, **{name: True})
        assert off[name] == replace(REFERENCE, **{name: False})
    assert on["none"] == CLEAN and off["none"] == REFERENCE
    real = ledger.configurations(synthetic=False)
    assert all(not choices.off_tissue for _, _, choices in real)


def test_saturated_targets_are_one_hot_and_clean_ones_are_not(small_sections):
    import torch

    from heclip_lite.losses import target_matrix

    training = [small_sections[0], small_sections[2]]
    settings = replace(SETTINGS, epochs=1, patience=1)  # targets do not depend on what is learnt
    for dot in (False, True):
        for saturated in (False, True):
            choices = Choices(dot_against_cosine=dot, saturated_targets=saturated)
            pipeline = Pipeline(choices, IMAGE, settings).fit(training)
            width = len(pipeline.genes)
            z = torch.nn.functional.layer_norm(torch.randn(64, width), (width,))
            options = pipeline.contrast.options
            if options["cosine"]:
                z = torch.nn.functional.normalize(z, dim=1)
            target = target_matrix(z, z, temperature=options["target_temperature"])
            diagonal = target.diagonal().mean()
            assert (diagonal > 0.999) == saturated, (dot, saturated, diagonal)


def test_duplicated_validation_holds_training_spots(small_sections, monkeypatch):
    seen = {}

    def recording(self, pair, held_out, *, features):
        seen["training"], seen["validation"] = pair[1].numpy(), held_out[1].numpy()
        raise StopIteration

    monkeypatch.setattr("heclip_lite.methods.heclip.HECLIP._train", recording)
    for duplicated in (True, False):
        with pytest.raises(StopIteration):
            fitted(small_sections, duplicated_validation=duplicated)
        known_spots = {row.tobytes() for row in seen["training"]}
        shared = np.mean([row.tobytes() in known_spots for row in seen["validation"]])
        assert (0.6 < shared < 0.95) if duplicated else shared == 0


def test_augmentation_at_prediction_changes_embeddings(small_sections):
    pipeline, training = fitted(small_sections)
    hidden = sections.hide_expression(small_sections[1])
    plain = pipeline.predict(hidden)
    augmented = pipeline.with_augmentation(training)
    assert not np.allclose(augmented.references[0], pipeline.references[0])
    first = augmented.predict(hidden)
    assert not np.array_equal(first, augmented.predict(hidden))  # as the released code: each time
    np.testing.assert_array_equal(pipeline.predict(hidden), plain)


def test_twice_logged_is_the_log_of_logs(small_sections):
    section = small_sections[0]
    panel = genes.GenePanel(tuple(section.var_names[:9]), {})
    once = genes.log_normalise(section)
    total = once.sum(1, keepdims=True)
    wanted = np.log1p(once / total * np.median(total))[:, :9]
    np.testing.assert_allclose(ledger._twice_logged(section, panel), wanted, rtol=1e-5)


def test_background_spots_lie_on_glass_and_hold_little(small_sections):
    section = small_sections[0]
    made = ledger.add_background(section)
    extra = made[section.n_obs :]
    assert extra.n_obs > 3
    assert (made.X[: section.n_obs] != section.X).nnz == 0
    pixels = sections.read_image(section)
    x, y = np.minimum(extra.obsm["spatial"].astype(int), np.array(pixels.shape[1::-1]) - 1).T
    distance = np.linalg.norm(pixels[y, x] - np.array(sections.background_of(section)), axis=1)
    assert np.median(distance) < 30
    totals = [np.median(np.asarray(part.X.sum(axis=1))) for part in (extra, section)]
    assert totals[0] < 0.1 * totals[1]


@pytest.fixture(scope="module")
def table(small_sections, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ledger")
    only = ["off_tissue", "augment_at_prediction", "best_on_test", "joint_harmony"]
    options = {"image": IMAGE, "settings": SETTINGS, "known_truth": known, "only": only}
    made = ledger.ledger("synthetic", small_sections, SPLIT, folder=folder, **options)
    return made, folder, options


def test_the_ledger_is_tidy(table):
    made, _, _ = table
    assert list(made.columns) == switches.COLUMNS
    assert set(made["truth"]) == {"as the pipeline scores", "measured", "true"}
    ends = made[made["choice"] == "none"]
    assert ends["difference"].eq(0).all() and set(ends["direction"]) == set(made["direction"])
    pearson = made[made["metric"] == "pearson"]
    np.testing.assert_allclose(
        pearson["difference"], pearson["value"] - pearson["base"], atol=1e-12
    )
    assert {"hit_at_5", "hit_at_5_of_mean"} <= set(made["metric"])


def test_spots_on_glass_raise_what_the_pipeline_reports(table):
    made, _, _ = table
    rows = made[(made["choice"] == "off_tissue") & (made["direction"] == "one_on_from_clean")]
    rows = rows[(rows["gene_set"] == "svg50") & (rows["metric"] == "pearson")]
    of = rows.set_index("truth")["difference"]
    assert of["as the pipeline scores"] > of["measured"]


def test_choices_that_only_score_leave_the_model_alone(table):
    made, _, _ = table
    rows = made[(made["choice"] == "best_on_test") & (made["truth"] == "measured")]
    assert rows["difference"].eq(0).all()


def test_a_ledger_goes_on_where_it_stopped(table, small_sections, monkeypatch):
    made, folder, options = table
    monkeypatch.setattr(ledger, "run", lambda *_, **__: pytest.fail("computed again"))
    again = ledger.ledger("synthetic", small_sections, SPLIT, folder=folder, **options)
    pd.testing.assert_frame_equal(made, again)


def test_unknown_choices_are_named(small_sections):
    with pytest.raises(ValueError, match="The ledger has no choice luck"):
        ledger.ledger(
            "synthetic", small_sections, SPLIT, image=IMAGE, settings=SETTINGS, only=["luck"]
        )
