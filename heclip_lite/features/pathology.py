"""Pathology encoders by name: trained on slides, most of them behind a licence one must accept.

Their weights are not ours to hand out.
Accept the licence on the model's page, then put your access token into the environment variable
``HF_TOKEN``; never write a token into a notebook or a script.
Who has the weights as a file needs neither.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from heclip_lite import config
from heclip_lite.runtime import TOKEN_VARIABLES

HUB = "hf-hub:"


@dataclass(frozen=True)
class Model:
    """What timm needs to know of a pathology encoder.

    Attributes
    ----------
    repository
        On the model hub.
    architecture
        timm's name of the network, for weights that lie in a local file; "" where it has none.
    options
        Arguments of ``timm.create_model``.
    um_per_px
        Scale of the patches it was trained on.
    mean, std
        Of the pixels it was trained on; None: ImageNet's.
    """

    repository: str
    architecture: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    um_per_px: float = 0.5
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


MODELS = {
    "uni": Model(
        "MahmoodLab/UNI",
        "vit_large_patch16_224",
        {"init_values": 1e-5, "dynamic_img_size": True},
    ),
    "h-optimus-0": Model(
        "bioptimus/H-optimus-0",
        options={"init_values": 1e-5, "dynamic_img_size": False},
        mean=(0.707223, 0.578729, 0.703617),
        std=(0.211883, 0.230117, 0.177517),
    ),
    "prov-gigapath": Model("prov-gigapath/prov-gigapath"),
}
SIZE = 224  # pixels along a patch, for all of them


def patch_input(
    name: str, *, weights: str = "pretrained", width_um: float | None = None
) -> config.PatchInput:
    """Patches for a pathology encoder that stays frozen, at the scale it was trained on.

    Parameters
    ----------
    name
        ``"uni"``, ``"h-optimus-0"`` or ``"prov-gigapath"``; or ``"hf-hub:owner/model"`` for any
        other model that timm loads from the hub.
    weights
        ``"pretrained"``: from the hub, with your token; or the path of a safetensors file.
    width_um
        Side of a patch, micrometres; by default 224 pixels at the encoder's own scale.

    Raises
    ------
    ValueError
        If the name is unknown, or a file is given for a model that timm has no network for.
    PermissionError
        If the weights are asked from the hub and no token is in the environment.
    """
    if name.startswith(HUB):
        model = Model(name.removeprefix(HUB))
    elif name.lower() in MODELS:
        model = MODELS[name.lower()]
    else:
        raise ValueError(
            f"The pathology encoder {name!r} is unknown; use one of {', '.join(MODELS)}, or "
            f"'{HUB}owner/model'. Encoders of timm go into config.Encoder."
        )
    if weights != "pretrained" and not model.architecture:
        raise ValueError(
            f"{name!r} can only be made from the hub (weights='pretrained'). If you know timm's "
            "name of its network, use config.Encoder(name, weights)."
        )
    if weights == "pretrained":
        check_token(model.repository)
    encoder = config.Encoder(
        name=HUB + model.repository if weights == "pretrained" else model.architecture,
        weights=weights,
        mean=model.mean,
        std=model.std,
        options=model.options,
    )
    width = SIZE * model.um_per_px if width_um is None else width_um
    return config.PatchInput(encoder, width_um=width, size=SIZE, trainable=False)


def check_token(repository: str) -> None:
    """Make sure that the environment holds a token; its value is neither shown nor kept.

    Raises
    ------
    PermissionError
        If there is none.
    """
    if any(os.environ.get(name) for name in TOKEN_VARIABLES):
        return
    raise PermissionError(
        f"The weights of {repository} are given out under a licence. "
        f"1. Accept it at https://huggingface.co/{repository}. "
        f"2. Put your access token into the environment variable {TOKEN_VARIABLES[0]}. "
        "Or give the path of a safetensors file as weights. "
        "Open encoders of timm, and backbones.coral_mobilenet(), need no token."
    )
