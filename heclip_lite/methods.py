"""Every way to predict expression from an image, behind two functions: `fit` and `predict`.

This is the index; each method is explained where it is written:
HECLIP in `heclip`, baselines and controls in `baselines`, direct regression in `regression`,
oracles in `oracles`, batch correction in `correction`, HisToSGE in `histosge`, and interpolation
between the spots of a slide in `interpolation`.
BLEEP and CLIP differ from HECLIP in their loss and in what they retrieve against, and stand here.
"""

from __future__ import annotations

from pathlib import Path

from heclip_lite import config
from heclip_lite.base import Method, Oracle
from heclip_lite.baselines import (
    Average,
    KernelRidge,
    Mean,
    MeanColour,
    NearestNeighbours,
    Position,
    Ridge,
    Shuffled,
)
from heclip_lite.correction import TrainHarmony
from heclip_lite.heclip import HECLIP
from heclip_lite.histosge import HisToSGE
from heclip_lite.interpolation import GaussianProcess, InverseDistance, NearestSpot
from heclip_lite.oracles import DepthOracle, NeighbourOracle, OtherGenesOracle
from heclip_lite.regression import Regression

__all__ = [
    "BLEEP",
    "CLIP",
    "HECLIP",
    "Average",
    "DepthOracle",
    "GaussianProcess",
    "HisToSGE",
    "InverseDistance",
    "KernelRidge",
    "Mean",
    "MeanColour",
    "Method",
    "NearestNeighbours",
    "NearestSpot",
    "NeighbourOracle",
    "Oracle",
    "OtherGenesOracle",
    "Position",
    "Regression",
    "Ridge",
    "Shuffled",
    "TrainHarmony",
]


class BLEEP(HECLIP):
    """BLEEP (Xie et al., 2023): both directions, soft targets from both sides, spots retrieved.

    Both sides are projected to 256; the 50 training spots whose *expression* lies nearest to the
    picture are averaged.

    Parameters
    ----------
    image
        What the image side sees.
    settings
        The training loop.
    members
        Networks trained from different seeds, whose predictions are averaged.
    checkpoint
        Folder for the states of the training.
    """

    def __init__(
        self,
        image: config.Input,
        settings: config.Training,
        *,
        members: int = 1,
        checkpoint: str | Path | None = None,
    ) -> None:
        super().__init__(
            image,
            config.Contrast(loss="bleep", head="projection", dim=256),
            config.Decode(k=50, against="spots"),
            settings,
            members=members,
            checkpoint=checkpoint,
        )
        self.setting = "reduced"


class CLIP(HECLIP):
    """Plain CLIP between pictures and expression: unit vectors, each spot like itself only.

    Parameters
    ----------
    image
        What the image side sees.
    settings
        The training loop.
    temperature
        Divides the cosines.
    members
        Networks trained from different seeds, whose predictions are averaged.
    checkpoint
        Folder for the states of the training.
    """

    def __init__(
        self,
        image: config.Input,
        settings: config.Training,
        *,
        temperature: float = 0.1,
        members: int = 1,
        checkpoint: str | Path | None = None,
    ) -> None:
        super().__init__(
            image,
            config.Contrast(loss="clip", temperature=temperature, head="projection", dim=256),
            config.Decode(k=50, against="spots"),
            settings,
            members=members,
            checkpoint=checkpoint,
        )
        self.setting = "reduced"
