"""The machine under a run: device, precision, seeds, the memory allocator, and access tokens."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


def pick_device(device: str = "auto") -> str:
    """``"cuda"``, ``"mps"`` or ``"cpu"``: the fastest one there is, unless one is named.

    Raises
    ------
    ValueError
        If the named device is not available.
    """
    import torch

    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        return next(name for name, there in available.items() if there)
    if not available.get(device, False):
        there = ", ".join(name for name, here in available.items() if here)
        raise ValueError(f"device is {device!r}, but this machine offers: {there}.")
    return device


def pick_precision(device: str) -> str:
    """Fabric's precision name: bfloat16 autocast on CUDA, where it pays, else plain float32."""
    return "bf16-mixed" if device == "cuda" else "32-true"


def at_least_single(values: Tensor) -> Tensor:
    """Values of half precision as float32; others as they are."""
    return values.float() if values.itemsize < 4 else values


def autocast(device: str) -> AbstractContextManager:
    """bfloat16 where it pays (CUDA); elsewhere nothing changes."""
    import torch

    return torch.autocast("cuda", torch.bfloat16) if device == "cuda" else nullcontext()


@lru_cache(maxsize=1)
def keep_large_blocks() -> bool:
    """Tell glibc to keep large freed blocks instead of giving them back to the system.

    Every CPU training step frees and asks again for the same large tensors.
    By default each request is a fresh mapping whose pages the kernel zeroes one by one,
    which costs several times the arithmetic of a large step.
    Returns whether the setting was made: there is nothing to do outside Linux with glibc.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # from glibc's malloc.h
    settings = {trim_threshold: 2**31 - 1, top_pad: 2**28, mmap_max: 0}
    done = [mallopt(which, value) == 1 for which, value in settings.items()]
    return all(done)


def release_blocks() -> None:
    """Give freed memory back to the system, where `keep_large_blocks` keeps it.

    Called between stages whose tensors have other sizes: the old blocks would only pile up.
    """
    if keep_large_blocks():
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one CPU thread inside the block.

    The heads on cached features are so small that a second thread gains nothing.
    It even costs: threads wait for each other after every operation, and on a machine that does
    anything else besides, that takes many times the arithmetic.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def without_tokens(text: str) -> str:
    """A text with every access token of the environment blotted out: none is printed or kept."""
    for name in TOKEN_VARIABLES:
        if os.environ.get(name):
            text = text.replace(os.environ[name], "***")
    return text
