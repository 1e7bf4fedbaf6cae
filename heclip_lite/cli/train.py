"""The command `train`: sections in, a model folder out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heclip_lite.cli.command import Device, Overwrite, Report, Seed, aligned, provenance, say
from heclip_lite.cli.files import check_output
from heclip_lite.cli.methods import Settings, build, check_names, coarsest
from heclip_lite.cli.options import Sources

if TYPE_CHECKING:
    from anndata import AnnData

    from heclip_lite.methods.base import Method

UNFINISHED = "training"  # in a model folder, as long as its training has not come to an end
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder that train wrote.")]


def train(
    sections: Sources,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the model.")],
    settings: Settings,
    method: Annotated[str, typer.Option("--method", "-m", help="heclip, histosge, ridge, ...")] = (
        "heclip"
    ),
    genes: Annotated[
        Path | None,
        typer.Option(
            help="Text file with the genes to predict, one per line; chosen by default.",
            show_default=False,
        ),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> Report:
    """Train a method on sections and keep it in a folder.

    If the training is interrupted, the same command goes on from its last epoch and ends in the
    same model. Started by torchrun, several processes share every batch, and the first one writes.
    """
    from heclip_lite import distributed, runtime
    from heclip_lite.methods import saved

    (name,), writes = check_names([method]), distributed.rank() == 0
    runtime.pick_device(device)  # says which there are, before anything is read
    unfinished = (out / UNFINISHED).is_dir() and not (out / saved.RECORD).exists()
    if writes:
        check_output(
            out,
            overwrite=overwrite or unfinished,
            inputs=sections.paths,
            mark=UNFINISHED if unfinished else saved.RECORD,
        )
    wanted = None if genes is None else _read_genes(genes)
    read = sections.read()
    size = settings.size(
        sum(section.n_obs for section in read), coarsest(read), seed=seed, device=device
    )
    chosen = build([name], size)[name].with_seed(seed)
    if not saved.can_save(chosen):
        raise ValueError(
            f"{name} cannot be saved, so it cannot be trained here; heclip-lite evaluate runs it."
        )
    chosen.panel = _panel(wanted, read)
    if writes:
        _claim(out, chosen, read, overwrite)
    if hasattr(chosen, "checkpoint"):
        chosen.checkpoint = out / UNFINISHED
    try:
        chosen.fit(read)
    except BaseException:
        if writes:
            _unclaim(out)
        raise
    about = {
        "method": name,
        "sections": [_about(section) for section in read],
        "spot_pitch_um": _median_of(read, "spot_pitch_um"),
        "spot_diameter_um": _median_of(read, "spot_diameter_um"),
        "seed": seed,
        "processes": distributed.size(),
        "provenance": provenance(runtime.pick_device(device)),
    }
    if writes:
        saved.save(chosen, out, about=about)
        shutil.rmtree(out / UNFINISHED)
    values = {
        "model": str(out),
        "method": name,
        "sections": [one["section"] for one in about["sections"]],
        "spots": sum(one["spots"] for one in about["sections"]),
        "genes": len(chosen.genes),
        "seed": seed,
        "device": runtime.pick_device(device),
        **_losses(chosen),
    }
    lines = aligned(
        [(key.replace("_", " "), _text(value)) for key, value in values.items() if value != ""]
    )
    return Report(values, lines)


def read_about(model: Path) -> dict[str, Any]:
    """What `train` noted of a model.

    Raises
    ------
    FileNotFoundError
        If there is no saved model.
    ValueError
        If it is damaged.
    """
    from heclip_lite.methods import saved

    about = saved.read_record(model)["about"]
    try:
        [(one["section"], one["image_key"]) for one in about.get("sections", [])]
        lengths = ("spot_pitch_um", "spot_diameter_um")
        return about | {name: float(about[name]) for name in lengths if name in about}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"The saved model in {model} is damaged ({saved.RECORD}, what it tells of its "
            f"training: {error}); train it again."
        ) from error


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _losses(method: Method) -> dict[str, Any]:
    """Epochs and mean last loss of a method that has any."""
    history = getattr(method, "history", None)
    if not history:
        return {}
    last = [records[-1]["loss"] for records in history]
    return {"epochs": len(history[0]), "last_loss": sum(last) / len(last)}


def _read_genes(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8; give one gene per line.") from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise ValueError(f"{path} names no gene; give one per line.")
    return found


def _panel(wanted: list[str] | None, read: list[AnnData]) -> Any:
    from heclip_lite.data import genes, sections

    if wanted is None:
        return genes.fit_panel(read)
    for section in read:
        absent = [gene for gene in wanted if gene not in section.var_names]
        if absent:
            raise ValueError(
                f"Section {sections.name_of(section)!r} lacks {len(absent)} of the {len(wanted)} "
                f"genes to predict, first {absent[0]!r}; leave them out of the list."
            )
    return genes.GenePanel(tuple(wanted), {"chosen": tuple(wanted)})


def _claim(out: Path, method: Method, read: list[AnnData], overwrite: bool) -> None:
    """Make the folder this training's own, or go on with what it holds of it."""
    from heclip_lite import evaluation, store
    from heclip_lite.data import sections

    run = {
        "identity": store.content_key(
            evaluation.describe(method),
            method.panel.to_dict(),
            [sections.section_key(section) for section in read],
        )
    }
    path = out / UNFINISHED / "run.json"
    if path.parent.exists():
        try:
            same = json.loads(path.read_text(encoding="utf-8")) == run
        except (OSError, ValueError):
            same = False
        if same:
            say(f"Going on with the training in {out}.")
            return
        if not overwrite:
            raise FileExistsError(
                f"{out} holds an unfinished training of other sections, settings or another "
                "version. Give the same command as before to go on with it, choose another "
                "folder, or add --overwrite to start anew."
            )
        shutil.rmtree(path.parent)
    try:
        store.write_json(path, run)
    except OSError:
        _unclaim(out)
        raise


def _unclaim(out: Path) -> None:
    """Leave no folder behind where nothing was learnt yet."""
    unfinished = out / UNFINISHED
    files = {path.name for path in unfinished.rglob("*") if path.is_file()}
    if unfinished.is_dir() and files <= {"run.json", "lock"}:
        shutil.rmtree(unfinished)
        if not any(out.iterdir()):
            out.rmdir()


def _about(section: AnnData) -> dict[str, Any]:
    from heclip_lite.data import sections

    return {
        "section": sections.name_of(section),
        "donor": sections.donor_of(section),
        "spots": section.n_obs,
        "um_per_px": sections.um_per_px(section),
        "image_key": sections.image_key(section),
        "key": sections.section_key(section),
    }


def _median_of(read: list[AnnData], name: str) -> float:
    import numpy as np

    from heclip_lite.data import sections

    return float(np.median([getattr(sections, name)(section) for section in read]))
