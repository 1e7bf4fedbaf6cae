"""Networks: the projection head and the two-sided contrastive model around it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class ProjectionHead(nn.Module):
    """Bring features of any width into the shared embedding space.

    Linear, GELU, linear, dropout, residual sum, layer norm, as in BLEEP and HECLIP.

    Parameters
    ----------
    in_features, out_features
        Widths of input and output.
    dropout
        Share of values zeroed in training, before the residual sum.
    """

    def __init__(self, in_features: int, out_features: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.projection = nn.Linear(in_features, out_features)
        self.fc = nn.Linear(out_features, out_features)
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(out_features)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_features) to (batch, out_features)."""
        projected = self.projection(x)
        return self.layer_norm(projected + self.dropout(self.fc(F.gelu(projected))))


class ContrastiveModel(nn.Module):
    """An image side and a spot side that end in one embedding space.

    Parameters
    ----------
    image_encoder
        Anything that turns a batch of images into (batch, features);
        ``nn.Identity()`` where the features were computed before.
    image_head, spot_head
        Map (batch, features) and (batch, genes) to (batch, dim).
        Without a `spot_head` the expression itself is the embedding, as in HECLIP's ``hvg`` model.
    """

    def __init__(
        self, image_encoder: nn.Module, image_head: nn.Module, spot_head: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.image_encoder = image_encoder
        self.image_head = image_head
        self.spot_head = nn.Identity() if spot_head is None else spot_head

    def embed_images(self, images: Tensor) -> Tensor:
        """Images or their features to (batch, dim)."""
        return self.image_head(self.image_encoder(images))

    def embed_spots(self, expression: Tensor) -> Tensor:
        """(batch, genes) to (batch, dim)."""
        return self.spot_head(expression)

    def forward(self, images: Tensor, expression: Tensor) -> tuple[Tensor, Tensor]:
        """Both embeddings, each (batch, dim)."""
        return self.embed_images(images), self.embed_spots(expression)


def heclip_hvg(
    image_encoder: nn.Module, in_features: int, genes: int, *, dropout: float = 0.1
) -> ContrastiveModel:
    """HECLIP's ``hvg`` model: images are projected into gene space, expression stays as it is."""
    return ContrastiveModel(image_encoder, ProjectionHead(in_features, genes, dropout=dropout))


def heclip_heg(
    image_encoder: nn.Module, in_features: int, genes: int, *, dim: int = 256, dropout: float = 0.1
) -> ContrastiveModel:
    """HECLIP's ``heg`` model: both sides are projected to `dim`."""
    return ContrastiveModel(
        image_encoder,
        ProjectionHead(in_features, dim, dropout=dropout),
        ProjectionHead(genes, dim, dropout=dropout),
    )


# Published parameter names on the left, ours on the right; None: never used, left out.
_REFERENCE_NAMES = (
    ("module.", ""),
    ("image_encoder.model.", "image_encoder.network."),
    ("image_projection.", "image_head."),
    ("well_projection.", "spot_head."),
    ("spot_projection.", "spot_head."),
    ("well_encoder.", None),
    ("spot_encoder.", None),
)


def reference_state(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the parameters of a published HECLIP checkpoint to ours.

    Parameters
    ----------
    state_dict
        Parameters as published, by name.

    Returns
    -------
    dict
        The same tensors, loadable with ``ContrastiveModel.load_state_dict``.
        The published models carry a spot encoder that no forward pass uses; it is left out.

    Raises
    ------
    ValueError
        If no parameter has a name of a published HECLIP model.
    """
    renamed = {}
    for name, value in state_dict.items():
        ours: str | None = name
        for published, replacement in _REFERENCE_NAMES:
            if ours is not None and ours.startswith(published):
                ours = None if replacement is None else replacement + ours[len(published) :]
        if ours is not None:
            renamed[ours] = value
    if not any(name.startswith("image_head.") for name in renamed):
        found = ", ".join(list(state_dict)[:3]) or "nothing"
        raise ValueError(
            f"No image_projection parameters among the names ({found}, ...); "
            "give the state_dict of a published HECLIP model."
        )
    return renamed
