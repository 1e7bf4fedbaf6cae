"""HisToSGE: attention between spots."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from heclip_lite import config, networks
from heclip_lite.data import genes, sections
from heclip_lite.data.synthetic import tissue
from heclip_lite.evaluation import metrics
from heclip_lite.methods.histosge import HisToSGE
from heclip_lite.spatial import superres

IMAGE = config.AppearanceInput(components=16)
LOOP = config.Training(epochs=3, batch_size=32)


@pytest.fixture(scope="module")
def drawn():
    return tissue.synthetic_sections(1, 2, size_um=900.0)


def made(settings=LOOP, members=1, checkpoint=None, **attention) -> HisToSGE:
    small = {"hidden": 64, "heads": 2, "rank": 5} | attention
    return HisToSGE(
        IMAGE, config.Attention(**small), settings, members=members, checkpoint=checkpoint
    )


def test_half_steps_collide_in_the_published_code_of_places_only():
    half = torch.tensor([[[4.0, 6.0], [4.5, 6.5]]])
    index = networks.IndexPositions(8)(half)
    assert torch.equal(index[0, 0], index[0, 1])
    continuous = networks.ContinuousPositions(8)(half * 50)
    assert not torch.allclose(continuous[0, 0], continuous[0, 1], atol=1e-3)


def test_places_without_a_vector_are_named():
    with pytest.raises(ValueError, match="from -1 to 3"):
        networks.IndexPositions(8)(torch.tensor([[-1.0, 3.0]]))
    with pytest.raises(ValueError, match="0 to 511"):
        networks.IndexPositions(8)(torch.tensor([[0.0, 600.0]]))


def test_padding_changes_nothing():
    torch.manual_seed(0)
    model = networks.HisToSGE(12, 7, heads=2).eval()
    x, places = torch.randn(1, 5, 12), torch.randint(0, 20, (1, 5, 2)).float()
    plain = model(x, places)
    mask = torch.tensor([[True] * 5 + [False] * 3])
    padded = model(
        torch.cat([x, torch.randn(1, 3, 12)], 1), torch.cat([places, torch.zeros(1, 3, 2)], 1), mask
    )
    for one, other in zip(plain, padded, strict=True):
        torch.testing.assert_close(one, other[:, :5])
    first = model(x, places, predicted=1)
    torch.testing.assert_close(first[1], plain[1][:, :1])


@pytest.mark.parametrize("groups", ["neighbourhood", "file", "section"])
@pytest.mark.parametrize("positions", ["continuous", "index"])
def test_every_group_and_place_trains_and_predicts(drawn, groups, positions):
    method = made(groups=groups, positions=positions, size=7).fit(drawn[:1])
    predicted = method.predict(sections.hide_expression(drawn[1]))
    assert predicted.shape == (drawn[1].n_obs, len(method.genes))
    assert np.isfinite(predicted).all()
    dense = superres.predict(method, superres.fill_in(drawn[1]))
    assert np.isfinite(dense.X).all()


@pytest.mark.parametrize("groups", ["neighbourhood", "section"])
def test_dense_points_do_not_depend_on_what_is_asked_with_them(drawn, groups):
    method = made(groups=groups, size=7).fit(drawn[:1])
    points = superres.fill_in(drawn[0])
    whole = superres.predict(method, points)
    parts = superres.predict(method, points, chunk=41)
    # A batch of another size sums in another order; with whole sections there is more to sum.
    atol = 1e-4 if groups == "neighbourhood" else 1e-3
    np.testing.assert_allclose(whole.X, parts.X, atol=atol)
    spots = points.obs["spot"].to_numpy()
    np.testing.assert_allclose(whole.X[spots], method.predict(drawn[0]), atol=atol)


def test_it_learns(drawn):
    method = made(config.Training(epochs=30, batch_size=32), hidden=256, rank=10).fit(drawn[:1])
    history = [record["loss"] for record in method.history[0]]
    assert history[-1] < 0.5 * history[0]
    truth = genes.expression(drawn[1], method.panel, absent=0.0)
    r = metrics.pearson_per_gene(truth, method.predict(drawn[1]))
    assert np.nanmean(r) > 0.1


def test_the_same_seed_gives_the_same_numbers(drawn, tmp_path):
    one = made(dropout=0.2).fit(drawn[:1]).predict(drawn[1])
    again = made(dropout=0.2, checkpoint=tmp_path).fit(drawn[:1]).predict(drawn[1])
    np.testing.assert_array_equal(one, again)
    resumed = made(dropout=0.2, checkpoint=tmp_path).fit(drawn[:1]).predict(drawn[1])
    np.testing.assert_array_equal(one, resumed)
    other = made(dropout=0.2).with_seed(1).fit(drawn[:1]).predict(drawn[1])
    assert not np.array_equal(one, other)


def test_sections_of_different_size_share_a_batch(drawn):
    smaller = drawn[1][:40].copy()
    method = made(groups="section").fit([drawn[0], smaller])
    assert method.predict(smaller).shape[0] == 40


def test_published_expression_is_never_negative(drawn):
    method = made(targets="genes", groups="file", positions="index").fit(drawn[:1])
    assert method.predict(drawn[1]).min() >= 0


def test_hidden_features_come_per_point(drawn):
    method = made(members=2)
    with pytest.raises(RuntimeError, match="call fit first"):
        method.hidden(drawn[0])
    found = method.fit(drawn[:1]).hidden(drawn[1])
    assert found.shape == (drawn[1].n_obs, 2 * 16)


def test_only_the_full_recipe_is_called_published():
    crops = config.PatchInput(config.Encoder("resnet10t"), trainable=False)
    assert HisToSGE.reference(crops).setting == "reduced"
    uni = config.PatchInput(config.Encoder("hf-hub:MahmoodLab/UNI"), trainable=False)
    assert HisToSGE.reference(uni).setting == "published"
    shorter = config.Training(epochs=5, batch_size=512, weight_decay=0.0)
    assert HisToSGE.reference(uni, shorter).setting == "reduced"


def test_settings_that_cannot_be_are_named():
    with pytest.raises(ValueError, match="Relative positions"):
        config.Attention(groups="section", positions="relative")
    with pytest.raises(ValueError, match="frozen encoder"):
        HisToSGE(config.PatchInput(config.Encoder("resnet10t")), config.Attention(), LOOP)
    with pytest.raises(ValueError, match="members is 0"):
        made(members=0)


def test_missing_array_coordinates_are_named(drawn):
    bare = drawn[0].copy()
    del bare.obs["array_row"]
    with pytest.raises(ValueError, match="obs lacks array_row"):
        made(positions="index").fit([bare])
    assert made(positions="continuous").fit([bare]).predict(bare).shape[0] == bare.n_obs


LARGE = """
import resource
from pathlib import Path
import numpy as np
from heclip_lite import config
from heclip_lite.data import sections
from heclip_lite.methods import recipes

rng = np.random.default_rng(0)
row, column = np.divmod(np.arange(4624), 68)
section = sections.make_section(
    rng.poisson(2.0, (4624, 1000)), [f"gene-{i}" for i in range(1000)],
    np.stack([column, row], 1) * 30.0 + 40.0, name="large", donor="none", um_per_px=2.0,
    spot_diameter_um=50.0, image=rng.integers(100, 200, (2100, 2100, 3), np.uint8),
)
one_scale = config.MapInput(um_per_px=(2.74,))  # memory over a slide: tests/test_wholeslide.py
size = recipes.Size(maps=one_scale, dense=config.Training(epochs=1), members=1)
recipes.histosge(size).fit([section])
status = Path("/proc/self/status")
if status.exists():  # on Linux ru_maxrss begins with the peak of whoever started this process
    print(int(status.read_text().partition("VmHWM:")[2].split()[0]) / 2**20)
else:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30)
"""


@pytest.mark.slow
def test_a_visium_section_trains_within_four_gibibytes(tmp_path):
    environment = {**os.environ, "HECLIP_LITE_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LARGE], capture_output=True, text=True,
        env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 4.0
