"""The table of marks: what checks printed, and what they say when they are called again."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
import pytest

from book.tools.build import marks as tool

IMPORTS = "%pip install nothing\nimport os"
RIGHT = """
def my_pitch(spatial, um_per_px):
    distances = np.linalg.norm(spatial[:, None] - spatial[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    return np.median(distances.min(axis=1)) * um_per_px


exercises.check_pitch(my_pitch)
"""
WRONG = RIGHT.replace(" * um_per_px\n", "\n")


def hand_in(path: Path, source: str, said: str) -> None:
    """A notebook as a learner hands it in: a solution that somebody left in, and an answer."""
    new = nbformat.v4
    answer = new.new_code_cell(source)
    answer.outputs = [new.new_output("stream", text=said)] if said else []
    solution = new.new_code_cell(RIGHT)
    solution.metadata["tags"] = ["solution"]
    solution.outputs = [new.new_output("stream", text="Correct.\n")]
    cells = [
        new.new_code_cell(IMPORTS),
        new.new_code_cell("import numpy as np\nfrom heclip_course import exercises"),
        new.new_markdown_cell("`exercises.check_pitch(my_pitch)`"),
        answer,
        solution,
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new.new_notebook(cells=cells), path)


@pytest.fixture
def collected(tmp_path):
    hand_in(tmp_path / "anna" / "01_data.ipynb", RIGHT, "Correct.\n")
    hand_in(tmp_path / "ben" / "01_data.ipynb", WRONG, "Not yet: that is in pixels.\n")
    hand_in(tmp_path / "cleo" / "later" / "01_data.ipynb", WRONG, "Not done yet: None.\n")
    hand_in(tmp_path / "dan" / "01_data.ipynb", WRONG, "")
    hand_in(tmp_path / "dan" / "02_loss.ipynb", RIGHT, "trying ...\nCorrect.\n")
    hand_in(tmp_path / "dan" / ".ipynb_checkpoints" / "03_old.ipynb", RIGHT, "Correct.\n")
    return tmp_path


def test_marks_are_read_from_what_was_handed_in(collected):
    table = tool.marks(collected)
    assert list(table.columns) == ["correct", "01 pitch", "02 pitch"]
    assert table["01 pitch"].to_dict() == {
        "anna": "correct",
        "ben": "not yet",
        "cleo": "not done",
        "dan": "not run",
    }
    assert table["02 pitch"].to_dict() == {
        "anna": "not handed in",
        "ben": "not handed in",
        "cleo": "not handed in",
        "dan": "correct",
    }
    assert table["correct"].tolist() == [1, 0, 0, 1]


def test_the_words_are_those_that_the_checks_print(capsys):
    import numpy as np

    from heclip_course import exercises

    for source, word in ((RIGHT, "correct"), (WRONG, "not yet"), (None, "not done")):
        space = {"np": np, "exercises": exercises}
        if source:
            exec(source, space)
        else:
            exercises.check_pitch(lambda spatial, um_per_px: None)
        assert tool.mark(capsys.readouterr().out) == word


@pytest.mark.slow
def test_an_edited_output_does_not_help_when_checks_are_called_again(tmp_path):
    hand_in(tmp_path / "anna" / "01_data.ipynb", RIGHT, "")
    hand_in(tmp_path / "ben" / "01_data.ipynb", WRONG, "Correct.\n")
    hand_in(tmp_path / "cleo" / "01_data.ipynb", RIGHT.replace("np.inf", "nothing"), "Correct.\n")
    assert tool.marks(tmp_path)["correct"].tolist() == [0, 1, 1]
    table = tool.marks(tmp_path, run=True)
    assert table["01 pitch"].tolist() == ["correct", "not yet", "not yet"]


def test_a_table_is_written_and_trouble_is_named(collected, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["marks.py", str(collected), "--csv", str(tmp_path / "m.csv")])
    assert tool.main() == 0
    assert "anna" in capsys.readouterr().out
    assert (tmp_path / "m.csv").read_text(encoding="utf-8").startswith("learner,correct,01 pitch")
    (collected / "ben" / "01_data.ipynb").write_text("{", encoding="utf-8")
    assert tool.main() == 1
    assert "ben" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["marks.py", str(tmp_path / "nowhere")])
    assert tool.main() == 1
    assert "No exercise was found" in capsys.readouterr().err
