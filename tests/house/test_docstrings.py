"""The examples in docstrings do what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = {path: ROOT for path in (ROOT / "heclip_lite").rglob("*.py")}
FILES |= {path: ROOT / "book" for path in (ROOT / "book" / "heclip_course").glob("*.py")}
WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(root).with_suffix("").parts)
    for path, root in FILES.items()
    if ">>> " in path.read_text("utf-8")
)


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0 and result.failed == 0
