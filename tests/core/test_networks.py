"""Networks and the names of published checkpoints."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from heclip_lite import config, networks
from heclip_lite.features import encoders


def test_hvg_projects_images_into_gene_space():
    model = networks.heclip_hvg(nn.Identity(), 12, 30)
    image, spot = model(torch.randn(4, 12), torch.randn(4, 30))
    assert image.shape == spot.shape == (4, 30)
    assert sum(p.numel() for p in model.spot_head.parameters()) == 0


def test_heg_projects_both_sides():
    model = networks.heclip_heg(nn.Identity(), 12, 30, dim=8)
    image, spot = model(torch.randn(4, 12), torch.randn(4, 30))
    assert image.shape == spot.shape == (4, 8)


def published(prefix: str, spot: str) -> dict[str, torch.Tensor]:
    """A checkpoint as HECLIP's ``heg`` code would save it, for a small encoder."""
    encoder = encoders.ImageEncoder(config.Encoder("resnet10t"))
    state = {f"{prefix}image_encoder.model.{k}": v for k, v in encoder.network.state_dict().items()}
    for side, width in (("image", 512), (spot, 20)):
        head = networks.ProjectionHead(width, 16)
        state |= {f"{prefix}{side}_projection.{k}": v for k, v in head.state_dict().items()}
    return state | {f"{prefix}{spot}_encoder.model.weight": torch.zeros(20, 20)}


@pytest.mark.parametrize(("prefix", "spot"), [("", "spot"), ("module.", "well")])
def test_published_names_load(prefix, spot):
    state = published(prefix, spot)
    model = networks.heclip_heg(
        encoders.ImageEncoder(config.Encoder("resnet10t", seed=1)), 512, 20, dim=16
    )
    model.load_state_dict(networks.reference_state(state))
    wanted = state[f"{prefix}image_projection.fc.weight"]
    torch.testing.assert_close(model.image_head.fc.weight.data, wanted)
    stem = next(k for k in state if "image_encoder" in k)
    ours = stem.removeprefix(f"{prefix}image_encoder.model.")
    torch.testing.assert_close(model.image_encoder.network.state_dict()[ours], state[stem])


def test_a_foreign_checkpoint_is_named():
    with pytest.raises(ValueError, match="Neither image_projection nor gene_head"):
        networks.reference_state({"classifier.weight": torch.zeros(2)})
