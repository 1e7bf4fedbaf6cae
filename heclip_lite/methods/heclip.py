"""HECLIP: train an image side against a spot side, then predict by retrieval."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from anndata import AnnData
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from heclip_lite import config, distributed, networks, retrieval, runtime, store, training
from heclip_lite.data import genes
from heclip_lite.features import encoders
from heclip_lite.losses import LOSSES
from heclip_lite.methods.trained import Trained
from heclip_lite.methods.transforms import ExpressionComponents, KernelComponents

# What the released code runs: any other value makes a row of a table "reduced".
PUBLISHED_IMAGE = config.PatchInput(
    encoder=config.Encoder("resnet50", "pretrained", colour="bgr", scaling="none"), size=256
)
PUBLISHED_TRAINING = config.Training(
    epochs=15, batch_size=128, learning_rate=1e-3, weight_decay=1e-3
)

_TRANSFORMS = {
    "kernel": KernelComponents,
    "targets": ExpressionComponents,
    "smoother": ExpressionComponents,
}


class HECLIP(Trained):
    """Contrastive learning between images and expression, then imputation from similar spots.

    Parameters
    ----------
    image
        What the image side sees: patches (with an encoder trained or frozen), feature maps, or
        colour and nuclei.
    contrast
        Loss, temperature and the spot side.
    decode
        How retrieved spots become a prediction.
    settings
        The training loop.
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
        contrast: config.Contrast,
        decode: config.Decode,
        settings: config.Training,
        *,
        members: int = 1,
        checkpoint: str | Path | None = None,
    ) -> None:
        super().__init__(image, settings, members=members, checkpoint=checkpoint)
        if settings.batch_size < 2:
            raise ValueError(
                f"batch_size is {settings.batch_size}; a contrast needs 2 spots or more."
            )
        self.contrast, self.decode = contrast, decode

    @classmethod
    def reference_hvg(
        cls,
        image: config.PatchInput = PUBLISHED_IMAGE,
        settings: config.Training = PUBLISHED_TRAINING,
        **options: Any,
    ) -> Self:
        """HECLIP as its released ``hvg`` code has it: the image head projects into gene space."""
        return cls(image, config.Contrast(), config.Decode(), settings, **options)._marked()

    @classmethod
    def reference_heg(
        cls,
        image: config.PatchInput = PUBLISHED_IMAGE,
        settings: config.Training = PUBLISHED_TRAINING,
        **options: Any,
    ) -> Self:
        """HECLIP as its released ``heg`` code has it: both sides are projected to 256."""
        contrast = config.Contrast(head="projection", dim=256)
        return cls(image, contrast, config.Decode(), settings, **options)._marked()

    @classmethod
    def recommended(
        cls,
        image: config.MapInput = config.MapInput(),  # noqa: B008 (frozen)
        settings: config.Training = config.Training(epochs=30),  # noqa: B008
        *,
        members: int = 5,
        **options: Any,
    ) -> Self:
        """Our recipe: pooled feature maps, low-rank targets, cosine similarities, soft decoding."""
        contrast = config.Contrast(
            temperature=0.2,
            spot_side="components",
            head="linear",
            dim=128,
            options={"cosine": True, "targets": "identity"},
        )
        decode = config.Decode(k=None, weights=0.2, rank=contrast.rank)
        return cls(image, contrast, decode, settings, members=members, **options)

    def _marked(self) -> Self:
        """Say whether a reference recipe runs in full."""
        image = replace(self.image, width_um=PUBLISHED_IMAGE.width_um)
        settings = replace(self.settings, seed=0, device="auto", precision="auto", compile=False)
        full = (image, settings) == (PUBLISHED_IMAGE, PUBLISHED_TRAINING)
        self.setting = "published" if full else "reduced"
        return self

    # -- learning ---------------------------------------------------------------------------

    def _check_sizes(self, training_sections: list[AnnData]) -> None:
        """Name what cannot work with so few sections or spots, before anything is computed."""
        spots = sum(section.n_obs for section in training_sections)
        if self.settings.patience is not None and len(training_sections) < 2:
            raise ValueError(
                "Early stopping holds out one whole training section, but there is only one; "
                "add a section or set patience=None."
            )
        if self.decode.k is not None and self.decode.k > spots:
            raise ValueError(
                f"k is {self.decode.k}, but there are only {spots} training spots to retrieve; "
                "lower Decode.k."
            )
        if not isinstance(self.image, config.PatchInput) and self.image.components >= spots:
            raise ValueError(
                f"{self.image.components} components need more than {spots} training spots; "
                f"lower {type(self.image).__name__}.components."
            )

    def _fit(self, training_sections: list[AnnData]) -> None:
        self._check_sizes(training_sections)
        expression = self._expression(training_sections)
        self._fit_transforms(training_sections, expression)
        images = [self._images(section) for section in training_sections]
        spots = [torch.from_numpy(self._spots(values)) for values in expression]
        used = len(images)
        held_out = None
        if self.settings.patience is not None:
            used -= 1  # the last section judges the epochs; it still serves as a reference below
            held_out = (images[-1], spots[-1])
        pair = (torch.cat(images[:used]), torch.cat(spots[:used]))
        self._train(pair, held_out, features=images[0].shape[-1])
        self.references = [self._embed(model, torch.cat(images)) for model in self.models]
        if self.decode.against == "spots":
            parts = zip(*map(self.embed_spots, training_sections), strict=True)
            self.references = [np.concatenate(of_member) for of_member in parts]
        self.bank = self._bank(expression)

    def _train(self, pair: training.Pair, held_out: training.Pair | None, *, features: int) -> None:
        self._train_members(
            lambda: self._build(features, self._spot_width()),
            pair,
            self._objective,
            self.contrast,
            validation=held_out,
        )

    def _fit_transforms(
        self, training_sections: list[AnnData], expression: list[np.ndarray]
    ) -> None:
        moran = None
        if self.contrast.spot_side == "components" or self.decode.rank is not None:
            moran = np.mean(
                [
                    genes.morans_i(section, values)
                    for section, values in zip(training_sections, expression, strict=True)
                ],
                axis=0,
            )
        if self.contrast.spot_side == "components":
            self.targets = ExpressionComponents(self.contrast.rank).fit(expression, moran)
        if self.decode.rank is not None:
            self.smoother = ExpressionComponents(self.decode.rank).fit(expression, moran)
        self._fit_images(training_sections)

    def _spots(self, expression: np.ndarray) -> np.ndarray:
        if self.contrast.spot_side == "components":
            return self.targets.transform(expression)
        return expression

    def _bank(self, expression: list[np.ndarray]) -> np.ndarray:
        """What retrieved spots contribute, (references, genes)."""
        if self.decode.rank is None:
            return np.concatenate(expression)
        return np.concatenate(
            [self.smoother.reconstruct(self.smoother.transform(values)) for values in expression]
        )

    def _build(
        self, features: int, width: int, *, saved: bool = False
    ) -> networks.ContrastiveModel:
        """A model for `features` per image (unless it encodes patches) and `width` per spot."""
        encoder: nn.Module = nn.Identity()
        if self._encodes:
            settings = self.image.encoder
            # Weights that are loaded right after need not be fetched first.
            settings = replace(settings, weights="random") if saved else settings
            encoder = encoders.ImageEncoder(settings)
            features = encoder.features
        if self.contrast.head == "none":
            return networks.heclip_hvg(encoder, features, width)
        if self.contrast.head == "projection":
            return networks.heclip_heg(encoder, features, width, dim=self.contrast.dim)
        head = networks.ProjectionHead(features, self.contrast.dim)
        return networks.ContrastiveModel(encoder, head, nn.Linear(width, self.contrast.dim))

    def _objective(self, model: nn.Module, images: Tensor, spots: Tensor) -> Tensor:
        image, spot = map(distributed.gather, model(images, spots))
        loss = LOSSES[self.contrast.loss]
        # The softmax is sensitive to rounding: leave half precision before it.
        return loss(
            runtime.at_least_single(image),
            runtime.at_least_single(spot),
            temperature=self.contrast.temperature,
            **self.contrast.options,
        )

    # -- prediction -------------------------------------------------------------------------

    @torch.inference_mode()
    def _embed(self, model: networks.ContrastiveModel, images: Tensor) -> np.ndarray:
        device = runtime.pick_device(self.settings.device)
        model.eval().to(device)
        parts = [model.embed_images(part.to(device)).float().cpu() for part in images.split(128)]
        model.cpu()
        return torch.cat(parts).numpy()

    def embed(self, section: AnnData) -> list[np.ndarray]:
        """Image embeddings of a section's spots, one array (spots, dim) per member."""
        images = self._images(section)
        return [self._embed(model, images) for model in self.models]

    @torch.inference_mode()
    def embed_spots(self, section: AnnData, *, absent: float | None = None) -> list[np.ndarray]:
        """Embeddings of a section's expression, one array (spots, dim) per member.

        `absent` stands in for genes that the section does not list, as in
        :func:`heclip_lite.data.genes.expression`.
        """
        values = genes.expression(section, self.panel, absent=absent)
        spots = torch.from_numpy(self._spots(values))
        return [model.embed_spots(spots).numpy() for model in self.models]

    def neighbours(self, section: AnnData, k: int) -> np.ndarray:
        """Rows of the stacked training spots nearest to each spot, for the first member.

        Returns
        -------
        ndarray, int64, (spots, k)
        """
        return retrieval.retrieve(self.embed(section)[0], self.references[0], k=k)

    def predict_with_spread(self, section: AnnData) -> tuple[np.ndarray, np.ndarray]:
        """Prediction and the spread of the retrieved spots, (spots, genes) each.

        The spread is the standard deviation over the retrieved spots, averaged over members.
        """
        k = len(self.bank) if self.decode.k is None else self.decode.k
        results = [
            retrieval.impute(
                query, reference, self.bank, k=k, weights=self.decode.weights, return_spread=True
            )
            for query, reference in zip(self.embed(section), self.references, strict=True)
        ]
        prediction, spread = (np.mean(parts, axis=0) for parts in zip(*results, strict=True))
        return prediction, spread

    def _predict_images(self, images: Tensor) -> np.ndarray:
        k = len(self.bank) if self.decode.k is None else self.decode.k
        queries = (self._embed(model, images) for model in self.models)
        return np.mean(
            [
                retrieval.impute(query, reference, self.bank, k=k, weights=self.decode.weights)
                for query, reference in zip(queries, self.references, strict=True)
            ],
            axis=0,
        )

    # -- files ------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> None:
        """Write all that `predict` needs, as safetensors and JSON, to `folder`.

        Raises
        ------
        RuntimeError
            If the method was not fitted.
        """
        self._check_fitted()
        tensors = {"bank": torch.from_numpy(self.bank)}
        for i, (model, reference) in enumerate(zip(self.models, self.references, strict=True)):
            tensors[f"reference.{i}"] = torch.from_numpy(reference)
            tensors |= {f"model.{i}.{k}": v for k, v in model.state_dict().items()}
        for part in _TRANSFORMS:
            if hasattr(self, part):
                arrays = getattr(self, part).arrays()
                tensors |= {f"{part}.{k}": torch.from_numpy(v) for k, v in arrays.items()}
        folder = Path(folder)
        with store.atomic_path(folder / "heclip.safetensors") as temporary:
            save_file({k: v.contiguous().clone() for k, v in tensors.items()}, temporary)
        digest = store.file_hash(folder / "heclip.safetensors")
        store.write_json(
            folder / "heclip.json",
            {
                "image": {type(self.image).__name__: config.as_dict(self.image)},
                "contrast": config.as_dict(self.contrast),
                "decode": config.as_dict(self.decode),
                "settings": config.as_dict(self.settings),
                "members": self.members,
                "setting": self.setting,
                "panel": self.panel.to_dict(),
                "history": self.history,
                "package_hash": store.package_hash(),
                "sha256": digest,
            },
        )

    @classmethod
    def load(cls, folder: str | Path, *, panel: genes.GenePanel | None = None) -> Self:
        """Read what :meth:`save` wrote.

        Parameters
        ----------
        folder
            Where it was saved.
        panel
            The panel it must have been trained on, if that matters to the caller.

        Raises
        ------
        FileNotFoundError
            If there is no saved model.
        ValueError
            If the files are damaged, do not belong together, or the panel is another one.
        """
        folder = Path(folder)
        try:
            record = json.loads((folder / "heclip.json").read_text(encoding="utf-8"))
            if store.file_hash(folder / "heclip.safetensors") != record["sha256"]:
                raise ValueError("heclip.safetensors is not the file heclip.json was written for")
            tensors = load_file(folder / "heclip.safetensors")
            saved = genes.GenePanel.from_dict(record["panel"])
            made = cls._from_record(record)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"There is no saved model in {folder} ({error.filename} is missing); "
                "train one and call save."
            ) from error
        except (ValueError, KeyError, TypeError, SafetensorError) as error:
            raise ValueError(
                f"The saved model in {folder} is damaged ({error}); train and save it again."
            ) from error
        if panel is not None and saved.genes != panel.genes:
            shared = len(set(saved.genes) & set(panel.genes))
            raise ValueError(
                f"The model in {folder} was trained on another gene panel: {len(saved.genes)} "
                f"genes, of which {shared} are among the {len(panel.genes)} wanted. "
                "Train on this panel, or predict with the saved one."
            )
        made.panel, made.setting, made.history = saved, record["setting"], record["history"]
        made.bank = tensors["bank"].numpy()
        made.references = [tensors[f"reference.{i}"].numpy() for i in range(made.members)]
        for part, kind in _TRANSFORMS.items():
            arrays = {k: v.numpy() for k, v in training.under(tensors, f"{part}.").items()}
            if arrays:
                setattr(made, part, kind.from_arrays(arrays))
        made.models = []
        for i in range(made.members):
            state = training.under(tensors, f"model.{i}.")
            features = state["image_head.projection.weight"].shape[1]
            model = made._build(features, made._spot_width(), saved=True)
            model.load_state_dict(state)
            made.models.append(model.eval())
        made._fitted = True
        return made

    @classmethod
    def _from_record(cls, record: dict[str, Any]) -> Self:
        """An unfitted method with the settings that `save` wrote."""
        ((kind, image),) = record["image"].items()
        made = cls.__new__(cls)
        HECLIP.__init__(
            made,
            config.from_dict(config.INPUTS[kind], image),
            config.from_dict(config.Contrast, record["contrast"]),
            config.from_dict(config.Decode, record["decode"]),
            config.from_dict(config.Training, record["settings"]),
            members=record["members"],
        )
        return made

    def _spot_width(self) -> int:
        if self.contrast.spot_side == "components":
            return self.contrast.rank
        return len(self.genes)


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
