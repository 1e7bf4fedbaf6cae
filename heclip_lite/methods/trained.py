"""What methods that train networks share: the image input, the members and their seeds."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor, nn

from heclip_lite import config, features, runtime, training
from heclip_lite.data import patches
from heclip_lite.methods.base import Method
from heclip_lite.methods.transforms import KernelComponents

_MEMBERS_APART = 1000  # between the seeds of members


class Trained(Method):
    """A method that trains one network or more.

    Subclass it as :class:`~heclip_lite.methods.base.Method`.

    Parameters
    ----------
    image
        Patches (with an encoder trained end to end, or frozen), feature maps, or colour and nuclei.
    settings
        The training loop.
    members
        Networks trained from different seeds, whose predictions are averaged.
    checkpoint
        Folder for the states of the training, from which a stopped `fit` goes on.

    Attributes
    ----------
    models
        The trained networks, after `fit`.
    history
        One list of epoch records per member, after `fit`.

    Raises
    ------
    ValueError
        If there are no members.
    """

    def __init__(
        self,
        image: config.Input,
        settings: config.Training,
        *,
        members: int = 1,
        checkpoint: str | Path | None = None,
    ) -> None:
        if members < 1:
            raise ValueError(f"members is {members}; train 1 network or more.")
        self.image, self.settings, self.members = image, settings, members
        self.checkpoint = None if checkpoint is None else Path(checkpoint)

    def with_seed(self, seed: int) -> Self:
        """The same with other seeds of order, weights and dropout."""
        made = copy.copy(self)
        made.settings = replace(self.settings, seed=seed)
        if self.checkpoint is not None:
            made.checkpoint = self.checkpoint / f"seed-{seed}"
        return made

    @property
    def _encodes(self) -> bool:
        """Whether the network holds the image encoder, and patches go in."""
        return isinstance(self.image, config.PatchInput) and self.image.trainable

    def _fit_images(self, training_sections: Sequence[AnnData]) -> None:
        """Learn the kernel components of feature maps, or of colour and nuclei."""
        if isinstance(self.image, config.PatchInput):
            return
        blocks = [self._blocks(section) for section in training_sections]
        stacked = [np.concatenate(parts) for parts in zip(*blocks, strict=True)]
        self.kernel = KernelComponents(self.image.components).fit(stacked)

    def _blocks(self, section: AnnData) -> list[np.ndarray]:
        return features.describe(section, self.image, device=self.settings.device)

    def _frozen(self, section: AnnData) -> np.ndarray:
        """What a frozen description says of each spot or point, float32 (points, features)."""
        return self._taken(self._blocks(section))

    def _taken(self, blocks: list[np.ndarray]) -> np.ndarray:
        """What a network takes of a description, float32 (points, features)."""
        if isinstance(self.image, config.PatchInput):
            return blocks[0]
        return self.kernel.transform(blocks)

    def _images(self, section: AnnData) -> Tensor:
        """What the network takes: uint8 patches, or float features of a frozen description."""
        if self._encodes:
            return torch.from_numpy(
                patches.cut_patches(section, width_um=self.image.width_um, size=self.image.size)
            )
        return torch.from_numpy(self._frozen(section))

    def _predict(self, section: AnnData) -> np.ndarray:
        return self._predict_images(self._images(section))

    def _predict_described(self, blocks: list[np.ndarray]) -> np.ndarray:
        if self._encodes:
            return super()._predict_described(blocks)
        return self._predict_images(torch.from_numpy(self._taken(blocks)))

    def _predict_images(self, images: Tensor) -> np.ndarray:
        """(spots, genes) from what `_images` gives."""
        raise TypeError(f"{type(self).__name__} needs to see the whole slide.")

    def _train_members(
        self,
        build: Callable[[], nn.Module],
        pair: training.Pair,
        objective: training.Objective,
        about: config.Contrast | config.Attention | dict[str, Any],
        *,
        settings: config.Training | None = None,
        validation: training.Pair | None = None,
    ) -> None:
        """Train the members one after another; `build` makes one, with its own random weights.

        `about` says what the objective is made of: no other one may go on from its checkpoint.
        """
        about = about if isinstance(about, dict) else config.as_dict(about)
        settings = self.settings if settings is None else settings
        self.models, self.history = [], []
        with nullcontext() if self._encodes else runtime.one_thread():
            for member in range(self.members):
                seed = settings.seed + _MEMBERS_APART * member
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(seed)
                    model = build()
                history = training.train(
                    model,
                    pair,
                    objective,
                    replace(settings, seed=seed),
                    validation=validation,
                    augment=self._encodes and self.image.augment,
                    checkpoint=self.checkpoint and self.checkpoint / f"member-{member}",
                    about=[type(self).__name__, config.as_dict(self.image), about],
                    description=f"{type(self).__name__} {member + 1}/{self.members}",
                )
                self.history.append(history)
                self.models.append(model.cpu())
