"""Exact and approximate indices against brute force."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from heclip_lite import config, retrieval
from heclip_lite.methods import index
from heclip_lite.methods.heclip import HECLIP

WIDTH = 6
values = st.floats(-4, 4, width=32).map(lambda v: np.float32(round(v, 3)))


def tables(rows):
    return hnp.arrays(np.float32, st.tuples(rows, st.just(WIDTH)), elements=values)


def clustered(n: int, seed: int = 0, dim: int = 32):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(40, dim))
    return (centres[rng.integers(40, size=n)] + 0.4 * rng.normal(size=(n, dim))).astype("f4")


def brute(query, reference):
    lengths = np.linalg.norm(query, axis=1)[:, None] * np.linalg.norm(reference, axis=1)
    return query @ reference.T / np.maximum(lengths, 1e-12)


@settings(max_examples=150, deadline=None)
@given(tables(st.integers(1, 12)), tables(st.integers(1, 40)), st.data())
def test_exact_search_is_brute_force_ties_included(query, reference, data):
    # Rows drawn twice tie exactly.
    twice = data.draw(st.lists(st.integers(0, len(reference) - 1), max_size=10))
    reference = np.concatenate([reference, reference[twice]])
    k = data.draw(st.integers(1, len(reference)))
    rows, cosine = index.Index(reference).search(query, k)
    np.testing.assert_array_equal(rows, retrieval.retrieve(query, reference, k=k))
    every = brute(query.astype(float), reference.astype(float))
    np.testing.assert_allclose(cosine, np.take_along_axis(every, rows, 1), atol=1e-5)
    np.testing.assert_allclose(cosine, -np.sort(-every, axis=1)[:, :k], atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(tables(st.integers(2, 9)), tables(st.integers(1, 30)), st.integers(1, 60))
def test_pieces_find_the_same(query, reference, at_once):
    k = min(5, len(reference))
    rows, cosine = index.Index(reference).search(query, k)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "_SIMILARITIES", at_once)
        patch.setattr(index, "_ROWS", 3)
        found, same = index.Index(reference).search(query, k)
    np.testing.assert_allclose(cosine, same, atol=1e-6)
    every = brute(query.astype(float), reference.astype(float))
    np.testing.assert_allclose(
        np.take_along_axis(every, found, 1), np.take_along_axis(every, rows, 1), atol=1e-5
    )


def test_duplicates_of_many_references_keep_the_order_of_brute_force(monkeypatch):
    """Also where a few queries at a time are compared, as with a million references."""
    monkeypatch.setattr(index, "_SIMILARITIES", 10 * 6000)
    reference = np.tile(clustered(600), (10, 1))
    query = clustered(33, seed=1)
    rows, _ = index.Index(reference).search(query, 50)
    np.testing.assert_array_equal(rows, retrieval.retrieve(query, reference, k=50))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read in /proc")
def test_exact_search_takes_the_same_memory_whatever_the_references():
    code = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parents[2]), *sys.path]!r}
import numpy as np
from heclip_lite.methods.index import Index
from book.tools.measure.memory import peak_mib, resident_mib, start_peak_anew
rng = np.random.default_rng(0)
query = rng.normal(size=(1000, 16)).astype("f4")
made = Index(rng.normal(size=(int(sys.argv[1]), 16)).astype("f4"))
made.search(query[:20], 50)
before = resident_mib()
start_peak_anew()
made.search(query, 50)
print(peak_mib() - before)
"""
    took = [
        float(subprocess.check_output([sys.executable, "-c", code, str(size)], text=True))
        for size in (30_000, 300_000)
    ]
    assert max(took) < 128, took  # all similarities of the larger take 1.1 GiB


@pytest.mark.parametrize("kind", index.KINDS)
def test_arrays_and_tensors_come_back_as_they_came(kind):
    if kind == "approximate":
        pytest.importorskip("faiss")
    reference = clustered(500)
    made = index.Index(reference, kind=kind)
    assert (made.size, made.dim) == reference.shape
    rows, cosine = made.search(torch.from_numpy(reference[:4]), 3)
    assert isinstance(rows, torch.Tensor) and rows.dtype == torch.int64
    again, same = made.search(reference[:4], 3)
    np.testing.assert_array_equal(rows.numpy(), again)
    np.testing.assert_array_equal(cosine.numpy(), same)
    assert again[:, 0].tolist() == [0, 1, 2, 3]


@pytest.mark.gpu
@pytest.mark.parametrize("kind", index.KINDS)
def test_embeddings_may_lie_on_a_graphics_card(kind):
    if not torch.cuda.is_available():
        pytest.skip("gpu: there is no CUDA device")
    if kind == "approximate":
        pytest.importorskip("faiss")
    reference = clustered(500)
    wanted = index.Index(reference, kind=kind).search(reference[:4], 3)[0]
    there = torch.from_numpy(reference).cuda()
    for held in (there, reference):
        made = index.Index(held, kind=kind, queries=there[:50])
        rows, cosine = made.search(there[:4], 3)
        assert rows.is_cuda and cosine.is_cuda
        np.testing.assert_array_equal(rows.cpu(), wanted)
        np.testing.assert_array_equal(made.search(reference[:4], 3)[0], wanted)
    made = index.impute(there[:4], index.Index(there, kind=kind), there, k=3)
    assert made.shape == (4, there.shape[1])


@pytest.mark.parametrize("recall", [0.5, 0.9, 1.0])
def test_approximate_search_reaches_the_recall_asked_for(recall):
    pytest.importorskip("faiss")
    reference, query = np.split(clustered(20_200), [20_000])
    made = index.Index(reference, kind="approximate", recall=recall, k=20, seed=3)
    assert made.measured >= recall
    rows, cosine = made.search(query, 20)
    true = retrieval.retrieve(query, reference, k=20)
    assert index.recall_of(rows, true) >= recall - 0.05
    assert (np.diff(cosine, axis=1) <= 0).all()
    every = brute(query, reference)
    np.testing.assert_allclose(cosine, np.take_along_axis(every, rows, 1), atol=1e-5)


def test_a_reference_is_not_its_own_neighbour_when_lists_are_chosen():
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)  # no structure: the nearest of a point lies in any list
    reference, query = np.split(rng.normal(size=(10_200, 16)).astype("f4"), [10_000])
    made = index.Index(reference, kind="approximate", recall=0.9, k=1)
    found = made.search(query, 1)[0]
    assert index.recall_of(found, retrieval.retrieve(query, reference, k=1)) >= 0.85


def test_copies_of_a_query_may_hide_its_own_row():
    rows = np.array([[3, 5, 7], [5, 3, 7], [1, 2, 9]])
    left = index._others(rows, np.array([3, 3, 4]))
    assert left.tolist() == [[5, 7], [5, 7], [1, 2]]


def test_queries_unlike_the_references_are_reached_by_choosing_on_some_of_them():
    pytest.importorskip("faiss")
    reference, query = clustered(20_000), clustered(400, seed=5)  # other centres
    true = retrieval.retrieve(query[200:], reference, k=20)

    def recall(**options):
        made = index.Index(reference, kind="approximate", recall=0.9, k=20, **options)
        return index.recall_of(made.search(query[200:], 20)[0], true)

    assert recall(queries=query[:200]) >= 0.85 > recall()
    with pytest.raises(ValueError, match="queries has 3 dimensions"):
        recall(queries=np.ones((2, 3)))


def test_less_recall_looks_into_fewer_lists():
    pytest.importorskip("faiss")
    reference = np.random.default_rng(0).normal(size=(20_000, 32)).astype("f4")
    some, all_of = (index.Index(reference, kind="approximate", recall=r) for r in (0.3, 1.0))
    assert some._lists.nprobe < all_of._lists.nprobe <= all_of._lists.nlist


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 300), st.integers(0, 10), st.data())
def test_approximate_search_always_finds_k_different_rows(n, seed, data):
    pytest.importorskip("faiss")
    reference = clustered(n, seed)
    k = data.draw(st.integers(1, n))
    rows, _ = index.Index(reference, kind="approximate", recall=0.1, seed=seed).search(
        clustered(5, seed + 1), k
    )
    assert rows.min() >= 0 and all(len(set(row)) == k for row in rows.tolist())


def test_the_same_seed_gives_the_same_index():
    pytest.importorskip("faiss")
    reference, query = clustered(5000), clustered(50, seed=1)
    found = [
        index.Index(reference, kind="approximate", recall=0.6, seed=2).search(query, 10)[0]
        for _ in range(2)
    ]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("weights", [None, "similarity", 0.1])
def test_imputing_equals_that_of_retrieval(weights, tmp_path, monkeypatch):
    reference, query = clustered(300), clustered(20, seed=1)
    expression = np.random.default_rng(0).random((300, 7)).astype("f4")
    wanted = retrieval.impute(query, reference, expression, k=9, weights=weights)
    np.save(tmp_path / "bank.npy", expression)
    banks = (expression, torch.from_numpy(expression), np.load(tmp_path / "bank.npy", "r"))
    monkeypatch.setattr(index, "_GATHERED", 200)
    for bank in banks:
        found = index.impute(query, index.Index(reference), bank, k=9, weights=weights)
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_an_index_predicts_what_heclip_does(small_sections):
    image = config.PatchInput(trainable=False, size=32)
    fitted = HECLIP(
        image,
        config.Contrast(head="projection", dim=16),
        config.Decode(k=10),
        config.Training(epochs=1, batch_size=16),
    ).fit(small_sections[:2])
    references = index.Index(fitted.references[0])
    found = index.impute(fitted.embed(small_sections[2])[0], references, fitted.bank, k=10)
    np.testing.assert_allclose(found, fitted.predict(small_sections[2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"kind": "fast"}, "kind is 'fast'"),
        ({"recall": 0.0}, "recall is 0.0"),
        ({"recall": 1.5}, "recall is 1.5"),
        ({"k": 0}, "k is 0"),
    ],
)
def test_settings_out_of_range_are_named(options, what):
    with pytest.raises(ValueError, match=what):
        index.Index(np.eye(3), **options)


def test_bad_embeddings_are_named():
    bad = np.ones((70_000, 2), dtype="f4")
    bad[66_000, 1] = np.nan
    with pytest.raises(ValueError, match="reference row 66000 is not finite"):
        index.Index(bad)
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        index.Index(np.ones(3))
    made = index.Index(np.eye(3))
    with pytest.raises(ValueError, match="4 dimensions and reference 3"):
        made.search(np.ones((1, 4)), 1)
    for k in (0, 4):
        with pytest.raises(ValueError, match="choose k from 1 to 3"):
            made.search(np.eye(3), k)
    with pytest.raises(ValueError, match="one row for each"):
        index.impute(np.eye(3), made, np.ones((2, 5)), k=1)


def test_without_faiss_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"heclip-lite\[scale\]"):
        index.Index(np.eye(3), kind="approximate")
    assert index.Index(np.eye(3)).search(np.eye(3), 1)[0].ravel().tolist() == [0, 1, 2]
