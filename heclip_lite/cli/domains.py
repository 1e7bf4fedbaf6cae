"""The command `domains`: group the spots of a section, and score the groups where labels are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heclip_lite.cli.command import Device, Overwrite, Report, Seed, aligned, provenance, usage
from heclip_lite.cli.files import check_output
from heclip_lite.cli.options import Source, check_apart
from heclip_lite.cli.results import (
    SECTIONS,
    read_prediction,
    write_picture,
    write_section,
    write_table,
)

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

TABLES = (".csv",)


def domains(
    section: Source,
    n: Annotated[int, typer.Option("--n", "-n", min=2, help="How many domains.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where to write: .csv, .h5ad or .zarr.")],
    method: Annotated[str, typer.Option(help="kmeans, mixture or leiden.")] = "kmeans",
    model: Annotated[
        Path | None,
        typer.Option(
            help="Group by what this model predicts from the image, not by the counts.",
            show_default=False,
        ),
    ] = None,
    components: Annotated[int, typer.Option(min=2, help="Components kept.")] = 20,
    smooth: Annotated[int, typer.Option(min=0, help="Times spots join their neighbours.")] = 0,
    picture: Annotated[
        Path | None, typer.Option(help="PNG of the domains.", show_default=False)
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> Report:
    """Group the spots of a section, or the points that predict or superres wrote, into domains.

    Where obs["domain"] holds known domains, the groups are scored against them.
    """
    from heclip_lite.spatial import domains as grouping

    if method not in grouping.METHODS:
        raise usage(f"{method!r} is unknown; use {', '.join(grouping.METHODS)}.", "--method")
    inputs = [*section.paths, *([] if model is None else [model])]
    check_output(out, suffixes=(*TABLES, *SECTIONS), overwrite=overwrite, inputs=inputs)
    if picture is not None:
        check_output(picture, suffixes=(".png",), overwrite=overwrite, inputs=inputs)
    read, features, source = _features(section, model, device)
    check_apart(picture, [read])
    found = grouping.find_domains(
        read, n, method, features=features, components=components, smooth=smooth, seed=seed
    )
    sizes = found.obs["found"].value_counts(sort=False)
    values: dict[str, Any] = {
        "out": str(out),
        "section": str(found.obs["section"].iloc[0]),
        "grouped_by": source,
        "method": method,
        "spots": found.n_obs,
        "sizes": {str(name): int(size) for name, size in sizes.items()},
    }
    if "domain" in found.obs and found.obs["domain"].nunique() > 1:
        values["scores"] = grouping.score(found)
    if out.suffix.lower() in TABLES:
        table = found.obs[["section", "found"]].rename(columns={"found": "domain"})
        table.insert(0, "spot", found.obs_names)
        table[["x", "y"]] = found.obsm["spatial"]
        write_table(table, out)
    else:
        write_section(found, out, made_by={"what": "domains", "provenance": provenance()})
    if picture is not None:
        from heclip_lite import plotting

        write_picture(plotting.slide(found, found.obs["found"], label="domain"), picture)
        values["picture"] = str(picture)
    rows = [(key, str(value)) for key, value in values.items() if not isinstance(value, dict)]
    rows.append(("spots of each", ", ".join(f"{k}: {v}" for k, v in values["sizes"].items())))
    rows += [(key, f"{value:.3f}") for key, value in values.get("scores", {}).items()]
    return Report(values, aligned(rows))


def _features(
    source: Source, model: Path | None, device: str
) -> tuple[AnnData, np.ndarray | None, str]:
    """The section, what its spots are grouped by (None: its counts), and the name of that."""
    made = None if source.options else read_prediction(Path(source.path))
    if made is not None:
        if model is not None:
            raise usage("the file holds predictions already; leave it out.", "--model")
        return made, made.X, "predicted expression"
    if model is None:
        return source.read(), None, "measured expression"
    from heclip_lite import runtime
    from heclip_lite.data.sections import hide_expression
    from heclip_lite.methods import saved

    saved.read_record(model)
    device = runtime.pick_device(device)
    read = source.read()
    method = saved.load(model, device=device).method
    return read, method.predict(hide_expression(read)), f"what {model} predicts"
