"""The commands `predict` and `superres`: a model and a slide in, expression out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heclip_lite.cli.command import Device, Overwrite, Report, aligned, provenance, say, usage
from heclip_lite.cli.files import check_output
from heclip_lite.cli.options import Slide
from heclip_lite.cli.results import SECTIONS, write_section
from heclip_lite.cli.train import Model, read_about

if TYPE_CHECKING:
    from anndata import AnnData

    from heclip_lite.methods.saved import Saved

UNIT = "log1p of counts per 10,000"
Out = Annotated[Path, typer.Option("--out", "-o", help="Where to write: .h5ad or .zarr.")]


def predict(
    model: Model,
    slide: Slide,
    out: Out,
    pitch_um: Annotated[
        float | None,
        typer.Option(
            help="Of an image alone: distance of points; by default that of the training spots.",
            show_default=False,
        ),
    ] = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> Report:
    """Predict expression at the spots of a section, or on a grid over an image alone.

    The model sees the image and the places, never the counts.
    Where the section has counts, those of the predicted genes are kept in layers["counts"].
    """
    if pitch_um is not None and (slide.path is not None or "positions" in slide.options):
        raise usage("the section has spots of its own; leave it out.", "--pitch-um")
    loaded, section = _ready(model, slide, out, pitch_um, device, overwrite)
    from heclip_lite.data.sections import hide_expression

    hidden = hide_expression(section)
    found = _predicted(hidden, loaded, loaded.method.predict(hidden))
    if section.n_vars:
        found.layers["counts"] = _measured(section, list(found.var_names))
        found.var["measured"] = found.var_names.isin(section.var_names)
    for column in ("domain", "in_tissue"):
        if column in section.obs:
            found.obs[column] = section.obs[column]
    return _written(found, loaded, slide, out)


def superres(
    model: Model,
    slide: Slide,
    out: Out,
    factor: Annotated[
        int | None,
        typer.Option(help="How many times as many points: 4, 9, 16, ...", show_default=False),
    ] = None,
    pitch_um: Annotated[
        float | None,
        typer.Option(
            help="Instead of a factor: a square grid of this distance.", show_default=False
        ),
    ] = None,
    clip: Annotated[bool, typer.Option(help="Keep only points on tissue.")] = True,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> Report:
    """Predict expression at points between the spots, or all over an image.

    Without --factor and --pitch-um there are four times as many points as spots.
    """
    if factor is not None and pitch_um is not None:
        raise usage("give one of the two.", "--factor or --pitch-um")
    loaded, section = _ready(model, slide, out, None, device, overwrite)
    from heclip_lite.spatial import superres as dense

    if pitch_um is not None:
        points = dense.grid(section, pitch_um, clip=clip)
    else:
        points = dense.fill_in(section, 4 if factor is None else factor, clip=clip)
    found = dense.predict(loaded.method, points)
    return _written(found, loaded, slide, out)


def _ready(
    model: Path, slide: Slide, out: Path, pitch_um: float | None, device: str, overwrite: bool
) -> tuple[Saved, AnnData]:
    """The model and the section, after everything was judged that can be judged first."""
    from heclip_lite import runtime
    from heclip_lite.data import sections
    from heclip_lite.methods import saved

    check_output(
        out, suffixes=SECTIONS, overwrite=overwrite, inputs=[*slide.paths, model], mark=None
    )
    about = read_about(model)
    device = runtime.pick_device(device)
    section = slide.read(
        pitch_um=about.get("spot_pitch_um", 100.0) if pitch_um is None else pitch_um,
        spot_diameter_um=about.get("spot_diameter_um", 55.0),
    )
    loaded = saved.load(model, device=device)
    key = sections.image_key(section)
    if any(one["image_key"] == key for one in about.get("sections", [])):
        say(
            f"Warning: the model was trained on the slide of {sections.name_of(section)}; "
            "what it says of it proves nothing about slides it has not seen."
        )
    return loaded, section


def _predicted(hidden: AnnData, loaded: Saved, values: Any) -> AnnData:
    import anndata
    import pandas as pd

    return anndata.AnnData(
        values,
        obs=hidden.obs.copy(),
        var=pd.DataFrame(index=pd.Index(loaded.method.genes)),
        obsm=dict(hidden.obsm),
        uns=dict(hidden.uns),
    )


def _measured(section: AnnData, names: list[str]) -> Any:
    """Counts of the predicted genes; 0 for one that the section does not list."""
    import numpy as np
    from scipy import sparse

    columns = section.var_names.get_indexer(names)
    picked = section.X[:, np.where(columns < 0, 0, columns)].tocsc()
    listed = sparse.diags((columns >= 0).astype(np.float32))
    return (picked @ listed).tocsr().astype(np.float32)


def made_by(loaded: Saved) -> dict[str, Any]:
    """What a prediction says of how it was made."""
    from heclip_lite import store

    return {
        "what": "prediction",
        "unit": UNIT,
        "method": loaded.about.get("method", loaded.record["kind"]),
        "model_sha256": store.content_key(loaded.record),
        "trained_on": [one["section"] for one in loaded.about.get("sections", [])],
        "provenance": provenance(),
    }


def _written(found: AnnData, loaded: Saved, slide: Slide, out: Path) -> Report:
    from heclip_lite.data import sections

    write_section(found, out, made_by=made_by(loaded))
    values = {
        "out": str(out),
        "section": sections.name_of(found),
        "points": found.n_obs,
        "genes": found.n_vars,
        "unit": UNIT,
        "method": loaded.about.get("method", loaded.record["kind"]),
        "mean": float(found.X.mean()),
    }
    return Report(values, aligned([(key, str(value)) for key, value in values.items()]))
