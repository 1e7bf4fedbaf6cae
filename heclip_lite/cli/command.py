"""How every command of `heclip-lite` is wired: shared options, reports, errors, exit codes.

A command is a function that validates, calls the package and returns a :class:`Report`.
Everything else (the configuration file, ``--json``, messages, exit codes) is the same for all of
them and is written here once.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from heclip_lite import __version__
from heclip_lite.cli.config import config_callback
from heclip_lite.runtime import without_tokens

PROGRAM = "heclip-lite"
_TORCHRUN = (("RANK", "0"), ("WORLD_SIZE", "1"))  # as `distributed` reads them; torch loads slowly
FINE, USER_ERROR, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130
# What a user can mend: bad input, a missing file, no permission, a full disk, no network.
USER_ERRORS = (ValueError, OSError, RuntimeError, FloatingPointError, MemoryError)

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        is_eager=True,
        callback=config_callback,
        help="TOML file with any of these options; flags win over it.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where in the code an error arose.")]

Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace results that heclip-lite wrote, and any .png or .csv of that name.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Where chance starts.")]
Device = Annotated[
    str, typer.Option(help="auto, cpu, cuda or mps: where networks run.", show_default=True)
]


@dataclass
class Report:
    """What a command has to say.

    Attributes
    ----------
    values
        For machines: printed by ``--json``.
    lines
        For people.
    fine
        False ends the command with exit code 1, although it ran to its end.
    """

    values: dict[str, Any]
    lines: list[str] = field(default_factory=list)
    fine: bool = True


def command(app: typer.Typer, *, example: str, shared: bool = False) -> Callable:
    """Register a function that returns a :class:`Report` as a command.

    Parameters
    ----------
    app
        Where to register it.
    example
        Lines that are shown below the help; the book executes or parses them.
    shared
        Whether processes that ``torchrun`` started share its work. Then the first of them reports.
    """

    def register(function: Callable[..., Report]) -> Callable[..., None]:
        signature = inspect.signature(function, eval_str=True)
        expanders = {
            name: parameter.annotation
            for name, parameter in signature.parameters.items()
            if hasattr(parameter.annotation, "parameters")
        }

        def run(ctx: typer.Context, **given: Any) -> None:
            as_json, debug = given.pop("json"), given.pop("debug")
            given.pop("config")
            with reported_errors(debug):
                rank, processes = (int(os.environ.get(n, d)) for n, d in _TORCHRUN)
                if processes > 1 and not shared:
                    raise ValueError(
                        f"torchrun started {processes} processes, and each would do all the work "
                        f"of {PROGRAM} {ctx.info_name} at the same place. Start it alone: only "
                        f"{PROGRAM} train shares its work among processes."
                    )
                for name, kind in expanders.items():
                    own = {key: given.pop(key) for key in kind.parameters()}
                    given[name] = kind.from_options(ctx, **own)
                with contextlib.redirect_stdout(sys.stderr):  # results only on stdout
                    report = function(**given)
                shown = plain(report.values)
                text = json.dumps(shown, indent=2, allow_nan=False) if as_json else None
                if rank == 0:
                    print(text if as_json else "\n".join(report.lines), flush=True)
            if not report.fine:
                raise typer.Exit(USER_ERROR)

        parameters = [_parameter("ctx", typer.Context)]
        for name, parameter in signature.parameters.items():
            if name in expanders:
                parameters += expanders[name].parameters().values()
            else:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        parameters += [
            _parameter("config", Config, None),
            _parameter("json", Json, False),
            _parameter("debug", Debug, False),
        ]
        run.__signature__ = inspect.Signature(parameters)
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        run.__name__, run.__doc__ = function.__name__, function.__doc__
        shown = "\n".join(["\b", "Example:", *(f"  {line}" for line in example.splitlines())])
        app.command(name=function.__name__.replace("_", "-"), epilog=shown)(run)
        return function

    return register


def _parameter(name: str, annotation: Any, default: Any = inspect.Parameter.empty):
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


# -- errors -----------------------------------------------------------------------------------


@contextlib.contextmanager
def reported_errors(debug: bool) -> Iterator[None]:
    """Turn what goes wrong into one clear message and an exit code."""
    with warnings.catch_warnings():
        if not debug:
            warnings.showwarning = _show_warning
        try:
            yield
        except KeyboardInterrupt:
            say("Interrupted. What was finished is kept: the same command goes on from there.")
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            if _is_usage(error):
                raise
            if debug:
                say(traceback.format_exc())
            elif isinstance(error, (*USER_ERRORS, ImportError)):
                say(f"Error: {message_of(error)}")
            else:
                say(
                    f"Error: {type(error).__name__}: {message_of(error)}\n"
                    "This is probably a fault of heclip-lite and not of your input. "
                    "Run the command again with --debug, and report what it shows."
                )
            raise typer.Exit(USER_ERROR) from None


def _is_usage(error: BaseException) -> bool:
    """Whether typer itself reports this one: wrong usage, or an orderly exit."""
    return isinstance(error, typer.Exit | typer.Abort) or hasattr(error, "exit_code")


def message_of(error: BaseException) -> str:
    """What an error says, in a user's words."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        about = "" if error.filename is None else f"{error.filename}: "
        text = f"{about}{error.strerror}"
    if isinstance(error, MemoryError):
        text = f"The memory of this machine is not enough ({error}). Give less at once."
    return text or type(error).__name__


class _Blotted:
    """A stream that shows no token of the environment, whoever writes to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(without_tokens(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def blotted_streams() -> Iterator[None]:
    """Show no token on stdout and stderr: not in results, messages, warnings or tracebacks."""
    with (
        contextlib.redirect_stdout(_Blotted(sys.stdout)),
        contextlib.redirect_stderr(_Blotted(sys.stderr)),
    ):
        yield


def say(text: str) -> None:
    """A message for people, on stderr."""
    print(text, file=sys.stderr, flush=True)


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    """Our own warnings in plain words; those of libraries about their own future not at all."""
    if issubclass(category, UserWarning) and "heclip_lite" in str(filename):
        say(f"Warning: {message}")


def usage(message: str, option: str | None = None) -> typer.BadParameter:
    """An error of usage (exit code 2) to raise."""
    return typer.BadParameter(message, param_hint=option)


# -- results ----------------------------------------------------------------------------------


def plain(value: Any) -> Any:
    """A value as JSON knows it: NaN becomes null, a path its text."""
    if isinstance(value, Mapping):
        return {str(key): plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # arrays and numbers of numpy
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def aligned(rows: list[tuple[str, Any]]) -> list[str]:
    """Names and values in two columns."""
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {value}" for name, value in rows]


def table_lines(table: Any) -> list[str]:
    """A small DataFrame as text."""
    return table.to_string(index=False, float_format=lambda v: f"{v:.3f}").splitlines()


def command_line() -> str:
    """What was typed, for records; without secrets and without the program's folder."""
    return without_tokens(shlex.join([PROGRAM, *_ARGUMENTS]))


_ARGUMENTS: list[str] = []


def note_arguments(arguments: list[str]) -> None:
    """Remember what was typed, for :func:`command_line`."""
    _ARGUMENTS[:] = arguments


def provenance(device: str = "cpu") -> dict[str, Any]:
    """What made a result: command, device, versions; the same for the same command."""
    from heclip_lite import store

    return store.provenance(device) | {
        "command": command_line(),
        "heclip_lite": __version__,
    }
