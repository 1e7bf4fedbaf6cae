"""Malformed inputs: each ends in a message of our own, and nothing is written or loaded."""

from __future__ import annotations

import re
import warnings

import damage
import malformed
import pytest

from heclip_lite.data import readers, sections
from heclip_lite.data.readers import files as readers_files


@pytest.fixture(scope="session")
def templates(tmp_path_factory):
    return malformed.Templates(tmp_path_factory.mktemp("templates"))


def tree(folder) -> dict:
    return {
        path.relative_to(folder): path.lstat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@pytest.mark.parametrize("case", malformed.CASES, ids=lambda case: case.name)
def test_malformed_input_is_explained(case, templates, tmp_path, monkeypatch):
    # Nothing may rest on numcodecs: old ones decode every pickle, and newer ones if told to.
    monkeypatch.setattr("numcodecs.pickles.ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    written = templates.make(case, tmp_path / "input")
    damage.where_permissions_hold(tmp_path, lambda: explained(case, written, tmp_path))


def explained(case, written, folder):
    before = tree(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if case.says is None:
            sections.check_section(readers.read_section(written.path, **written.options))
        else:
            with pytest.raises((ValueError, FileNotFoundError, PermissionError)) as caught:
                readers.read_section(written.path, **written.options)
            said = str(caught.value)
            assert re.search(case.says, said, re.IGNORECASE), said
            assert len(said) < 1500 and not said.startswith(("[Errno", "'"))
            # The words are ours: they name the file, the section or the option.
            assert readers_files.raised_here(caught.value)
    assert tree(folder) == before


def test_the_table_is_long_and_its_names_are_different():
    names = [f"{case.layout}: {case.name}" for case in malformed.CASES]
    assert len(set(names)) == len(names)
    assert sum(case.says is not None for case in malformed.CASES) >= 60
