"""HER2-positive breast tumours: eight sections of three donors, the book's worked example."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData

from heclip_lite.data.contract import check_unique
from heclip_lite.data.download import fetch
from heclip_lite.data.sections import make_section

HER2ST_ADDRESS = (
    "https://raw.githubusercontent.com/almaan/her2st/85df7411b987a7dec3feff9718b869a7a82091ec/"
)
# Image, micrometres per pixel, colour of empty slide (median along the image's edge).
# A1 and A2 are published only as small copies, cut out on black.
# The scale comes from the image's frame, which is 32 pitches of 200 um wide.
# Fitting the array to the spots gives 0.686 to 0.689 and 3.18 to 3.20 instead:
# within 0.7 %, one pixel in a patch of 150, and scattered between slides of one scanner.
# One value per scanner keeps patches of serial sections comparable.
HER2ST = {
    "A1": ("app/www/imgs/A1_HE_image_dark.png", 3.19, (0, 0, 0)),
    "A2": ("app/www/imgs/A2_HE_image_dark.png", 3.19, (0, 0, 0)),
    "B4": ("data/ST-imgs/B/B4/BT10737_D2_HE.jpg", 0.69, (219, 208, 224)),
    "C2": ("data/ST-imgs/C/C2/5714_HE_BT_C2.jpg", 0.69, (241, 239, 238)),
    "C3": ("data/ST-imgs/C/C3/5714_HE_BT_D1.jpg", 0.69, (234, 219, 233)),
    "C4": ("data/ST-imgs/C/C4/5714_HE_BT_D2.jpg", 0.69, (229, 213, 227)),
    "C5": ("data/ST-imgs/C/C5/5714_HE_BT_E1.jpg", 0.69, (233, 217, 230)),
    "C6": ("data/ST-imgs/C/C6/5714_HE_BT_E2.jpg", 0.69, (245, 241, 239)),
}
_A1_LABELS = "data/ST-pat/lbl/A1_labeled_coordinates.tsv"
_A2_WARP = "res/ST-cluster/lbl/A2-cluster-annotation.tsv.gz"
# Where A1's small copy shows an annotated thumbnail; A2's copy was made in the same frame.
_THUMBNAIL = (1495, 0, 2000, 535)
# Width and height of the image that the spot positions were measured in -> of the small copy.
_A_FRAMES = {"A1": ((6954, 7435), (2000, 2138)), "A2": ((6966, 7441), (2000, 2136))}


def read_her2st(names: Sequence[str] | None = None) -> list[AnnData]:
    """Sections of HER2-positive breast tumours with their H&E slides (her2st).

    Legacy Spatial Transcriptomics: spots of 100 micrometres at a pitch of 200.
    Three donors: A (A1, A2), B (B4) and C (C2 to C6, serial sections).
    A1 carries a pathologist's labels in ``obs["domain"]``; "undetermined" is left missing.
    Files are fetched once from the authors' repository; cite
    Andersson et al., Nature Communications 12, 6012 (2021), doi:10.1038/s41467-021-26271-2.

    Parameters
    ----------
    names
        Sections to read, in this order; all eight where none are named.

    Raises
    ------
    ValueError
        If a name is unknown, or a file is damaged.
    FileNotFoundError
        If a file is not there and cannot be fetched. Nothing else is read in its place.
    """
    names = list(HER2ST) if names is None else [names] if isinstance(names, str) else list(names)
    unknown = [name for name in names if name not in HER2ST]
    if unknown or not names:
        raise ValueError(
            f"her2st has no section {unknown[0] if unknown else '(empty list)'!r}. "
            f"Its sections are {', '.join(HER2ST)}."
        )
    check_unique(pd.Index(names), "read_her2st", "section", "Name each section once.")
    files = {name: files_of(name) for name in names}
    wanted = list(dict.fromkeys(path for paths in files.values() for path in paths.values()))
    local = fetch("her2st", wanted, address=HER2ST_ADDRESS, registry=registry())
    found = dict(zip(wanted, local, strict=True))
    return [
        _read_one(name, {part: found[path] for part, path in files[name].items()}) for name in names
    ]


@lru_cache(maxsize=1)
def registry() -> dict[str, str]:
    """SHA-256 of every file."""
    return json.loads(Path(__file__).with_name("her2st_registry.json").read_text())


def files_of(name: str) -> dict[str, str]:
    """What a section is read from: counts, spots, image, and what else it has."""
    files = {
        "counts": f"data/ST-cnts/{name}.tsv.gz",
        "spots": f"data/ST-spotfiles/{name}_selection.tsv",
        "image": HER2ST[name][0],
    }
    return files | {"A1": {"labels": _A1_LABELS}, "A2": {"warp": _A2_WARP}}.get(name, {})


def _read_one(name: str, files: dict[str, Path]) -> AnnData:
    counts = pd.read_csv(files["counts"], sep="\t", index_col=0, engine="c")
    spots = pd.read_csv(files["spots"], sep="\t")
    spots.index = _array_names(spots)
    spots = spots.loc[counts.index.intersection(spots.index)]  # spot files list a few more
    counts = counts.loc[spots.index]

    points = spots[["pixel_x", "pixel_y"]].to_numpy(dtype=np.float64)
    if name == "A2":
        points = _warp_a2(points, files["warp"])
    if name in _A_FRAMES:
        measured, shown = np.array(_A_FRAMES[name], dtype=np.float64)
        points = points * shown / measured

    obs = pd.DataFrame({"array_row": spots["y"], "array_col": spots["x"]})
    if name == "A1":
        labels = pd.read_csv(files["labels"], sep="\t")
        labels.index = _array_names(labels)  # rounded; its pixel columns belong to another frame
        known = labels["label"].where(labels["label"] != "undetermined")
        obs["domain"] = known.reindex(obs.index).astype("category")
    _, um_per_px, background = HER2ST[name]
    return make_section(
        counts.to_numpy(),
        counts.columns,
        points,
        name=name,
        donor=name[0],
        um_per_px=um_per_px,
        spot_diameter_um=100.0,
        image_path=files["image"],
        spot_names=[f"{name}_{spot}" for spot in counts.index],
        obs=obs,
        masked_regions=[_THUMBNAIL] if name in _A_FRAMES else [],
        background=background,
    )


def _array_names(table: pd.DataFrame) -> pd.Index:
    """``XxY``, the name of a spot in the count tables."""
    whole = table[["x", "y"]].round().astype(int).astype(str)
    return pd.Index(whole["x"] + "x" + whole["y"])


def _warp_a2(points: np.ndarray, path: Path) -> np.ndarray:
    """Positions in A2's own frame, moved into that of A1, in which its image is published.

    The authors give the moved position of 323 of the 325 spots.
    They follow one rotation with a shift to 0.01 px, so it is fitted and applied to all.
    """
    table = pd.read_csv(path, sep="\t", index_col=0)
    given = np.column_stack([table[["pixel_x", "pixel_y"]], np.ones(len(table))])
    moved = np.linalg.lstsq(given, table[["warped_x", "warped_y"]].to_numpy(), rcond=None)[0]
    return np.column_stack([points, np.ones(len(points))]) @ moved
