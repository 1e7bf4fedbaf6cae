"""Find solutions where there must be none: by what cells say, whatever they are tagged."""

from __future__ import annotations

import ast
import re

from nbformat import NotebookNode

# Lines that an exercise and its solution may both have.
SHARED = re.compile(r'(def|class|import|from|return None)\b|exercises\.check_|""".*"""$|:::|:\w+:')
# Names, calls, operations and numbers that an expression has at least, to be an answer by itself.
TELLING = 8


def tags(cell: NotebookNode) -> list[str]:
    """Tags of a cell."""
    return cell.metadata.get("tags", [])


def leaks(master: NotebookNode, copy: NotebookNode) -> list[str]:
    """What `copy` shows of the solutions in `master`, whatever its cells are tagged; or nothing.

    A cell shows a solution if it defines a function with the body of the solution's, or returns
    or assigns what the solution's function returns, whatever the names in it, or has most of the
    solution's own lines.
    """
    found = []
    for solution in (cell for cell in master.cells if "solution" in tags(cell)):
        lines, bodies = own_lines(solution.source), function_bodies(solution)
        answers = results(solution)
        for cell in copy.cells:
            same = bodies & function_bodies(cell) or answers & expressions(cell)
            shared = lines & own_lines(cell.source)
            if same or (lines and len(shared) > len(lines) / 2):
                found.append(
                    f"  cell {cell.id!r} has what cell {solution.id!r} has: {min(shared or lines)}"
                )
    return found


def own_lines(source: str) -> set[str]:
    """Lines of a cell, commented out or not, without those that any stub and any box share."""
    lines = {re.sub(r"\s+", " ", line).strip("# ") for line in source.splitlines()}
    return {line for line in lines if len(line) > 3 and not SHARED.match(line)}


def parsed(cell: NotebookNode) -> ast.Module:
    """The code of a cell, without its magic lines; of a text, nothing."""
    code = cell.source if cell.cell_type == "code" else ""
    return ast.parse(re.sub(r"^(\s*)[%!].*", r"\1pass", code, flags=re.MULTILINE))


def functions(cell: NotebookNode) -> dict[str, ast.FunctionDef]:
    """Functions that a code cell defines, by name."""
    nodes = ast.walk(parsed(cell))
    return {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}


def expressions(cell: NotebookNode) -> set[str]:
    """What a cell assigns or returns, as far as it is telling, whatever the names in it."""
    makers = (ast.Assign, ast.AnnAssign, ast.Return)
    values = [node.value for node in ast.walk(parsed(cell)) if isinstance(node, makers)]
    return {_shape(value) for value in values if value is not None and _is_telling(value)}


def results(cell: NotebookNode) -> set[str]:
    """What a cell's functions return, as far as it is telling; a name stands for its value."""
    found = set()
    for function in functions(cell).values():
        nodes = list(ast.walk(function))
        given = {
            target.id: node.value
            for node in nodes
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for value in (node.value for node in nodes if isinstance(node, ast.Return)):
            value = given.get(value.id, value) if isinstance(value, ast.Name) else value
            if value is not None and _is_telling(value):
                found.add(_shape(value))
    return found


def _is_telling(value: ast.expr) -> bool:
    return sum(isinstance(node, ast.expr) for node in ast.walk(value)) >= TELLING


def _shape(value: ast.expr) -> str:
    """An expression with its names and numbers numbered in order, so that ``[:3]`` is ``[:k]``."""
    seen: dict[str, str] = {}

    class Numbered(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.Name:
            return ast.Name(seen.setdefault(node.id, f"v{len(seen)}"), ast.Load())

        def visit_Constant(self, node: ast.Constant) -> ast.AST:
            if isinstance(node.value, bool) or not isinstance(node.value, int | float):
                return node
            return ast.Name(seen.setdefault(repr(node.value), f"v{len(seen)}"), ast.Load())

    return ast.dump(Numbered().visit(ast.parse(ast.unparse(value), mode="eval")))


def function_bodies(cell: NotebookNode) -> set[str]:
    """Bodies of a cell's functions, their variables numbered in order; stubs are left out."""
    return {_body(f) for f in functions(cell).values() if not is_stub(f)}


def is_stub(function: ast.FunctionDef) -> bool:
    """Whether a function does nothing but return None."""
    body = [n for n in function.body if not _is_docstring(n)]
    if len(body) != 1 or not isinstance(body[0], ast.Return):
        return False
    value = body[0].value
    return value is None or (isinstance(value, ast.Constant) and value.value is None)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _body(function: ast.FunctionDef) -> str:
    names: dict[str, str] = {a.arg: f"v{i}" for i, a in enumerate(function.args.args)}
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.setdefault(node.id, f"v{len(names)}")

    class Renamed(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.Name:
            return ast.Name(names.get(node.id, node.id), node.ctx)

    body = [Renamed().visit(n) for n in function.body if not _is_docstring(n)]
    return "\n".join(ast.dump(n) for n in body)


def checked(copy: NotebookNode) -> dict[str, ast.FunctionDef | None]:
    """The function that each ``exercises.check_...`` call looks at, as `copy` last defines it."""
    defined: dict[str, ast.FunctionDef] = {}
    found = {}
    for cell in copy.cells:
        defined |= functions(cell)
        if cell.cell_type == "code":
            for check, name in re.findall(r"exercises\.(check_\w+)\((\w+)", cell.source):
                found[check] = defined.get(name)
    return found
