"""A slide too large for memory, and what predicting it takes; run as a process of its own.

``python giant.py write SLIDE SIDE`` writes a tiled pyramidal TIFF, tile by tile.
``python giant.py predict MODEL SLIDE OUT PITCH [LAYOUT]`` predicts it with a saved HECLIP and
prints as JSON how much memory that took beyond the loaded model, and how many seconds of the
processor; it says ``ready`` when the work begins.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

TILE = 512
LEVELS = (1, 4, 16)  # pixels of the largest level per pixel, along a side
UM_PER_PX = 0.5
GLASS, STROMA, NUCLEUS = (244, 241, 245), (226, 170, 200), (92, 58, 140)


def pixels(x0: int, y0: int, side: int, step: int) -> np.ndarray:
    """A tile at (x0, y0) of the drawn slide `side` wide, one pixel in `step`: uint8 (h, w, 3).

    Two lobes of tissue with nuclei, which are the denser the farther right.
    """
    x, y = (start + step * np.arange(TILE)[None] + step // 2 for start in (x0, y0))
    y = y.T
    u, v = x / side, y / side
    lobes = ((u - 0.3) ** 2 + (v - 0.4) ** 2 < 0.04) | ((u - 0.65) ** 2 + (v - 0.6) ** 2 < 0.05)
    waves = np.sin(x / 9.0 + 3 * np.sin(y / 170.0)) + np.sin(y / 11.0 + 3 * np.sin(x / 130.0))
    nuclei = lobes & (waves > 1.7 - 0.9 * u)
    made = np.empty((TILE, TILE, 3), dtype=np.uint8)
    made[:] = GLASS
    made[lobes] = STROMA
    made[nuclei] = NUCLEUS
    return made


def tiles(side: int, step: int) -> Iterator[np.ndarray]:
    small = -(-side // step)
    for y in range(0, small, TILE):
        for x in range(0, small, TILE):
            yield pixels(x * step, y * step, side, step)


def write(path: Path, side: int, compression: str = "jpeg") -> None:
    import tifffile

    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for level, step in enumerate(LEVELS):
            small = -(-side // step)
            um = UM_PER_PX * side / small
            file.write(
                tiles(side, step),
                shape=(small, small, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="rgb",
                compression=compression,
                resolution=(1e4 / um, 1e4 / um),
                resolutionunit="CENTIMETER",
                subifds=len(LEVELS) - 1 if level == 0 else None,
                subfiletype=1 if level else 0,
                metadata=None,
            )


def status(name: str) -> float:
    """A line of /proc/self/status, MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":")) / 1024


def fit(training: list, folder: Path) -> None:
    """A fitted HECLIP in a folder."""
    from heclip_lite import config, methods

    maps = config.MapInput(um_per_px=(8.0, 4.0), widths_um=(100.0, 400.0), components=16)
    contrast = config.Contrast(
        temperature=0.2, spot_side="components", head="linear", dim=16, rank=5,
        options={"cosine": True, "targets": "identity"},
    )  # fmt: skip
    decode = config.Decode(k=None, weights=0.2, rank=5)
    one = config.Training(epochs=1, batch_size=16)
    methods.HECLIP(maps, contrast, decode, one).fit(training).save(folder)


def predict(model: Path, slide: Path, out: Path, pitch_um: float, layout: str) -> None:
    # What every run loads belongs to the model's side of the scales.
    import anndata
    import dask.array  # noqa: F401
    import spatialdata  # noqa: F401
    import tifffile  # noqa: F401
    import zarr

    from heclip_lite import wholeslide
    from heclip_lite.heclip import HECLIP

    method = HECLIP.load(model)
    print("ready", flush=True)
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    started = time.process_time()
    wholeslide.predict_slide(method, slide, out, pitch_um=pitch_um, layout=layout, device="cpu")
    seconds = time.process_time() - started
    took = status("VmHWM") - before
    made = zarr.open(out, mode="r")
    obs = made["obs"] if layout == "anndata" else made[f"tables/{slide.stem}/obs"]
    points = anndata.io.read_elem(obs).shape[0]
    print(json.dumps({"before": before, "took": took, "seconds": seconds, "points": points}))


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
    else:
        predict(*map(Path, sys.argv[2:5]), float(sys.argv[5]), *(sys.argv[6:] or ["anndata"]))
