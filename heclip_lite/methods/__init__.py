"""Every way to predict expression from an image, behind two functions: `fit` and `predict`.

HECLIP stands in `heclip` with BLEEP and CLIP, HisToSGE in `histosge`, direct regression in
`regression`, baselines and controls in `baselines`, interpolation between the spots of a slide in
`interpolation`, oracles in `oracles`, batch correction in `correction`; `recipes` freezes the
settings of the contest, and `saved` keeps what was fitted.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "base",
        "baselines",
        "correction",
        "heclip",
        "histosge",
        "index",
        "interpolation",
        "oracles",
        "recipes",
        "regression",
        "saved",
        "trained",
        "transforms",
    ],
    submod_attrs={
        "base": ["Method", "Oracle"],
        "baselines": [
            "Average",
            "KernelRidge",
            "Mean",
            "MeanColour",
            "NearestNeighbours",
            "Position",
            "Ridge",
            "Shuffled",
        ],
        "correction": ["TrainHarmony"],
        "heclip": ["BLEEP", "CLIP", "HECLIP"],
        "histosge": ["HisToSGE"],
        "interpolation": ["GaussianProcess", "InverseDistance", "NearestSpot"],
        "oracles": ["DepthOracle", "NeighbourOracle", "OtherGenesOracle"],
        "regression": ["Regression"],
        "saved": ["load", "save"],
    },
)
