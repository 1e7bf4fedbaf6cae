"""A slide too large for memory, and what predicting it takes; run as a process of its own.

``python giant.py write SLIDE SIDE [TISSUE]`` writes a tiled pyramidal TIFF, tile by tile.
``python giant.py predict MODEL SLIDE OUT PITCH [LAYOUT [TILE]]`` predicts it with a saved HECLIP
and prints as JSON how much memory that took beyond the loaded model, how many seconds of the
processor, and how many pixels of the largest level it read.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from heclip_lite.data.pyramid import Pyramid

TILE = 512
LEVELS = (1, 4, 16)  # pixels of the largest level per pixel, along a side
UM_PER_PX = 0.5
TISSUE = {  # circles: place and radius in sides of the slide
    "lobes": ((0.3, 0.4, 0.2), (0.65, 0.6, 0.22)),
    "speck": ((0.27, 0.4, 0.02),),
}
GLASS, STROMA, NUCLEUS = (244, 241, 245), (226, 170, 200), (92, 58, 140)


def pixels(x0: int, y0: int, side: int, step: int, tissue: str) -> np.ndarray:
    """A tile at (x0, y0) of the drawn slide `side` wide, one pixel in `step`: uint8 (h, w, 3).

    Round tissue with nuclei, which are the denser the farther right.
    """
    x, y = (start + step * np.arange(TILE)[None] + step // 2 for start in (x0, y0))
    y = y.T
    u, v = x / side, y / side
    inside = np.zeros((TILE, TILE), dtype=bool)
    for at_u, at_v, radius in TISSUE[tissue]:
        across, down = (u - at_u) ** 2, (v - at_v) ** 2
        if across.min() + down.min() < radius**2:
            inside |= across + down < radius**2
    made = np.empty((TILE, TILE, 3), dtype=np.uint8)
    made[:] = GLASS
    if inside.any():
        waves = np.sin(x / 9.0 + 3 * np.sin(y / 170.0)) + np.sin(y / 11.0 + 3 * np.sin(x / 130.0))
        made[inside] = STROMA
        made[inside & (waves > 1.7 - 0.9 * u)] = NUCLEUS
    return made


def tiles(side: int, step: int, tissue: str) -> Iterator[np.ndarray]:
    small = -(-side // step)
    for y in range(0, small, TILE):
        for x in range(0, small, TILE):
            yield pixels(x * step, y * step, side, step, tissue)


def write(path: Path, side: int, tissue: str = "lobes") -> None:
    import tifffile

    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for level, step in enumerate(LEVELS):
            small = -(-side // step)
            um = UM_PER_PX * side / small
            file.write(
                tiles(side, step, tissue),
                shape=(small, small, 3),
                dtype=np.uint8,
                tile=(TILE, TILE),
                photometric="rgb",
                compression="jpeg",
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


def fit(training: list, folder: Path, kind: str = "small") -> None:
    """A fitted HECLIP in a folder, small or with an image side such as users have."""
    from heclip_lite import config, methods

    small = config.Encoder("test_resnet")
    image = {
        "small": config.MapInput(small, um_per_px=(8.0, 4.0), widths_um=(400.0,), components=16),
        # The finest of the scales by default, which takes the most memory; all else by default.
        "maps": config.MapInput(um_per_px=(0.69,), components=16),
        "patches": config.PatchInput(small, size=256),
    }[kind]
    contrast = config.Contrast(
        temperature=0.2, spot_side="components", head="linear", dim=16, rank=5,
        options={"cosine": True, "targets": "identity"},
    )  # fmt: skip
    decode = config.Decode(k=None, weights=0.2, rank=5)
    one = config.Training(epochs=1, batch_size=16)
    methods.HECLIP(image, contrast, decode, one).fit(training).save(folder)


def counted(slide: Pyramid) -> list[int]:
    """A list that grows by the number of pixels at each reading of the slide's largest level."""
    read, real = [], slide._source.read

    def counting(level: int, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        if level == 0:
            read.append((x1 - x0) * (y1 - y0))
        return real(level, x0, y0, x1, y1)

    slide._source.read = counting
    return read


def predict(
    model: Path,
    slide: Path,
    out: Path,
    pitch_um: str,
    layout: str = "anndata",
    tile_um: str | None = None,
) -> None:
    # What every run loads belongs to the model's side of the scales.
    import anndata
    import dask.array  # noqa: F401
    import tifffile  # noqa: F401
    import zarr

    if layout == "spatialdata":
        import spatialdata  # noqa: F401

    from heclip_lite.data.pyramid import Pyramid
    from heclip_lite.methods.heclip import HECLIP
    from heclip_lite.spatial import wholeslide

    method = HECLIP.load(model)
    options = {"pitch_um": float(pitch_um), "tile_um": tile_um and float(tile_um)}
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    started = time.process_time()
    with Pyramid(slide) as opened:
        read = counted(opened)
        wholeslide.predict_slide(method, opened, out, layout=layout, device="cpu", **options)
    seconds = time.process_time() - started
    took = status("VmHWM") - before
    made = zarr.open(out, mode="r")
    obs = made["obs"] if layout == "anndata" else made[f"tables/{slide.stem}/obs"]
    points = anndata.io.read_elem(obs).shape[0]
    record = {"before": before, "took": took, "seconds": seconds, "points": points}
    print(json.dumps(record | {"largest_level_px": sum(read)}))


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
    else:
        predict(*map(Path, sys.argv[2:5]), *sys.argv[5:])
