"""The three contrastive losses: HECLIP's image-centric loss, BLEEP's, and plain CLIP.

All three are the same three steps: a table of similarities between spots and images,
a table of targets that says how alike each pair *should* be, and a cross entropy between the two.
They differ only in where the targets come from and in which direction the cross entropy runs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

SOURCES = ("identity", "image", "spot", "both")


def _check(image: Tensor, spot: Tensor, temperature: float, targets: str) -> None:
    if image.ndim != 2 or image.shape != spot.shape:
        raise ValueError(
            f"image has shape {tuple(image.shape)} and spot {tuple(spot.shape)}, but both must be "
            "(batch, dim) and equal: row i of each belongs to the same spot. "
            "Project both to one width first."
        )
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}, but it must be above 0; try 0.1 to 1.")
    if targets not in SOURCES:
        raise ValueError(f"targets is {targets!r}, but must be one of {', '.join(SOURCES)}.")


def target_matrix(
    image: Tensor, spot: Tensor, *, source: str = "image", temperature: float = 1.0
) -> Tensor:
    """How alike each pair of spots is held to be: rows that sum to 1.

    Parameters
    ----------
    image, spot
        Embeddings, each (batch, dim).
    source
        ``"image"``: softmax of image-image similarities (HECLIP).
        ``"spot"``: softmax of spot-spot similarities.
        ``"both"``: softmax of their mean (BLEEP).
        ``"identity"``: each spot is like itself only (CLIP).
    temperature
        Divides the similarities; small values sharpen the rows towards the identity.

    Returns
    -------
    Tensor, (batch, batch)

    Raises
    ------
    ValueError
        If shapes differ, the temperature is not positive or the source is unknown.
    """
    _check(image, spot, temperature, source)
    if source == "identity":
        return torch.eye(len(image), dtype=image.dtype, device=image.device)
    similarity = {
        "image": lambda: image @ image.T,
        "spot": lambda: spot @ spot.T,
        "both": lambda: (image @ image.T + spot @ spot.T) / 2,
    }[source]()
    return F.softmax(similarity / temperature, dim=1)  # (batch, batch)


def contrastive_loss(
    image: Tensor,
    spot: Tensor,
    *,
    temperature: float = 1.0,
    cosine: bool = False,
    targets: str = "image",
    target_temperature: float | None = None,
    detach_targets: bool = False,
    image_to_spot: float = 1.0,
) -> Tensor:
    """The general form of which the three named losses are settings.

    With ``L[i, j] = spot_i . image_j / temperature`` and targets ``T``, the image-to-spot part is
    ``-mean_j sum_i T[i, j] log softmax_i L[i, j]`` (which spot belongs to this image?) and the
    spot-to-image part is ``-mean_i sum_j T[i, j] log softmax_j L[i, j]``.

    Parameters
    ----------
    image, spot
        Embeddings, each (batch, dim); row i of both belongs to one spot.
    temperature
        Divides all similarities.
    cosine
        Scale embeddings to length 1 first.
    targets
        See :func:`target_matrix`.
    target_temperature
        Temperature of the targets, if it shall differ from `temperature`.
    detach_targets
        Let no gradient flow through the targets.
    image_to_spot
        Share of the image-to-spot part, from 0 to 1; the rest is spot-to-image.

    Returns
    -------
    Tensor
        Scalar, in nats.

    Raises
    ------
    ValueError
        If shapes differ or an option is out of range.
    """
    _check(image, spot, temperature, targets)
    if not 0 <= image_to_spot <= 1:
        raise ValueError(f"image_to_spot is {image_to_spot}, but must lie between 0 and 1.")
    if cosine:
        image, spot = F.normalize(image, dim=1), F.normalize(spot, dim=1)
    logits = spot @ image.T / temperature  # (spots, images)
    if target_temperature is None:
        target_temperature = temperature
    target = target_matrix(image, spot, source=targets, temperature=target_temperature)
    if detach_targets:
        target = target.detach()
    loss = logits.new_zeros(())
    if image_to_spot > 0:
        loss = loss - image_to_spot * (target * F.log_softmax(logits, dim=0)).sum(0).mean()
    if image_to_spot < 1:
        loss = loss - (1 - image_to_spot) * (target * F.log_softmax(logits, dim=1)).sum(1).mean()
    return loss


def image_centric_loss(
    image: Tensor, spot: Tensor, *, temperature: float = 1.0, targets: str = "image", **options: Any
) -> Tensor:
    """HECLIP's loss: image-to-spot only, soft targets from the images (defaults as published).

    Its released code neither scales the embeddings nor detaches the targets.
    `options` are those of :func:`contrastive_loss`, which also gives formula and errors.

    Examples
    --------
    >>> import torch
    >>> image = torch.eye(3)
    >>> round(image_centric_loss(image, image).item(), 3)
    0.975
    """
    return contrastive_loss(
        image, spot, temperature=temperature, targets=targets, image_to_spot=1.0, **options
    )


def bleep_loss(
    image: Tensor, spot: Tensor, *, temperature: float = 1.0, targets: str = "both", **options: Any
) -> Tensor:
    """BLEEP's loss: both directions, soft targets from images and spots (defaults as published).

    `options` are those of :func:`contrastive_loss`, which also gives formula and errors.
    """
    return contrastive_loss(
        image, spot, temperature=temperature, targets=targets, image_to_spot=0.5, **options
    )


def clip_loss(
    image: Tensor, spot: Tensor, *, temperature: float = 1.0, cosine: bool = True
) -> Tensor:
    """Plain CLIP: both directions, each spot like itself only, embeddings of length 1.

    See :func:`contrastive_loss` for parameters, formula and errors.
    """
    return contrastive_loss(
        image,
        spot,
        temperature=temperature,
        cosine=cosine,
        targets="identity",
        image_to_spot=0.5,
    )


LOSSES = {"image_centric": image_centric_loss, "bleep": bleep_loss, "clip": clip_loss}
