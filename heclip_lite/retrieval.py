"""Imputation by retrieval: look up the reference spots that look most alike and average them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 4096  # queries compared at once: bounds memory at CHUNK x references similarities
_DENSE = 8  # from an eighth of the references on, a product of matrices is faster than gathering


def _pair(query: Any, reference: Any) -> tuple[Tensor, Tensor]:
    query, reference = torch.as_tensor(query), torch.as_tensor(reference)
    for name, value in (("query", query), ("reference", reference)):
        if value.ndim != 2 or len(value) == 0:
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}, but must be (spots, dim) with one or more "
                "spots."
            )
        if not torch.isfinite(value).all():
            bad = int((~torch.isfinite(value)).any(1).nonzero()[0, 0])
            raise ValueError(
                f"{name} row {bad} is not finite; look for a diverged training or a damaged file."
            )
    if query.shape[1] != reference.shape[1]:
        raise ValueError(
            f"query has {query.shape[1]} dimensions and reference {reference.shape[1]}; "
            "embed both with the same model."
        )
    return query, reference.to(query)


def _nearest(query: Tensor, reference: Tensor, k: int) -> tuple[Tensor, Tensor]:
    if not 1 <= k <= len(reference):
        raise ValueError(
            f"k is {k}, but there are {len(reference)} reference spots; choose k from 1 to "
            f"{len(reference)}."
        )
    reference = F.normalize(reference, dim=1)
    parts = [
        torch.topk(F.normalize(part, dim=1) @ reference.T, k, dim=1) for part in query.split(CHUNK)
    ]
    return torch.cat([p.values for p in parts]), torch.cat([p.indices for p in parts])


def retrieve(query: Any, reference: Any, *, k: int) -> Any:
    """The `k` reference rows of highest cosine similarity to each query row.

    Parameters
    ----------
    query, reference
        Embeddings, (queries, dim) and (references, dim); arrays or tensors.
    k
        How many to retrieve.

    Returns
    -------
    array or Tensor, as `query` came; int64, (queries, k), best first

    Raises
    ------
    ValueError
        If widths differ, values are not finite, or k is not between 1 and the references.

    Examples
    --------
    >>> import numpy as np
    >>> retrieve(np.eye(2), np.array([[1.0, 0.1], [0.0, 1.0], [1.0, 0.0]]), k=2)
    array([[2, 0],
           [1, 0]])
    """
    indices = _nearest(*_pair(query, reference), k)[1]
    return indices if isinstance(query, Tensor) else indices.numpy()


def impute(
    query: Any,
    reference: Any,
    expression: Any,
    *,
    k: int,
    weights: str | float | None = None,
    return_spread: bool = False,
) -> Any:
    """Average the expression of the `k` reference spots most similar to each query.

    HECLIP compares images with images: `reference` holds image embeddings.
    BLEEP compares images with expression: `reference` holds spot embeddings.

    Parameters
    ----------
    query, reference
        Embeddings, (queries, dim) and (references, dim); arrays or tensors.
    expression
        Expression of the reference spots, (references, genes), log1p.
    k
        How many spots to average.
    weights
        None: plain mean (published).
        ``"similarity"``: weights proportional to the cosine, negative ones counting as none.
        A number: weights ``softmax(cosine / number)``, a temperature.
    return_spread
        Also return the weighted standard deviation over the neighbours, per query and gene:
        a plain measure of how far the retrieved spots disagree.

    Returns
    -------
    array or Tensor, as `query` came: (queries, genes); with `return_spread` a pair of these

    Raises
    ------
    ValueError
        If shapes do not fit, values are not finite, k is out of range or weights are unknown.
    """
    as_tensor = isinstance(query, Tensor)
    query, reference = _pair(query, reference)
    expression = torch.as_tensor(expression).to(query.device)
    if expression.ndim != 2 or len(expression) != len(reference):
        raise ValueError(
            f"expression has shape {tuple(expression.shape)}, but there are {len(reference)} "
            "reference spots; give one row for each."
        )
    similarity, indices = _nearest(query, reference, k)
    share = shares(similarity, weights).to(expression.dtype)  # (queries, k)

    if not return_spread and k > len(reference) // _DENSE:
        every = torch.zeros(len(query), len(reference), dtype=share.dtype, device=share.device)
        mean = every.scatter_(1, indices, share) @ expression
        return mean if as_tensor else mean.numpy()
    means, spreads = [], []
    # Neighbours times genes is the large array: keep it at a few hundred MB.
    step = max(1, 2**26 // (k * expression.shape[1]))
    for rows, part in zip(indices.split(step), share.split(step), strict=True):
        neighbours = expression[rows]  # (queries, k, genes)
        mean = torch.einsum("qk,qkg->qg", part, neighbours)
        means.append(mean)
        if return_spread:
            squares = torch.einsum("qk,qkg->qg", part, (neighbours - mean[:, None]) ** 2)
            spreads.append(squares.sqrt())
    results = [torch.cat(means)] + ([torch.cat(spreads)] if return_spread else [])
    results = results if as_tensor else [r.numpy() for r in results]
    return tuple(results) if return_spread else results[0]


def shares(similarity: Tensor, weights: str | float | None) -> Tensor:
    """Weights that sum to 1 over the neighbours, (queries, k)."""
    if weights is None:
        return torch.full_like(similarity, 1 / similarity.shape[1])
    if weights == "similarity":
        positive = similarity.clamp_min(0) + 1e-12  # all-negative neighbours count equally
        return positive / positive.sum(1, keepdim=True)
    if isinstance(weights, int | float) and weights > 0:
        return F.softmax(similarity / weights, dim=1)
    raise ValueError(
        f"weights is {weights!r}, but must be None, 'similarity' or a temperature above 0."
    )
