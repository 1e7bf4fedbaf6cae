"""What the notebooks share: their slides, their sizes, a workspace and the record of a run."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
from anndata import AnnData

from heclip_lite import config, evaluation, runtime, store
from heclip_lite.data import export, her2st, sections
from heclip_lite.methods import histosge, recipes
from heclip_lite.methods.heclip import HECLIP

# Folders of the package whose code decides the tissue and the models that chapters share.
_TISSUE = ("core", "data", "data/synthetic")
_MODELS = ("core", "data", "features", "methods")


@dataclass(frozen=True)
class Profile:
    """How much a chapter computes.

    Attributes
    ----------
    um_per_px
        Scales of the feature maps.
    members
        Networks that are averaged.
    reference_epochs, reference_size
        Epochs and patch size, pixels, of HECLIP's reference recipe.
    dense_reference_epochs
        Epochs of HisToSGE's.
    """

    um_per_px: tuple[float, ...]
    members: int
    reference_epochs: int
    reference_size: int
    dense_reference_epochs: int


PROFILES = {
    "fast": Profile(
        um_per_px=(2.74, 1.37),
        members=3,
        reference_epochs=4,
        reference_size=64,
        dense_reference_epochs=100,
    ),
    "full": Profile(
        um_per_px=(2.74, 1.37, 0.69),
        members=5,
        reference_epochs=15,
        reference_size=256,
        dense_reference_epochs=1000,
    ),
}


@dataclass(frozen=True)
class Dataset:
    """Which sections are trained on, which are held out, and where they come from."""

    training: tuple[str, ...]
    test: tuple[str, ...]
    read: Callable[[int], list[AnnData]]
    about: str


def _synthetic(seed: int) -> list[AnnData]:
    """The embedded tissue, drawn once and then kept in the cache folder."""
    import anndata

    from heclip_lite.data.synthetic.tissue import synthetic_sections

    folder = store.cache_dir() / "synthetic" / f"{store.code_key(*_TISSUE)[:16]}-{seed}"
    names = [*DATASETS["synthetic"].training, *DATASETS["synthetic"].test]
    files, seal = [folder / f"{name}.h5ad" for name in names], folder / "sha256.json"

    def kept() -> list[AnnData]:
        return [anndata.read_h5ad(file) for file in files]

    if seal.exists():
        try:
            whole = json.loads(seal.read_text(encoding="utf-8"))
            if whole == {file.name: store.file_hash(file) for file in files}:
                return kept()
        except (ValueError, OSError):
            pass
        _say(f"The synthetic tissue in {folder} is damaged; it is drawn again.")
    for section in synthetic_sections(seed=seed):
        export.save_h5ad(section, folder / f"{sections.name_of(section)}.h5ad")
    store.write_json(seal, {file.name: store.file_hash(file) for file in files})
    return kept()


def _her2st(seed: int) -> list[AnnData]:
    return her2st.read_her2st([*DATASETS["her2st"].training, *DATASETS["her2st"].test])


DATASETS = {
    "synthetic": Dataset(
        training=("P1-1", "P1-2", "P2-1"),
        test=("P2-2", "P3-1"),
        read=_synthetic,
        about="a synthetic tissue drawn by this package, whose truth is known",
    ),
    "her2st": Dataset(
        training=("C2", "C3", "C4", "C5"),
        test=("C6", "B4"),
        read=_her2st,
        about="HER2-positive breast tumours (Andersson et al., 2021)",
    ),
}


@dataclass
class Chapter:
    """One run of one notebook.

    Attributes
    ----------
    training, test
        Sections to learn from, and held-out sections.
        The first test section is a serial section of a training donor, the second comes from a
        donor that was never trained on.
    maps, patches
        The image inputs of this profile.
    """

    name: str
    data: str
    profile: str
    seed: int
    workspace: Path
    results: Path
    training: list[AnnData]
    test: list[AnnData]
    maps: config.MapInput
    patches: config.PatchInput
    started: float = field(default_factory=time.perf_counter)
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def about(self) -> str:
        """What the slides are, in one line."""
        return DATASETS[self.data].about

    @property
    def split(self) -> list[evaluation.Fold]:
        """Train on the training sections, test on each held-out section."""
        return [evaluation.Fold(DATASETS[self.data].training, DATASETS[self.data].test)]

    def heclip_recommended(self) -> HECLIP:
        """Our recipe in the size of this profile, unfitted."""
        size = self.size
        return HECLIP.recommended(size.maps, size.heads, members=size.members)

    def heclip_reference(self) -> HECLIP:
        """HECLIP's released ``hvg`` recipe in the size of this profile, unfitted."""
        settings = config.Training(epochs=self._size.reference_epochs, seed=self.seed)
        return HECLIP.reference_hvg(self.patches, settings)

    @property
    def size(self) -> recipes.Size:
        """What the recipes of this profile share."""
        heads = config.Training(epochs=30, seed=self.seed)
        released = replace(
            histosge.PUBLISHED_TRAINING, epochs=self._size.dense_reference_epochs, seed=self.seed
        )
        return recipes.Size(
            maps=self.maps,
            patches=self.patches,
            heads=heads,
            dense=heads,
            dense_reference=released,
            members=self._size.members,
        )

    @property
    def _size(self) -> Profile:
        return PROFILES[self.profile]

    def trained(self, name: str, method: HECLIP) -> HECLIP:
        """`method`, fitted on the training sections: from the workspace if it is there already.

        What an earlier notebook trained is used again only if nothing that could change it did,
        this package included. What is damaged is trained anew, with a word.
        Of two processes that ask for the same model, one trains it and the other waits for it.
        """
        key = store.content_key(
            [self.data, self.seed, store.code_key(*_MODELS), method.members],
            *[config.as_dict(c) for c in (method.image, method.contrast, method.decode)],
            config.as_dict(method.settings),
        )
        folder = self.workspace / "models" / f"{name}-{key[:12]}"
        with store.alone_in(folder):
            return self._found(folder) or self._made(folder, method)

    def _found(self, folder: Path) -> HECLIP | None:
        """The model that was saved in a folder, if there is one and it is whole."""
        if not (folder / "heclip.json").exists():
            return None
        try:
            return HECLIP.load(folder)
        except (ValueError, OSError):
            _say(f"The model in {folder} is damaged; it is trained again.")
            (folder / "heclip.json").unlink()
            return None

    def _made(self, folder: Path, method: HECLIP) -> HECLIP:
        """`method`, fitted from where it was stopped, and saved in the folder."""
        method.checkpoint = folder / "training"
        try:
            method.fit(self.training)
        except ValueError as error:
            if not method.checkpoint.exists() or "checkpoint" not in str(error):
                raise
            _say(f"The unfinished training in {folder} is damaged; it starts again.")
            shutil.rmtree(method.checkpoint)
            method.fit(self.training)
        method.save(folder)
        shutil.rmtree(method.checkpoint, ignore_errors=True)
        return method

    def keep(self, **values: Any) -> None:
        """Note results of this run, JSON-ready, for the record."""
        self.values |= values

    def finish(self) -> Path:
        """Write the record of this run: data, sections, time, versions, device and results."""
        path = self.results / f"{self.name}.json"
        store.write_json(
            path,
            {
                "chapter": self.name,
                "data": self.data,
                "profile": self.profile,
                "seed": self.seed,
                "sections": {sections.name_of(s): s.n_obs for s in self.training + self.test},
                "training": [sections.name_of(s) for s in self.training],
                "test": [sections.name_of(s) for s in self.test],
                "encoder": config.as_dict(self.maps.encoder),
                "seconds": round(time.perf_counter() - self.started, 3),
                "results": self.values,
                **store.provenance(runtime.pick_device()),
            },
        )
        return path


def start(
    name: str,
    *,
    data: str = "synthetic",
    profile: str = "fast",
    seed: int = 0,
    encoder: str = "resnet10t",
    weights: str = "random",
    workspace: str | Path = "../_build/workspace",
    results: str | Path = "../_build/results",
) -> Chapter:
    """Open the workspace and read the sections of a notebook.

    Parameters
    ----------
    name
        The notebook, such as ``"02_contrastive_training"``.
    data
        ``"synthetic"`` or ``"her2st"``.
    profile
        ``"fast"`` (a minute on two cores) or ``"full"`` (a GPU).
    seed
        Of the synthetic tissue and of all training.
    encoder, weights
        timm's name, and ``"random"``, ``"pretrained"`` or a file.
    workspace
        Folder in which later notebooks find what earlier ones trained.
    results
        Folder for the record of the run.

    Raises
    ------
    ValueError
        If a name is unknown, the workspace belongs to another dataset, or one of the two folders
        cannot be written to.
    """
    for what, value, known in (("DATA", data, DATASETS), ("PROFILE", profile, PROFILES)):
        if value not in known:
            raise ValueError(f"{what} is {value!r}; choose one of {', '.join(known)}.")
    started = time.perf_counter()
    workspace, results = Path(workspace).resolve(), Path(results).resolve()
    _claim(workspace, data)
    _writable("RESULTS", results)
    chosen, size = DATASETS[data], PROFILES[profile]
    network = config.Encoder(encoder, weights)
    read = {sections.name_of(section): section for section in chosen.read(seed)}
    return Chapter(
        name=name,
        data=data,
        profile=profile,
        seed=seed,
        workspace=workspace,
        results=results,
        training=[read[n] for n in chosen.training],
        test=[read[n] for n in chosen.test],
        maps=config.MapInput(network, um_per_px=size.um_per_px),
        patches=config.PatchInput(
            config.Encoder(encoder, weights, colour="bgr", scaling="none"), size=size.reference_size
        ),
        started=started,
    )


def published(name: str, folder: str | Path = "../book/results") -> tuple[pd.DataFrame, dict]:
    """A committed table of measured results, and the record of how it was made.

    Parameters
    ----------
    name
        File name without ending, such as ``"contest_her2st"``.
    folder
        Where the tables lie.

    Raises
    ------
    FileNotFoundError
        If there is no such table.
    """
    path = Path(folder) / f"{name}.csv"
    if not path.exists():
        raise FileNotFoundError(
            f"There is no {path.resolve()}. The tables are part of the repository, under "
            "book/results: run the notebook there, or set PUBLISHED to a copy of that folder."
        )
    record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    return pd.read_csv(path), record


def _claim(workspace: Path, data: str) -> None:
    """Make the workspace ours, or say whose it is."""
    _writable("WORKSPACE", workspace)
    label = workspace / "workspace.json"
    if not label.exists():
        store.write_json(label, {"data": data})
        return
    try:
        owner = json.loads(label.read_text(encoding="utf-8"))["data"]
    except (ValueError, KeyError, TypeError) as error:  # not JSON, or not what we wrote
        raise ValueError(f"{label} is damaged; delete the folder {workspace}.") from error
    if owner != data:
        raise ValueError(
            f"The workspace {workspace} belongs to {owner}, but DATA is {data}. "
            "Set WORKSPACE to another folder, or delete this one."
        )


def _writable(parameter: str, folder: Path) -> None:
    """Make a folder and write to it, so that a long chapter does not fail at its end."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
            f"{parameter} is {folder}, which cannot be written to ({error.strerror}). "
            f"Set {parameter} to another folder."
        ) from error


def _say(text: str) -> None:
    warnings.warn(text, stacklevel=4)
