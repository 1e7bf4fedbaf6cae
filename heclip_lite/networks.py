"""Networks: the projection head, the two-sided contrastive model around it, and HisToSGE."""

from __future__ import annotations

import math

import torch
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


class IndexPositions(nn.Module):
    """A learnt vector for each array column and each array row, added up.

    Coordinates are cut to whole numbers, as in HisToSGE's code: half steps fall on their parents.

    Parameters
    ----------
    features
        Width of the vectors.
    places
        How many columns and rows there are vectors for.
    """

    def __init__(self, features: int, *, places: int = 512) -> None:
        super().__init__()
        self.columns = nn.Embedding(places, features)
        self.rows = nn.Embedding(places, features)

    def forward(self, centers: Tensor) -> Tensor:
        """Column and row, (..., 2), to (..., features)."""
        places = centers.long()
        lowest, highest = int(places.min()), int(places.max())
        if lowest < 0 or highest >= self.columns.num_embeddings:
            raise ValueError(
                f"Array coordinates run from {lowest} to {highest}, but there are vectors for 0 to "
                f"{self.columns.num_embeddings - 1} only. Shift them, or raise `places`."
            )
        return self.columns(places[..., 0]) + self.rows(places[..., 1])


class ContinuousPositions(nn.Module):
    """Sines and cosines of places in micrometres, at octaves of wavelength, then a linear layer.

    Two places closer than the shortest wavelength still differ, so half steps of a lattice do.

    Parameters
    ----------
    features
        Width of the vectors.
    shortest_um, longest_um
        Wavelengths; each is twice the one before.
    """

    def __init__(
        self, features: int, *, shortest_um: float = 400.0, longest_um: float = 12_800.0
    ) -> None:
        super().__init__()
        octaves = 1 + math.floor(math.log2(longest_um / shortest_um))
        lengths = shortest_um * 2.0 ** torch.arange(octaves)
        self.register_buffer("waves", 2 * torch.pi / lengths)
        self.linear = nn.Linear(4 * octaves, features)

    def forward(self, centers: Tensor) -> Tensor:
        """Places in micrometres, (..., 2), to (..., features)."""
        angles = (centers[..., None] * self.waves).flatten(-2)
        return self.linear(torch.cat([angles.sin(), angles.cos()], dim=-1))


class SpotAttention(nn.Module):
    """Every spot of a group looks at every other: multi-head attention, fused in torch.

    Parameters
    ----------
    features
        Width of a spot's features.
    heads, head_features
        Number of heads and the width of each; query, key and value come from one matrix.
    """

    def __init__(self, features: int, heads: int, head_features: int = 64) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_features
        self.to_qkv = nn.Linear(features, 3 * inner, bias=False)
        self.to_out = nn.Linear(inner, features)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(groups, spots, features) to the same; False in `mask` (groups, spots) is padding."""
        parts = self.to_qkv(x).chunk(3, dim=-1)
        query, key, value = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in parts)
        seen = None if mask is None else mask[:, None, None, :]
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        return self.to_out(found.transpose(1, 2).flatten(-2))


class TransformerBlock(nn.Module):
    """Attention and a two-layer network, each after a layer norm and added to its input."""

    def __init__(self, features: int, heads: int, head_features: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(features)
        self.attention = SpotAttention(features, heads, head_features)
        self.mlp_norm = nn.LayerNorm(features)
        self.mlp = nn.Sequential(
            nn.Linear(features, features), nn.GELU(), nn.Linear(features, features)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(groups, spots, features) to the same."""
        x = x + self.dropout(self.attention(self.attention_norm(x), mask))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))


class HisToSGE(nn.Module):
    """Image features of a group of spots to their expression, through attention between them.

    Features plus a code of each spot's place go through `depth` transformer blocks; a gene head
    (linear, ReLU, layer norm, linear, ReLU) ends in expression, which is never negative.

    Parameters
    ----------
    in_features
        Width of the image features.
    genes
        How many genes.
    depth, heads, head_features
        Transformer blocks, attention heads of each, and the width of a head.
    hidden
        Width of the gene head.
    positions
        The code of a place; HisToSGE's learnt columns and rows by default, see
        :class:`IndexPositions` and :class:`ContinuousPositions`.
    dropout
        Share of values zeroed in training, after attention and after the two-layer network.
    positive
        End in a ReLU; without it the network may say any number.
    """

    def __init__(
        self,
        in_features: int,
        genes: int,
        *,
        depth: int = 1,
        heads: int = 4,
        head_features: int = 64,
        hidden: int = 2048,
        positions: nn.Module | None = None,
        dropout: float = 0.0,
        positive: bool = True,
    ) -> None:
        super().__init__()
        self.positions = IndexPositions(in_features) if positions is None else positions
        self.blocks = nn.ModuleList(
            TransformerBlock(in_features, heads, head_features, dropout) for _ in range(depth)
        )
        self.head = nn.Sequential(
            nn.Linear(in_features, hidden),
            nn.ReLU(),
            nn.LayerNorm(hidden),
            nn.Linear(hidden, genes),
            nn.ReLU() if positive else nn.Identity(),
        )

    def forward(
        self,
        features: Tensor,
        centers: Tensor,
        mask: Tensor | None = None,
        *,
        predicted: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Hidden features and expression of the spots of each group.

        Parameters
        ----------
        features
            (groups, spots, in_features).
        centers
            (groups, spots, 2): array column and row, or micrometres, as `positions` takes them.
        mask
            (groups, spots), True for a spot and False for padding; all spots by default.
        predicted
            Only the first so many spots of each group are predicted, the others are looked at;
            all by default.

        Returns
        -------
        hidden, expression
            (groups, predicted, in_features) and (groups, predicted, genes).
        """
        hidden = features + self.positions(centers)
        for block in self.blocks:
            hidden = block(hidden, mask)
        hidden = hidden[:, :predicted]
        return hidden, self.head(hidden)


# Published parameter names on the left, ours on the right; None: never used, left out.
_HECLIP_NAMES = (
    ("module.", ""),
    ("image_encoder.model.", "image_encoder.network."),
    ("image_projection.", "image_head."),
    ("well_projection.", "spot_head."),
    ("spot_projection.", "spot_head."),
    ("well_encoder.", None),
    ("spot_encoder.", None),
)
_HISTOSGE_NAMES = (
    ("module.", ""),
    ("x_embed.", "positions.columns."),
    ("y_embed.", "positions.rows."),
    ("gene_head.", "head."),
    ("layer_norm.", None),
    ("trans.layers.", "blocks."),
)
_HISTOSGE_PARTS = (  # inside a block
    (".0.norm.", ".attention_norm."),
    (".0.fn.to_qkv.", ".attention.to_qkv."),
    (".0.fn.to_out.0.", ".attention.to_out."),
    (".1.norm.", ".mlp_norm."),
    (".1.fn.net.0.", ".mlp.0."),
    (".1.fn.net.3.", ".mlp.2."),  # dropout stood between
)


def reference_state(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the parameters of a published HECLIP or HisToSGE checkpoint to ours.

    Parameters
    ----------
    state_dict
        Parameters as published, by name.

    Returns
    -------
    dict
        The same tensors, loadable with ``ContrastiveModel.load_state_dict`` or, for HisToSGE,
        ``HisToSGE.load_state_dict``.
        What no forward pass of the published models uses is left out: HECLIP's spot encoder,
        HisToSGE's outer layer norm.

    Raises
    ------
    ValueError
        If no parameter has a name of a published HECLIP or HisToSGE model.
    """
    published = {name.removeprefix("module.") for name in state_dict}
    histosge = any(name.startswith("gene_head.") for name in published)
    renamed = {}
    for name, value in state_dict.items():
        ours = _renamed(name, _HISTOSGE_NAMES if histosge else _HECLIP_NAMES)
        if histosge and ours is not None:
            for theirs, replacement in _HISTOSGE_PARTS:
                ours = ours.replace(theirs, replacement)
        if ours is not None:
            renamed[ours] = value
    if not histosge and not any(name.startswith("image_head.") for name in renamed):
        found = ", ".join(list(state_dict)[:3]) or "nothing"
        raise ValueError(
            f"Neither image_projection nor gene_head parameters among the names ({found}, ...); "
            "give the state_dict of a published HECLIP or HisToSGE model."
        )
    return renamed


def _renamed(name: str, names: tuple[tuple[str, str | None], ...]) -> str | None:
    ours: str | None = name
    for published, replacement in names:
        if ours is not None and ours.startswith(published):
            ours = None if replacement is None else replacement + ours[len(published) :]
    return ours
