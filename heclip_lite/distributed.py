"""Several processes that train one network together: which one this is, and what they share.

``torchrun`` starts the processes and tells each its rank; alone, a process is rank 0 of 1.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed

_ALONE = [False]  # whether this process looks at its own rows only, as in validation


def size() -> int:
    """How many processes there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process, from 0."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank()
    return int(os.environ.get("RANK", "0"))


def here() -> tuple[int, int]:
    """Processes on each machine, and machines."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return local, max(1, size() // local)


@contextmanager
def alone() -> Iterator[None]:
    """Gather nothing inside: every process sees the same rows."""
    before, _ALONE[0] = _ALONE[0], True
    try:
        yield
    finally:
        _ALONE[0] = before


class _Gather(torch.autograd.Function):
    """Rows of all ranks, one rank after another; gradients flow back to the rank of each row.

    Every rank computes the same loss from the same rows.
    So the gradients that reach one row are added up over ranks here, and the mean over ranks that
    data-parallel training takes afterwards leaves exactly the gradient of the one loss.
    """

    @staticmethod
    def forward(context: Any, rows: Tensor) -> Tensor:
        context.count = len(rows)
        found = [torch.empty_like(rows) for _ in range(size())]
        distributed.all_gather(found, rows.contiguous())
        return torch.cat(found)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()
        distributed.all_reduce(gradient)
        start = rank() * context.count
        return gradient[start : start + context.count]


def gather(rows: Tensor) -> Tensor:
    """Rows (batch, ...) of all ranks, (ranks x batch, ...); as many on every rank.

    A contrast is among all spots of a batch, so embeddings are gathered before the loss:
    the loss over N ranks is then the loss of one rank on the whole batch, and so is its gradient.
    """
    if size() == 1 or _ALONE[0]:
        return rows
    return _Gather.apply(rows)


def mean(value: Tensor) -> Tensor:
    """The mean of a number over all ranks."""
    if size() == 1 or _ALONE[0]:
        return value
    value = value.detach().clone()
    distributed.all_reduce(value)
    return value / size()


def weighted(value: Tensor, count: Tensor) -> Tensor:
    """The mean of `count` values here, such that its mean over ranks is that of all their values.

    Data-parallel training gives every rank the same say, also where one has fewer values.
    """
    if size() == 1 or _ALONE[0]:
        return value
    count = count.to(value.dtype)
    return value * (count / mean(count))


def wait() -> None:
    """Until all ranks are here."""
    if size() > 1:
        distributed.barrier()
