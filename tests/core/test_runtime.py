"""The machine under a run."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from heclip_lite import runtime


def test_a_device_that_is_not_there_is_named():
    assert runtime.pick_device("cpu") == "cpu"
    assert runtime.pick_device() in {"cpu", "cuda", "mps"}
    with pytest.raises(ValueError, match=r"device is 'tpu', but this machine offers: .*cpu"):
        runtime.pick_device("tpu")


def test_one_thread_gives_the_others_back():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), runtime.one_thread():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == before


def test_large_blocks_stay_in_the_process():
    """A large block that is freed and asked for again costs no new pages, where glibc allocates."""
    if platform.libc_ver()[0] != "glibc":
        assert not runtime.keep_large_blocks()
        return
    code = (
        "import resource, sys, torch\n"
        "from heclip_lite import runtime\n"
        "if sys.argv[1] == 'keep': assert runtime.keep_large_blocks()\n"
        "faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "before = faults()\n"
        "for _ in range(40): torch.ones(2**24)\n"
        "print(faults() - before)\n"
    )
    faults = {
        how: int(subprocess.check_output([sys.executable, "-c", code, how])) for how in ("keep", "")
    }
    assert faults["keep"] < faults[""] / 2  # the first rounds cost pages in any case


def test_precision_is_mixed_where_it_pays():
    assert runtime.pick_precision("cuda") == "bf16-mixed"
    assert runtime.pick_precision("cpu") == "32-true"
