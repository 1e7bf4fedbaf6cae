"""What the measuring tools share: the slides, the sizes, and work spread over the cores."""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from functools import lru_cache
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from anndata import AnnData
from tqdm import tqdm

import heclip_course as course
from book.tools.results import code_key
from book.tools.settings import BUILD, notebook_environment
from heclip_lite import config, store
from heclip_lite.data import her2st, sections
from heclip_lite.data.synthetic import tissue
from heclip_lite.features import backbones
from heclip_lite.methods import recipes
from heclip_lite.methods.histosge import PUBLISHED_TRAINING as PUBLISHED_DENSE

SERIAL = ("C2", "C3", "C4", "C5", "C6")  # one donor of her2st, section by section
TUNED_ON = ("C2", "C3", "C4", "C5")  # where recipes were chosen, by leaving one of them out
SEEDS = (0, 1, 2)
FULL_ENCODER = "resnet50"  # the full profile's, as in notebooks/params
# A tenth of the published rounds, for time; on section C5 all of them score lower (tried.csv).
DENSE_REFERENCE = replace(PUBLISHED_DENSE, epochs=100)


@lru_cache(maxsize=4)  # once per process: parsing the tables takes longer than training a head
def read(data: str, names: tuple[str, ...] | None = None) -> list[AnnData]:
    """Sections of a dataset, all of them unless some are named; not to be changed."""
    if data == "her2st":
        return her2st.read_her2st(names)
    found = course.DATASETS[data].read(0)
    return [s for s in found if names is None or sections.name_of(s) in names]


def size_of(data: str, profile: str = "fast") -> recipes.Size:
    """Inputs and training loops for one dataset; ``"full"`` is what a GPU computes."""
    if profile == "full":
        full, encoder = course.PROFILES["full"], config.Encoder(FULL_ENCODER, "pretrained")
        return recipes.Size(
            maps=config.MapInput(encoder, um_per_px=full.um_per_px),
            patches=config.PatchInput(encoder, size=full.reference_size),
            end_to_end=config.Training(epochs=full.reference_epochs),
            members=full.members,
        )
    if data == "her2st":
        encoder = backbones.coral_mobilenet()
        return recipes.Size(
            maps=config.MapInput(encoder),
            patches=config.PatchInput(encoder),
            end_to_end=config.Training(epochs=8, batch_size=32, learning_rate=3e-4),
            dense_reference=DENSE_REFERENCE,
        )
    return recipes.Size(
        maps=config.MapInput(um_per_px=(2.74, 1.37)), dense_reference=DENSE_REFERENCE
    )


def spread(work: Callable[..., Any], jobs: Iterable[tuple], *, label: str) -> float:
    """Call ``work(*job)`` for every job: one process per core, or one where there is a GPU.

    Results stay where `work` leaves them: on disk, so that a stopped run goes on.
    Returns the seconds it took, with those of stopped runs of the same code.
    """
    jobs = list(jobs)
    started = time.perf_counter()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = 1 if torch.cuda.is_available() else cores
    # Numba's parallel functions set the threads of OpenMP, and with it torch's, to all cores.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), str(cores // workers))
    environment = {**threads, "TQDM_DISABLE": "1"}
    before = {name: os.environ.get(name) for name in environment}
    with notebook_environment():
        os.environ.update(environment)  # inherited by the processes
        try:
            with ProcessPoolExecutor(
                workers,
                mp_context=get_context("spawn"),
                initializer=_end_with,
                initargs=(os.getpid(),),
            ) as pool:
                waiting = [pool.submit(work, *job) for job in jobs]
                try:
                    for done in tqdm(
                        as_completed(waiting), total=len(jobs), desc=label, unit="job"
                    ):
                        done.result()
                except BaseException:
                    pool.shutdown(cancel_futures=True)  # what is done stays on disk
                    raise
        finally:
            for name, value in before.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})
            spent = _add_seconds(label, time.perf_counter() - started)
    return spent


def _end_with(parent: int) -> None:
    """Let a process end when the one that started it was killed, rather than work on unseen."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _add_seconds(label: str, seconds: float) -> float:
    """Add to what was spent on this work by the same code before; return the sum."""
    key = store.content_key(label, code_key(label.split()[0]))[:16]
    path = store.cache_dir() / "seconds" / f"{key}.json"
    if path.exists():
        seconds += json.loads(path.read_text(encoding="utf-8"))["seconds"]
    store.write_json(path, {"label": label, "seconds": seconds})
    return seconds


def command_line(
    purpose: str, datasets: Sequence[str] = ("her2st", "synthetic")
) -> argparse.ArgumentParser:
    """What every measuring tool is asked: `purpose` is its help, the first dataset the default."""
    parser = argparse.ArgumentParser(description=purpose)
    parser.add_argument("--data", choices=tuple(datasets), default=datasets[0])
    parser.add_argument("--quick", action="store_true", help="a small run, kept out of git")
    return parser


def from_command_line(
    purpose: str, datasets: Sequence[str] = ("her2st", "synthetic")
) -> tuple[str, bool]:
    """Dataset and whether a quick run is wanted, from the command line of a measuring tool."""
    arguments = command_line(purpose, datasets).parse_args()
    keep_cache_in_build()
    return arguments.data, arguments.quick


def known_truth(section: AnnData) -> np.ndarray:
    """True log1p expression of the spots of a synthetic section, (spots, genes)."""
    return tissue.truth(section).expression(section.obsm["spatial"])


def keep_cache_in_build() -> None:
    """Keep features and predictions beside the notebooks', unless the user names a place."""
    os.environ.setdefault("HECLIP_LITE_CACHE", str(BUILD / "cache"))
