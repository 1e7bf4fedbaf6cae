"""Each check accepts the solution, names planted mistakes and survives any function."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from heclip_lite import evaluation, exercises, genes, losses, metrics, retrieval

CHECKS = {name: f for name, f in vars(exercises).items() if name.startswith("check_")}


def _pitch(spatial, um_per_px):
    distances = np.linalg.norm(spatial[:, None] - spatial[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    return np.median(distances.min(1)) * um_per_px


def _mean_and_error(values):
    return np.array([values.mean(), values.std(ddof=1) / np.sqrt(len(values))])


def _residual(values, depth):
    return values - np.polyval(np.polyfit(depth, values, 1), depth)


SOLUTIONS = {
    "check_log_normalise": genes.log_normalise,
    "check_pitch": _pitch,
    "check_clip_loss": lambda i, s: losses.clip_loss(i, s, temperature=0.2),
    "check_sharpness": lambda i: losses.target_matrix(i, i).amax(1).mean(),
    "check_retrieve": lambda q, r: retrieval.retrieve(q, r, k=3),
    "check_pearson": evaluation.pearson_per_gene,
    "check_effective_targets": lambda t: torch.exp(torch.special.entr(t).sum(1)),
    "check_paired_difference": lambda a, b: _mean_and_error((b - a).mean(1)),
    "check_partial_correlation": lambda t, p, d: metrics.partial_pearson_per_gene(
        t[:, None], p[:, None], d
    )[0],
    "check_counting_ceiling": lambda r: np.sqrt(
        2 * np.clip(r, 0, None) / (1 + np.clip(r, 0, None))
    ),
    "check_attention": lambda q, k, v: F.scaled_dot_product_attention(q, k, v),
    "check_fill_square": lambda w: np.concatenate(
        [w + step for step in ([0, 0], [0.5, 0], [0, 0.5], [0.5, 0.5])]
    ),
    "check_smooth": lambda v, b: np.stack(
        [(v[i] + v[row > 0].sum(0)) / (1 + row.sum()) for i, row in enumerate(b)]
    ),
    "check_coherence": lambda labels, pairs: float(
        np.mean([labels[a] == labels[b] for a, b in pairs])
    ),
    "check_gain": lambda m, b: m.mean() - max(row.mean() for row in b),
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
    ("check_smooth", lambda v, b: b @ v / b.sum(1, keepdims=True), "itself belongs"),
    ("check_smooth", lambda v, b: v + b @ v, "that is a sum"),
    ("check_smooth", lambda v, b: (v + b @ v) / b.sum(1, keepdims=True), "counts as one more"),
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
    ("check_retrieve", lambda q, r: retrieval.retrieve(q, r, k=3)[:, ::-1], "best last"),
    ("check_retrieve", lambda q, r: np.argsort(-(q @ r.T), 1)[:, :3], "dot products"),
    ("check_retrieve", lambda q, r: retrieval.retrieve(q, r, k=3).T, "transposed"),
    ("check_pearson", lambda t, p: evaluation.pearson_per_gene(t.T, p.T), r"shape is \(12,\)"),
    ("check_pearson", lambda t, p: evaluation.pearson_per_gene(t, p) ** 2, "r squared"),
    (
        "check_pearson",
        lambda t, p: (t * p).sum(0) / np.sqrt((t**2).sum(0) * (p**2).sum(0)),
        "that is a cosine",
    ),
    ("check_effective_targets", lambda t: torch.special.entr(t).sum(1), "that is the entropy;"),
    (
        "check_effective_targets",
        lambda t: torch.exp(-(t * t.log()).sum(1)),
        "use torch.special.entr",
    ),
    ("check_effective_targets", lambda t: torch.exp(torch.special.entr(t).sum(0)), "dim=1"),
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
    ("check_counting_ceiling", lambda r: np.sqrt(2 * r / (1 + r)), "below zero"),
    ("check_counting_ceiling", lambda r: 2 * np.clip(r, 0, None) / (1 + r), "square root"),
    ("check_counting_ceiling", lambda r: np.sqrt(np.clip(r, 0, None)), "one half"),
    ("check_gain", lambda m, b: b.mean(1).max() - m.mean(), "sign is turned"),
    ("check_gain", lambda m, b: m.mean() - b.mean(), "average of the baselines"),
    ("check_gain", lambda m, b: (m - b.max(0)).mean(), "gene by gene"),
    ("check_gain", lambda m, b: (m - b.mean(1).min()).mean(), "weakest baseline"),
    ("check_gain", lambda m, b: m.mean() - b.mean(0).max(), "second axis"),
    ("check_gain", lambda m, b: m.mean(), "that is the method alone"),
]


def test_every_check_has_a_solution_and_three_mistakes():
    assert set(SOLUTIONS) == set(CHECKS)
    for name in CHECKS:
        assert sum(planted == name for planted, *_ in PLANTED) >= 3, name


@pytest.mark.parametrize("name", SOLUTIONS)
def test_the_solution_is_correct(name, capsys):
    CHECKS[name](SOLUTIONS[name])
    assert capsys.readouterr().out == "Correct.\n"


@pytest.mark.parametrize(("name", "function", "message"), PLANTED)
def test_a_planted_mistake_is_named(name, function, message, capsys):
    CHECKS[name](function)
    assert re.search(message, capsys.readouterr().out)


def _raises(*_):
    raise KeyError("spot")


def _mutates(first, *_):
    first[0] = 7
    return first


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda *_: None, "Not done yet"),
        (_raises, "Your function stopped with KeyError"),
        (lambda *_: [1, 2], "a list"),
        (lambda *a: torch.full(tuple(a[0].shape), float("nan")), "shape|gradient|finite"),
        (lambda *_: "text", "text|numbers|a str"),
    ],
)
def test_any_function_is_survived(name, function, message, capsys):
    CHECKS[name](function)
    assert re.search(message, capsys.readouterr().out)


@pytest.mark.parametrize("name", ["check_log_normalise", "check_pitch", "check_retrieve"])
def test_changing_the_input_is_noticed(name, capsys):
    CHECKS[name](_mutates)
    assert "changed its argument number 1" in capsys.readouterr().out
