"""Jobs that are killed, early and at their very end, and what runs them: each in its own process.

`start` forks it from a process that has the libraries at hand, for they take longer to import than
most jobs take. ``python tests/killing.py JOB FOLDER`` does a job in a process begun from nothing;
the contest takes the device it runs on as a third word.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest import mock

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 600  # seconds after which a job counts as stuck
MORTAL = Path(__file__).parent / "mortal"  # a Python that has it on its path dies where it is told
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["scanpy", "timm", "heclip_course", "heclip_lite.methods", "heclip_lite.spatial.wholeslide"]
)


def train(folder: Path) -> None:
    """A small network for many epochs, with its state on disk after each."""
    import torch

    from heclip_lite import config, losses, networks, training
    from heclip_lite.store import atomic_path

    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(256, 24, generator=generator)
    spots = torch.rand(256, 8, generator=generator)
    torch.manual_seed(0)
    model = networks.heclip_hvg(torch.nn.Identity(), 24, 8, dropout=0.2)
    history = training.train(
        model,
        (pictures, spots),
        lambda net, x, y: losses.image_centric_loss(*net(x, y)),
        config.Training(epochs=60, batch_size=32, device="cpu"),
        checkpoint=folder / "states",
        about="image_centric",
    )
    values = {name: value.numpy() for name, value in model.state_dict().items()}
    with atomic_path(folder / "result.npz") as temporary:
        np.savez(temporary, loss=[record["loss"] for record in history], **values)


def contest(folder: Path, device: str = "cpu") -> None:
    """Several methods on several folds; each prediction stays on disk."""
    from heclip_lite import config, evaluation, methods, store
    from heclip_lite.data.synthetic import tissue

    os.environ["HECLIP_LITE_CACHE"] = str(folder / "cache")
    sections = tissue.synthetic_sections(2, 1, size_um=700, n_genes=60, seed=1)
    heads = config.Training(epochs=15, batch_size=16, device=device)
    maps = config.MapInput(config.Encoder("test_resnet"), um_per_px=(4.0,), components=8)
    entered = {
        "heclip": methods.HECLIP.recommended(maps, heads, members=2),
        "ridge": methods.Ridge(maps, device=device),
        "position": methods.Position(),
        "mean": methods.Mean(),
    }
    table = evaluation.contest(
        entered, sections, evaluation.leave_one_out(sections, "section"), seeds=(0, 1)
    )
    with store.atomic_path(folder / "result.csv") as temporary:
        table.to_csv(temporary, index=False)


def chapter(folder: Path) -> None:
    """What a chapter trains and keeps in its workspace."""
    import heclip_course as course
    from heclip_lite import config, methods, store
    from heclip_lite.data.synthetic import tissue

    os.environ["HECLIP_LITE_CACHE"] = str(folder / "cache")
    drawn = tissue.synthetic_sections(2, 2, size_um=700, n_genes=60, seed=1)
    course.DATASETS["small"] = course.Dataset(
        training=("P1-1", "P1-2"), test=("P2-1",), read=lambda seed: drawn, about="small"
    )
    started = course.start(
        "09_test",
        data="small",
        encoder="test_resnet",
        workspace=folder / "workspace",
        results=folder / "results",
    )
    maps = config.MapInput(started.maps.encoder, um_per_px=(4.0,), components=8)
    heads = config.Training(epochs=15, batch_size=16, device="cpu")
    model = started.trained("model", methods.HECLIP.recommended(maps, heads, members=2))
    with store.atomic_path(folder / "result.csv") as temporary:
        np.savetxt(temporary, model.predict(started.test[0]), delimiter=",")
    started.finish()


def download(folder: Path) -> None:
    """Files from a slow server of this machine, which FOLDER/address names."""
    import json

    from heclip_lite import store
    from heclip_lite.data import download as downloads

    os.environ["HECLIP_LITE_DATA"] = str(folder / "data")
    asked = json.loads((folder / "asked.json").read_text(encoding="utf-8"))
    paths = downloads.fetch(
        "slow", list(asked["files"]), address=asked["address"], registry=asked["files"]
    )
    store.write_json(folder / "result.json", {p.name: store.file_hash(p) for p in paths})


JOBS: dict[str, Callable[..., None]] = {
    job.__name__: job for job in (train, contest, chapter, download)
}


def threads(number: int) -> dict[str, str]:
    """Environment of a process that computes on so many; numba would give torch all cores again."""
    return dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), str(number))


def command_of(job: str, folder: Path, *more: str) -> list[str]:
    """The command line of a job of this file."""
    return [sys.executable, __file__, job, str(folder), *more]


def execute(folder: Path, *command: str) -> None:
    """The job of becoming another program, in a folder."""
    os.chdir(folder)
    os.execv(command[0], command)


def start(job: Callable[..., None], *arguments: object, **environment: str) -> BaseProcess:
    """Start a job in a process group of its own, so that all it started can be killed with it."""
    alone = {**os.environ, **threads(1), "TQDM_DISABLE": "1", **environment}
    with mock.patch.dict(os.environ, alone):  # the libraries count the threads when imported
        forkserver.ensure_running()
    process = FORKS.Process(target=_in_own_group, args=(job, arguments, alone))
    process.start()
    return process


def _in_own_group(job: Callable[..., None], arguments: tuple, environment: dict) -> None:
    os.setsid()
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    runpy.run_path(str(MORTAL / "sitecustomize.py"))
    job(*arguments)


def end(process: BaseProcess) -> None:
    """Wait until a job ends, which it has to do well."""
    assert _code(process) == 0, f"{process.name} failed: {process.exitcode}"


def _code(process: BaseProcess) -> int:
    """What a job ends with; a stuck one fails the test, and is killed with all it started."""
    process.join(PATIENCE)
    if process.exitcode is None:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(f"{process.name} was stuck for {PATIENCE} s")
    return process.exitcode


def survive(
    job: Callable[..., None],
    *arguments: object,
    moments: Sequence[tuple[str, float]],
    seed: int,
    **environment: str,
) -> int:
    """Start a job again and again, killing it at one moment after the other; then let it end.

    Parameters
    ----------
    moments
        Patterns of paths, and seconds: a kill comes when a file is about to be given such a name,
        or a folder like that is asked for, or at random up to so many seconds later.
        What a run has reached does not hang on how busy the machine is.

    Returns
    -------
    int
        How many kills hit the work before it had ended.
    """
    draws = np.random.default_rng(seed).uniform(0.2, 1, len(moments))
    paths = os.pathsep.join(filter(None, (str(MORTAL), environment.get("PYTHONPATH"))))
    hits = 0
    for (pattern, seconds), draw in zip(moments, draws, strict=True):
        dies = {"DIES_AT": pattern, "DIES_AFTER": str(draw * seconds), "PYTHONPATH": paths}
        hits += _code(start(job, *arguments, **environment | dies)) == -signal.SIGKILL
    end(start(job, *arguments, **environment))
    return hits


if __name__ == "__main__":
    JOBS[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])
