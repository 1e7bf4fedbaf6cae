"""Our functions against recorded figures of the reference implementations, in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from heclip_lite import evaluation, losses, networks, retrieval

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = {"rtol": 1e-10, "atol": 1e-10}
# HECLIP's two models share one loss: both recorded names must match it.
RECORDED = {
    "hvg": losses.image_centric_loss,
    "heg": losses.image_centric_loss,
    "bleep": losses.bleep_loss,
}


def golden(name: str) -> np.lib.npyio.NpzFile:
    return np.load(GOLDEN / f"{name}.npz", allow_pickle=False)


@pytest.mark.parametrize("case", ["small", "mid", "spike"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("name", RECORDED)
def test_losses_and_gradients(case: str, temperature: float, name: str) -> None:
    recorded = golden("losses")
    image, spot = (
        torch.from_numpy(recorded[f"{case}_{side}"]).requires_grad_() for side in ("image", "spot")
    )
    loss = RECORDED[name](image, spot, temperature=temperature)
    loss.backward()
    prefix = f"{case}_T{temperature}_{name}"
    np.testing.assert_allclose(loss.item(), recorded[f"{prefix}_loss"], **TOLERANCE)
    np.testing.assert_allclose(image.grad, recorded[f"{prefix}_grad_image"], **TOLERANCE)
    np.testing.assert_allclose(spot.grad, recorded[f"{prefix}_grad_spot"], **TOLERANCE)


def test_projection_head() -> None:
    recorded = golden("projection_head")
    head = networks.ProjectionHead(12, 7).double().eval()
    head.load_state_dict(
        {k[2:]: torch.from_numpy(recorded[k]) for k in recorded.files if k.startswith("w.")}
    )
    with torch.no_grad():
        y = head(torch.from_numpy(recorded["x"]))
    np.testing.assert_allclose(y, recorded["y"], **TOLERANCE)


@pytest.mark.parametrize("case", ["a", "b"])
@pytest.mark.parametrize("k", [1, 3, 10, 50])
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy], ids=["array", "tensor"])
def test_retrieval(case: str, k: int, kind) -> None:
    recorded = golden("retrieval")
    query, reference, key = (
        kind(recorded[f"{case}_{part}"]) for part in ("query", "reference", "expression_key")
    )
    indices = retrieval.retrieve(query, reference, k=k)
    assert type(indices) is type(query)
    np.testing.assert_array_equal(indices, recorded[f"{case}_top{k}_idx"])
    for values, wanted in ((key, "expression"), (reference, "embedding")):
        imputed = retrieval.impute(query, reference, values, k=k)
        np.testing.assert_allclose(imputed, recorded[f"{case}_top{k}_pred_{wanted}"], **TOLERANCE)


def test_pearson() -> None:
    recorded = golden("metrics")
    values = evaluation.pearson_per_gene(recorded["true"], recorded["pred"])
    np.testing.assert_allclose(values, recorded["Pearson"], **TOLERANCE)
    np.testing.assert_allclose(values, recorded["corr"], **TOLERANCE)


def test_pearson_marks_the_genes_the_reference_cannot_score() -> None:
    recorded = golden("metrics")
    true, predicted = recorded["deg_true"], recorded["deg_pred"]
    values = evaluation.pearson_per_gene(true, predicted)
    constant = (np.ptp(true, axis=0) == 0) | (np.ptp(predicted, axis=0) == 0)
    assert constant.any()
    np.testing.assert_array_equal(np.isnan(values), constant)
    np.testing.assert_allclose(values[~constant], recorded["deg_Pearson"][~constant], **TOLERANCE)


@pytest.mark.parametrize("k", range(1, 6))
def test_hit_at_k(k: int) -> None:
    recorded = golden("metrics")
    hit = evaluation.hit_at_k(recorded["true"], recorded["pred"], k=k)
    np.testing.assert_allclose(hit, recorded[f"hit_at_{k}"], **TOLERANCE)


@pytest.mark.parametrize(("case", "heads", "depth"), [("tiny", 2, 1), ("deep", 3, 2)])
def test_histosge(case: str, heads: int, depth: int) -> None:
    recorded = golden("histosge")
    x, centers, target = (
        torch.from_numpy(recorded[f"{case}_{part}"]) for part in ("x", "centers", "target")
    )
    weights = f"{case}_w."
    published = {
        name[len(weights) :]: torch.from_numpy(recorded[name])
        for name in recorded.files
        if name.startswith(weights)
    }
    width, n_genes = x.shape[-1], target.shape[-1]
    model = networks.HisToSGE(
        width,
        n_genes,
        depth=depth,
        heads=heads,
        positions=networks.IndexPositions(width, places=64),
    ).double()
    model.load_state_dict(networks.reference_state(published))
    hidden, expression = model(x, centers)
    loss = torch.nn.functional.mse_loss(expression, target)
    loss.backward()
    np.testing.assert_allclose(hidden.detach(), recorded[f"{case}_h"], **TOLERANCE)
    np.testing.assert_allclose(expression.detach(), recorded[f"{case}_y"], **TOLERANCE)
    np.testing.assert_allclose(loss.item(), recorded[f"{case}_loss"], **TOLERANCE)
    gradient = model.blocks[0].attention.to_qkv.weight.grad
    np.testing.assert_allclose(gradient, recorded[f"{case}_grad_to_qkv"], **TOLERANCE)
