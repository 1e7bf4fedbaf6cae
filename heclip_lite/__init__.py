"""Predict spatial gene expression from H&E histology, and judge the prediction honestly.

The files beside this one are the core: losses, networks, the training loop, retrieval.
Each folder is one room: `data`, `features`, `methods`, `spatial`, `evaluation`, `plotting`, `cli`.
It imports the core and the rooms before it, and its face says what it offers.
Importing this package imports nothing heavy: names are looked up when they are used.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "cli",
        "config",
        "data",
        "distributed",
        "evaluation",
        "features",
        "losses",
        "methods",
        "networks",
        "plotting",
        "retrieval",
        "runtime",
        "spatial",
        "store",
        "training",
    ],
    submod_attrs={
        "data": ["read_section", "synthetic_sections"],
        "methods": ["BLEEP", "CLIP", "HECLIP", "HisToSGE"],
        "spatial": ["fill_in", "find_domains"],
        "evaluation": ["contest"],
    },
)
