"""Each check accepts the solution, names planted mistakes and survives any function."""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import sparse
from scipy.spatial.distance import pdist, squareform

from heclip_course import answers, exercises
from heclip_lite import evaluation, losses, retrieval
from heclip_lite.data import genes
from heclip_lite.evaluation import metrics

ROOT = Path(__file__).resolve().parents[2]
CHECKS = {name: f for name, f in vars(exercises).items() if name.startswith("check_")}


def _pitch(spatial, um_per_px):
    distances = np.linalg.norm(spatial[:, None] - spatial[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    return np.median(distances.min(1)) * um_per_px


def _nearest(points):
    return np.sort(squareform(pdist(points)), axis=1)[:, 1]


def _mean_and_error(values):
    return np.array([values.mean(), values.std(ddof=1) / np.sqrt(len(values))])


def _residual(values, depth):
    return values - np.polyval(np.polyfit(depth, values, 1), depth)


def _elsewhere(embeddings, allowed):
    """The 3 rows most alike to each row, among those that are allowed for it."""
    places = [np.flatnonzero(rows) for rows in allowed]
    found = [
        retrieval.retrieve(row[None], embeddings[at], k=3)[0]
        for row, at in zip(embeddings, places, strict=True)
    ]
    return np.stack([at[three] for at, three in zip(places, found, strict=True)])


def _effective(target):
    return torch.exp(torch.special.entr(target).sum(1))


def _reliability(r, parts):
    return parts * r / (1 + (parts - 1) * r)


SOLUTIONS = {
    "check_log_normalise": genes.log_normalise,
    "check_pitch": _pitch,
    "check_clip_loss": lambda i, s: losses.clip_loss(i, s, temperature=0.2),
    "check_sharpness": lambda i: losses.target_matrix(i, i).amax(1).mean(),
    "check_retrieve": lambda e, s: _elsewhere(e, [s != own for own in s]),
    "check_pearson": evaluation.pearson_per_gene,
    "check_softness": lambda t: (_effective(t) - 1) / (len(t) - 1),
    "check_paired_difference": lambda a, b: _mean_and_error((b - a).mean(1)),
    "check_partial_correlation": lambda t, p, d: metrics.partial_pearson_per_gene(
        t[:, None], p[:, None], d
    )[0],
    "check_counting_ceiling": lambda r, k: np.sqrt(_reliability(np.maximum(r, 0), k)),
    "check_attention": lambda q, k, v: F.scaled_dot_product_attention(q, k, v),
    "check_fill_square": lambda w: np.concatenate(
        [w + step for step in ([0, 0], [0.5, 0], [0, 0.5], [0.5, 0.5])]
    ),
    "check_smooth": lambda v, b, own: np.stack(
        [(own * v[i] + v[row > 0].sum(0)) / (own + row.sum()) for i, row in enumerate(b)]
    ),
    "check_coherence": lambda labels, pairs: float(
        np.mean([labels[a] == labels[b] for a, b in pairs])
    ),
    "check_gain": lambda m, b: m.mean() - max(row.mean() for row in b),
    "check_um_per_px": lambda points, pitch_um: pitch_um / _pitch(points, 1.0),
    "check_merge_columns": lambda counts, gene_of: np.stack(
        [np.bincount(gene_of, weights=row) for row in counts]
    ),
}

PLANTED = [
    ("check_attention", lambda q, k, v: torch.softmax(q @ k.T, 1) @ v, "root of the width before"),
    ("check_attention", lambda q, k, v: torch.softmax(q @ k.T / 2, 0) @ v, "over those heard"),
    ("check_attention", lambda q, k, v: q @ k.T / 2 @ v, "softmax is missing"),
    ("check_attention", lambda q, k, v: torch.softmax(k @ q.T / 2, 1) @ v, "changed places"),
    ("check_fill_square", lambda w: np.tile(w, (4, 1)), "half steps are cut off"),
    (
        "check_fill_square",
        lambda w: np.concatenate([np.add(w, s) for s in ([0, 0], [1, 0], [0, 1], [1, 1])]),
        "whole, not half",
    ),
    (
        "check_fill_square",
        lambda w: np.concatenate([np.add(w, s) for s in ([0, 0], [0, 0.5], [0.5, 0], [0.5, 0.5])]),
        "right is the column",
    ),
    ("check_smooth", lambda v, b, own: b @ v / b.sum(1, keepdims=True), "itself belongs"),
    (
        "check_smooth",
        lambda v, b, own: (v + b @ v) / (1 + b.sum(1)[:, None]),
        "the spot counts once",
    ),
    ("check_smooth", lambda v, b, own: own * v + b @ v, "that is a sum"),
    ("check_smooth", lambda v, b, own: (own * v + b @ v) / b.sum(1)[:, None], "times more"),
    ("check_smooth", lambda v, b, own: (own * v + b @ v) / (1 + b.sum(1)[:, None]), "there too"),
    ("check_coherence", lambda a, p: (a[p[:, 0]] != a[p[:, 1]]).mean(), "disagrees"),
    ("check_coherence", lambda a, p: float((a[p[:, 0]] == a[p[:, 1]]).sum()), "that is a count"),
    ("check_coherence", lambda a, p: (a[p[:, 0]] == a[p[:, 1]]).sum() / len(a), "not of spots"),
    ("check_log_normalise", lambda c: np.log1p(1e4 * c / c.sum(0)), "total of each gene"),
    ("check_log_normalise", lambda c: 1e4 * c / c.sum(1, keepdims=True), "logarithm is missing"),
    ("check_log_normalise", lambda c: np.log1p(c / c.sum(1, keepdims=True)), "ten thousand"),
    ("check_pitch", lambda s, u: _pitch(s, 1.0), "in pixels"),
    ("check_pitch", lambda s, u: _pitch(s, 1 / u), "multiply more"),
    ("check_pitch", lambda s, u: 0.0, "its own nearest neighbour"),
    ("check_clip_loss", lambda i, s: losses.clip_loss(i, s), "temperature is missing"),
    (
        "check_clip_loss",
        lambda i, s: losses.clip_loss(i, s, temperature=0.2, cosine=False),
        "not scaled to length 1",
    ),
    (
        "check_clip_loss",
        lambda i, s: losses.clip_loss(i, s, temperature=0.2).detach(),
        "lost its gradient",
    ),
    (
        "check_clip_loss",
        lambda i, s: F.cross_entropy(
            F.normalize(s, dim=1) @ F.normalize(i, dim=1).T / 0.2, torch.arange(6)
        ),
        "only spot to image",
    ),
    ("check_sharpness", lambda i: torch.softmax(i @ i.T, 0).amax(1).mean(), "over each row"),
    ("check_sharpness", lambda i: (i @ i.T).amax(1).mean(), "softmax is missing"),
    ("check_sharpness", lambda i: torch.softmax(i @ i.T, 1).max(), "largest of all"),
    ("check_retrieve", lambda e, s: retrieval.retrieve(e, e, k=3), "of the own section"),
    ("check_retrieve", lambda e, s: _elsewhere(e, ~np.eye(len(e), dtype=bool)), "only the spot"),
    ("check_retrieve", lambda e, s: _elsewhere(e, [s == own for own in s]), "turn the mask"),
    ("check_retrieve", lambda e, s: _elsewhere(e, [s != own for own in s])[:, ::-1], "best last"),
    (
        "check_retrieve",
        lambda e, s: np.argsort(np.where(s[:, None] == s, np.inf, -(e @ e.T)), 1)[:, :3],
        "dot products",
    ),
    (
        "check_retrieve",
        lambda e, s: np.argsort((squareform(pdist(e, "cosine")) - 1) * (s[:, None] != s), 1)[:, :3],
        "0 is too high",
    ),
    ("check_retrieve", lambda e, s: _elsewhere(e, [s != own for own in s]).T, "transposed"),
    ("check_pearson", lambda t, p: evaluation.pearson_per_gene(t.T, p.T), "one value per spot"),
    ("check_pearson", lambda t, p: evaluation.pearson_per_gene(t, p) ** 2, "r squared"),
    (
        "check_pearson",
        lambda t, p: (t * p).sum(0) / np.sqrt((t**2).sum(0) * (p**2).sum(0)),
        "that is a cosine",
    ),
    ("check_softness", lambda t: torch.special.entr(t).sum(1), "that is the entropy;"),
    ("check_softness", lambda t: (torch.exp(-(t * t.log()).sum(1)) - 1) / 2, "special.entr"),
    ("check_softness", lambda t: (_effective(t.T) - 1) / 2, "dim=1"),
    ("check_softness", lambda t: _effective(t), "that is the effective number"),
    ("check_softness", lambda t: _effective(t) / len(t), "subtract its one target"),
    ("check_softness", lambda t: (_effective(t) - 1) / len(t), "one less than the batch"),
    ("check_paired_difference", lambda a, b: _mean_and_error((a - b).mean(1)), "sign is turned"),
    (
        "check_paired_difference",
        lambda a, b: _mean_and_error((b - a).ravel()),
        "average over seeds",
    ),
    (
        "check_paired_difference",
        lambda a, b: np.array([(b - a).mean(), (b - a).mean(1).std(ddof=1)]),
        "root of the number of sections",
    ),
    ("check_partial_correlation", lambda t, p, d: np.corrcoef(t, p)[0, 1], "depth is still in it"),
    (
        "check_partial_correlation",
        lambda t, p, d: np.corrcoef(t, _residual(p, d))[0, 1],
        "out of both",
    ),
    ("check_partial_correlation", lambda t, p, d: np.corrcoef(t / d, p / d)[0, 1], "dividing"),
    ("check_counting_ceiling", lambda r, k: np.sqrt(_reliability(r, k)), "below zero"),
    ("check_counting_ceiling", lambda r, k: _reliability(np.maximum(r, 0), k), "square root"),
    ("check_counting_ceiling", lambda r, k: np.sqrt(np.maximum(r, 0)), "one part"),
    ("check_counting_ceiling", lambda r, k: _reliability(np.maximum(r, 0), 2) ** 0.5, "two halves"),
    ("check_gain", lambda m, b: b.mean(1).max() - m.mean(), "sign is turned"),
    ("check_gain", lambda m, b: m.mean() - b.mean(), "average of the baselines"),
    ("check_gain", lambda m, b: (m - b.max(0)).mean(), "gene by gene"),
    ("check_gain", lambda m, b: (m - b.mean(1).min()).mean(), "weakest baseline"),
    ("check_gain", lambda m, b: m.mean() - b.mean(0).max(), "second axis"),
    ("check_gain", lambda m, b: m.mean(), "that is the method alone"),
    ("check_um_per_px", lambda p, pitch: _pitch(p, 1.0) / pitch, "turn the fraction over"),
    ("check_um_per_px", lambda p, pitch: _pitch(p, 1.0), "pitch in pixels"),
    ("check_um_per_px", lambda p, pitch: _pitch(p, pitch), "divide more"),
    ("check_um_per_px", lambda p, pitch: pitch / np.median(pdist(p)), "all pairs"),
    ("check_um_per_px", lambda p, pitch: pitch / np.mean(_nearest(p)), "take the median"),
    ("check_merge_columns", lambda c, g: c[:, [2, 4, 3]], "replaced the others"),
    ("check_merge_columns", lambda c, g: c[:, np.unique(g, return_index=True)[1]], "only the fi"),
    (
        "check_merge_columns",
        lambda c, g: c @ (np.eye(3)[g] / np.bincount(g)),
        "the mean of a gene's columns",
    ),
    (
        "check_merge_columns",
        lambda c, g: np.stack([c[:, g == i].max(1) for i in range(3)], 1),
        "the largest of a gene's columns",
    ),
    ("check_merge_columns", lambda c, g: (c @ np.eye(3)[g]).T[:2], r"shape is \(2, 3\)"),
]


def said(name, function, capsys) -> str:
    """What a check prints about a function."""
    CHECKS[name](function)
    return capsys.readouterr().out


def test_every_check_has_a_solution_and_three_mistakes():
    assert set(SOLUTIONS) == set(CHECKS)
    for name in CHECKS:
        messages = {message for planted, _, message in PLANTED if planted == name}
        assert len(messages) >= 3, f"{name} needs three mistakes with a message each"


@pytest.mark.parametrize("name", SOLUTIONS)
def test_the_solution_is_correct(name, capsys):
    assert said(name, SOLUTIONS[name], capsys) == "Correct.\n"


@pytest.mark.parametrize(("name", "function", "message"), PLANTED)
def test_a_planted_mistake_is_named(name, function, message, capsys):
    assert re.search(message, said(name, function, capsys))


def judged_by(name, monkeypatch) -> tuple:
    """What a check hands on: arguments, right result, results of mistakes, and options."""
    kept = []
    with monkeypatch.context() as patched:
        patched.setattr(
            exercises, "_judge", lambda f, *given, **options: kept.extend([*given, options])
        )
        CHECKS[name](None)
    return tuple(kept)


@pytest.mark.parametrize("name", CHECKS)
def test_every_mistake_that_a_check_knows_can_be_named(name, monkeypatch, capsys):
    arguments, right, wrong, options = judged_by(name, monkeypatch)
    for reason, value in wrong.items():
        if options.get("tensor"):
            traced = sum(a.sum() for a in arguments if a.requires_grad)
            value = torch.as_tensor(answers.plain(value)) + 0 * traced
        answers.judge(lambda *_, value=value: value, arguments, right, wrong, **options)
        assert capsys.readouterr().out == f"Not yet: {reason}\n"


@pytest.mark.parametrize("name", CHECKS)
def test_no_mistake_looks_like_the_answer_or_like_another_mistake(name, monkeypatch):
    """Two values that agree would make the check praise a mistake, or give the wrong reason."""
    _, right, wrong, _ = judged_by(name, monkeypatch)
    assert len(wrong) >= 3
    values = [
        (reason, answers.plain(value)) for reason, value in {"Correct.": right, **wrong}.items()
    ]
    for (reason, one), (other_reason, other) in itertools.combinations(values, 2):
        alike = one.shape == other.shape and np.allclose(one, other, rtol=1e-3, equal_nan=True)
        assert not alike, f"{reason!r} and {other_reason!r}"


# What a learner's function may do -------------------------------------------------------------


def _raises(*_):
    raise KeyError("spot")


def _endless(*arguments):
    return _endless(*arguments)


def _leaves(*_):
    raise SystemExit


def _prints(*_):
    print("thinking aloud")


class Odd:
    """Something that no array can be made of."""

    def __array__(self, *_, **__):
        raise RuntimeError("no")


ODD = {
    "returns None": (lambda *_: None, "Not done yet: the function returns None."),
    "prints": (_prints, "thinking aloud\nNot done yet: the function prints but returns None."),
    "raises": (
        _raises,
        "Your function stopped with KeyError: 'spot', in its line `raise KeyError(\"spot\")`.",
    ),
    "calls itself": (_endless, "Your function calls itself without end"),
    "ends the program": (_leaves, "Your function ends the whole program"),
    "takes nothing": (lambda: 1, "Your function is called with "),
    "takes too much": (lambda a, b, c, d: 1, "but it takes (a, b, c, d)."),
    "is None": (None, "Give the check your function itself"),
    "is a result": (np.zeros(3), "it got an array."),
    "returns a list": (lambda *_: [1, 2], "yours is a list."),
    "returns a dictionary": (lambda *_: {"r": 1}, "yours is a dict."),
    "returns text": (lambda *_: "text", "Return "),
    "returns what is no array": (lambda *_: Odd(), "yours is an Odd"),
}
ODD_ARRAYS = {
    "a function": (lambda *_: np.mean, "You return a function, not its value"),
    "objects": (lambda *_: np.array([1, "a", None], dtype=object), "of Python objects."),
    "strings": (lambda *_: np.array(["1", "2"]), "Return numbers; yours are of type <U1."),
    "truth values": (lambda *_: np.array([True]), "Return numbers; yours are of type bool."),
    "complex numbers": (lambda *_: np.array([1j]), "Return real numbers; yours are complex"),
    "a sparse matrix": (lambda *_: sparse.eye(3).tocsr(), "yours is a csr_matrix."),
    "a generator": (lambda *_: (i for i in range(3)), "yours is a generator"),
}
TENSORS = ["check_clip_loss", "check_sharpness", "check_softness", "check_attention"]
ARRAYS = [name for name in CHECKS if name not in TENSORS]
OF_INDICES = ["check_retrieve"]


@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("name", CHECKS)
def test_any_function_is_survived_and_explained(name, what, capsys):
    function, message = ODD[what]
    printed = said(name, function, capsys)
    assert message in printed
    assert len(printed.splitlines()) == (2 if what == "prints" else 1)


@pytest.mark.parametrize("what", ODD_ARRAYS)
@pytest.mark.parametrize("name", ARRAYS)
def test_any_array_is_explained(name, what, capsys):
    function, message = ODD_ARRAYS[what]
    assert message in said(name, function, capsys)


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_of_the_wrong_kind_are_explained(name, capsys):
    with_gradient = name == "check_clip_loss"
    assert "Return a torch tensor; yours is a float." in said(name, lambda *_: 1.0, capsys)
    array = said(name, lambda *_: np.zeros(3), capsys)
    assert "Return a torch tensor; yours is an array." in array
    detached = said(name, lambda *a: SOLUTIONS[name](*a).detach(), capsys)
    assert ("lost its gradient" in detached) == with_gradient
    flags = said(name, lambda *a: SOLUTIONS[name](*a) > 0, capsys)
    assert ("gradient" if with_gradient else "type bool") in flags
    halves = said(name, lambda *a: SOLUTIONS[name](*a).to(torch.complex64), capsys)
    assert "Return real numbers; yours are complex" in halves


@pytest.mark.parametrize("name", CHECKS)
def test_a_wrong_shape_is_explained(name, capsys):
    def other_shape(*arguments):
        found = SOLUTIONS[name](*arguments)
        return (np if name in ARRAYS else torch).reshape(found, (1, 1, -1))

    printed = said(name, other_shape, capsys)
    assert re.match(r"The shape is \(1, 1, \d+\), but \(.*\).* is wanted\.", printed)


@pytest.mark.parametrize("name", CHECKS)
def test_values_that_are_not_finite_are_explained(name, capsys):
    nothing = said(name, lambda *a: SOLUTIONS[name](*a) * float("nan"), capsys)
    assert nothing == "Not yet: some values are not finite. Do you divide by zero?\n"


@pytest.mark.parametrize("name", CHECKS)
def test_single_precision_is_good_enough_and_half_is_not(name, capsys):
    def cast(kind):
        def function(*arguments):
            found = SOLUTIONS[name](*arguments)
            if isinstance(found, torch.Tensor):
                return found.to(getattr(torch, kind))
            return np.asarray(found).astype(kind)

        return function

    if name in OF_INDICES:
        for kind in ("float32", "float64"):
            assert said(name, cast(kind), capsys).startswith("Return whole numbers")
        return
    assert said(name, cast("float32"), capsys) == "Correct.\n"
    assert re.match("Correct|Not yet: float16 is too coarse", said(name, cast("float16"), capsys))


@pytest.mark.parametrize("name", CHECKS)
def test_changing_an_argument_is_noticed(name, capsys):
    def changes(first, *rest):
        found = SOLUTIONS[name](first, *rest)
        first[0] = first[0] + 1
        return found

    printed = said(name, changes, capsys)
    assert re.match("Your function changed its argument number 1|.*in place", printed)
    assert said(name, SOLUTIONS[name], capsys) == "Correct.\n", "the next call starts afresh"


def test_a_long_message_is_cut(capsys):
    def shouts(*_):
        raise ValueError("no " * 500)

    assert len(said("check_pitch", shouts, capsys)) < 300


# As the notebooks use them --------------------------------------------------------------------


def exercise_cells() -> list[tuple[str, str, str, bool, str]]:
    """Every cell with a check: chapter, cell, name of the check, whether it solves, its source."""
    found = []
    for path in sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            for name in re.findall(r"exercises\.(check_\w+)\(", cell.source):
                if cell.cell_type == "code":
                    solves = "solution" in cell.metadata.get("tags", [])
                    found.append((path.stem, cell.id, name, solves, cell.source))
    return found


CELLS = exercise_cells()


def imported(chapter: str) -> dict:
    """What the imports of a chapter make of its names."""
    names: dict = {}
    notebook = nbformat.read(ROOT / "notebooks" / f"{chapter}.ipynb", as_version=4)
    for cell in notebook.cells:
        if cell.cell_type != "code" or "%pip" in cell.source:
            continue
        for node in ast.parse(cell.source).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                exec(compile(ast.Module([node], []), chapter, "exec"), names)
    return names


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell[0]}-{cell[1]}")
def test_stubs_are_not_done_yet_and_solutions_are_correct(cell, capsys):
    chapter, _, _, solves, source = cell
    exec(compile(source, chapter, "exec"), imported(chapter))
    wanted = "Correct.\n" if solves else "Not done yet: the function returns None.\n"
    assert capsys.readouterr().out == wanted


def test_the_share_of_violet_pixels_survives_bright_red():
    """A red of 240 plus 20 is 4 in bytes, and every blue would seem larger."""
    notebook = nbformat.read(ROOT / "notebooks" / "01_data.ipynb", as_version=4)
    (cell,) = (c for c in notebook.cells if c.id == "exercise-4-solution-cell")
    pixels = np.array([[240, 200, 10], [100, 60, 160]], dtype=np.uint8)  # bright red, and violet
    cut = np.broadcast_to(pixels[None, None], (3, 2, 2, 3))  # (spots, size, size, 3)
    names: dict = {}
    violet, _ = (n for n in ast.parse(cell.source).body if isinstance(n, ast.FunctionDef))
    exec(compile(ast.Module([violet], []), "01_data", "exec"), names)
    assert names["violet"](cut).tolist() == [0.5, 0.5, 0.5]


def test_every_check_has_a_stub_and_a_solution_in_its_chapter():
    for solves in (True, False):
        named = [name for _, _, name, solved, _ in CELLS if solved == solves]
        assert sorted(named) == sorted(CHECKS)
    for chapter, _, name, _, _ in CELLS:
        assert CHECKS[name].__doc__.startswith(f"Chapter {chapter[:2]}"), name
