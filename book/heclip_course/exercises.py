"""Self-checks of the exercises: each says "not done yet", "correct", or what is wrong and why.

A check never raises, so that a notebook with open exercises still runs to its end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from heclip_course.answers import judge as _judge


def check_log_normalise(function: Callable) -> None:
    """Chapter 01: counts (spots, genes) to log1p of counts per ten thousand."""
    counts = np.random.default_rng(0).poisson(3.0, (5, 7)).astype(float) + 1
    counts[:, 0] += 3000  # so that the other genes are rare, and log and log1p differ
    totals = counts.sum(1, keepdims=True)
    scaled = 1e4 * counts / totals
    _judge(
        function,
        (counts,),
        np.log1p(scaled),
        {
            "you divided by the total of each gene; divide by the total of each spot (axis=1).": (
                np.log1p(1e4 * counts / counts.sum(0))
            ),
            "the logarithm is missing: apply np.log1p last.": scaled,
            "take log1p, the logarithm of 1 + x, so that zero counts stay zero.": np.log(scaled),
            "the factor ten thousand is missing.": np.log1p(counts / totals),
            "scale first, then take the logarithm.": 1e4 * np.log1p(counts) / totals,
            "you took log1p of the counts but never divided by the spot's total.": np.log1p(counts),
        },
    )


def check_pitch(function: Callable) -> None:
    """Chapter 01: spot centres (spots, 2) in pixels and um per pixel to the pitch in um."""
    x, y = np.meshgrid(np.arange(6) * 80.0, np.arange(5) * 80.0)
    spatial = np.stack([x.ravel(), y.ravel()], axis=1)
    spatial[-1] += 300  # one far spot: why a median, not a mean
    distances = np.linalg.norm(spatial[:, None] - spatial[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    nearest = distances.min(1)
    _judge(
        function,
        (spatial, np.array(0.7)),
        np.median(nearest) * 0.7,
        {
            "that is the pitch in pixels; multiply by micrometres per pixel.": np.median(nearest),
            "divide less, multiply more: pixels times micrometres per pixel.": (
                np.median(nearest) / 0.7
            ),
            "take the median, so that one lost spot does not count.": nearest.mean() * 0.7,
            "each spot is its own nearest neighbour at distance 0; leave it out.": 0.0,
            "you averaged over all pairs; take each spot's nearest neighbour first.": (
                np.median(distances[np.isfinite(distances)]) * 0.7
            ),
        },
    )


def _embeddings() -> tuple[Any, Any]:
    import torch

    generator = torch.Generator().manual_seed(1)
    image, spot = torch.randn(2, 6, 4, generator=generator)
    return image.requires_grad_(), spot.requires_grad_()


def check_clip_loss(function: Callable) -> None:
    """Chapter 02: CLIP's loss of embeddings (batch, dim), cosine, temperature 0.2."""
    import torch
    import torch.nn.functional as F

    from heclip_lite import losses

    image, spot = _embeddings()
    options = {"temperature": 0.2, "targets": "identity"}

    def general(**other: Any) -> torch.Tensor:
        return losses.contrastive_loss(
            image, spot, **({"cosine": True, "image_to_spot": 0.5} | options | other)
        )

    unit = F.normalize(image, dim=1), F.normalize(spot, dim=1)
    _judge(
        function,
        (image, spot),
        general(),
        {
            "the temperature is missing: divide the similarities by 0.2.": general(temperature=1.0),
            "you multiplied by the temperature; divide by it.": general(temperature=5.0),
            "the embeddings are not scaled to length 1.": general(cosine=False),
            "only image to spot counts; average it with spot to image.": general(image_to_spot=1.0),
            "only spot to image counts; average it with image to spot.": general(image_to_spot=0.0),
            "the two directions are summed; take their mean.": 2 * general(),
            "the losses of the spots are summed; take their mean.": 6 * general(),
            "the sign: a loss is minus the log-probability.": -general(),
            "you scaled columns to length 1; scale each spot's row (dim=1).": losses.clip_loss(
                F.normalize(image, dim=0), F.normalize(spot, dim=0), temperature=0.2, cosine=False
            ),
            "that is the mean similarity of the pairs; no other spot competes yet.": (
                (unit[0] * unit[1]).sum(1).mean() / 0.2
            ),
        },
        tensor=True,
    )


def check_sharpness(function: Callable) -> None:
    """Chapter 02: mean largest target of each row, for embeddings (batch, dim) at temperature 1."""
    import torch

    from heclip_lite import losses

    # Lengths differ a lot, so that each mistake below leads to a value of its own.
    image = torch.randn(6, 4, generator=torch.Generator().manual_seed(148))
    image = image * torch.linspace(0.1, 2, 6)[:, None]
    target = losses.target_matrix(image, image)
    _judge(
        function,
        (image,),
        target.max(1).values.mean(),
        {
            "that is the mean over rows of the diagonal; take each row's largest target.": (
                target.diagonal().mean()
            ),
            "take the softmax over each row (dim=1).": (
                torch.softmax(image @ image.T, dim=0).max(1).values.mean()
            ),
            "the softmax is missing.": (image @ image.T).max(1).values.mean(),
            "you took the largest of all; take each row's largest, then the mean.": target.max(),
        },
        tensor=True,
    )


def check_retrieve(function: Callable) -> None:
    """Chapter 03: embeddings (n, dim), section (n,) to the 3 best rows of other sections (n, 3)."""
    rng = np.random.default_rng(2)
    embeddings = rng.normal(size=(12, 5)) * rng.uniform(0.2, 5, (12, 1))  # so that cosine matters
    section = np.arange(12) % 3
    own = section[:, None] == section

    def best(likeness: np.ndarray, left_out: np.ndarray, instead: float = -np.inf) -> np.ndarray:
        return np.argsort(-np.where(left_out, instead, likeness), axis=1)[:, :3]

    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosine = unit @ unit.T
    distance = np.linalg.norm(embeddings[:, None] - embeddings[None], axis=2)
    right = best(cosine, own)
    _judge(
        function,
        (embeddings, section),
        right,
        {
            "spots of the own section are among them, which is a leak; leave these out.": best(
                cosine, np.zeros_like(own)
            ),
            "only the spot itself is left out; leave out its whole section.": (
                best(cosine, np.eye(12, dtype=bool))
            ),
            "you kept the own section and left out the others; turn the mask.": best(cosine, ~own),
            "0 is too high for what is left out, as a cosine may be negative; take -np.inf.": (
                best(cosine, own, 0.0)
            ),
            "those are the least similar; sort downwards.": best(-cosine, own),
            "the right ones, but best last; put the best first.": right[:, ::-1],
            "you compared dot products; long rows win them. Scale rows to length 1.": (
                best(embeddings @ embeddings.T, own)
            ),
            "you compared distances; use the cosine.": best(-distance, own),
            "those are similarities; return the row numbers.": (
                np.take_along_axis(cosine, right, axis=1)
            ),
        },
        indices=True,
    )


def check_pearson(function: Callable) -> None:
    """Chapter 03: true and predicted (spots, genes) to r per gene (genes,)."""
    rng = np.random.default_rng(3)
    true = rng.normal(size=(12, 4))
    predicted = 0.5 * true + rng.normal(size=(12, 4)) + np.arange(4)

    def r(a: np.ndarray, b: np.ndarray, axis: int) -> np.ndarray:
        a, b = a - a.mean(axis, keepdims=True), b - b.mean(axis, keepdims=True)
        return (a * b).sum(axis) / np.sqrt((a**2).sum(axis) * (b**2).sum(axis))

    right = r(true, predicted, 0)
    plain = (true * predicted).sum(0) / np.sqrt((true**2).sum(0) * (predicted**2).sum(0))
    _judge(
        function,
        (true, predicted),
        right,
        {
            "that is one value per spot; correlate over spots (axis=0).": r(true, predicted, 1),
            "that is a cosine: subtract each gene's mean first.": plain,
            "that is r squared.": right**2,
            "that is the mean over genes; return one value per gene.": right.mean(),
            "that is a covariance; divide by both standard deviations.": (
                ((true - true.mean(0)) * (predicted - predicted.mean(0))).mean(0)
            ),
            "np.corrcoef gives a table of all pairs; each gene needs only its own.": (
                np.corrcoef(true.T, predicted.T)
            ),
        },
    )


def check_softness(function: Callable) -> None:
    """Chapter 04: target matrix (batch, batch) to softness, from 0 (one-hot) to 1 (even)."""
    import torch

    rows = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]
    target = torch.tensor(rows, dtype=torch.float64)
    entropy = torch.special.entr(target).sum(1)
    effective = torch.exp(entropy)

    def soft(effective: torch.Tensor) -> torch.Tensor:
        return (effective - 1) / 2  # of 3 targets

    _judge(
        function,
        (target,),
        soft(effective),
        {
            "that is the effective number; bring 1 to 0, and the batch to 1.": effective,
            "a one-hot row should give 0: subtract its one target first.": effective / 3,
            "an even row should give 1: divide by one less than the batch.": (effective - 1) / 3,
            "that is the entropy; its exponential counts targets.": entropy,
            "that is a share of the largest entropy; count targets first, by its exponential.": (
                entropy / np.log(3)
            ),
            "the sum runs over columns (dim=1), one number for each row.": (
                soft(torch.exp(torch.special.entr(target).sum(0)))
            ),
            "0 times log 0 is NaN in floating point, but counts as 0: use torch.special.entr.": (
                soft(torch.exp(-(target * target.log()).sum(1)))
            ),
            "the sign is wrong: the entropy is minus the sum of T log T.": (
                soft(torch.exp(-entropy))
            ),
            "the entropy is in bits but the exponential has base e; use one base for both.": (
                soft(torch.exp(entropy / np.log(2)))
            ),
            "return one number for each row, not their mean.": soft(effective).mean(),
        },
        tensor=True,
    )


def check_paired_difference(function: Callable) -> None:
    """Chapter 04: two score tables (sections, seeds) to mean paired difference and its error."""
    rng = np.random.default_rng(4)
    sections_apart = rng.normal(0, 0.1, (5, 1))
    first = 0.4 + sections_apart + rng.normal(0, 0.005, (5, 3))
    second = 0.41 + sections_apart + rng.normal(0, 0.005, (5, 3))
    by_section = (second - first).mean(1)

    def pack(values: np.ndarray, *, ddof: int = 1) -> np.ndarray:
        return np.array([values.mean(), values.std(ddof=ddof) / np.sqrt(len(values))])

    right = pack(by_section)
    means = [table.mean(1) for table in (first, second)]
    unpaired = np.sqrt(sum(m.var(ddof=1) / len(m) for m in means))
    _judge(
        function,
        (first, second),
        right,
        {
            "the sign is turned: second minus first.": pack(-by_section),
            "you treated seeds as independent sections; average over seeds first.": pack(
                (second - first).ravel()
            ),
            "that spread is between sections, not of the difference; subtract first.": np.array(
                [right[0], unpaired]
            ),
            "that is the standard deviation; divide by the root of the number of sections.": (
                np.array([right[0], by_section.std(ddof=1)])
            ),
            "use ddof=1: with few sections the difference matters.": pack(by_section, ddof=0),
            "you averaged over sections and kept seeds; axis=1 holds the seeds.": pack(
                (second - first).mean(0)
            ),
        },
    )


def check_partial_correlation(function: Callable) -> None:
    """Chapter 05: true and predicted (spots,) and log depth (spots,) to their partial r."""
    rng = np.random.default_rng(5)
    depth = rng.normal(9, 0.5, 40)
    true = 0.9 * depth + rng.normal(0, 0.4, 40)
    predicted = 0.7 * depth + 0.5 * (true - 0.9 * depth) + rng.normal(0, 0.3, 40)

    def residual(values: np.ndarray, *, intercept: bool = True) -> np.ndarray:
        columns = [np.ones_like(depth), depth] if intercept else [depth]
        design = np.column_stack(columns)
        return values - design @ np.linalg.lstsq(design, values, rcond=None)[0]

    def r(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.corrcoef(a, b)[0, 1])

    _judge(
        function,
        (true, predicted, depth),
        r(residual(true), residual(predicted)),
        {
            "that is the plain correlation; depth is still in it.": r(true, predicted),
            "you took depth out of the prediction only; take it out of both.": (
                r(true, residual(predicted))
            ),
            "you took depth out of the truth only; take it out of both.": (
                r(residual(true), predicted)
            ),
            "the regression needs an intercept.": (
                r(residual(true, intercept=False), residual(predicted, intercept=False))
            ),
            "dividing by depth does not take it out; subtract a regression on it.": (
                r(true / depth, predicted / depth)
            ),
            "that is the correlation with depth.": r(predicted, depth),
        },
    )


def check_counting_ceiling(function: Callable) -> None:
    """Chapter 05: correlation r of two parts (genes,), and how many there are, to the ceiling."""
    r, parts = np.array([0.8, 0.36, 0.0, -0.1]), np.array(4.0)
    kept = np.clip(r, 0, None)

    def reliability(r: np.ndarray, parts: np.ndarray | float = parts) -> np.ndarray:
        return parts * r / (1 + (parts - 1) * r)

    with np.errstate(invalid="ignore"):  # NaN is what this mistake gives
        unclipped = np.sqrt(reliability(r))
    _judge(
        function,
        (r, parts),
        np.sqrt(reliability(kept)),
        {
            "that is the reliability of all counts; the ceiling is its square root.": (
                reliability(kept)
            ),
            "that is the ceiling of one part; Spearman and Brown bring it to all counts.": (
                np.sqrt(kept)
            ),
            "a correlation below zero means no signal: take 0 before the root.": unclipped,
            "that is the parts' own correlation.": r,
            "that is the formula for two halves; here are `parts` parts.": (
                np.sqrt(reliability(kept, 2.0))
            ),
            "the divisor is 1 + (parts - 1) r, not 1 + parts r.": (
                np.sqrt(parts * kept / (1 + parts * kept))
            ),
            "the numerator is parts times r, not r alone.": (
                np.sqrt(kept / (1 + (parts - 1) * kept))
            ),
        },
    )


def check_attention(function: Callable) -> None:
    """Chapter 06: query, key, value (spots, width) to what each spot hears (spots, width)."""
    import torch

    draw = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(5, 4, generator=draw) for _ in range(3))
    like = query @ key.T
    _judge(
        function,
        (query, key, value),
        torch.softmax(like / 2, dim=1) @ value,
        {
            "divide the products by the root of the width before the softmax.": (
                torch.softmax(like, dim=1) @ value
            ),
            "you divided by the width; divide by its root.": torch.softmax(like / 4, 1) @ value,
            "the softmax runs over the spots that ask; it should run over those heard (dim=1).": (
                torch.softmax(like / 2, dim=0) @ value
            ),
            "the softmax is missing: weights must be positive and sum to one.": like / 2 @ value,
            "queries and keys have changed places.": torch.softmax(like.T / 2, dim=1) @ value,
        },
        tensor=True,
    )


def check_fill_square(function: Callable) -> None:
    """Chapter 06: array coordinates (spots, 2) to four times as many, with half steps."""
    where = np.array([[0, 0], [1, 0], [0, 1], [3, 2]])
    right, down = np.array([0.5, 0.0]), np.array([0.0, 0.5])
    _judge(
        function,
        (where,),
        np.concatenate([where, where + right, where + down, where + right + down]),
        {
            "the half steps are cut off: make the coordinates floats first.": (
                np.concatenate([where] * 4)
            ),
            "steps are whole, not half: the new points lie on other spots.": (
                np.concatenate(
                    [where, where + 2 * right, where + 2 * down, where + 2 * (right + down)]
                )
            ),
            "right is the column, the first number; down is the row, the second.": (
                np.concatenate([where, where + down, where + right, where + right + down])
            ),
            "the last point of each spot goes both right and down.": (
                np.concatenate([where, where + right, where + down, where + right])
            ),
        },
    )


def check_smooth(function: Callable) -> None:
    """Chapter 07: values (spots, features), neighbours (spots, spots), own weight, to means."""
    values = np.array([[1.0, 0.0], [3.0, 1.0], [8.0, 5.0], [0.0, 2.0]])
    beside = np.array([[0, 1, 0, 0], [1, 0, 1, 1], [0, 1, 0, 0], [0, 1, 0, 0]], dtype=float)
    number, once = beside.sum(1, keepdims=True), np.eye(4)
    weights = beside + 3 * once

    def mean(weights: np.ndarray) -> np.ndarray:
        return weights @ values / weights.sum(1, keepdims=True)

    _judge(
        function,
        (values, beside, np.array(3.0)),
        mean(weights),
        {
            "the spot itself belongs to its mean too.": mean(beside),
            "the spot counts once; its own value should count `own` times.": mean(beside + once),
            "the neighbours count `own` times; the spot itself should.": mean(3 * beside + once),
            "that is a sum; divide by how much is in it.": weights @ values,
            "you divide by the neighbours alone; the spot itself counts `own` times more.": (
                weights @ values / number
            ),
            "you divide by the number of spots; the spot itself counts `own` times there too.": (
                weights @ values / (number + 1)
            ),
            "each spot has a number of neighbours of its own; divide row by row.": (
                weights @ values / weights.sum() * len(weights)
            ),
            "nothing was averaged.": values,
        },
    )


def check_coherence(function: Callable) -> None:
    """Chapter 07: labels (spots,) and pairs of neighbours (pairs, 2) to the share that agrees."""
    labels = np.array([0, 0, 1, 1, 2, 0])
    pairs = np.array([[0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [0, 5], [1, 5]])
    same = labels[pairs[:, 0]] == labels[pairs[:, 1]]
    every = labels[:, None] == labels[None]
    _judge(
        function,
        (labels, pairs),
        same.mean(),
        {
            "that is the share that disagrees.": (~same).mean(),
            "that is a count; divide by the number of pairs.": float(same.sum()),
            "divide by the number of pairs, not of spots.": same.sum() / len(labels),
            "you compared all pairs of spots; look at the given pairs only.": (
                every[np.triu_indices(len(labels), 1)].mean()
            ),
        },
    )


def check_gain(function: Callable) -> None:
    """Chapter 00: r of a method (genes,) and of baselines (baselines, genes) to its gain."""
    method = np.array([0.42, 0.10, 0.31, -0.05, 0.27])
    baselines = np.array(
        [
            [0.00, 0.02, 0.00, 0.01, 0.00],
            [0.35, 0.02, 0.24, 0.06, 0.21],
            [0.12, 0.15, 0.30, 0.0, 0.05],
        ]
    )
    means = baselines.mean(1)
    _judge(
        function,
        (method, baselines),
        method.mean() - means.max(),
        {
            "the sign is turned: take the baseline from the method.": means.max() - method.mean(),
            "that is the gain over the weakest baseline; compare with the best one.": (
                method.mean() - means.min()
            ),
            "that is the gain over the average of the baselines; compare with the best one.": (
                method.mean() - means.mean()
            ),
            "you took the best baseline gene by gene, which is no baseline at all: first average "
            "each over its genes, then take the best.": method.mean() - baselines.max(0).mean(),
            "you averaged over the baselines; genes are the second axis (axis=1).": (
                method.mean() - baselines.mean(0).max()
            ),
            "that is the method alone; subtract what its best baseline reaches.": method.mean(),
            "that is the best baseline alone; subtract it from the method.": means.max(),
            "that is the method's best gene; average over all of them.": method.max() - means.max(),
        },
    )


def check_um_per_px(function: Callable) -> None:
    """Chapter 08: places (spots, 2) in pixels and the pitch in um to micrometres per pixel."""
    x, y = np.meshgrid(np.arange(6) * 130.0, np.arange(5) * 130.0)
    points = np.stack([x.ravel(), y.ravel()], axis=1)
    points[-1] += 400  # one lost spot: why a median, not a mean
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    pairs = distances[np.triu_indices(len(points), 1)]
    np.fill_diagonal(distances, np.inf)
    nearest = distances.min(1)
    _judge(
        function,
        (points, np.array(100.0)),
        100 / np.median(nearest),
        {
            "that is pixels per micrometre; turn the fraction over.": np.median(nearest) / 100,
            "that is the pitch in pixels; the pitch in micrometres divided by it is the scale.": (
                np.median(nearest)
            ),
            "take the median, so that one lost spot does not count.": 100 / nearest.mean(),
            "you took all pairs; take each spot's nearest neighbour first.": (
                100 / np.median(pairs)
            ),
            "multiply less, divide more: micrometres per pixel is a division.": (
                100 * np.median(nearest)
            ),
            "you took the farthest neighbour of each spot; take the nearest.": (
                100 / np.median(np.where(np.isinf(distances), 0, distances).max(1))
            ),
        },
    )


def check_merge_columns(function: Callable) -> None:
    """Chapter 08: counts (spots, columns) and the gene of each column to (spots, genes)."""
    counts = np.array(
        [
            [1.0, 4.0, 2.0, 0.0, 7.0],
            [3.0, 0.0, 5.0, 2.0, 1.0],
            [0.0, 6.0, 1.0, 9.0, 4.0],
        ]
    )
    gene_of = np.array([0, 1, 0, 2, 1])
    columns = [np.flatnonzero(gene_of == gene) for gene in range(3)]

    def merged(how: Callable) -> np.ndarray:
        return np.stack([how(counts[:, own]) for own in columns], axis=1)

    _judge(
        function,
        (counts, gene_of),
        merged(lambda own: own.sum(1)),
        {
            "the last column of a gene has replaced the others; add them up.": (
                merged(lambda own: own[:, -1])
            ),
            "only the first column of each gene is left; add them up.": (
                merged(lambda own: own[:, 0])
            ),
            "that is the mean of a gene's columns; molecules are added up.": (
                merged(lambda own: own.mean(1))
            ),
            "that is the largest of a gene's columns; molecules are added up.": (
                merged(lambda own: own.max(1))
            ),
            "you added up columns in the order they stand; look up the gene of each.": (
                np.add.reduceat(counts, [0, 2, 4], axis=1)
            ),
        },
    )
