"""Direct regression: from the image to every gene at once, without any retrieval.

End to end on patches this is the idea of ST-Net (He et al., 2020); on frozen features only a small
head is trained.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from anndata import AnnData
from torch import Tensor, nn

from heclip_lite import config, runtime
from heclip_lite.data import genes
from heclip_lite.features import encoders
from heclip_lite.methods.trained import Trained

LIKELIHOODS = ("gaussian", "poisson", "negative_binomial")
PER = 1e4  # rates are per ten thousand counts, as log-normalised expression is


class Head(nn.Module):
    """Features to one number per gene, through one hidden layer if it has a width.

    Parameters
    ----------
    in_features, out_features
        Widths of features and genes.
    start
        (genes,), what it says before it has learnt anything.
    hidden
        Width of the hidden layer; None: none.
    """

    def __init__(
        self, in_features: int, out_features: int, start: np.ndarray, hidden: int | None
    ) -> None:
        super().__init__()
        self.body = nn.Identity()
        if hidden is not None:
            self.body = nn.Sequential(nn.Linear(in_features, hidden), nn.GELU(), nn.Dropout(0.1))
        self.last = nn.Linear(hidden or in_features, out_features)
        nn.init.zeros_(self.last.weight)
        self.last.bias.data = torch.as_tensor(start, dtype=torch.float32).clone()
        # Log of the overdispersion of each gene; only the negative binomial learns it.
        self.log_overdispersion = nn.Parameter(torch.zeros(out_features))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_features) to (batch, genes)."""
        return self.last(self.body(x))


class Network(nn.Sequential):
    """An image encoder and a head.

    Whatever the loss needs comes out of the call: shared among processes, or compiled, a network is
    followed through its call only, and a parameter that is read beside it would be lost.
    """

    def forward(self, images: Tensor, *, sizes: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """(batch, ...) to (batch, genes), and on demand the negative binomial's sizes, (genes,)."""
        found = super().forward(images)
        return (found, torch.exp(-self[-1].log_overdispersion)) if sizes else found


class Regression(Trained):
    """Predict all genes from the image by gradient descent.

    Parameters
    ----------
    image
        Patches (with an encoder trained end to end, or frozen), feature maps, or colour and nuclei.
    settings
        The training loop.
    likelihood
        ``"gaussian"``: squared error of log1p expression.
        ``"poisson"``, ``"negative_binomial"``: log likelihood of the raw counts, given each spot's
        total; the prediction is log1p of the expected counts per ten thousand.
    hidden
        Width of a hidden layer; None: a linear head.
    members
        Networks trained from different seeds, whose predictions are averaged.
    checkpoint
        Folder for the states of the training, from which a stopped `fit` goes on.
    """

    def __init__(
        self,
        image: config.Input,
        settings: config.Training,
        *,
        likelihood: str = "gaussian",
        hidden: int | None = None,
        members: int = 1,
        checkpoint: str | Path | None = None,
    ) -> None:
        if likelihood not in LIKELIHOODS:
            raise ValueError(f"likelihood is {likelihood!r}; use one of {', '.join(LIKELIHOODS)}.")
        if hidden is not None and hidden < 1:
            raise ValueError(f"hidden is {hidden}; a hidden layer has 1 unit or more.")
        super().__init__(image, settings, members=members, checkpoint=checkpoint)
        self.likelihood, self.hidden = likelihood, hidden
        self.setting = "reduced" if self._encodes else "ours"

    def _fit(self, training_sections: list[AnnData]) -> None:
        targets, start = self._targets(training_sections)
        self._fit_images(training_sections)
        inputs = torch.cat([self._images(section) for section in training_sections])
        self._train_members(
            lambda: self._build(inputs.shape[-1], start),
            (inputs, torch.from_numpy(targets)),
            self._objective,
            {"likelihood": self.likelihood, "hidden": self.hidden},
        )

    def _targets(self, training_sections: list[AnnData]) -> tuple[np.ndarray, np.ndarray]:
        """What a batch is held against, float32, and what the head says at first, (genes,).

        Counts carry the spot's total as one more column.
        """
        if self.likelihood == "gaussian":
            targets = np.concatenate(self._expression(training_sections))
            return targets, targets.mean(0)
        if self.correct is not None:
            raise ValueError(
                f"A {self.likelihood} likelihood needs raw counts, but the training expression is "
                "corrected; use likelihood='gaussian'."
            )
        genes.expression(training_sections[0], self.panel)  # says which genes are missing
        counts = np.concatenate(
            [section[:, list(self.genes)].X.toarray() for section in training_sections]
        )
        totals = np.concatenate(
            [np.asarray(section.X.sum(axis=1)).ravel() for section in training_sections]
        )
        rate = (counts.sum(0) + 1) / totals.sum()
        return np.column_stack([counts, totals]).astype(np.float32), np.log(PER * rate)

    def _build(self, width: int, start: np.ndarray) -> Network:
        encoder: nn.Module = nn.Identity()
        if self._encodes:
            encoder = encoders.ImageEncoder(self.image.encoder)
            width = encoder.features
        return Network(encoder, Head(width, len(start), start, self.hidden))

    def _objective(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        if self.likelihood == "gaussian":
            return F.mse_loss(runtime.at_least_single(model(images)), targets)
        found, size = map(runtime.at_least_single, model(images, sizes=True))
        counts, totals = targets[:, :-1], targets[:, -1:]
        log_mean = found + torch.log(totals / PER)
        if self.likelihood == "poisson":
            return F.poisson_nll_loss(log_mean, counts)
        log_both = torch.logaddexp(log_mean, torch.log(size))
        likelihood = (
            torch.lgamma(counts + size)
            - torch.lgamma(size)
            + size * (torch.log(size) - log_both)
            + counts * (log_mean - log_both)
        )
        return -likelihood.mean()

    @torch.inference_mode()
    def _predict_images(self, images: Tensor) -> np.ndarray:
        device = runtime.pick_device(self.settings.device)
        total = 0.0
        for model in self.models:
            model.eval().to(device)
            parts = [model(part.to(device)).float().cpu() for part in images.split(128)]
            found = torch.cat(parts).numpy()
            total = total + (found if self.likelihood == "gaussian" else np.log1p(np.exp(found)))
            model.cpu()
        return total / self.members
