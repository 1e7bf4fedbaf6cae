"""The examples in docstrings do what they say."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "heclip_lite"
WITH_EXAMPLES = sorted(p.stem for p in PACKAGE.glob("*.py") if ">>> " in p.read_text("utf-8"))


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples(module):
    result = doctest.testmod(importlib.import_module(f"heclip_lite.{module}"))
    assert result.attempted > 0 and result.failed == 0
