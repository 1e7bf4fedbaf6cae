"""What the book, its quizzes and the README show of the command line is what the program takes."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import typer

from heclip_lite.cli import program as cli

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "book").glob("*.md"))]
QUIZZES = [
    option.get("text", "")
    for path in sorted((ROOT / "book" / "heclip_course" / "quizzes").glob("*.json"))
    for question in json.loads(path.read_text(encoding="utf-8"))["questions"]
    for option in question["options"]
]
TOGETHER = "torchrun --nproc-per-node 4 --no-python "  # before a command for several processes
LINES = sorted(
    {
        line.strip().removeprefix(TOGETHER)
        for text in [
            *(body for page in PAGES for _, body in FENCE.findall(page.read_text("utf-8"))),
            *cli.EXAMPLES.values(),
            *(text.strip("`") for text in QUIZZES),
        ]
        for line in text.splitlines()
        if line.strip().removeprefix(TOGETHER).startswith("heclip-lite ")
    }
)


def parsed(line: str):
    """The context of a command line that was parsed and not run."""
    group = typer.main.get_command(cli.app)
    _, name, *rest = shlex.split(line, comments=True)
    root = group.make_context("heclip-lite", [name, *rest])
    return group.commands[name].make_context(name, rest, parent=root)


@pytest.mark.parametrize("line", LINES)
def test_every_line_that_is_shown_parses(line, tmp_path, monkeypatch):
    page = (ROOT / "book/command_line.md").read_text(encoding="utf-8")
    (toml,) = [body for kind, body in FENCE.findall(page) if kind == "toml"]
    (tmp_path / "run.toml").write_text(toml, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    given = parsed(line).params
    if "run.toml" in line:
        assert given["sections"] == ["her2st:C2", "her2st:C3"] and given["seed"] == 1
        assert given["epochs"] == (5 if "--epochs" in line else 60)


@pytest.mark.parametrize("places", [["book/command_line.md"], ["README.md", "notebooks/*.ipynb"]])
def test_every_command_is_shown(places):
    """On its own page, and where a reader begins: in the README or a chapter."""
    texts = [path.read_text(encoding="utf-8") for place in places for path in ROOT.glob(place)]
    shown = {name for text in texts for name in re.findall(r"^\W*heclip-lite (\w+) ", text, re.M)}
    assert shown == set(typer.main.get_command(cli.app).commands)


def test_every_method_is_named():
    from heclip_lite.cli.methods import NAMES

    page = (ROOT / "book/command_line.md").read_text(encoding="utf-8")
    kept = set(NAMES) - {"average", "heclip_train_harmony"}  # these cannot be saved
    named = set(re.findall(r"`(\w+)`", page))
    assert kept - named == {"clip_maps", "regression_maps"}  # "and so on"
