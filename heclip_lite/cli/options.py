"""Sections on the command line: files, folders, and names of data sets that the package knows."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from heclip_lite.cli.command import say, usage

if TYPE_CHECKING:
    from anndata import AnnData

_HELP = "A file, a folder, or a name: her2st:C6, dlpfc:151510, synthetic:P1-1."
# Options of a reader, what they are, and what they mean.
_OPTIONS: dict[str, tuple[type, str]] = {
    "layout": (str, "How the files are laid out; recognised by default."),
    "name": (str, "Name of the section, or which one where there are several."),
    "donor": (str, "Name of the donor."),
    "um_per_px": (float, "Micrometres per pixel of the full-resolution image."),
    "spot_pitch_um": (float, "Distance of neighbouring spots, to derive the scale from."),
    "spot_diameter_um": (float, "Diameter of a spot."),
    "image": (str, "The image, where the files do not name it."),
    "counts": (str, "Another file of counts, or a layer."),
    "positions": (str, "Another file of spot positions."),
    "columns": (str, "Unusual names of columns, such as x=px,y=py,in_tissue=keep."),
    "bin_um": (float, "Visium HD: width of the bins to take."),
    "orientation": (str, "Where spots miss the tissue: raise, warn or ignore."),
}
_KEPT = 0.99  # share of a section's counts below which their loss is told
_FILES = ("image", "counts", "positions")


def _options(*, many: bool) -> dict[str, inspect.Parameter]:
    found = {}
    for name, (kind, text) in _OPTIONS.items():
        flag = "--" + name.replace("_", "-")
        if many:
            annotation = list[kind] | None  # type: ignore[valid-type]
            text += " Once for all sections, or once each."
        else:
            annotation = kind | None  # type: ignore[assignment]
        option = typer.Option(flag, help=text, show_default=False)
        found[name] = inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[annotation, option],
        )
    return found


def _argument(name: str, annotation: Any, metavar: str, default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[annotation, typer.Argument(metavar=metavar, help=_HELP)],
    )


@dataclass(frozen=True)
class Sources:
    """Several sections as they were named, and how to read each."""

    names: list[str]
    options: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def parameters(cls) -> dict[str, inspect.Parameter]:
        """What the command line takes for it."""
        argument = _argument("sections", list[str], "SECTION...", inspect.Parameter.empty)
        return {"sections": argument, **_options(many=True)}

    @classmethod
    def from_options(cls, ctx: typer.Context, **given: Any) -> Self:
        """Deal the options out to the sections."""
        names = [str(name) for name in given.pop("sections")]
        dealt: list[dict[str, Any]] = [{} for _ in names]
        for option, values in given.items():
            if not values:
                continue
            if len(values) not in (1, len(names)):
                raise usage(
                    f"it was given {len(values)} times for {len(names)} sections; give it once "
                    "for all, or once for each section in their order.",
                    "--" + option.replace("_", "-"),
                )
            for own, value in zip(dealt, values * len(names), strict=False):
                own[option] = value
        return cls(names, dealt)

    @property
    def paths(self) -> list[str]:
        """All files they name."""
        return [path for one in self._each() for path in one.paths]

    def _each(self) -> list[Source]:
        return [Source(*one) for one in zip(self.names, self.options, strict=True)]

    def read(self) -> list[AnnData]:
        """All sections, their genes named alike, each checked and all together."""
        from heclip_lite.data.contract import check_sections

        found = [one.read() for one in self._each()]
        if len(found) < 2:
            check_sections(found)
            return found
        made, report = matched(found)
        for row in report:
            if row["counts_kept"] < _KEPT:
                say(
                    f"Warning: section {row['section']} keeps {row['kept']} of {row['before']} "
                    f"genes and {row['counts_kept']:.0%} of its counts; the others are not shared "
                    "by all sections."
                )
        check_sections(made)
        return made


@dataclass(frozen=True)
class Source:
    """One section as it was named, and how to read it."""

    path: str
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parameters(cls) -> dict[str, inspect.Parameter]:
        """What the command line takes for it."""
        argument = _argument("section", str, "SECTION", inspect.Parameter.empty)
        return {"section": argument, **_options(many=False)}

    @classmethod
    def from_options(cls, ctx: typer.Context, **given: Any) -> Self:
        """Keep what was given."""
        path = str(given.pop("section"))
        return cls(path, {k: v for k, v in given.items() if v is not None})

    @property
    def paths(self) -> list[str]:
        """All files it names."""
        return [self.path, *(self.options[key] for key in _FILES if key in self.options)]

    def read(self) -> AnnData:
        """The section, checked."""
        return read(self.path, **self.options)


@dataclass(frozen=True)
class Slide:
    """A section to predict: with spots, or an image alone."""

    path: str | None
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parameters(cls) -> dict[str, inspect.Parameter]:
        """What the command line takes for it."""
        return {
            "section": _argument("section", str | None, "[SECTION]", None),
            **_options(many=False),
        }

    @classmethod
    def from_options(cls, ctx: typer.Context, **given: Any) -> Self:
        """Say what is missing where neither a section nor an image with its scale is named."""
        path = given.pop("section")
        options = {k: v for k, v in given.items() if v is not None}
        if path is None:
            if "image" not in options:
                raise usage("name a section, or give an image alone.", "SECTION or --image")
            if "um_per_px" not in options:
                raise usage("an image alone needs its micrometres per pixel.", "--um-per-px")
            for name in ("layout", "counts", "spot_pitch_um", "bin_um", "orientation"):
                if name in options:
                    raise usage(
                        "it belongs to a section; leave it out with an image alone.",
                        "--" + name.replace("_", "-"),
                    )
        return cls(path, options)

    @property
    def paths(self) -> list[str]:
        """All files it names."""
        own = [] if self.path is None else [self.path]
        return [*own, *(self.options[key] for key in _FILES if key in self.options)]

    def read(self, *, pitch_um: float, spot_diameter_um: float) -> AnnData:
        """The section; of an image alone, points at `pitch_um` unless positions are given."""
        if self.path is not None:
            return read(self.path, **self.options)
        from heclip_lite.spatial import bare_slides

        options = _as_read(self.options)
        positions, columns = options.pop("positions", None), options.pop("columns", None)
        options.setdefault("spot_diameter_um", spot_diameter_um)
        points = None if positions is None else read_places(positions, columns)
        return bare_slides.from_image(
            options.pop("image"), points=points, pitch_um=pitch_um, **options
        )


def check_apart(out: Path | None, found: Sequence[AnnData]) -> None:
    """Raise where a picture would be written over the slide of a section.

    Raises
    ------
    ValueError
        With the name of the file.
    """
    from heclip_lite.data.sections import name_of

    if out is None or not out.exists():
        return
    for section in found:
        entry = section.uns["spatial"][name_of(section)]
        slide = entry.get("metadata", {}).get("source_image_path")
        if slide is not None and Path(slide).exists() and out.samefile(slide):
            raise ValueError(
                f"{out} is the slide of {name_of(section)}; write the picture to another place."
            )


def read_places(path: str | Path, columns: dict[str, str] | None = None) -> Any:
    """Points of a table, (points, 2): x, y in pixels; without those off the tissue."""
    from heclip_lite.data.readers.assemble import read_positions

    table = read_positions(path, columns)
    if "in_tissue" in table:
        table = table[table["in_tissue"].astype(bool)]
    if table.empty:
        raise ValueError(f"{path} has no spot in tissue.")
    return table[["x", "y"]].to_numpy(dtype=float)


def read(source: str, **options: Any) -> AnnData:
    """One section from a path or a name.

    Raises
    ------
    ValueError
        If the name is unknown, options are given for a name, or the section breaks the contract.
    FileNotFoundError
        If there is no such file.
    """
    kind, colon, name = source.partition(":")
    if colon and kind in _NAMED and not Path(source).exists():
        if options:
            raise ValueError(f"{source} is known already; leave out {', '.join(options)}.")
        return _NAMED[kind](name)
    return _read_path(source, **options)


def _her2st(name: str) -> AnnData:
    from heclip_lite.data.her2st import read_her2st

    return read_her2st([name])[0]


def _dlpfc(name: str) -> AnnData:
    from heclip_lite.data.dlpfc import read_dlpfc

    if name != "151510":
        raise ValueError(f"dlpfc has no section {name!r}; its section is 151510.")
    return read_dlpfc()


def _synthetic(name: str) -> AnnData:
    drawn = {section.obs["section"].iloc[0]: section for section in _drawn()}
    if name not in drawn:
        raise ValueError(f"synthetic has no section {name!r}; its sections are {', '.join(drawn)}.")
    return drawn[name].copy()


@lru_cache(maxsize=1)
def _drawn() -> list[AnnData]:
    from heclip_lite.data.synthetic.tissue import synthetic_sections

    return synthetic_sections()


_NAMED = {"her2st": _her2st, "dlpfc": _dlpfc, "synthetic": _synthetic}


def _read_path(path: str, **options: Any) -> AnnData:
    from heclip_lite.data.readers.layouts import read_section

    return read_section(path, **_as_read(options))


def _as_read(options: dict[str, Any]) -> dict[str, Any]:
    """Options as the readers take them."""
    found = dict(options)
    if "columns" in found:
        pairs = [part.partition("=") for part in found["columns"].split(",")]
        if not all(key.strip() and name.strip() for key, _, name in pairs):
            raise usage("write pairs such as x=px,y=py.", "--columns")
        found["columns"] = {key.strip(): name.strip() for key, _, name in pairs}
    if "bin_um" in found and float(found["bin_um"]).is_integer():
        found["bin_um"] = int(found["bin_um"])
    return found


def matched(found: Sequence[AnnData]) -> tuple[list[AnnData], list[dict[str, Any]]]:
    """The sections with the same genes under the same names, and what that cost each."""
    from heclip_lite.data.readers.gene_ids import match_genes

    made, report = match_genes(found)
    return made, report.to_dict("records")
