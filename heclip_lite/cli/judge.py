"""The commands `evaluate` and `audit`: what a method is worth, and whether the test is clean."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from heclip_lite.cli.command import (
    Device,
    Overwrite,
    Report,
    Seed,
    aligned,
    plain,
    provenance,
    table_lines,
    usage,
)
from heclip_lite.cli.files import check_output, files_into
from heclip_lite.cli.methods import CONTROLS, Settings, build, check_names, coarsest
from heclip_lite.cli.options import Sources
from heclip_lite.cli.results import write_picture, write_table

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from heclip_lite.evaluation.splits import Fold

RECORD, TABLE, SUMMARY, PICTURE = "record.json", "table.csv", "summary.csv", "contest.png"
UNITS = ("donor", "section")
By = Annotated[str, typer.Option(help="What is held out at a time: donor or section.")]


def evaluate(
    sections: Sources,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for tables and a figure.")],
    settings: Settings,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", "-m", help="Once per method; heclip, kernel_ridge and ridge."),
    ] = None,
    by: By = "donor",
    controls: Annotated[bool, typer.Option(help="Run the controls too.")] = True,
    oracles: Annotated[bool, typer.Option(help="Run yardsticks that are told something.")] = False,
    gene_set: Annotated[
        list[str] | None,
        typer.Option(help="Gene sets to score, such as hvg50; all by default.", show_default=False),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds to run methods with.")] = 1,
    seed: Seed = 0,
    device: Device = "auto",
    keep: Annotated[
        Path | None,
        typer.Option(help="Folder of finished folds; in the cache by default.", show_default=False),
    ] = None,
    overwrite: Overwrite = False,
) -> Report:
    """Hold out each donor or section in turn, and compare methods on what they never saw.

    Everything is fitted on training sections only, the genes included.
    Finished folds are kept: an interrupted run goes on where it stopped.
    """
    from heclip_lite import evaluation, runtime
    from heclip_lite.methods import recipes

    _check_unit(by)
    names = check_names(method or ["heclip", "kernel_ridge", "ridge"], controls=True)
    if controls:
        # With random weights the ridge itself is the control with a random encoder.
        untrained = settings.weights == "random" and settings.encoder != "coral"
        left_out = {*names, "random_encoder"} if untrained and "ridge" in names else set(names)
        names += [name for name in CONTROLS if name not in left_out]
    runtime.pick_device(device)
    check_output(out, overwrite=overwrite, inputs=sections.paths, mark=RECORD)
    if keep is not None:
        check_output(keep / "fold", inputs=sections.paths)
    read = sections.read()
    split = evaluation.leave_one_out(read, by)
    size = settings.size(_fewest(read, split), coarsest(read), seed=seed, device=device)
    methods = build(names, size)
    if oracles:
        methods |= recipes.oracles()
    used = range(seed, seed + seeds)
    table = evaluation.contest(
        methods, read, split, seeds=list(used), gene_sets=gene_set or None, folder=keep
    )
    summary = summarise(table)
    record = {
        "by": by,
        "methods": names,
        "seeds": list(used),
        "sections": [_about(section) for section in read],
        "folds": [{"training": list(f.training), "test": list(f.test)} for f in split],
        "provenance": provenance(runtime.pick_device(device)),
    }
    _write(out, table, summary, record)
    lines = [
        *table_lines(summary),
        "",
        f"Mean over held-out sections and seeds, by what was held out. All rows: {out / TABLE}",
    ]
    values = {
        "out": str(out),
        "by": by,
        "folds": record["folds"],
        "summary": summary.to_dict("records"),
    }
    return Report(values, lines)


def _check_unit(by: str) -> None:
    if by not in UNITS:
        raise usage(f"{by!r} is unknown; use donor or section.", "--by")


def _fewest(read: Sequence[AnnData], split: Sequence[Fold]) -> int:
    """Training spots of the smallest fold."""
    spots = {section.obs["section"].iloc[0]: section.n_obs for section in read}
    return min(sum(spots[name] for name in fold.training) for fold in split)


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Mean of the main metrics over held-out sections and seeds, best first."""
    from heclip_lite.methods import recipes

    chosen = table[(table["scope"] == "per_section") & table["metric"].isin(("pearson", "rmse"))]
    keys = ["split", "gene_set", "method"]
    found = chosen.pivot_table(index=keys, columns="metric", values="value", dropna=False)
    found = found.dropna(how="all").reset_index()
    found["kind"] = [recipes.kind_of(name) for name in found["method"]]
    order = ["split", "gene_set", "pearson"]
    found = found.sort_values(order, ascending=[True, True, False], kind="stable")
    return found[["split", "gene_set", "method", "kind", "pearson", "rmse"]]


def _about(section: AnnData) -> dict[str, Any]:
    from heclip_lite.data import sections

    return {
        "section": sections.name_of(section),
        "donor": sections.donor_of(section),
        "spots": section.n_obs,
        "key": sections.section_key(section),
    }


def _write(out: Path, table: pd.DataFrame, summary: pd.DataFrame, record: dict) -> None:
    from heclip_lite import plotting, store

    with files_into(out, RECORD) as folder:
        write_table(table, folder / TABLE)
        write_table(summary, folder / SUMMARY)
        store.write_json(folder / "table.json", plain(table.to_dict("records")))
        small = [name for name in dict.fromkeys(table["gene_set"]) if name.endswith("50")]
        write_picture(plotting.contest(table, gene_sets=small or None), folder / PICTURE)
        store.write_json(folder / RECORD, plain(record))


# -- the audit --------------------------------------------------------------------------------


def audit(
    sections: Sources,
    by: By = "donor",
    contest: Annotated[
        Path | None,
        typer.Option(
            help="Folder that evaluate wrote: audit its folds instead.", show_default=False
        ),
    ] = None,
    panel_fitted_on: Annotated[str, typer.Option(help="training or all sections.")] = "training",
    transforms_fitted_on: Annotated[str, typer.Option(help="training or all.")] = "training",
    batch_correction: Annotated[str, typer.Option(help="none, training or joint.")] = "none",
    truth: Annotated[str, typer.Option(help="measured or corrected.")] = "measured",
    targets: Annotated[str, typer.Option(help="measured or smoothed.")] = "measured",
    adaptation: Annotated[str, typer.Option(help="none or transductive.")] = "none",
    context_um: Annotated[
        float | None,
        typer.Option(
            help="How far from a spot its picture reaches; by default twice the width of the "
            "widest window that feature maps are pooled with.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="CSV of all leaks.", show_default=False)
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 1 if a leak is found.")] = (
        False
    ),
    overwrite: Overwrite = False,
) -> Report:
    """List every way in which held-out sections reach training or truth, and by how much.

    The options describe what a pipeline does; as they are, they describe heclip-lite evaluate.
    """
    import pandas as pd
    from tqdm import tqdm

    from heclip_lite import config, evaluation
    from heclip_lite.evaluation.audit import Pipeline
    from heclip_lite.evaluation.audit import audit as look

    _check_unit(by)
    pipeline = Pipeline(
        panel_fitted_on,
        transforms_fitted_on,
        batch_correction,
        truth,
        targets,
        adaptation,
        # Beyond two standard deviations little is seen.
        2 * max(config.MapInput().widths_um) if context_um is None else context_um,
    )
    if out is not None:
        check_output(out, suffixes=(".csv",), overwrite=overwrite, inputs=sections.paths)
    folds = None if contest is None else _folds_of(contest)
    read = sections.read()
    split = evaluation.leave_one_out(read, by) if folds is None else folds
    parts = []
    for fold in tqdm(split, desc="audit", unit="fold", leave=False):
        found = look(read, fold, pipeline)
        found.insert(0, "fold", ", ".join(fold.test))
        parts.append(found)
    table = pd.concat(parts, ignore_index=True)
    if out is not None:
        write_table(table, out)
    leaks = table[table["found"] == "yes"]
    lines = aligned([("folds", str(len(split))), ("leaks found", str(len(leaks)))])
    for row in leaks.itertuples():
        size = "" if pd.isna(row.size) else f" ({row.size:.3g} {row.unit})"
        lines.append(f"{row.fold}: {row.leak}{size}: {row.detail}. {row.remedy}")
    if leaks.empty:
        lines.append("No held-out section reaches training or truth.")
    values = {
        "folds": [{"training": list(f.training), "test": list(f.test)} for f in split],
        "leaks": len(leaks),
        "table": table.to_dict("records"),
        "out": out,
    }
    return Report(values, lines, fine=not strict or leaks.empty)


def _folds_of(folder: Path) -> list[Fold]:
    from heclip_lite.evaluation.splits import Fold

    path = folder / RECORD
    try:
        folds = json.loads(path.read_text(encoding="utf-8"))["folds"]
        found = [Fold(tuple(one["training"]), tuple(one["test"])) for one in folds]
        if not found:
            raise ValueError("it names no fold")
        return found
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"There is no {path}; name a folder that heclip-lite evaluate wrote."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); run heclip-lite evaluate again.") from error
