"""The command line: ``heclip-lite``.

This is the index; each command is written in a module of its own, `command` holds what they share.
Whatever is heavy is imported inside the commands, so that ``--help`` comes at once.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from heclip_lite import __version__
from heclip_lite.cli.check import check, data
from heclip_lite.cli.command import PROGRAM, blotted_streams, command, note_arguments
from heclip_lite.cli.domains import domains
from heclip_lite.cli.judge import audit, evaluate
from heclip_lite.cli.predict import predict, superres
from heclip_lite.cli.slide import slide
from heclip_lite.cli.train import train

EXAMPLES = {
    check: "heclip-lite check her2st:C6 --picture C6.png --save C6.h5ad",
    train: "heclip-lite train her2st:C2 her2st:C3 --out model --seed 0",
    predict: (
        "heclip-lite predict model her2st:C6 --out C6_predicted.h5ad\n"
        "heclip-lite predict model --image slide.png --um-per-px 0.5 --out slide.h5ad"
    ),
    superres: "heclip-lite superres model her2st:C6 --factor 9 --out C6_dense.zarr",
    slide: "heclip-lite slide model slide.svs --pitch-um 50 --out slide.zarr",
    evaluate: (
        "heclip-lite evaluate A1.h5ad B4.h5ad C6.h5ad --by donor -m heclip -m ridge --out contest"
    ),
    audit: "heclip-lite audit A1.h5ad B4.h5ad C6.h5ad --contest contest --strict",
    domains: "heclip-lite domains her2st:A1 --n 6 --smooth 2 --out domains.csv --picture A1.png",
    data: "heclip-lite data fetch her2st:C6",
}


def _version(value: bool) -> None:
    if value:
        print(f"{PROGRAM} {__version__}")
        raise typer.Exit


class _Commands(typer.core.TyperGroup):
    """Remembers what was typed, for the records of results, and shows no token."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        with blotted_streams():
            return super().main(*args, **kwargs)

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        note_arguments(list(args))
        return super().parse_args(ctx, args)


app = typer.Typer(
    name=PROGRAM,
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Say which version."),
    ] = False,
) -> None:
    """Predict spatial gene expression from H&E slides, and judge the prediction honestly.

    A section is a file, a folder, or a name such as her2st:C6 or synthetic:P1-1.
    Exit codes: 0 fine, 1 something is wrong with the input, 2 wrong usage, 130 interrupted.
    """


for _function, _example in EXAMPLES.items():
    command(app, example=_example, shared=_function is train)(_function)


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    app(prog_name=PROGRAM)
