"""The key of code: it sees what decides a result, and nothing beside it."""

from __future__ import annotations

import pytest

from heclip_lite import codehash

LOW = '"""Words."""\nx = 1\ny = 1\n\n\ndef used():\n    return x\n\n\ndef other():\n    return y\n'
HIGH = "from heclip_lite import low\n\n\ndef f():\n    return low.used()\n"


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "heclip_lite"
    folder.mkdir()
    monkeypatch.setattr(codehash, "__file__", str(folder / "codehash.py"))
    written = {}

    def key(name="f", **modules):
        written.update(modules)
        for remembered in (codehash._parsed, codehash._hash):
            remembered.cache_clear()  # two writes may share one time stamp
        for module, text in written.items():
            (folder / f"{module}.py").write_text(text)
        return codehash.code_hash("heclip_lite.high", name)

    return key


@pytest.mark.parametrize(
    "high",
    [
        HIGH,
        "def f():\n    from heclip_lite import low\n    return low.used()\n",
        "from heclip_lite.low import used as u\n\n\ndef f():\n    return u()\n",
        "import heclip_lite.low as low\n\n\nclass f(object):\n    g = low.used\n",
        "from heclip_lite import low\n\n\ndef f():\n    return getattr(low, 'used')()\n",
        "from heclip_lite import low\n\nkept = low.used()\n\n\ndef f():\n    return kept\n",
        "try:\n    from heclip_lite import low\nexcept ImportError:\n    low = None\n\n\n"
        "def f():\n    return low.used()\n",
    ],
)
def test_what_is_named_counts(package, high):
    before = package(low=LOW, high=high)
    assert package(low=LOW) == before
    assert package(low=LOW.replace("x = 1", "x = 2")) != before


def test_what_is_not_named_does_not_count(package):
    before = package(low=LOW, high=HIGH)
    assert package(low=LOW.replace("y = 1", "y = 2")) == before
    assert package(low=LOW + "\n\nclass New:\n    pass\n") == before
    assert package(third="z = 1\n") == before


def test_words_and_layout_do_not_count(package):
    before = package(low=LOW, high=HIGH)
    changed = "# A comment.\n" + LOW.replace("Words", "Other words").replace("x = 1", "x = (1)")
    assert package(low=changed) == before


def test_a_whole_module_counts_where_no_name_is_given(package):
    before = package(None, low=LOW, high=HIGH)
    assert package(None, low=LOW.replace("y = 1", "y = 2")) != before


def test_names_that_are_handed_on_are_followed(package):
    middle = "from heclip_lite.low import used\n"
    high = HIGH.replace("import low", "import middle").replace("low.", "middle.")
    before = package(low=LOW, middle=middle, high=high)
    assert package(low=LOW.replace("x = 1", "x = 2")) != before


def test_statements_that_only_act_count_with_their_module(package):
    before = package(low=LOW, high=HIGH)
    assert package(low=LOW + "\nprint(x)\n") != before


def test_an_unknown_name_is_refused(package):
    with pytest.raises(KeyError, match="has no 'g'"):
        package("g", low=LOW, high=HIGH)


def test_methods_do_not_hang_on_each_other():
    """Each method has a key of its own: a change to one leaves the results of the others."""
    from heclip_lite import methods

    keys = {
        kind.__qualname__: codehash.code_hash(kind.__module__, kind.__qualname__)
        for kind in (methods.Mean, methods.Ridge, methods.HECLIP, methods.Regression)
    }
    assert len(set(keys.values())) == len(keys)
