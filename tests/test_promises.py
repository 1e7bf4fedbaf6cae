"""The page of promises: each has tests, and each test that it names is there and can run."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "book" / "promises.md").read_text(encoding="utf-8")
PROMISES = dict(re.findall(r"^(\S.+)\n: (.+)$", PAGE, re.MULTILINE))
NAMED = sorted(set(re.findall(r"`(test_\w+::[^`]+)`", PAGE)))


@functools.cache
def functions(file: str) -> dict[str, ast.FunctionDef]:
    tree = ast.parse((ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_promise_names_tests_and_nothing_else():
    assert len(PROMISES) >= 25
    assert len(PROMISES) == len(re.findall(r"^: ", PAGE, re.MULTILINE))
    for promise, tests in PROMISES.items():
        assert promise.endswith("."), promise
        for test in tests.split(", "):
            assert re.fullmatch(r"`test_\w+::test_\w+`", test), (promise, test)


@pytest.mark.parametrize("name", NAMED)
def test_the_test_is_there_and_never_left_out(name):
    file, _, function = name.partition("::")
    assert function in functions(file), f"tests/{file}.py has no {function}"
    decorators = [ast.unparse(d) for d in functions(file)[function].decorator_list]
    assert not [d for d in decorators if "mark.skip(" in d or "mark.xfail" in d]
