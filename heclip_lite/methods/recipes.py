"""The frozen recipes: every method of the contest by name, in one size.

Settings here were chosen by leaving out training sections among C2 to C5 of her2st;
``book/results/tried.csv`` lists every configuration that was tried on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from heclip_lite import config
from heclip_lite.methods.base import Method
from heclip_lite.methods.baselines import (
    Average,
    KernelRidge,
    Mean,
    MeanColour,
    NearestNeighbours,
    Position,
    Ridge,
    Shuffled,
)
from heclip_lite.methods.correction import TrainHarmony
from heclip_lite.methods.heclip import BLEEP, CLIP, HECLIP, PUBLISHED_TRAINING
from heclip_lite.methods.histosge import PUBLISHED_TRAINING as PUBLISHED_DENSE
from heclip_lite.methods.histosge import PUBLISHED_WIDTH_PX, HisToSGE
from heclip_lite.methods.interpolation import GaussianProcess, InverseDistance, NearestSpot
from heclip_lite.methods.oracles import DepthOracle, NeighbourOracle, OtherGenesOracle
from heclip_lite.methods.regression import Regression

# Genes that textbooks name for breast tissue: epithelium and tumour, receptors, proliferation,
# stroma, vessels and the immune lineages; those that a tenth of the spots of C2 to C5 detect.
# Chosen without looking at any other section, so that tables of all splits can share them.
BREAST_MARKERS = (
    *("EPCAM", "KRT8", "KRT18", "KRT19", "CDH1", "MUC1", "ERBB2", "AR", "EGFR", "GATA3"),
    *("XBP1", "FASN", "SCD", "AZGP1", "MKI67", "TOP2A", "COL1A1", "COL1A2", "COL3A1", "FN1"),
    *("SPARC", "DCN", "LUM", "VIM", "POSTN", "ACTA2", "TAGLN", "PECAM1", "VWF", "PTPRC"),
    *("CD8A", "CD4", "CD79A", "IGKC", "IGHM", "JCHAIN", "CD74", "HLA-DRA", "LYZ", "CD68", "C1QA"),
)


@dataclass(frozen=True)
class Size:
    """What all methods of a contest share, so that rows differ in their method only.

    Attributes
    ----------
    maps
        Feature maps for everything that rests on frozen features.
    patches
        Patches for everything that trains an encoder end to end.
    end_to_end
        The training loop of those.
    reference
        The training loop of HECLIP as released; its own by default.
    heads
        The training loop of heads on frozen features.
    dense
        The training loop of HisToSGE.
    dense_reference
        That of HisToSGE as released; its own by default.
    members
        Networks averaged by methods that average.
    """

    maps: config.MapInput = field(default_factory=config.MapInput)
    patches: config.PatchInput = field(default_factory=config.PatchInput)
    end_to_end: config.Training = field(default_factory=lambda: config.Training(epochs=15))
    reference: config.Training = PUBLISHED_TRAINING
    heads: config.Training = field(default_factory=lambda: config.Training(epochs=30))
    dense: config.Training = field(default_factory=lambda: config.Training(epochs=30))
    dense_reference: config.Training = PUBLISHED_DENSE
    members: int = 5


# Chosen on spots of C2 to C5 held out: few components, for a part of a slide has few spots.
HISTOSGE = {"positions": "relative", "hidden": 256, "rank": 5}
# A part of one slide has few spots: too few for many kernel components or a large batch.
WITHIN_COMPONENTS, WITHIN_BATCH = 32, 32
ONE_SCALE, ONE_COLOUR = "_one_scale", "_one_scale_and_colour"  # suffixes of names in tables


def at_one_scale(size: Size, um_per_px: float, *, stain: str = "none") -> Size:
    """The same size for slides that are no finer than `um_per_px`: there and at half of it.

    `stain` brings their colours together as well (:mod:`heclip_lite.features.stain`).
    """
    maps = replace(size.maps, um_per_px=(2 * um_per_px, um_per_px), stain=stain)
    return replace(size, maps=maps)


def without_suffix(name: str) -> str:
    """The method's own name, whatever the slides were brought to."""
    return name.removesuffix(ONE_COLOUR).removesuffix(ONE_SCALE)


def contestants(size: Size) -> dict[str, Method]:
    """Methods that see the image only, by name."""
    recommended = HECLIP.recommended(size.maps, size.heads, members=size.members)
    kernel_ridge = KernelRidge(size.maps)
    # As released: raw pixels, blue first; the batch norms learn to bear them.
    raw = replace(size.patches.encoder, colour="bgr", scaling="none", fixed_norms=False)
    published = replace(size.patches, encoder=raw)
    return {
        "heclip_recommended": recommended,
        "heclip_reference_hvg": HECLIP.reference_hvg(published, size.reference),
        "heclip_reference_heg": HECLIP.reference_heg(published, size.reference),
        "bleep": BLEEP(size.patches, size.end_to_end),
        "clip": CLIP(size.patches, size.end_to_end),
        "regression": Regression(size.patches, size.end_to_end),
        "bleep_maps": BLEEP(size.maps, size.heads, members=size.members),
        "clip_maps": CLIP(size.maps, size.heads, members=size.members),
        "regression_maps": Regression(size.maps, size.heads, hidden=256, members=size.members),
        "ridge": Ridge(size.maps),
        "knn": NearestNeighbours(size.maps),
        "kernel_ridge": kernel_ridge,
        "colour": Ridge(config.AppearanceInput()),
        "average": Average([recommended, kernel_ridge]),
        "heclip_train_harmony": TrainHarmony(recommended),
    }


def controls(size: Size) -> dict[str, Method]:
    """What a method has to beat before its result means anything, by name."""
    encoder = replace(size.maps.encoder, weights="random")
    return {
        "mean": Mean(),
        "position": Position(),
        "mean_colour": MeanColour(),
        "random_encoder": Ridge(replace(size.maps, encoder=encoder)),
        "shuffled": Shuffled(HECLIP.recommended(size.maps, size.heads, members=size.members)),
    }


def oracles() -> dict[str, Method]:
    """Yardsticks that are told something of the held-out section, by name."""
    return {
        "oracle_depth": DepthOracle(),
        "oracle_neighbours": NeighbourOracle(),
        "oracle_other_genes": OtherGenesOracle(),
    }


def everyone(size: Size) -> dict[str, Method]:
    """Contestants, controls and oracles."""
    return {**contestants(size), **controls(size), **oracles()}


def histosge(size: Size, /, **changes: object) -> HisToSGE:
    """Our HisToSGE: feature maps, spatial neighbourhoods, components as targets.

    `changes` go to :class:`~heclip_lite.config.Attention`.
    """
    attention = config.Attention(**{**HISTOSGE, **changes})
    return HisToSGE(size.maps, attention, size.dense, members=size.members)


def histosge_reference(size: Size, um_per_px: float) -> HisToSGE:
    """HisToSGE as its code has it, but for groups that can be stacked and the encoder.

    `um_per_px` is that of the slide, whose patches are 50 of its pixels wide, blue first.
    """
    image = config.PatchInput(
        replace(size.maps.encoder, colour="bgr"),
        width_um=PUBLISHED_WIDTH_PX * um_per_px,
        size=224,
        trainable=False,
    )
    return HisToSGE.reference(image, size.dense_reference)


def for_part(size: Size) -> Size:
    """The same size for methods that learn from a part of one slide."""
    return replace(
        size,
        maps=replace(size.maps, components=WITHIN_COMPONENTS),
        heads=replace(size.heads, batch_size=WITHIN_BATCH),
    )


def within_slide(size: Size, um_per_px: float) -> dict[str, Method]:
    """Methods that predict the rest of a slide from a part of its spots, by name.

    Parameters
    ----------
    size
        What they share.
    um_per_px
        Micrometres per pixel of the slide, for the patches of HisToSGE as released.
    """
    size = for_part(size)
    attention, kernel_ridge = histosge(size), KernelRidge(size.maps)
    return {
        "histosge": attention,
        "histosge_reference": histosge_reference(size, um_per_px),
        "heclip_recommended": HECLIP.recommended(size.maps, size.heads, members=size.members),
        "kernel_ridge": kernel_ridge,
        "ridge": Ridge(size.maps),
        "inverse_distance": InverseDistance(),
        "gaussian_process": GaussianProcess(),
        "nearest_spot": NearestSpot(),
        "average_with_place": Average([attention, kernel_ridge, GaussianProcess()]),
        "mean": Mean(),
    }


def inputs_of(methods: Mapping[str, Method]) -> list[config.Input]:
    """Every frozen image input that the methods read, each once."""
    found: list[config.Input] = []

    def look(value: object) -> None:
        if isinstance(value, config.PatchInput) and value.trainable:
            return
        if isinstance(value, config.Input):
            if value not in found:
                found.append(value)
        elif isinstance(value, Method):
            for inner in vars(value).values():
                look(inner)
        elif isinstance(value, list | tuple):
            for inner in value:
                look(inner)

    for method in methods.values():
        look(method)
    return found


def kind_of(name: str) -> str:
    """``"method"``, ``"control"`` or ``"oracle"``, from the name in a table."""
    if name.startswith("oracle_"):
        return "oracle"
    return "control" if without_suffix(name) in _CONTROLS else "method"


_CONTROLS: Mapping[str, None] = dict.fromkeys(
    ("mean", "position", "mean_colour", "random_encoder", "shuffled")
)
