"""The key of code: an edit that can move a number changes it, and nothing else does."""

from __future__ import annotations

import pytest

from heclip_lite import store

CODE = """'''Words.'''
x = 1


class A:
    '''More words.'''

    def f(self):
        return x
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write files of a package; then the key of some of its folders."""
    monkeypatch.setattr(store, "__file__", str(tmp_path / "store.py"))

    def key(*folders, **files):
        store._code_of.cache_clear()  # two writes may share one time stamp
        for name, text in files.items():
            path = tmp_path / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return store.code_key(*folders)

    return key


@pytest.mark.parametrize(
    ("edit", "counts"),
    [
        (CODE.replace("x = 1", "x = 2"), True),
        (CODE.replace("return x", "return -x"), True),
        (CODE + "print('a text that is printed')\n", True),
        (CODE.replace("Words", "Other words").replace("More", "Fewer"), False),
        ("# A comment.\n" + CODE.replace("x = 1", "x = (1)"), False),
        (CODE.replace("    '''More words.'''\n\n", ""), False),
    ],
)
def test_code_counts_and_words_and_layout_do_not(package, edit, counts):
    before = package("core", "data", first=CODE, data__images=CODE)
    assert (package("core", "data", data__images=edit) != before) == counts
    assert (package("core", "data", data__images=CODE, first=edit) != before) == counts


def test_a_folder_counts_by_itself(package):
    files = {"first": CODE, "data__a": CODE, "data__readers__b": CODE, "cli__c": CODE}
    before = {name: package(name, **files) for name in ("core", "data", "data/readers", "cli")}
    package("core", data__readers__b=CODE.replace("x = 1", "x = 2"))
    now = {name: package(name) for name in before}
    assert [name for name in before if now[name] != before[name]] == ["data/readers"]


def test_a_file_that_comes_goes_or_moves_counts(package):
    before = package("core", "data", first=CODE, data__a=CODE)
    assert package("core", "data", data__b=CODE) != before
    assert package("data", data__b=CODE) != before


@pytest.mark.parametrize("name", ["nothing", "data", "../elsewhere"])
def test_a_folder_without_code_is_refused(package, name):
    with pytest.raises(ValueError, match="no folder"):
        package(name, first=CODE)


def test_the_hash_of_the_package_sees_every_folder(package):
    package("core", first=CODE, data__readers__b=CODE)
    before = store.package_hash.__wrapped__()
    package("core", data__readers__b=CODE.replace("Words", "Other words"))
    assert store.package_hash.__wrapped__() != before
