"""Direct regression: end to end and on frozen features, by squared error and by counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from heclip_lite import config, methods
from heclip_lite.data import genes, sections
from heclip_lite.evaluation.metrics import per_gene
from heclip_lite.methods.correction import harmonise_expression

ENCODER = config.Encoder("resnet10t")
MAPS = config.MapInput(ENCODER, um_per_px=(2.4,), widths_um=(50.0, 150.0), components=32)
HEADS = config.Training(epochs=60, batch_size=32, learning_rate=3e-3)


def score(method, training, test):
    method.panel = genes.fit_panel(training)
    predicted = method.fit(training).predict(sections.hide_expression(test))
    truth = genes.expression(test, method.panel)
    return float(np.nanmean(per_gene(truth, predicted)["pearson"])), predicted


@pytest.mark.parametrize("likelihood", ["gaussian", "poisson", "negative_binomial"])
def test_heads_on_frozen_features_predict(small_sections, likelihood):
    *training, test = small_sections
    method = methods.Regression(MAPS, HEADS, likelihood=likelihood, hidden=64)
    value, predicted = score(method, training, test)
    assert value > 0.12
    known = np.concatenate([genes.expression(s, method.panel) for s in training])
    assert abs(predicted.mean() - known.mean()) < 0.25  # log1p of counts per ten thousand
    assert method.setting == "ours"


def test_an_untrained_head_predicts_the_mean_rate(small_sections):
    settings = config.Training(epochs=1, batch_size=32, learning_rate=1e-12)
    method = methods.Regression(MAPS, settings, likelihood="poisson").fit(small_sections)
    counts = np.concatenate([s[:, list(method.genes)].X.toarray() for s in small_sections])
    total = sum(s.X.sum() for s in small_sections)
    wanted = np.log1p(1e4 * (counts.sum(0) + 1) / total)
    np.testing.assert_allclose(method.predict(small_sections[0])[0], wanted, rtol=1e-4)


def test_the_negative_binomial_is_scipys(small_sections):
    from scipy.stats import nbinom

    method = methods.Regression(MAPS, HEADS, likelihood="negative_binomial")
    rng = np.random.default_rng(0)
    counts, totals = rng.poisson(3, (5, 4)), rng.integers(50, 90, (5, 1))
    model = method._build(7, np.full(4, 2.0))
    model[-1].log_overdispersion.data = torch.tensor([-1.0, 0.0, 0.5, 1.0])
    targets = torch.tensor(np.hstack([counts, totals]), dtype=torch.float32)
    found = method._objective(model, torch.zeros(5, 7), targets).item()
    mean = np.exp(2.0) * totals / 1e4
    size = np.exp([1.0, 0.0, -0.5, -1.0])
    wanted = nbinom.logpmf(counts, size, size / (size + mean))
    # scipy includes log(counts!), which does not depend on the model.
    from scipy.special import gammaln

    assert found == pytest.approx(-(wanted + gammaln(counts + 1)).mean(), rel=1e-4)


def test_end_to_end_learns_and_repeats(small_sections):
    *training, test = small_sections
    image = config.PatchInput(config.Encoder("test_resnet"), size=32)
    settings = config.Training(epochs=6, batch_size=32)
    learnt = methods.Regression(image, settings).with_seed(1)
    found, _ = score(learnt, training, test)
    assert found > 0.05 and learnt.setting == "reduced"
    assert learnt.history[0][-1]["loss"] < learnt.history[0][0]["loss"]
    short = replace(settings, epochs=1)
    made = [methods.Regression(image, short).with_seed(s) for s in (1, 1, 2)]
    values = [score(method, training[:1], test)[1] for method in made]
    np.testing.assert_array_equal(values[0], values[1])
    assert not np.array_equal(values[0], values[2])


def test_members_are_averaged(small_sections):
    settings = config.Training(epochs=2, batch_size=32)
    both = methods.Regression(MAPS, settings, members=2).fit(small_sections)
    alone = methods.Regression(MAPS, settings).fit(small_sections)
    assert len(both.models) == 2
    apart = alone.predict(small_sections[0])
    assert not np.allclose(both.predict(small_sections[0]), apart)


def test_faulty_settings_are_named(small_sections):
    with pytest.raises(ValueError, match="likelihood is 'normal'"):
        methods.Regression(MAPS, HEADS, likelihood="normal")
    with pytest.raises(ValueError, match="members is 0"):
        methods.Regression(MAPS, HEADS, members=0)
    method = methods.Regression(MAPS, HEADS, likelihood="poisson")
    method.correct = harmonise_expression
    with pytest.raises(ValueError, match="needs raw counts, but the training expression is"):
        method.fit(small_sections)
