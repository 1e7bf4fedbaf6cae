"""The contrastive losses beyond the recorded figures."""

from __future__ import annotations

import math

import pytest
import torch

from heclip_lite import losses


def embeddings(seed: int = 0, batch: int = 6, dim: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image, spot = torch.randn(2, batch, dim, generator=generator, dtype=torch.float64)
    return image.requires_grad_(), spot.requires_grad_()


def by_loops(image, spot, target, temperature, image_to_spot):
    """Cross entropies written out pair by pair, from the formula in the docstring."""
    image, spot, target = (x.detach() for x in (image, spot, target))
    n = len(image)
    dot = [[float(spot[i] @ image[j]) / temperature for j in range(n)] for i in range(n)]
    total = 0.0
    for i in range(n):
        for j in range(n):
            column = sum(math.exp(dot[m][j]) for m in range(n))
            row = sum(math.exp(dot[i][m]) for m in range(n))
            log_column = math.log(math.exp(dot[i][j]) / column)
            log_row = math.log(math.exp(dot[i][j]) / row)
            mixed = image_to_spot * log_column + (1 - image_to_spot) * log_row
            total -= float(target[i, j]) * mixed / n
    return total


@pytest.mark.parametrize("source", losses.SOURCES)
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_general_form_equals_the_sum_written_out(source, share):
    image, spot = embeddings()
    target = losses.target_matrix(image, spot, source=source, temperature=0.7)
    loss = losses.contrastive_loss(
        image, spot, targets=source, temperature=0.7, image_to_spot=share
    )
    assert loss.item() == pytest.approx(by_loops(image, spot, target, 0.7, share), abs=1e-10)


@pytest.mark.parametrize("source", losses.SOURCES)
def test_target_rows_sum_to_one(source):
    target = losses.target_matrix(*embeddings(), source=source)
    torch.testing.assert_close(target.sum(1), torch.ones(6, dtype=torch.float64))


def test_clip_equals_cross_entropy_of_torch():
    image, spot = embeddings()
    scaled = [torch.nn.functional.normalize(x, dim=1) for x in (image, spot)]
    logits = scaled[1] @ scaled[0].T / 0.2
    label = torch.arange(6)
    both = [torch.nn.functional.cross_entropy(x, label) for x in (logits, logits.T)]
    torch.testing.assert_close(losses.clip_loss(image, spot, temperature=0.2), sum(both) / 2)


def test_cosine_ignores_length():
    image, spot = embeddings()
    options = {"cosine": True, "temperature": 0.5}
    one = losses.image_centric_loss(image, spot, **options)
    torch.testing.assert_close(losses.image_centric_loss(3 * image, 0.1 * spot, **options), one)
    assert losses.image_centric_loss(3 * image, spot) != losses.image_centric_loss(image, spot)


def test_detached_targets_keep_the_value_and_change_the_gradient():
    image, spot = embeddings()
    free = losses.image_centric_loss(image, spot)
    held = losses.image_centric_loss(image, spot, detach_targets=True)
    torch.testing.assert_close(free, held)
    gradients = [torch.autograd.grad(loss, image)[0] for loss in (free, held)]
    assert not torch.allclose(*gradients)


def test_published_targets_are_one_hot_at_gene_width():
    """With layer-normed embeddings of HECLIP's widths the soft targets are the identity."""
    generator = torch.Generator().manual_seed(0)
    for dim in (256, 3467):
        image = torch.nn.functional.layer_norm(torch.randn(128, dim, generator=generator), (dim,))
        target = losses.target_matrix(image, image, source="image")
        assert (target.diagonal() > 1 - 1e-6).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"targets": "images"}, "must be one of identity, image, spot, both"),
        ({"image_to_spot": 1.5}, "between 0 and 1"),
    ],
)
def test_bad_options_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        losses.contrastive_loss(*embeddings(), **change)


def test_unequal_embeddings_are_named():
    with pytest.raises(ValueError, match=r"\(6, 4\).*\(6, 5\).*Project both"):
        losses.clip_loss(torch.ones(6, 4), torch.ones(6, 5))
