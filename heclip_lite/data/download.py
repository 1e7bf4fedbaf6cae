"""Public data files: fetched once, checked by SHA-256, never replaced by anything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from heclip_lite.store import DATA_VARIABLE, FULL, data_dir, file_hash, told_of


class MissingFile(FileNotFoundError, ValueError):
    """A file that is needed is not there, and could not be fetched."""


def fetch(
    dataset: str, names: Sequence[str], *, address: str, registry: Mapping[str, str]
) -> list[Path]:
    """Local paths of files; what is not there yet is downloaded, with a progress bar.

    Files live under ``data_dir()/dataset`` with the paths of their origin.
    A file with the right hash is used as it is, so the folder may be read-only.
    A download gets its final name only when it is complete and its hash is right.

    Parameters
    ----------
    dataset
        Folder of the data set.
    names
        Paths of the files, within the data set and below `address`.
    address
        Public address of the data set's root, ending in a slash.
    registry
        SHA-256 of each file.

    Raises
    ------
    ValueError
        If a file that is there has another hash than the registry says. It is left alone.
    FileNotFoundError
        If a file is not there and cannot be fetched.
    OSError
        If the disk is full.
    """
    folder = data_dir() / dataset
    missing = []
    for name in names:
        if not (folder / name).is_file():
            missing.append(name)
        elif (found := file_hash(folder / name)) != registry[name]:
            size = (folder / name).stat().st_size
            raise ValueError(
                f"{folder / name} ({size:,} bytes) is damaged or not the expected file: "
                f"expected SHA-256 {registry[name]}, found {found}. "
                "Delete it and run again; it will then be fetched anew."
            )
    if missing:
        _download(dataset, folder, missing, address, registry)
    return [folder / name for name in names]


def _download(
    dataset: str, folder: Path, names: Sequence[str], address: str, registry: Mapping[str, str]
) -> None:
    import pooch

    source = pooch.create(folder, base_url=address, registry=dict(registry), retry_if_failed=1)
    for done, name in enumerate(names):
        try:
            with told_of(folder / name, folder):
                source.fetch(name, downloader=pooch.HTTPDownloader(progressbar=True))
        except (OSError, ValueError) as error:  # no network, no permission, or a wrong hash
            if getattr(error, "errno", None) in FULL:
                raise
            raise MissingFile(
                f"{dataset}: {name} could not be fetched ({error}).\n"
                f"{len(names) - done} file(s) are missing. "
                f"Fetch this one yourself from {address}{name}\n"
                f"and put it at {folder / name}\n"
                f"(SHA-256 {registry[name]}), or point {DATA_VARIABLE} at the folder "
                f"which holds {dataset}/. Without real data you can ask for the synthetic tissue: "
                "heclip_lite.synthetic_sections(). It is never used in their place unasked."
            ) from error
