"""The configuration file of a command: TOML whose keys are the options' names.

Keys at the top serve every command that has such an option; a table named after a command serves
that command alone, and wins.
Flags win over both.
"""

from __future__ import annotations

import difflib
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import typer

_NOT_IN_FILES = {"config", "help", "json", "debug"}


class Option(NamedTuple):
    """What a file may say for an option: several values, or yes and no."""

    many: bool = False
    flag: bool = False


class UnknownKey(ValueError):
    """A key that no command has."""


def config_callback(ctx: typer.Context, value: Path | None) -> Path | None:
    """Read the file before the other options are looked at, and hand them its values."""
    if value is not None and not ctx.resilient_parsing:
        every = {
            name: known_options(command)
            for name, command in ctx.find_root().command.commands.items()
        }
        try:
            ctx.default_map = read(Path(value), ctx.command.name, every)
        except (ValueError, OSError) as error:
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(2 if isinstance(error, UnknownKey) else 1) from None
    return value


def known_options(command: Any) -> dict[str, Option]:
    """What a file may say of a command's options and arguments."""
    found = {}
    for parameter in command.params:
        if parameter.name in _NOT_IN_FILES:
            continue
        if parameter.param_type_name == "option":
            found[parameter.name] = Option(parameter.multiple, parameter.is_flag)
        else:
            found[parameter.name] = Option(parameter.nargs == -1)
    return found


def read(path: Path, command: str, every: dict[str, dict[str, Option]]) -> dict[str, Any]:
    """What a file says to one command.

    Parameters
    ----------
    path
        A TOML file.
    command
        Name of the command.
    every
        Options of all commands, as :func:`known_options` gives them.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    UnknownKey
        If no command has such a key, or there is no command of a table's name.
    ValueError
        If it is no TOML, or a value is not of the option's kind.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no configuration file {path}.")
    try:
        written = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not text in UTF-8 ({error.reason}); save it as such."
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not valid TOML: {error}.") from None
    found: dict[str, Any] = {}
    shared = {key for options in every.values() for key in options}
    for key, value in written.items():
        name = key.replace("-", "_")
        if isinstance(value, dict):
            if key not in every:
                raise UnknownKey(
                    f"{path}: there is no command for the table [{key}]{_near(key, every)}."
                )
        elif name not in shared:
            raise UnknownKey(f"{path}: no command has an option {key!r}{_near(name, shared)}.")
        elif name in every[command]:
            found[name] = _checked(path, key, value, every[command][name])
    for key, value in written.get(command, {}).items():
        name = key.replace("-", "_")
        if name not in every[command]:
            raise UnknownKey(
                f"{path}: the command {command} has no option {key!r}{_near(name, every[command])}."
            )
        found[name] = _checked(path, f"{command}.{key}", value, every[command][name])
    return found


def _near(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    return f"; near names: {', '.join(near)}" if near else ""


def _checked(path: Path, key: str, value: Any, option: Option) -> Any:
    """A value as the command line would have it; typer then checks it like any flag."""
    values = value if isinstance(value, list) else [value]
    if isinstance(value, list) and not option.many:
        raise ValueError(f"{path}: {key} is a list, but the option takes one value.")
    for one in values:
        if isinstance(one, bool) != option.flag:
            kind = "true or false" if option.flag else "text or a number"
            raise ValueError(f"{path}: {key} is {one!r}; write {kind}.")
        if not isinstance(one, str | bool | int | float):
            raise ValueError(f"{path}: {key} holds a {type(one).__name__}; write text or numbers.")
    return values if option.many else value
