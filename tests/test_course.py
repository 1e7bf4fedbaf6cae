"""What the notebooks share: their slides, the workspace, the record of a run."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from heclip_lite import config, course, methods, sections
from heclip_lite.store import package_hash


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
    monkeypatch.setattr("heclip_lite.store.package_hash", lambda: "another")
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
