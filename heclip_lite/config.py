"""Settings as frozen dataclasses, checked when they are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class Encoder:
    """An image encoder from timm and the pixels it expects.

    Attributes
    ----------
    name
        timm's model name, such as ``"resnet50"``.
    weights
        ``"random"``, ``"pretrained"`` (downloaded by timm), or the path of a safetensors file.
    seed
        Seed of random weights.
    colour
        ``"rgb"``, or ``"bgr"`` as in HECLIP's released code.
    scaling
        ``"model"``: the mean and standard deviation the model was trained with.
        ``"none"``: raw values from 0 to 255, as in HECLIP's released code.
    mean, std
        Override the model's own, in units of 0 to 1; for local weights trained otherwise.
    fixed_norms
        Keep the statistics of batch norms as they are when the encoder is trained.
        Needed by weights whose batch norms were folded into the convolutions, and sensible for
        pretrained weights and small batches.
    options
        Further arguments of ``timm.create_model``.
    """

    name: str = "resnet10t"
    weights: str = "random"
    seed: int = 0
    colour: str = "rgb"
    scaling: str = "model"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    fixed_norms: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(self.colour in ("rgb", "bgr"), f"colour is {self.colour!r}; use 'rgb' or 'bgr'.")
        _check(
            self.scaling in ("model", "none"),
            f"scaling is {self.scaling!r}; use 'model' or 'none'.",
        )
        _check(
            self.std is None or all(s > 0 for s in self.std),
            f"std is {self.std}; all must be above 0.",
        )


@dataclass(frozen=True)
class PatchInput:
    """One square patch per spot, cut in micrometres.

    Attributes
    ----------
    encoder
        What looks at the patch.
    width_um
        Side of the patch on the tissue, micrometres.
    size
        Side of the patch as the encoder sees it, pixels.
    trainable
        Train the encoder too; otherwise its vectors are computed once and kept.
    augment
        Flip and turn patches at random in training (only with `trainable`).
    """

    encoder: Encoder = Encoder()
    width_um: float = 150.0
    size: int = 64
    trainable: bool = True
    augment: bool = True

    def __post_init__(self) -> None:
        _check(self.width_um > 0, f"width_um is {self.width_um}; it must be above 0.")
        _check(self.size >= 16, f"size is {self.size} px; encoders need 16 or more.")


@dataclass(frozen=True)
class MapInput:
    """Feature maps of the whole slide at several scales, pooled around each point.

    Attributes
    ----------
    encoder
        The frozen encoder that runs over the slide.
    um_per_px
        Scales at which it runs, micrometres per pixel.
    widths_um
        Standard deviations of the Gaussian pooling windows, micrometres.
    components
        Kernel principal components kept of all pooled features.
    stain
        ``"none"``, or bring the slide's stain to a fixed one first: ``"reinhard"`` or
        ``"macenko"`` (see :mod:`heclip_lite.features.stain`).
    """

    encoder: Encoder = Encoder()
    um_per_px: tuple[float, ...] = (2.74, 1.37, 0.69)
    widths_um: tuple[float, ...] = (44.0, 100.0, 200.0, 400.0)
    components: int = 128
    stain: str = "none"

    def __post_init__(self) -> None:
        _check(
            len(self.um_per_px) > 0 and all(s > 0 for s in self.um_per_px),
            f"um_per_px is {self.um_per_px}; give one or more scales above 0.",
        )
        _check(
            len(self.widths_um) > 0 and all(w > 0 for w in self.widths_um),
            f"widths_um is {self.widths_um}; give one or more widths above 0.",
        )
        _check(self.components >= 2, f"components is {self.components}; keep 2 or more.")
        _check(
            self.stain in ("none", "reinhard", "macenko"),
            f"stain is {self.stain!r}; use 'none', 'reinhard' or 'macenko'.",
        )


@dataclass(frozen=True)
class AppearanceInput:
    """Colour, stain and nuclei around each point, measured without any network.

    Attributes
    ----------
    um_per_px
        Scale at which nuclei are looked for, micrometres per pixel.
    widths_um
        Standard deviations of the Gaussian windows that these are pooled with, micrometres.
    components
        Kernel principal components kept, where a method needs them.
    """

    um_per_px: float = 2.0
    widths_um: tuple[float, ...] = (50.0, 150.0, 400.0)
    components: int = 64

    def __post_init__(self) -> None:
        _check(self.um_per_px > 0, f"um_per_px is {self.um_per_px}; it must be above 0.")
        _check(
            len(self.widths_um) > 0 and all(w > 0 for w in self.widths_um),
            f"widths_um is {self.widths_um}; give one or more widths above 0.",
        )
        _check(self.components >= 2, f"components is {self.components}; keep 2 or more.")


@dataclass(frozen=True)
class Contrast:
    """What is pulled together, and how hard.

    Attributes
    ----------
    loss
        ``"image_centric"``, ``"bleep"`` or ``"clip"``; `options` go to it.
    temperature
        Divides the similarities in training.
    spot_side
        ``"expression"``: the log-normalised genes themselves.
        ``"components"``: `rank` principal components of section-wise z-scores,
        genes weighted by their Moran's I.
    head
        What maps the spot side into the embedding space:
        ``"none"`` (the image head projects onto the spot side, as HECLIP's ``hvg`` model),
        ``"linear"`` or ``"projection"`` (a projection head, as its ``heg`` model).
    dim
        Width of the embedding space; unused with ``head="none"``.
    rank
        Number of components.
    options
        Further options of the loss, such as ``{"cosine": True}``.
    """

    loss: str = "image_centric"
    temperature: float = 1.0
    spot_side: str = "expression"
    head: str = "none"
    dim: int = 256
    rank: int = 20
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(
            self.loss in ("image_centric", "bleep", "clip"),
            f"loss is {self.loss!r}; use 'image_centric', 'bleep' or 'clip'.",
        )
        _check(self.temperature > 0, f"temperature is {self.temperature}; it must be above 0.")
        _check(
            self.spot_side in ("expression", "components"),
            f"spot_side is {self.spot_side!r}; use 'expression' or 'components'.",
        )
        _check(
            self.head in ("none", "linear", "projection"),
            f"head is {self.head!r}; use 'none', 'linear' or 'projection'.",
        )
        _check(self.dim >= 2 and self.rank >= 1, "dim must be 2 or more and rank 1 or more.")


@dataclass(frozen=True)
class Decode:
    """How retrieved spots become a prediction.

    Attributes
    ----------
    k
        Spots to average; None means all training spots.
    weights
        None (plain mean), ``"similarity"``, or a temperature of a softmax over cosines.
    against
        Compare images with reference ``"images"`` (HECLIP) or ``"spots"`` (BLEEP).
    rank
        Average reconstructions from this many components instead of the measured expression;
        None keeps the measured expression.
    """

    k: int | None = 50
    weights: str | float | None = None
    against: str = "images"
    rank: int | None = None

    def __post_init__(self) -> None:
        _check(self.k is None or self.k >= 1, f"k is {self.k}; use 1 or more, or None for all.")
        _check(
            self.against in ("images", "spots"),
            f"against is {self.against!r}; use 'images' or 'spots'.",
        )
        _check(self.rank is None or self.rank >= 1, f"rank is {self.rank}; use 1 or more.")


@dataclass(frozen=True)
class Attention:
    """Which spots look at which, and how.

    Attributes
    ----------
    groups
        ``"neighbourhood"``: each point with the `size` - 1 spots nearest to it, and only that
        point is predicted from them; cost grows with the number of points.
        ``"file"``: consecutive points in groups of about `size`, as in HisToSGE's code.
        ``"section"``: all spots of a section; cost grows with their square.
    size
        Points in a group; unused with ``"section"``.
    positions
        ``"continuous"``: places in micrometres; ``"relative"``: places in micrometres seen from
        the point that is predicted (neighbourhoods only); ``"index"``: a vector per array column
        and row, fractions cut off, as in HisToSGE's code.
    depth, heads, hidden
        Transformer blocks, attention heads of 64 each, and the width of the gene head.
    dropout
        Share of values zeroed in training.
    targets
        ``"genes"``: every gene, through a last ReLU, as in HisToSGE's code.
        ``"components"``: `rank` components of the expression, see
        :class:`~heclip_lite.methods.transforms.ExpressionComponents`.
    rank
        Number of components.
    """

    groups: str = "neighbourhood"
    size: int = 19
    positions: str = "continuous"
    depth: int = 1
    heads: int = 4
    hidden: int = 2048
    dropout: float = 0.1
    targets: str = "components"
    rank: int = 20

    def __post_init__(self) -> None:
        _check(
            self.groups in ("neighbourhood", "file", "section"),
            f"groups is {self.groups!r}; use 'neighbourhood', 'file' or 'section'.",
        )
        _check(
            self.positions in ("continuous", "relative", "index"),
            f"positions is {self.positions!r}; use 'continuous', 'relative' or 'index'.",
        )
        _check(
            self.positions != "relative" or self.groups == "neighbourhood",
            f"Relative positions need one point to look from, which groups={self.groups!r} lack; "
            "use positions='continuous'.",
        )
        _check(
            self.targets in ("genes", "components"),
            f"targets is {self.targets!r}; use 'genes' or 'components'.",
        )
        whole = {n: getattr(self, n) for n in ("size", "depth", "heads", "hidden", "rank")}
        for name, value in whole.items():
            _check(value >= 1, f"{name} is {value}; use 1 or more.")
        _check(0 <= self.dropout < 1, f"dropout is {self.dropout}; use 0 or more, below 1.")


@dataclass(frozen=True)
class Training:
    """The training loop.

    Attributes
    ----------
    epochs
        Passes over the training spots.
    batch_size
        Spots per step; an incomplete last batch is dropped.
    learning_rate, weight_decay
        Of AdamW.
    patience
        Stop after this many epochs without a better loss on the held-out training section;
        None: always train all epochs, with no section held out.
    device, precision
        ``"auto"`` or a name; see :mod:`heclip_lite.runtime`.
    seed
        Of weights, order, augmentation and dropout.
    compile
        Compile the network with ``torch.compile`` before training; needs a C++ compiler on a CPU,
        and Triton on CUDA. Results agree up to rounding. Compilation itself takes up to minutes,
        so it can pay in long trainings that run an image encoder on CUDA only. Whether it does has
        not been measured on a GPU yet: compare a few epochs with and without it on yours.
    """

    epochs: int = 15
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-3
    patience: int | None = None
    device: str = "auto"
    precision: str = "auto"
    seed: int = 0
    compile: bool = False

    def __post_init__(self) -> None:
        _check(self.epochs >= 1, f"epochs is {self.epochs}; use 1 or more.")
        _check(
            self.batch_size >= 1,
            f"batch_size is {self.batch_size}; use 1 or more, and 2 or more for a contrast.",
        )
        _check(self.learning_rate > 0, f"learning_rate is {self.learning_rate}; use above 0.")
        _check(self.weight_decay >= 0, f"weight_decay is {self.weight_decay}; use 0 or more.")
        _check(self.patience is None or self.patience >= 1, "patience must be 1 or more, or None.")


def as_dict(config: Any) -> dict[str, Any]:
    """A dataclass of this module as plain JSON-ready values."""
    values = asdict(config)
    return {key: dict(v) if isinstance(v, Mapping) else v for key, v in values.items()}


INPUTS = {kind.__name__: kind for kind in (PatchInput, MapInput, AppearanceInput)}
Input = PatchInput | MapInput | AppearanceInput


def from_dict(kind: type, values: Mapping[str, Any]) -> Any:
    """The dataclass `kind` that :func:`as_dict` was called on, also after a trip through JSON.

    Raises
    ------
    ValueError
        If a name is not a setting of `kind`.
    """
    known = {f.name for f in fields(kind)}
    unknown = sorted(set(values) - known)
    _check(
        not unknown,
        f"{kind.__name__} has no setting {', '.join(unknown)}; it has {', '.join(sorted(known))}.",
    )
    made = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    if "encoder" in made:
        made["encoder"] = from_dict(Encoder, made["encoder"])
    return kind(**made)
