"""The commands `check` and `data`: is a section usable, and are the public files here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heclip_lite.cli.command import USER_ERRORS, Overwrite, Report, aligned, message_of, usage
from heclip_lite.cli.files import check_output
from heclip_lite.cli.options import Sources, check_apart, matched, read
from heclip_lite.cli.results import SECTIONS, write_picture, write_section

if TYPE_CHECKING:
    from anndata import AnnData

PICTURES = (".png",)


def check(
    sections: Sources,
    picture: Annotated[
        Path | None, typer.Option(help="PNG of the slides with their spots.", show_default=False)
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(help="Write the section as .h5ad or .zarr.", show_default=False),
    ] = None,
    overwrite: Overwrite = False,
) -> Report:
    """Say whether sections are usable, what they hold, and what is wrong with those that are not.

    With several sections, their genes are compared too.
    Exit code 1 if one of them cannot be used.
    """
    if save is not None and len(sections.names) > 1:
        raise usage("one section at a time can be saved.", "--save")
    if picture is not None:
        check_output(picture, suffixes=PICTURES, overwrite=overwrite, inputs=sections.paths)
    if save is not None:
        check_output(save, suffixes=SECTIONS, overwrite=overwrite, inputs=sections.paths)
    found, described, lines = [], [], []
    for path, options in zip(sections.names, sections.options, strict=True):
        try:
            section = read(path, **options)
        except USER_ERRORS as error:
            described.append({"source": path, "usable": False, "problem": message_of(error)})
            lines += [f"{path}: not usable", f"  {message_of(error)}"]
        else:
            found.append(section)
            described.append({"source": path, "usable": True, **describe(section)})
            lines += [f"{path}: usable", *("  " + line for line in _readable(described[-1]))]
    check_apart(picture, found)
    fine = len(found) == len(sections.names)
    values: dict[str, Any] = {"usable": fine, "sections": described}
    if fine and len(found) > 1:
        together, values["genes"] = matched(found)
        values["shared_genes"] = together[0].n_vars
        lines.append(f"All sections together share {together[0].n_vars} genes.")
        lines += [
            f"  {row['section']}: {row['kept']} of {row['before']} genes, "
            f"{row['counts_kept']:.1%} of its counts"
            for row in values["genes"]
        ]
    if fine and picture is not None:
        _draw(found, picture)
        values["picture"] = str(picture)
        lines.append(f"Picture: {picture}")
    if fine and save is not None:
        write_section(found[0], save)
        values["saved"] = str(save)
        lines.append(f"Section: {save}")
    return Report(values, lines, fine)


def describe(section: AnnData) -> dict[str, Any]:
    """What there is to know of a section before anything is learnt from it."""
    import numpy as np

    from heclip_lite.data import lattice, sections
    from heclip_lite.data.readers import orientation

    depth, detected = np.asarray(section.X.sum(axis=1)).ravel(), section.X.getnnz(axis=1)
    looked = orientation.check_orientation(section)
    um, (width, height) = sections.um_per_px(section), sections.image_size(section)
    try:
        grid = lattice.lattice_of(section).kind
    except ValueError:
        grid = "none recognised"
    known = section.obs["domain"].notna().sum() if "domain" in section.obs else 0
    return {
        "section": sections.name_of(section),
        "donor": sections.donor_of(section),
        "spots": section.n_obs,
        "genes": section.n_vars,
        "first_genes": list(section.var_names[:3]),
        "median_counts_per_spot": float(np.median(depth)),
        "median_genes_per_spot": float(np.median(detected)),
        "image_px": [width, height],
        "um_per_px": um,
        "image_um": [round(width * um, 1), round(height * um, 1)],
        "spot_diameter_um": sections.spot_diameter_um(section),
        "spot_pitch_um": sections.spot_pitch_um(section),
        "lattice": grid,
        "on_tissue": looked.share,
        "orientation": looked.sentence,
        "labelled_spots": int(known),
    }


def _readable(about: dict[str, Any]) -> list[str]:
    width, height = about["image_px"]
    wide, tall = (side / 1000 for side in about["image_um"])
    return aligned(
        [
            ("section, donor", f"{about['section']}, {about['donor']}"),
            ("spots, genes", f"{about['spots']}, {about['genes']}"),
            ("first genes", ", ".join(about["first_genes"])),
            ("counts per spot", f"{about['median_counts_per_spot']:.0f} (median)"),
            ("genes per spot", f"{about['median_genes_per_spot']:.0f} (median)"),
            ("image", f"{width} x {height} px, {wide:.2f} x {tall:.2f} mm"),
            ("scale", f"{about['um_per_px']:.4g} micrometres per pixel"),
            ("spot diameter", f"{about['spot_diameter_um']:.4g} micrometres"),
            ("spot pitch", f"{about['spot_pitch_um']:.4g} micrometres"),
            ("lattice", about["lattice"]),
            ("orientation", about["orientation"]),
            ("labelled spots", str(about["labelled_spots"])),
        ]
    )


def _draw(found: list[AnnData], path: Path) -> None:
    import numpy as np

    from heclip_lite import plotting

    if len(found) == 1:
        write_picture(plotting.slide(found[0]), path)
        return
    depths = [np.log10(np.asarray(section.X.sum(axis=1)).ravel()) for section in found]
    write_picture(plotting.slides(found, depths, label="log10 of counts per spot"), path)


# -- public data ------------------------------------------------------------------------------


def data(
    action: Annotated[str, typer.Argument(metavar="where|fetch|verify", help="What to do.")],
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME...]", help="her2st, her2st:C6, dlpfc or coral; all by default."
        ),
    ] = None,
) -> Report:
    """Say where public data lie, fetch them once, or verify that they are whole.

    Exit code 1 if `verify` finds a file damaged or missing.
    """
    from heclip_lite.data import datasets

    if action not in ("where", "fetch", "verify"):
        raise usage(f"{action!r} is unknown; use where, fetch or verify.", "where|fetch|verify")
    wanted = datasets.files(names or None)
    if action == "fetch":
        datasets.fetch(wanted)
    judge = datasets.state if action == "where" else datasets.verified
    states = [{**file.about(), "state": judge(file)} for file in wanted]
    counted = {state: 0 for state in ("here", "whole", "damaged", "missing")}
    for one in states:
        counted[one["state"]] += 1
    lines = [f"Folder: {datasets.folder()}"]
    lines += [f"{one['state']:<8} {one['dataset']}/{one['file']}" for one in states]
    lines += [", ".join(f"{number} {state}" for state, number in counted.items() if number)]
    values = {"folder": str(datasets.folder()), "files": states, "counts": counted}
    bad = counted["damaged"] + counted["missing"]
    return Report(values, lines, fine=action == "where" or not bad)
