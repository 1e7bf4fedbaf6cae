"""What the notebooks share: their slides, the workspace, the record of a run."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

import heclip_course as course
from heclip_course import chapter as chapters
from heclip_lite import config, methods, training
from heclip_lite.data import sections
from heclip_lite.store import package_hash

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def chapter(tmp_path, monkeypatch, small_sections):
    """A chapter on the small sections of the tests."""
    small = course.Dataset(
        training=("P1-1", "P1-2"), test=("P2-1",), read=lambda seed: small_sections, about="toy"
    )
    monkeypatch.setitem(course.DATASETS, "small", small)
    return course.start(
        "09_test",
        data="small",
        encoder="test_resnet",
        workspace=tmp_path / "workspace",
        results=tmp_path / "results",
    )


def quick(chapter):
    maps = replace(chapter.maps, um_per_px=(2.4,), components=16)
    return methods.HECLIP.recommended(maps, config.Training(epochs=2, batch_size=32), members=1)


def test_sections_come_in_their_roles(chapter):
    assert [sections.name_of(s) for s in chapter.training] == ["P1-1", "P1-2"]
    assert [sections.name_of(s) for s in chapter.test] == ["P2-1"]
    assert chapter.split[0].test == ("P2-1",)


@pytest.mark.parametrize("data", course.DATASETS)
def test_a_dataset_holds_out_a_known_and_a_new_donor(data):
    chosen = course.DATASETS[data]
    donors = [name[:2] if data == "synthetic" else name[0] for name in chosen.training]
    known, new = (name[:2] if data == "synthetic" else name[0] for name in chosen.test)
    assert known in donors and new not in donors
    assert not set(chosen.training) & set(chosen.test)


def test_what_was_trained_is_found_again(chapter, monkeypatch):
    first = chapter.trained("model", quick(chapter))
    monkeypatch.setattr(methods.HECLIP, "fit", lambda *_: pytest.fail("trained again"))
    again = chapter.trained("model", quick(chapter))
    assert (again.predict(chapter.test[0]) == first.predict(chapter.test[0])).all()
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        chapter.trained("model", quick(chapter).with_seed(1))


def test_another_package_trains_anew(chapter, monkeypatch):
    chapter.trained("model", quick(chapter))
    monkeypatch.setattr("heclip_lite.store.code_key", lambda *_: "another")
    monkeypatch.setattr(methods.HECLIP, "fit", lambda *_: pytest.fail("trained again"))
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        chapter.trained("model", quick(chapter))


def test_the_record_says_what_ran(chapter):
    chapter.keep(answer=42)
    record = json.loads(chapter.finish().read_text(encoding="utf-8"))
    assert record["sections"] == {
        s.obs["section"].iloc[0]: s.n_obs for s in chapter.training + chapter.test
    }
    assert record["results"] == {"answer": 42}
    assert record["package_hash"] == package_hash()
    assert record["seconds"] > 0 and record["device"] and record["versions"]["torch"]


def test_a_full_disk_stops_a_chapter_with_a_word(chapter, tmp_path, full_disk):
    again = {"data": "small", "workspace": tmp_path / "new", "results": tmp_path / "results"}
    with full_disk(8), pytest.raises(OSError, match=r"Make room there .*new/workspace.json"):
        course.start("09_test", **again)
    assert not list((tmp_path / "new").iterdir())
    with full_disk(8), pytest.raises(OSError, match=r"Make room there .*results/09_test.json"):
        chapter.finish()
    assert not list((tmp_path / "results").iterdir())
    assert chapter.finish().exists() and course.start("09_test", **again)


def test_a_workspace_of_another_dataset_is_refused(tmp_path, chapter):
    with pytest.raises(ValueError, match=r"belongs to small, but DATA is synthetic.*WORKSPACE"):
        course.start("09_test", data="synthetic", workspace=tmp_path / "workspace")
    (tmp_path / "workspace" / "workspace.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="is damaged; delete the folder"):
        course.start("09_test", data="small", workspace=tmp_path / "workspace")


def test_unknown_parameters_are_named(tmp_path):
    with pytest.raises(ValueError, match="DATA is 'mouse'; choose one of synthetic, her2st"):
        course.start("09_test", data="mouse", workspace=tmp_path)
    with pytest.raises(ValueError, match="PROFILE is 'slow'; choose one of fast, full"):
        course.start("09_test", profile="slow", workspace=tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_damaged_model_is_trained_anew_with_a_word(chapter):
    first = chapter.trained("model", quick(chapter)).predict(chapter.test[0])
    (folder,) = (chapter.workspace / "models").iterdir()
    for damage in ("heclip.safetensors", "heclip.json"):
        (folder / damage).write_bytes(b"{")
        with pytest.warns(UserWarning, match=r"The model in .* is damaged; it is trained again"):
            again = chapter.trained("model", quick(chapter))
        assert np.array_equal(again.predict(chapter.test[0]), first)
    (folder / "heclip.safetensors").unlink()
    with pytest.warns(UserWarning, match=r"The model in .* is damaged"):
        chapter.trained("model", quick(chapter))


def test_two_processes_train_a_model_once(chapter, monkeypatch):
    """The second asks while the first trains, and finds what the first saved."""
    come, found, fit = threading.Event(), [], methods.HECLIP.fit
    other = threading.Thread(target=lambda: found.append(chapter.trained("model", quick(chapter))))

    def fit_once(method, training_sections):
        other.start()  # a second time fails
        assert come.wait(60)
        return fit(method, training_sections)

    def warn(text, **_):
        if "Another process works in" in text:
            come.set()

    monkeypatch.setattr(methods.HECLIP, "fit", fit_once)
    monkeypatch.setattr("heclip_lite.store.warnings.warn", warn)
    first = chapter.trained("model", quick(chapter))
    other.join()
    assert (found[0].predict(chapter.test[0]) == first.predict(chapter.test[0])).all()


def stopped(chapter, monkeypatch) -> Path:
    """Folder of a model whose training was killed while it wrote its second state."""
    save = training._State.save

    def stop_in_second_epoch(self, history):
        if len(history) == 2:
            (self.folder / ".state-0002.0123abcd.safetensors").write_bytes(b"half")
            raise KeyboardInterrupt
        save(self, history)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training._State, "save", stop_in_second_epoch)
        chapter.trained("model", quick(chapter))
    (folder,) = (chapter.workspace / "models").iterdir()
    return folder


def test_a_damaged_unfinished_training_starts_again_with_a_word(chapter, monkeypatch):
    folder = stopped(chapter, monkeypatch)
    states = [path for path in (folder / "training").rglob("state*")]
    assert len(states) == 2
    for state in states:
        state.write_bytes(b"{")
    with pytest.warns(
        UserWarning, match=r"The unfinished training in .* is damaged; it starts again"
    ):
        again = chapter.trained("model", quick(chapter))
    first = quick(chapter).fit(chapter.training).predict(chapter.test[0])
    assert np.array_equal(again.predict(chapter.test[0]), first)


def test_a_finished_training_leaves_the_model_and_nothing_else(chapter, monkeypatch):
    folder = stopped(chapter, monkeypatch)
    (folder / ".heclip.0123abcd.safetensors").write_bytes(b"half")
    found = chapter.trained("model", quick(chapter))
    first = quick(chapter).fit(chapter.training).predict(chapter.test[0])
    assert np.array_equal(found.predict(chapter.test[0]), first)
    names = {path.name for path in folder.iterdir()}
    assert names == {"heclip.json", "heclip.safetensors", "lock"}


def test_a_workspace_of_an_older_package_is_left_alone_and_not_used(chapter, monkeypatch):
    old = chapter.trained("model", quick(chapter))
    before = set((chapter.workspace / "models").iterdir())
    monkeypatch.setattr("heclip_lite.store.code_key", lambda *_: "a newer package")
    new = chapter.trained("model", quick(chapter))
    assert new is not old
    assert len(set((chapter.workspace / "models").iterdir()) - before) == 1


@pytest.mark.parametrize("content", [b"[]", b"{}", b"\xff\xfe", b"null"])
def test_a_workspace_that_nobody_understands_is_named(tmp_path, chapter, content):
    (tmp_path / "workspace" / "workspace.json").write_bytes(content)
    with pytest.raises(ValueError, match="is damaged; delete the folder"):
        course.start("09_test", data="small", workspace=tmp_path / "workspace")


def test_folders_that_cannot_be_written_to_are_named_at_once(tmp_path, chapter, monkeypatch):
    unread = replace(course.DATASETS["small"], read=lambda _: pytest.fail("the slides were read"))
    monkeypatch.setitem(course.DATASETS, "small", unread)
    blocked = tmp_path / "file"
    blocked.write_text("not a folder", encoding="utf-8")
    good = tmp_path / "workspace"
    with pytest.raises(ValueError, match=r"RESULTS is .*file.* cannot be written to.*Set RESULTS"):
        course.start("09_test", data="small", workspace=good, results=blocked)
    with pytest.raises(ValueError, match=r"WORKSPACE is .*Set WORKSPACE to another folder"):
        course.start("09_test", data="small", workspace=blocked / "in", results=tmp_path / "r")
    assert not list(tmp_path.rglob(".writable*"))


def test_damaged_synthetic_slides_are_drawn_again_with_a_word(
    tmp_path, monkeypatch, small_sections
):
    monkeypatch.setenv("HECLIP_LITE_CACHE", str(tmp_path))
    names = tuple(sections.name_of(section) for section in small_sections)
    chosen = replace(course.DATASETS["synthetic"], training=names[:-1], test=names[-1:])
    monkeypatch.setitem(course.DATASETS, "synthetic", chosen)
    monkeypatch.setattr(
        "heclip_lite.data.synthetic.tissue.synthetic_sections", lambda seed: small_sections
    )
    first = chapters._synthetic(1)
    (path,) = tmp_path.rglob(f"{names[0]}.h5ad")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # a byte that HDF5 itself would not miss
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"synthetic tissue in .* is damaged; it is drawn again"):
        again = chapters._synthetic(1)
    assert [s.shape for s in again] == [s.shape for s in first]
    assert (again[0].X != first[0].X).nnz == 0


# Notebooks, twice in one kernel ---------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["01_data", "02_contrastive_training"])
def test_run_all_twice_in_one_kernel_says_the_same_twice(name, tmp_path, workspace):
    """No cell changes what an earlier one made, and what lies in the workspace is used rightly."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    once = [
        cell
        for cell in notebook.cells
        # A quiz gives its parts other names each time, so that two of them can stand on a page.
        if cell.cell_type == "code" and "quiz" not in cell.metadata.get("tags", [])
    ]
    folders = f"WORKSPACE, RESULTS = {str(workspace)!r}, {str(tmp_path)!r}"
    for cell in once:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source += f"\n{folders}"
    again = [nbformat.v4.new_code_cell(cell.source) for cell in once]
    notebook.cells = once + again
    NotebookClient(
        notebook, timeout=None, resources={"metadata": {"path": ROOT / "notebooks"}}
    ).execute()
    for first, second in zip(once, again, strict=True):
        assert shown(first) == shown(second), first.source


def shown(cell) -> list[str]:
    """What a cell printed and displayed, but for pictures and progress."""
    texts = []
    for output in cell.outputs:
        assert output.output_type != "error"
        if output.output_type == "stream" and output.name == "stdout":
            texts.append(output.text)
        elif "data" in output and "image/png" not in output.data:
            kinds = ("text/markdown", "text/html", "text/plain")
            texts.append(next((output.data[k] for k in kinds if k in output.data), ""))
    return [re.sub(r"0x[0-9a-f]+|[0-9a-f]{32}", "", text) for text in texts]
