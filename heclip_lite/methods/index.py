"""Retrieval at scale: exact and approximate search among many references, behind one call.

:mod:`heclip_lite.retrieval` compares all queries with all references at once.
That is plain, and right for a few thousand spots; a million references need the same answer in
pieces, or nearly the same answer sooner.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from heclip_lite import retrieval

KINDS = ("exact", "approximate")
_SIMILARITIES = 2**24  # computed at once: bounds memory at 64 MiB of float32
_ROWS = 2**16  # references checked and normalised at once
_GATHERED = 2**23  # neighbours times genes gathered at once
_PER_LIST = 64  # references that a list of the approximate index holds at least
_PROBES = 200  # references asked as queries to find how many lists to look into


class Index:
    """References that can be asked, again and again, for those most similar to a query.

    Parameters
    ----------
    reference
        Embeddings (references, dim); array or tensor, which exact search leaves on its device.
    kind
        ``"exact"``: every reference is compared; the same rows as
        :func:`heclip_lite.retrieval.retrieve`.
        ``"approximate"``: references lie in lists by likeness, and a query looks into the lists
        nearest to it (faiss, inverted file); needs the extra ``[scale]``.
    recall
        Of an approximate index: the share of the true neighbours that it should find.
        The number of lists to look into is chosen for it, on references asked as queries, each for
        its neighbours without itself.
    k
        Of an approximate index: the number of neighbours for which it is chosen.
    queries
        Of an approximate index: embeddings (queries, dim) to choose it on in place of references.
        Give some where queries look unlike references, as those of another scanner may; else they
        find fewer than was asked for.
    seed
        Of the lists and of that choice.

    Attributes
    ----------
    size, dim
        Number and width of the references.
    measured
        Recall reached in that choice, from 0 to 1; 1 for an exact index.

    Raises
    ------
    ValueError
        If the embeddings are no table of finite numbers, or a setting is out of range.
    ImportError
        If an approximate index is asked for and faiss is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> rows, cosine = Index(np.array([[1.0, 0.1], [0.0, 1.0], [1.0, 0.0]])).search(np.eye(2), 2)
    >>> rows
    array([[2, 0],
           [1, 0]])
    """

    def __init__(
        self,
        reference: Any,
        *,
        kind: str = "exact",
        recall: float = 0.95,
        k: int = 50,
        queries: Any = None,
        seed: int = 0,
    ) -> None:
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; use {' or '.join(map(repr, KINDS))}.")
        if not 0 < recall <= 1:
            raise ValueError(f"recall is {recall}; give a share above 0, at most 1.")
        if k < 1:
            raise ValueError(f"k is {k}; use 1 or more.")
        faiss = _faiss() if kind == "approximate" else None
        reference = _checked(reference, "reference")
        self.kind, self.seed = kind, seed
        self.size, self.dim = reference.shape
        self.measured = 1.0
        # faiss takes single precision from the CPU; exact search keeps what it was given.
        held = (reference.cpu(), torch.float32) if faiss else (reference, reference.dtype)
        self._unit = _normalised(*held)
        if faiss is not None:
            self._lists = self._arranged(faiss)
            asked = None if queries is None else self._fitting(queries, "queries")
            self._look_into_enough(recall, k, asked)
            self._unit = None  # the lists hold their own copy

    def search(self, query: Any, k: int) -> tuple[Any, Any]:
        """The `k` references of highest cosine similarity to each query.

        Parameters
        ----------
        query
            Embeddings (queries, dim); array or tensor.
        k
            How many to find.

        Returns
        -------
        rows, cosine
            (queries, k) each, best first; int64 and floating; arrays, or tensors on its device, as
            `query` came.

        Raises
        ------
        ValueError
            If the width is another one, values are not finite, or k is out of range.
        """
        if not 1 <= k <= self.size:
            raise ValueError(
                f"k is {k}, but there are {self.size} reference spots; choose k from 1 to "
                f"{self.size}."
            )
        asked = self._fitting(query, "query")
        look = self._exact if self.kind == "exact" else self._approximate
        rows, cosine = look(asked, k)
        if isinstance(query, Tensor):
            return rows.to(query.device), cosine.to(query.device)
        return rows.cpu().numpy(), cosine.cpu().numpy()

    def _fitting(self, query: Any, name: str) -> Tensor:
        asked = _checked(query, name)
        if asked.shape[1] != self.dim:
            raise ValueError(
                f"{name} has {asked.shape[1]} dimensions and reference {self.dim}; "
                "embed both with the same model."
            )
        return asked

    @torch.no_grad()
    def _exact(self, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        reference = self._unit
        query = query.to(reference)  # not the other way round: queries are few
        # All references of a query stay together, so that ties come as they do in `retrieve`.
        step = max(1, min(len(query), retrieval.CHUNK, _SIMILARITIES // self.size))
        # One table for all pieces: freed and asked for anew, each would leave a hole in the heap
        # into which the next does not fit.
        table = torch.empty(step, self.size, dtype=query.dtype, device=query.device)
        rows, cosine = [], []
        for part in query.split(step):
            similarity = torch.matmul(F.normalize(part, dim=1), reference.T, out=table[: len(part)])
            best = torch.topk(similarity, k, dim=1)
            rows.append(best.indices)
            cosine.append(best.values)
        return torch.cat(rows), torch.cat(cosine)

    def _approximate(self, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        asked = np.ascontiguousarray(F.normalize(query.float(), dim=1).cpu().numpy())
        cosine, rows = self._lists.search(asked, k)
        short = (rows < 0).any(1)  # their lists held fewer than k: look into all
        if short.any():
            usual, self._lists.nprobe = self._lists.nprobe, self._lists.nlist
            cosine[short], rows[short] = self._lists.search(asked[short], k)
            self._lists.nprobe = usual
        return torch.from_numpy(rows), torch.from_numpy(cosine)

    def _arranged(self, faiss: Any) -> Any:
        """An inverted file of all references, about as many lists as a list has members."""
        lists = max(1, min(round(self.size**0.5), self.size // _PER_LIST))
        quantiser = faiss.IndexFlatIP(self.dim)
        made = faiss.IndexIVFFlat(quantiser, self.dim, lists, faiss.METRIC_INNER_PRODUCT)
        made.cp.seed, made.cp.min_points_per_centroid = self.seed + 1, 1
        values = self._unit.numpy()
        made.train(values)
        made.add(values)
        return made

    def _look_into_enough(self, recall: float, k: int, asked: Tensor | None) -> None:
        """Double the lists looked into until some queries find enough."""
        lists = self._lists.nlist
        if lists == 1:  # holds all: there is nothing to choose
            return
        among = self._unit if asked is None else asked.cpu().float()
        rng = np.random.default_rng(self.seed)
        some = np.sort(rng.choice(len(among), min(_PROBES, len(among)), replace=False))
        own = some if asked is None else None  # any number of lists finds a reference itself
        asked = among[torch.from_numpy(some)]
        k = min(k if own is None else k + 1, self.size)
        true = _others(self._exact(asked, k)[0].numpy(), own)
        for probes in [*(2**power for power in range(lists.bit_length())), lists]:
            self._lists.nprobe = min(probes, lists)
            found = _others(self._approximate(asked, k)[0].numpy(), own)
            self.measured = recall_of(found, true)
            if self.measured >= recall:
                return


def _others(rows: np.ndarray, own: np.ndarray | None) -> np.ndarray:
    """Rows (queries, k) without each query's own row: (queries, k - 1); all, if they have none."""
    if own is None:
        return rows
    left_out = rows == own[:, None]
    left_out[~left_out.any(1), -1] = True  # its copies came first: leave out the last of them
    return rows[~left_out].reshape(len(rows), -1)


def recall_of(found: np.ndarray, true: np.ndarray) -> float:
    """Share of the true neighbours that were found, mean over queries.

    Parameters
    ----------
    found, true
        Rows (queries, k) as :meth:`Index.search` gives them.
    """
    pairs = zip(found, true, strict=True)
    return float(np.mean([len(np.intersect1d(one, other)) / len(other) for one, other in pairs]))


def impute(
    query: Any, index: Index, expression: Any, *, k: int, weights: str | float | None = None
) -> np.ndarray:
    """Average the expression of the `k` references most similar to each query.

    As :func:`heclip_lite.retrieval.impute`, with an index in place of the reference embeddings.
    A fitted HECLIP holds both: ``index.impute(model.embed(section)[0],
    index.Index(model.references[0], kind="approximate"), model.bank, k=50)`` is the prediction of
    its first member.

    Parameters
    ----------
    query
        Embeddings (queries, dim); array or tensor.
    index
        The references.
    expression
        Expression of the references (references, genes), log1p; an array, also one on disk
        (``numpy.memmap``): only rows that were found are read.
    k
        How many to average.
    weights
        As in :func:`heclip_lite.retrieval.impute`.

    Returns
    -------
    ndarray, (queries, genes)

    Raises
    ------
    ValueError
        If shapes do not fit, values are not finite, k is out of range or weights are unknown.
    """
    if np.ndim(expression) != 2 or len(expression) != index.size:
        raise ValueError(
            f"expression has shape {np.shape(expression)}, but there are {index.size} reference "
            "spots; give one row for each."
        )
    rows, cosine = (torch.as_tensor(part).cpu() for part in index.search(query, k))
    share = retrieval.shares(cosine, weights)
    bank = expression.cpu().numpy() if isinstance(expression, Tensor) else expression
    made = np.empty((len(rows), bank.shape[1]), dtype=np.result_type(bank.dtype, np.float32))
    step = max(1, _GATHERED // (k * bank.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        neighbours = bank[rows[part].numpy()]  # (queries, k, genes)
        made[part] = np.einsum("qk,qkg->qg", share[part].numpy().astype(made.dtype), neighbours)
    return made


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise ImportError(
            "An approximate index needs faiss: pip install 'heclip-lite[scale]'. "
            "kind='exact' needs nothing more."
        ) from error
    return faiss


def _checked(value: Any, name: str) -> Tensor:
    """A floating tensor of the embeddings; raises where they are no finite table."""
    value = torch.as_tensor(value).detach()
    if value.ndim != 2 or len(value) == 0:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}, but must be (spots, dim) with one or more "
            "spots."
        )
    if not value.is_floating_point():
        value = value.float()
    for start in range(0, len(value), _ROWS):
        finite = torch.isfinite(value[start : start + _ROWS]).all(1)
        if not finite.all():
            raise ValueError(
                f"{name} row {start + int((~finite).nonzero()[0, 0])} is not finite; look for a "
                "diverged training or a damaged file."
            )
    return value


def _normalised(reference: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows of length 1, made piece by piece."""
    made = torch.empty(reference.shape, dtype=dtype, device=reference.device)
    for start in range(0, len(reference), _ROWS):
        part = reference[start : start + _ROWS].to(dtype)
        made[start : start + _ROWS] = F.normalize(part, dim=1)
    return made
