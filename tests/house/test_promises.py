"""The page of promises: each has tests, and each test that it names is there and can run.

What a test may lack, so that it skips, the page says behind its name.
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "book" / "promises.md").read_text(encoding="utf-8")
PROMISES = dict(re.findall(r"^(\S.+)\n: (.+)$", PAGE, re.MULTILINE))
NAMED = sorted(set(re.findall(r"`(test_\w+::[^`]+)`", PAGE)))
INSTALLED = (ROOT / "requirements.txt").read_text(encoding="utf-8")
# What stands in a mark, in the condition of a skip or in its message, and what it means.
NEEDS = {
    "gpu": "a graphics card",
    "browser": "a browser",
    "real_data": "real slides",
    "real data": "real slides",
    "offline": "Linux",
    "/proc": "Linux",
}


@functools.cache
def module(file: str) -> ast.Module:
    (path,) = (ROOT / "tests").rglob(f"{file}.py")
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def functions(file: str) -> dict[str, ast.FunctionDef]:
    return {node.name: node for node in module(file).body if isinstance(node, ast.FunctionDef)}


def meaning(words: str) -> set[str]:
    found = {need for key, need in NEEDS.items() if key in words}
    assert found, f"{words}: say in NEEDS what is missing where this skips"
    return found


def marks(file: str, function: ast.FunctionDef) -> list[str]:
    """Marks of a test and of its module, as they are written."""
    own = [node for node in module(file).body if isinstance(node, ast.Assign)
           and ast.unparse(node.targets[0]) == "pytestmark"]  # fmt: skip
    parts = [node.value for node in own]
    parts = [inner for part in parts for inner in getattr(part, "elts", [part])]
    return [ast.unparse(part) for part in (*parts, *function.decorator_list)]


def calls(function: ast.FunctionDef) -> list[tuple[str, str]]:
    """What a function calls of pytest's, with the first argument."""
    found = (node for node in ast.walk(function) if isinstance(node, ast.Call) and node.args)
    return [(ast.unparse(call.func), ast.unparse(call.args[0])) for call in found]


def needs(file: str, name: str) -> set[str]:
    """What a test or fixture, and the fixtures that it asks for, skip without."""
    if name not in functions(file):
        file = "conftest"
    if name not in functions(file):
        return set()  # a fixture of pytest's, or a parameter
    function, found = functions(file)[name], set()
    for mark in marks(file, function):
        if re.search(r"mark\.(skipif|gpu|browser|real_data|offline)\b", mark):
            found |= meaning(mark)
    for call, about in calls(function):
        if call == "pytest.skip":
            found |= meaning(about)
        if call == "pytest.importorskip":
            package = ast.literal_eval(about).partition(".")[0].replace("_", "-")
            if not re.search(rf"^{package}(-\w+)?==", INSTALLED, re.MULTILINE):
                found.add(package)
    for asked in function.args.args:
        if asked.arg != name:
            found |= needs(file, asked.arg)
    return found


def test_every_promise_names_tests_and_nothing_else():
    assert len(PROMISES) >= 25
    assert len(PROMISES) == len(re.findall(r"^: ", PAGE, re.MULTILINE))
    for promise, tests in PROMISES.items():
        assert promise.endswith("."), promise
        for test in re.sub(r" \(needs [^()]+\)$", "", tests).split(", "):
            assert re.fullmatch(r"`test_\w+::test_\w+`", test), (promise, test)


@pytest.mark.parametrize("name", NAMED)
def test_the_test_is_there_and_never_left_out(name):
    file, _, function = name.partition("::")
    assert function in functions(file), f"{file}.py has no {function}"
    for mark in marks(file, functions(file)[function]):
        assert not re.search(r"mark\.(skip|xfail)\b", mark), mark
    for statement in functions(file)[function].body:
        assert not re.match(r"pytest\.(skip|xfail)\(", ast.unparse(statement))


@pytest.mark.parametrize("promise", PROMISES)
def test_the_page_says_what_a_test_may_lack(promise):
    named = [test.split("::") for test in re.findall(r"`([^`]+)`", PROMISES[promise])]
    lacking = set().union(*(needs(file, function) for file, function in named))
    said = re.search(r" \(needs ([^()]+)\)$", PROMISES[promise])
    assert set(re.split(", | and ", said[1]) if said else ()) == lacking


def test_what_a_test_may_lack_is_seen():
    seen = {name: needs(*name.split("::")) for name in NAMED}
    assert set().union(*seen.values()) == set(NEEDS.values())
    assert needs("test_readers", "test_legacy_st_as_published_equals_our_own_reader") == {
        "real slides"
    }
    assert not needs("test_promises", "test_every_promise_names_tests_and_nothing_else")
