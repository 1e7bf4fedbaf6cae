"""The public files that this package knows, by data set: where they are, and whether whole."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from heclip_lite import store
from heclip_lite.data import dlpfc, download, her2st

CORAL = (
    "https://raw.githubusercontent.com/google-coral/test_data/"
    "104342d2d3480b3e66203073dac24f4e2dbb4c41/",
    "mobilenet_v2_1.0_224_quant.tflite",
    "7aad0c74c5e3c06e5eb3c827e13304fdd68a83da6087d92ee169c24ff9fd4776",
)


@dataclass(frozen=True)
class File:
    """One public file.

    Attributes
    ----------
    dataset
        Folder below the data folder.
    name
        Path within it, and below `address`.
    address
        Public address of the data set's root.
    sha256
        Of the whole file.
    """

    dataset: str
    name: str
    address: str
    sha256: str

    @property
    def path(self) -> Path:
        """Where it lies, or would."""
        return store.data_dir() / self.dataset / self.name

    def about(self) -> dict[str, str]:
        """What it is, in plain values."""
        return {
            "dataset": self.dataset,
            "file": self.name,
            "address": self.address + self.name,
            "sha256": self.sha256,
            "path": str(self.path),
        }


def folder() -> Path:
    """Folder of all data sets."""
    return store.data_dir()


def _known() -> dict[str, list[File]]:
    own = Path(__file__).parent
    brain = json.loads((own / "dlpfc_registry.json").read_text(encoding="utf-8"))
    found = {"her2st": []}
    registry = json.loads((own / "her2st_registry.json").read_text(encoding="utf-8"))
    for section in her2st.HER2ST:
        files = [
            File("her2st", name, her2st.HER2ST_ADDRESS, registry[name])
            for name in her2st.files_of(section).values()
        ]
        found[f"her2st:{section}"] = files
        found["her2st"] += files
    counts = File("DR.SC", dlpfc.COUNTS, dlpfc.COUNTS_ADDRESS, brain[dlpfc.COUNTS])
    slide = [File("HumanPilot", n, dlpfc.SLIDE_ADDRESS, brain[n]) for n in dlpfc.SLIDE]
    found["dlpfc"] = [counts, *slide]
    address, name, digest = CORAL
    found["coral"] = [File("coral-test_data", name, address, digest)]
    return found


def files(names: Sequence[str] | None = None) -> list[File]:
    """Files of data sets, each once.

    Parameters
    ----------
    names
        ``"her2st"``, one of its sections such as ``"her2st:C6"``, ``"dlpfc"`` or ``"coral"``
        (a backbone); all by default.

    Raises
    ------
    ValueError
        If a name is unknown.
    """
    known = _known()
    names = ["her2st", "dlpfc", "coral"] if names is None else list(names)
    for name in names:
        if name not in known:
            raise ValueError(f"There is no data set {name!r}; there are {', '.join(known)}.")
    return list(dict.fromkeys(file for name in names for file in known[name]))


def fetch(wanted: Sequence[File]) -> None:
    """Download what is missing; see :func:`heclip_lite.data.download.fetch`.

    Raises
    ------
    ValueError
        If a file that is there is another one.
    FileNotFoundError
        If a file cannot be fetched.
    """
    for dataset, address in dict.fromkeys((file.dataset, file.address) for file in wanted):
        registry = {f.name: f.sha256 for f in wanted if f.dataset == dataset}
        download.fetch(dataset, list(registry), address=address, registry=registry)


def state(file: File) -> str:
    """``"here"`` or ``"missing"``, without looking inside."""
    return "here" if file.path.is_file() else "missing"


def verified(file: File) -> str:
    """``"whole"``, ``"damaged"`` or ``"missing"``, from the SHA-256 of the file."""
    if not file.path.is_file():
        return "missing"
    return "whole" if store.file_hash(file.path) == file.sha256 else "damaged"
