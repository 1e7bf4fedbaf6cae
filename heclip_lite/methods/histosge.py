"""HisToSGE: attention between the spots of a slide, from image features to expression anywhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from anndata import AnnData
from scipy.spatial import cKDTree
from torch import Tensor, nn

from heclip_lite import config, distributed, networks, runtime
from heclip_lite.data import genes, lattice, registration, sections
from heclip_lite.features import pathology
from heclip_lite.methods.trained import Trained
from heclip_lite.methods.transforms import ExpressionComponents

PUBLISHED_WIDTH_PX = 50
PUBLISHED_ATTENTION = config.Attention(
    groups="file", size=50, positions="index", dropout=0.0, targets="genes"
)
PUBLISHED_TRAINING = config.Training(
    epochs=1000, batch_size=512, learning_rate=1e-3, weight_decay=0.0
)
_CHUNK = 512  # groups run at once
_SAME_UM = 1e-6  # places nearer than this are the same


class HisToSGE(Trained):
    """Predict spots from the image features of themselves and of spots around them.

    Parameters
    ----------
    image
        What is known of each point: patch vectors of a frozen encoder, pooled feature maps, or
        colour and nuclei.
    attention
        Which spots look at which, the code of places, and the size of the network.
    settings
        The training loop; a batch is a number of groups.
    members
        Networks trained from different seeds, whose predictions are averaged.
    checkpoint
        Folder for the states of the training, from which a stopped `fit` goes on.

    Attributes
    ----------
    history
        One list of epoch records per member, after `fit`.
    """

    def __init__(
        self,
        image: config.Input,
        attention: config.Attention,
        settings: config.Training,
        *,
        members: int = 1,
        checkpoint: str | Path | None = None,
    ) -> None:
        super().__init__(image, settings, members=members, checkpoint=checkpoint)
        if self._encodes:
            raise ValueError(
                "HisToSGE reads features of a frozen encoder; give PatchInput(trainable=False)."
            )
        self.attention = attention

    @classmethod
    def reference(
        cls,
        image: config.PatchInput,
        settings: config.Training = PUBLISHED_TRAINING,
        attention: config.Attention = PUBLISHED_ATTENTION,
    ) -> Self:
        """HisToSGE as its code has it, on features of any encoder; UNI's are the published ones."""
        made = cls(image, attention, settings)
        loop = replace(settings, seed=0, device="auto", precision="auto", compile=False)
        full = loop == PUBLISHED_TRAINING
        uni = image.encoder.name == pathology.HUB + pathology.MODELS["uni"].repository
        made.setting = (
            "published" if full and uni and attention == PUBLISHED_ATTENTION else "reduced"
        )
        return made

    # -- learning -----------------------------------------------------------------------------

    def _fit(self, training_sections: list[AnnData]) -> None:
        for section in training_sections:
            self._places(section)  # says where array coordinates are missing
        expression = self._expression(training_sections)
        if self.attention.targets == "components":
            moran = np.mean(
                [
                    genes.morans_i(section, values)
                    for section, values in zip(training_sections, expression, strict=True)
                ],
                axis=0,
            )
            self.targets = ExpressionComponents(self.attention.rank).fit(expression, moran)
        self._fit_images(training_sections)
        groups = [self._groups(section)[0] for section in training_sections]  # all are spots
        targets = [
            self._dealt(rows, self._aims(values))
            for (_, rows), values in zip(groups, expression, strict=True)
        ]
        pair = (_stacked([tokens for tokens, _ in groups], 0.0), _stacked(targets, np.nan))
        settings = self._settings(len(pair[0]))
        self._train_members(
            lambda: self._build(pair[0].shape[-1] - 3, pair[1].shape[-1]),
            pair,
            _objective,
            self.attention,
            settings=settings,
        )

    def _settings(self, groups: int) -> config.Training:
        """The loop with a batch of no more groups than there are."""
        wanted, size = self.settings.batch_size, distributed.size()
        if wanted > groups and groups % size:
            raise ValueError(
                f"A batch of {wanted} takes all {groups} groups of spots, and these cannot be "
                f"divided among {size} processes; "
                + (
                    f"set batch_size to {groups - groups % size}."
                    if groups > size
                    else "start fewer of them."
                )
            )
        return replace(self.settings, batch_size=min(wanted, groups))

    def _aims(self, expression: np.ndarray) -> np.ndarray:
        """What the network learns to say of each spot."""
        if self.attention.targets == "genes":
            return expression
        return self.targets.transform(expression)

    def _build(self, width: int, outputs: int) -> networks.HisToSGE:
        codes = {
            "index": networks.IndexPositions,
            "continuous": networks.ContinuousPositions,
            "relative": networks.ContinuousPositions,
        }
        return networks.HisToSGE(
            width,
            outputs,
            depth=self.attention.depth,
            heads=self.attention.heads,
            hidden=self.attention.hidden,
            positions=codes[self.attention.positions](width),
            dropout=self.attention.dropout,
            positive=self.attention.targets == "genes",
        )

    # -- groups -------------------------------------------------------------------------------

    def _places(self, section: AnnData) -> np.ndarray:
        """Where the points are, as the code of places takes it, (points, 2)."""
        if self.attention.positions == "index":
            return lattice.coordinates(section)
        return registration.positions_um(section)

    def _groups(self, section: AnnData) -> list[tuple[np.ndarray, np.ndarray]]:
        """Tokens (groups, size, features + 3) and the points that each group predicts.

        The last three columns of a token are its place and whether it is a point or padding.
        Points are given by their row, (groups, predicted), -1 for padding.
        Groups of different form come apart; spots of the section come first.
        """
        own, where = self._frozen(section), self._places(section)
        points = np.arange(section.n_obs)
        if self.attention.groups == "file":
            parts = np.array_split(points, -(-len(points) // self.attention.size))
            rows = np.full((len(parts), max(map(len, parts))), -1)
            for group, part in enumerate(parts):
                rows[group, : len(part)] = part
            return [(_tokens(own, where, rows), rows)]
        spots = sections.spots_of(section)
        dense = spots is not section
        around, there = (self._frozen(spots), self._places(spots)) if dense else (own, where)
        if self.attention.groups == "section":
            distance, among = cKDTree(there).query(where)
            spot = distance < _SAME_UM
            found = []
            if spot.any():  # what is asked comes first
                others = np.setdiff1d(np.arange(len(around)), among[spot])
                rows = np.concatenate([among[spot], others])[None]
                found.append((_tokens(around, there, rows), points[spot][None]))
            if not spot.all():
                # Each point between joins the spots alone: no matter what is asked with it.
                both, places = np.concatenate([around, own]), np.concatenate([there, where])
                rows = np.tile(np.arange(len(around)), ((~spot).sum(), 1))
                rows = np.column_stack([len(around) + points[~spot], rows])
                found.append((_tokens(both, places, rows), points[~spot][:, None]))
            return found
        nearest = self._nearest(section, spots)
        both, places = np.concatenate([own, around]), np.concatenate([where, there])
        rows = np.column_stack([points, np.where(nearest < 0, -1, nearest + len(own))])
        tokens = _tokens(both, places, rows)
        if self.attention.positions == "relative":
            tokens[..., -3:-1] -= tokens[:, :1, -3:-1]
        return [(tokens, points[:, None])]

    def _nearest(self, section: AnnData, spots: AnnData) -> np.ndarray:
        """Rows of the spots nearest to each point and not at its place, (points, size - 1)."""
        places, around = registration.positions_um(section), registration.positions_um(spots)
        wanted = self.attention.size - 1
        distance, rows = cKDTree(around).query(places, k=np.arange(1, wanted + 2))
        rows = np.where((distance < _SAME_UM) | np.isinf(distance), -1, rows)
        # The point itself, if it is a spot, goes last; then the nearest that are wanted.
        order = np.argsort(rows < 0, axis=1, kind="stable")
        return np.take_along_axis(rows, order, axis=1)[:, :wanted]

    def _dealt(self, rows: np.ndarray, aims: np.ndarray) -> np.ndarray:
        """Aims by group, (groups, predicted, outputs), NaN for padding."""
        found = aims[rows].astype(np.float32)
        found[rows < 0] = np.nan
        return found

    # -- prediction ---------------------------------------------------------------------------

    @torch.inference_mode()
    def _run(self, section: AnnData) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Hidden features and outputs, one row per point, of each member."""
        groups = self._groups(section)
        device = runtime.pick_device(self.settings.device)
        order = np.argsort(np.concatenate([rows[rows >= 0] for _, rows in groups]), kind="stable")
        found: tuple[list, list] = ([], [])
        for model in self.models:
            model.eval().to(device)
            parts: tuple[list, list] = ([], [])
            for tokens, rows in groups:
                for batch, wanted in zip(
                    torch.from_numpy(tokens).split(_CHUNK),
                    torch.from_numpy(rows).split(_CHUNK),
                    strict=True,
                ):
                    made = _called(model, batch.to(device), rows.shape[1])
                    for kind, values in zip(parts, made, strict=True):
                        kind.append(values.float().cpu()[wanted >= 0])
            for kind, values in zip(found, parts, strict=True):
                kind.append(torch.cat(values).numpy()[order])
            model.cpu()
        return found

    def _predict(self, section: AnnData) -> np.ndarray:
        outputs = np.mean(self._run(section)[1], axis=0)
        if self.attention.targets == "genes":
            return outputs
        return self.targets.reconstruct(outputs)

    def hidden(self, section: AnnData) -> np.ndarray:
        """Hidden features of each point after attention, those of all members side by side.

        Returns
        -------
        ndarray, float32, (points, members x features)

        Raises
        ------
        RuntimeError
            If the method was not fitted.
        """
        self._check_fitted()
        return np.concatenate(self._run(section)[0], axis=1)


def _called(model: nn.Module, tokens: Tensor, predicted: int) -> tuple[Tensor, Tensor]:
    """Hidden features and outputs of the first `predicted` tokens of each group."""
    return model(tokens[..., :-3], tokens[..., -3:-1], tokens[..., -1] > 0, predicted=predicted)


def _objective(model: nn.Module, tokens: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error over the points of the groups, padding left out."""
    _, outputs = _called(model, tokens, targets.shape[1])
    known = targets[..., 0].isfinite()
    error = F.mse_loss(runtime.at_least_single(outputs)[known], targets[known])
    return distributed.weighted(
        error, known.sum()
    )  # padding may be more on one rank than on another


def _tokens(values: np.ndarray, places: np.ndarray, rows: np.ndarray) -> np.ndarray:
    packed = np.column_stack([values, places, np.ones(len(values))]).astype(np.float32)
    tokens = packed[rows]
    tokens[rows < 0] = 0
    return tokens


def _stacked(parts: list[np.ndarray], fill: float) -> Tensor:
    """Groups of several sections one after another, filled up to the longest group."""
    longest = max(part.shape[1] for part in parts)
    padded = [
        np.pad(part, ((0, 0), (0, longest - part.shape[1]), (0, 0)), constant_values=fill)
        for part in parts
    ]
    return torch.from_numpy(np.concatenate(padded))
