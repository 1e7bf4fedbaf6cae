"""Which code a result rests on: a key that changes when, and only when, that code does.

A stopped contest goes on where it stopped, and a table in the book says whether the code that made
it is still the code one reads.
Both need to know what a class or function depends on, and nothing beyond it:
a new reader of slides must not call every measured table into question.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from heclip_lite.store import content_key

_Target = tuple[str, str | None]  # a module of this package, and a name in it or all of it


class _Module:
    """The top level of one module: which statement makes which name, and what is imported."""

    def __init__(self, path: Path) -> None:
        self.made: dict[str, list[ast.stmt]] = {}
        self.always: list[ast.stmt] = []  # statements that make no name but may do something
        self.imported: dict[str, _Target] = {}
        for statement in _without_docstrings(ast.parse(path.read_bytes())).body:
            if not isinstance(statement, ast.FunctionDef | ast.ClassDef):
                self.imported |= _imports(statement, path.parent)
            if isinstance(statement, ast.Import | ast.ImportFrom):
                continue
            names = set(_bound(statement))
            for name in names:
                self.made.setdefault(name, []).append(statement)
            if not names:
                self.always.append(statement)


def code_hash(module: str, name: str | None = None) -> str:
    """SHA-256 over the code of a function or class and of all it refers to in this package.

    Comments, docstrings and layout do not count, nor does code beside it that it never names.

    Parameters
    ----------
    module
        A module of this package, such as ``"heclip_lite.heclip"``.
    name
        What to look at, such as ``"HECLIP"``; by default the whole module.

    Raises
    ------
    KeyError
        If the module has no such name.
    """
    state = tuple((path.name, path.stat().st_mtime_ns) for path in sorted(_folder().glob("*.py")))
    return _hash(_folder(), state, module, name)


@lru_cache(maxsize=256)
def _hash(folder: Path, state: tuple, module: str, name: str | None) -> str:
    """The key of one state of the package: reading all that is named takes a while."""
    short = module.rpartition(".")[2]
    if name is not None and name not in _read(folder, short).made:
        raise KeyError(f"{module} has no {name!r} at its top level.")
    waiting: list[_Target] = [(short, name)]
    seen: set[_Target] = set()
    found: set[tuple[str, str]] = set()
    while waiting:
        target = waiting.pop()
        if target in seen:
            continue
        seen.add(target)
        where, wanted = target
        read = _read(folder, where)
        if wanted in read.imported and wanted not in read.made:
            waiting.append(read.imported[wanted])
            continue
        statements = read.made.get(wanted, [])
        if wanted is None or not statements:  # the module as a whole, or something unseen in it
            statements = [s for made in read.made.values() for s in made]
            waiting += read.imported.values() if wanted is None else ()
        for statement in [*statements, *read.always]:
            found.add((where, ast.dump(statement)))
            waiting += _referred(statement, where, read, folder)
    return content_key(*[part for pair in sorted(found) for part in pair])


def _folder() -> Path:
    return Path(__file__).parent


def _read(folder: Path, name: str) -> _Module:
    path = folder / f"{name}.py"
    return _parsed(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _parsed(path: Path, modified: int) -> _Module:
    return _Module(path)


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_text(body[0]):
            node.body = body[1:]
    return tree


def _is_text(statement: ast.stmt) -> bool:
    """Whether a statement is a text that nothing uses, such as a docstring."""
    value = getattr(statement, "value", None)
    return isinstance(statement, ast.Expr) and isinstance(getattr(value, "value", None), str)


def _bound(statement: ast.stmt) -> Iterator[str]:
    """Names that a statement at the top level makes."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
        return
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def _imports(statement: ast.stmt, folder: Path) -> dict[str, _Target]:
    """What imports inside a statement bind: name to a module of this package, or a name in it."""
    found: dict[str, _Target] = {}
    for node in ast.walk(statement):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            package, _, module = (node.module or "").partition(".")
            for alias in node.names if package == folder.name else ():
                bound = alias.asname or alias.name
                found[bound] = (module, alias.name) if module else (alias.name, None)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                package, _, module = alias.name.partition(".")
                if package == folder.name and module:
                    found[alias.asname or package] = (module, None)
    return {name: target for name, target in found.items() if (folder / f"{target[0]}.py").exists()}


def _referred(statement: ast.stmt, where: str, read: _Module, folder: Path) -> Iterator[_Target]:
    """What a statement names: in its own module, or in another of this package."""
    imported = read.imported | _imports(statement, folder)
    through = set()  # names read as `module.attribute`
    for node in ast.walk(statement):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module, inside = imported.get(node.value.id, (None, ""))
            if module is not None and inside is None:
                through.add(id(node.value))
                yield module, node.attr
    for node in ast.walk(statement):
        if isinstance(node, ast.Name) and id(node) not in through:
            if node.id in imported:
                yield imported[node.id]
            elif node.id in read.made:
                yield where, node.id
