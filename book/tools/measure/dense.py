"""Cost of dense prediction against the number of points, measured in one run.

With neighbourhood attention each point looks at a fixed number of spots, so the cost should grow
with the number of points and no faster.
Joining each point to all spots of the section stands beside it.
Then a process of its own trains on a section as large as a Visium slide, and tells its memory.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from anndata import AnnData

from heclip_lite import config
from heclip_lite.data.synthetic import tissue
from heclip_lite.methods import recipes
from heclip_lite.methods.histosge import HisToSGE
from heclip_lite.spatial import superres

SIDE_UM = 3000.0
PITCHES_UM = (80.0, 40.0, 20.0, 10.0)
TURNS = 2
LARGE_UM, LARGE_GENES = 7900.0, 1000  # about 4,600 spots


def peak_gib() -> float:
    """Most memory that this process ever held."""
    status = Path("/proc/self/status")
    if status.exists():  # a child's ru_maxrss begins with the peak of whoever started it
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**30  # bytes, on macOS


def draw_large() -> AnnData:
    """A section as large as a Visium slide."""
    return tissue.synthetic_sections(1, 1, size_um=LARGE_UM, n_genes=LARGE_GENES)[0]


def train_large() -> None:
    """Train our HisToSGE on a full slide in this process, and print what it took."""
    # Drawn elsewhere: that takes more memory than training, and is not what is asked.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        section = pool.submit(draw_large).result()
    size = recipes.Size(maps=config.MapInput(um_per_px=(2.74, 1.37)))
    started = time.perf_counter()
    recipes.histosge(size).fit([section])
    print(
        f"training on {section.n_obs:,} spots and {section.n_vars:,} genes: "
        f"{time.perf_counter() - started:.0f} s, peak memory {peak_gib():.2f} GiB"
    )


def main() -> None:
    """Measure and print."""
    if sys.argv[1:] == ["large"]:
        train_large()
        return
    section = tissue.synthetic_sections(1, 1, size_um=SIDE_UM)[0]
    size = recipes.Size(
        maps=config.MapInput(um_per_px=(2.74, 1.37)), dense=config.Training(epochs=2), members=1
    )
    near = recipes.histosge(size).fit([section])
    every = HisToSGE(
        size.maps,
        config.Attention(**{**recipes.HISTOSGE, "groups": "section", "positions": "continuous"}),
        config.Training(epochs=2, batch_size=1),
    ).fit([section])
    grids = {pitch: superres.grid(section, pitch) for pitch in PITCHES_UM}
    superres.predict(near, grids[PITCHES_UM[0]])  # the slide's maps are made once
    print(f"{section.n_obs} spots; seconds on this machine, the fastest of {TURNS} turns")
    print(
        f"{'points':>8}{'neighbourhood':>16}{'us/point':>10}{'whole section':>16}{'us/point':>10}"
    )
    first = None
    for pitch in PITCHES_UM:
        points = grids[pitch]
        found = []
        for method in (near, every):
            if method is every and pitch < PITCHES_UM[1]:
                continue  # minutes, for nothing new
            spent = []
            for _ in range(TURNS):
                started = time.perf_counter()
                superres.predict(method, points)
                spent.append(time.perf_counter() - started)
            found.append(min(spent))
        first = first or found[0] / points.n_obs
        cells = "".join(f"{s:>16.2f}{1e6 * s / points.n_obs:>10.0f}" for s in found)
        print(f"{points.n_obs:>8,}{cells}")
    print(
        f"neighbourhood, cost of a point: {found[0] / points.n_obs / first:.2f} times the first's"
    )
    print(f"peak memory {peak_gib():.2f} GiB", flush=True)
    sys.exit(subprocess.run([sys.executable, "-m", __spec__.name, "large"]).returncode)


if __name__ == "__main__":
    main()
