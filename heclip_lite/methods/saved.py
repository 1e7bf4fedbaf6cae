"""Fitted methods on disk: one folder, one description in JSON, all arrays as safetensors.

A folder is complete once ``model.json`` is there, for that is written last.
Nothing is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from heclip_lite import config, store
from heclip_lite.data import genes
from heclip_lite.methods.base import Method
from heclip_lite.methods.baselines import KernelRidge, Mean, MeanColour, NearestNeighbours, Ridge
from heclip_lite.methods.heclip import HECLIP
from heclip_lite.methods.histosge import HisToSGE
from heclip_lite.methods.regression import Head, Regression
from heclip_lite.methods.trained import Trained
from heclip_lite.methods.transforms import ExpressionComponents, KernelComponents, MeanKernel
from heclip_lite.training import under

RECORD, TENSORS = "model.json", "model.safetensors"
FORMAT = 1  # raise it when older folders can no longer be read
Arrays = dict[str, np.ndarray]
_HECLIP_KEY = ("image", "contrast", "decode", "members", "sha256")  # of heclip.json
_TRANSFORMS = {"kernel": KernelComponents, "targets": ExpressionComponents}


@dataclass
class Saved:
    """A method read from a folder.

    Attributes
    ----------
    method
        Fitted; its ``panel`` is the one it was trained on.
    record
        What ``model.json`` says, with ``about`` as it was given to :func:`save`.
    """

    method: Method
    record: dict[str, Any]

    @property
    def about(self) -> dict[str, Any]:
        """What whoever saved the model noted: sections, settings, provenance."""
        return self.record["about"]


def can_save(method: Method) -> bool:
    """Whether :func:`save` knows how to write this method."""
    return _kind_of(method) is not None


def save(method: Method, folder: str | Path, *, about: Mapping[str, Any] | None = None) -> None:
    """Write all that `predict` needs.

    Parameters
    ----------
    method
        A fitted method of one of the classes that :func:`can_save` knows.
    folder
        Where to; made if need be. What it held of another model is replaced.
    about
        JSON-ready values to keep beside it: training sections, settings, provenance.

    Raises
    ------
    RuntimeError
        If the method was not fitted.
    ValueError
        If there is no way to save a method of this class.
    """
    from safetensors.numpy import save_file

    method._check_fitted()
    kind = _kind_of(method)
    if kind is None:
        raise ValueError(
            f"A fitted {type(method).__name__} cannot be saved. "
            f"These can: HECLIP, {', '.join(_KINDS)}; fit and predict this one in one run instead."
        )
    folder = Path(folder)
    (folder / RECORD).unlink(missing_ok=True)  # from here on the folder is not complete
    settings: dict[str, Any] = {}
    if isinstance(method, HECLIP):
        method.save(folder)
        files = ["heclip.json", "heclip.safetensors"]
    else:
        settings, arrays = _KINDS[kind].pack(method)
        with store.atomic_path(folder / TENSORS) as temporary:
            save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, temporary)
        files = [TENSORS]
    store.write_json(
        folder / RECORD,
        {
            "format": FORMAT,
            "kind": kind,
            "setting": method.setting,
            "panel": method.panel.to_dict(),
            "settings": settings,
            "encoder_sha256": _encoder_digest(method),
            "files": {name: store.file_hash(folder / name) for name in files},
            "about": dict(about or {}),
        },
    )


def load(folder: str | Path, *, device: str = "auto") -> Saved:
    """Read what :func:`save` wrote.

    Parameters
    ----------
    folder
        Where it was saved.
    device
        Where the method shall run from now on.

    Raises
    ------
    FileNotFoundError
        If there is no saved model, or its training never came to an end.
    ValueError
        If a file is damaged or does not belong to the others, or the frozen encoder here is not
        the one that the model was trained with.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    folder = Path(folder)
    record = read_record(folder)
    try:
        for name, digest in record["files"].items():
            if store.file_hash(folder / Path(name).name) != digest:
                raise ValueError(f"{name} is not the file that {RECORD} was written for")
        if record["kind"] == "HECLIP":
            method: Method = HECLIP.load(folder)
        else:
            panel = genes.GenePanel.from_dict(record["panel"])
            arrays = load_file(folder / TENSORS)
            method = _KINDS[record["kind"]].unpack(record["settings"], arrays, panel)
            method.panel, method._fitted = panel, True
        method.setting = record["setting"]
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"The saved model in {folder} lacks {Path(error.filename).name}; train it again."
        ) from error
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RuntimeError,
        SafetensorError,
    ) as error:
        raise ValueError(
            f"The saved model in {folder} is damaged ({error}); train and save it again."
        ) from error
    _set_device(method, device)
    if record["encoder_sha256"] != _encoder_digest(method):
        raise ValueError(
            f"The model in {folder} was trained with other weights of its image encoder than "
            "this machine gives it: another file, or another version of timm or torch. "
            "Restore these, or train again."
        )
    return Saved(method, record)


def read_record(folder: str | Path) -> dict[str, Any]:
    """What ``model.json`` says, without loading the model.

    Raises
    ------
    FileNotFoundError
        If there is no saved model.
    ValueError
        If the file is damaged, or of a format that this version does not know.
    """
    folder = Path(folder)
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        wanted = {"format", "kind", "setting", "panel", "settings", "files", "about"}
        if not isinstance(record, dict) or wanted - set(record):
            raise ValueError("entries are missing")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"There is no saved model in {folder} ({RECORD} is missing). Train one: "
            "heclip-lite train. If a training was interrupted, run the same command again."
        ) from error
    except ValueError as error:
        raise ValueError(
            f"The saved model in {folder} is damaged ({RECORD}: {error}); train it again."
        ) from error
    if record["format"] != FORMAT or record["kind"] not in ("HECLIP", *_KINDS):
        raise ValueError(
            f"The model in {folder} has format {record['format']}, kind {record['kind']!r}, which "
            "this version of heclip-lite does not know. Use the version that wrote it."
        )
    return record


def parameters_key(method: Method) -> str | None:
    """Key of all that a fitted method has learnt, on whatever device; None if it cannot be saved.

    The same method, saved and loaded, has the same key.
    """
    kind = _kind_of(method)
    if kind is None:
        return None
    if isinstance(method, HECLIP):
        with TemporaryDirectory() as folder:
            method.save(folder)
            settings = json.loads((Path(folder) / "heclip.json").read_text(encoding="utf-8"))
        return store.content_key(kind, [settings[key] for key in _HECLIP_KEY])
    settings, arrays = _KINDS[kind].pack(method)
    settings = {k: v for k, v in settings.items() if k not in ("training", "history")}
    names = sorted(arrays)
    return store.content_key(kind, settings, names, *[np.asarray(arrays[n]) for n in names])


# -- what every kind of method shares ---------------------------------------------------------


def _kind_of(method: Method) -> str | None:
    if isinstance(method, HECLIP):  # BLEEP and CLIP differ in settings only
        return "HECLIP"
    name = type(method).__name__
    return name if name in _KINDS and type(method).__module__.startswith("heclip_lite.") else None


def _encoder_digest(method: Method) -> str | None:
    """Key of the frozen encoder's parameters; None where none is needed or all are saved."""
    image = getattr(method, "image", None)
    encoder = getattr(image, "encoder", None)
    if encoder is None or getattr(image, "trainable", False):
        return None
    from heclip_lite.features.encoders import ImageEncoder

    state = ImageEncoder(encoder).state_dict()
    return store.content_key(sorted(state), *[state[name].numpy() for name in sorted(state)])


def _set_device(method: Method, device: str) -> None:
    if isinstance(method, Trained):
        method.settings = replace(method.settings, device=device)
    elif hasattr(method, "device"):
        method.device = device


def _image(value: config.Input) -> dict[str, Any]:
    return {type(value).__name__: config.as_dict(value)}


def _image_from(record: Mapping[str, Any]) -> config.Input:
    ((kind, values),) = record.items()
    return config.from_dict(config.INPUTS[kind], values)


# -- networks ---------------------------------------------------------------------------------


def _pack_trained(method: Trained) -> tuple[dict[str, Any], Arrays]:
    arrays: Arrays = {}
    for part in _TRANSFORMS:
        if hasattr(method, part):
            arrays |= {f"{part}.{k}": v for k, v in getattr(method, part).arrays().items()}
    for number, model in enumerate(method.models):
        arrays |= {f"model.{number}.{k}": v.numpy() for k, v in model.state_dict().items()}
    settings = {
        "image": _image(method.image),
        "training": config.as_dict(method.settings),
        "members": method.members,
        "history": method.history,
    }
    return settings, arrays


def _unpack_trained(
    made: Trained, settings: Mapping[str, Any], arrays: Arrays, build: Callable[[Arrays], Any]
) -> Trained:
    import torch

    made.history = settings["history"]
    for part, kind in _TRANSFORMS.items():
        if found := under(arrays, f"{part}."):
            setattr(made, part, kind.from_arrays(found))
    made.models = []
    for number in range(made.members):
        state = under(arrays, f"model.{number}.")
        model = build(state)
        model.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in state.items()})
        made.models.append(model.eval())
    return made


def _pack_histosge(method: HisToSGE) -> tuple[dict[str, Any], Arrays]:
    settings, arrays = _pack_trained(method)
    return settings | {"attention": config.as_dict(method.attention)}, arrays


def _unpack_histosge(
    settings: Mapping[str, Any], arrays: Arrays, panel: genes.GenePanel
) -> HisToSGE:
    made = HisToSGE(
        _image_from(settings["image"]),
        config.from_dict(config.Attention, settings["attention"]),
        config.from_dict(config.Training, settings["training"]),
        members=settings["members"],
    )
    return _unpack_trained(
        made,
        settings,
        arrays,
        lambda state: made._build(state["head.0.weight"].shape[1], len(state["head.3.bias"])),
    )


def _pack_regression(method: Regression) -> tuple[dict[str, Any], Arrays]:
    settings, arrays = _pack_trained(method)
    return settings | {"likelihood": method.likelihood, "hidden": method.hidden}, arrays


def _unpack_regression(
    settings: Mapping[str, Any], arrays: Arrays, panel: genes.GenePanel
) -> Regression:
    from torch import nn

    image = _image_from(settings["image"])
    made = Regression(
        image,
        config.from_dict(config.Training, settings["training"]),
        likelihood=settings["likelihood"],
        hidden=settings["hidden"],
        members=settings["members"],
    )

    def build(state: Arrays) -> nn.Sequential:
        encoder: nn.Module = nn.Identity()
        if made._encodes:  # its weights are in the file, so none need to be fetched
            from heclip_lite.features.encoders import ImageEncoder

            encoder = ImageEncoder(replace(image.encoder, weights="random"))
        first = state.get("1.body.0.weight", state["1.last.weight"])
        start = np.zeros(len(state["1.last.bias"]))
        return nn.Sequential(encoder, Head(first.shape[1], len(start), start, made.hidden))

    return _unpack_trained(made, settings, arrays, build)


# -- ridge regression and its kin -------------------------------------------------------------


class _Dual:
    """What is left of scikit-learn's kernel ridge after fitting: one matrix."""

    def __init__(self, dual: np.ndarray) -> None:
        self.dual_coef_ = dual

    def predict(self, kernel: np.ndarray) -> np.ndarray:
        """Kernel (points, training spots) to (points, outputs)."""
        return kernel @ self.dual_coef_


def _pack_scaler(scaler: Any) -> Arrays:
    return {"scaler.mean": scaler.mean_, "scaler.scale": scaler.scale_}


def _unpack_scaler(arrays: Arrays) -> Any:
    from sklearn.preprocessing import StandardScaler

    made = StandardScaler()
    made.mean_, made.scale_ = arrays["scaler.mean"], arrays["scaler.scale"]
    made.var_, made.n_features_in_ = made.scale_**2, len(made.mean_)
    return made


def _pack_linear(method: Ridge | MeanColour) -> tuple[dict[str, Any], Arrays]:
    settings: dict[str, Any] = {"alphas": list(method.alphas), "alpha": float(method.alpha)}
    if isinstance(method, Ridge):
        settings |= {"image": _image(method.image), "by": method.by}
    learnt = {"known": method.known, "dual": method.model.dual_coef_, "mean": method.mean}
    return settings, _pack_scaler(method.scaler) | learnt


def _unpack_linear(made: Any, settings: Mapping[str, Any], arrays: Arrays) -> Any:
    made.alpha, made.known, made.mean = settings["alpha"], arrays["known"], arrays["mean"]
    made.scaler, made.model = _unpack_scaler(arrays), _Dual(arrays["dual"])
    return made


def _unpack_ridge(settings: Mapping[str, Any], arrays: Arrays, panel: genes.GenePanel) -> Ridge:
    made = Ridge(_image_from(settings["image"]), alphas=settings["alphas"], by=settings["by"])
    return _unpack_linear(made, settings, arrays)


def _unpack_colour(
    settings: Mapping[str, Any], arrays: Arrays, panel: genes.GenePanel
) -> MeanColour:
    return _unpack_linear(MeanColour(settings["alphas"]), settings, arrays)


def _pack_kernel_ridge(method: KernelRidge) -> tuple[dict[str, Any], Arrays]:
    settings = {"image": _image(method.image), "rank": method.rank, "alpha": float(method.alpha)}
    arrays = {"dual": method.model.dual_coef_}
    for part in ("kernel", "components"):
        arrays |= {f"{part}.{k}": v for k, v in getattr(method, part).arrays().items()}
    return settings, arrays


def _unpack_kernel_ridge(
    settings: Mapping[str, Any], arrays: Arrays, panel: genes.GenePanel
) -> KernelRidge:
    made = KernelRidge(_image_from(settings["image"]), rank=settings["rank"])
    made.alpha, made.model = settings["alpha"], _Dual(arrays["dual"])
    made.kernel = MeanKernel.from_arrays(under(arrays, "kernel."))
    made.components = ExpressionComponents.from_arrays(under(arrays, "components."))
    return made


def _pack_neighbours(method: NearestNeighbours) -> tuple[dict[str, Any], Arrays]:
    settings = {"image": _image(method.image), "ks": list(method.ks), "k": method.k}
    learnt = {"known": method.known, "targets": method.targets}
    return settings, _pack_scaler(method.scaler) | learnt


def _unpack_neighbours(
    settings: Mapping[str, Any], arrays: Arrays, panel: genes.GenePanel
) -> NearestNeighbours:
    made = NearestNeighbours(_image_from(settings["image"]), ks=settings["ks"])
    made.k, made.known, made.targets = settings["k"], arrays["known"], arrays["targets"]
    made.scaler = _unpack_scaler(arrays)
    return made


def _unpack_mean(settings: Mapping[str, Any], arrays: Arrays, panel: genes.GenePanel) -> Mean:
    made = Mean()
    made.mean = arrays["mean"]
    return made


@dataclass(frozen=True)
class _Kind:
    pack: Callable[[Any], tuple[dict[str, Any], Arrays]]
    unpack: Callable[[Mapping[str, Any], Arrays, genes.GenePanel], Method]


_KINDS = {
    "HisToSGE": _Kind(_pack_histosge, _unpack_histosge),
    "Regression": _Kind(_pack_regression, _unpack_regression),
    "Ridge": _Kind(_pack_linear, _unpack_ridge),
    "KernelRidge": _Kind(_pack_kernel_ridge, _unpack_kernel_ridge),
    "NearestNeighbours": _Kind(_pack_neighbours, _unpack_neighbours),
    "MeanColour": _Kind(_pack_linear, _unpack_colour),
    "Mean": _Kind(lambda method: ({}, {"mean": method.mean}), _unpack_mean),
}
