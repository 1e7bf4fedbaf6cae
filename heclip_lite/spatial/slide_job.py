"""The work of predicting a whole slide: three passes over its tiles, each tile kept on disk.

1. The frozen encoder runs over the slide and its maps are kept.
2. The maps are pooled around the points of each tile.
3. When all points are described, their features are brought to mean 0 and standard deviation 1
   over the slide, never over a tile, and the method predicts them.

Methods that see patches need the last pass only, and no scaling.
A stopped run goes on where it stopped and ends with the same result.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from anndata import AnnData
from tqdm import tqdm

from heclip_lite import config, runtime, store
from heclip_lite.data import export
from heclip_lite.data.pyramid import Pyramid
from heclip_lite.features import encoders
from heclip_lite.features import maps as slide_maps
from heclip_lite.methods import saved
from heclip_lite.methods.base import Method
from heclip_lite.methods.baselines import Average, Shuffled
from heclip_lite.methods.correction import TrainHarmony
from heclip_lite.methods.trained import Trained
from heclip_lite.spatial.slide_parts import PLAN, PROBE, check_out, drop, parts_of

if TYPE_CHECKING:
    from distributed import Client

_TILE_POINTS = 4096  # of a tile at the most
_TILE_BYTES = 2**26  # of the features of a tile at the most
_WIDEST_UM = 4000.0  # side of a tile at the most
_ROWS = 256  # points predicted at once: a kernel with all training spots is made of them
_PIXELS = 2**20  # of the patches encoded at once: bounds memory
_PROBES = 4  # made-up points that tell one fitted method from another
_ONE = threading.Lock()  # one tile at a time in a process: torch uses its cores, memory is bounded


def is_frozen(image: config.Input) -> bool:
    """Whether an image input is described without the method's own networks."""
    return not (isinstance(image, config.PatchInput) and image.trainable)


@dataclass
class Job:
    """All that a worker needs to know of a run: what to predict, where, and in which tiles."""

    method: Method
    image: config.MapInput | config.PatchInput
    slide: Pyramid
    folder: Path
    device: str
    pitch_um: float
    tile_um: float
    points: np.ndarray  # (points, 2), pixels, in the order of tiles
    numbers: np.ndarray  # of the points on the grid that are kept, row by row
    places: np.ndarray  # (points, 2): row and column on the grid
    edges: np.ndarray  # first point of each tile, and the end
    spots: np.ndarray | None = None

    @classmethod
    def plan(
        cls,
        method: Method,
        image: config.MapInput | config.PatchInput,
        slide: Pyramid,
        out: Path,
        pitch_um: float,
        spots: np.ndarray | None,
        tile_um: float | None,
        device: str,
    ) -> Job:
        """Lay the grid, keep what is on tissue, and deal it out to tiles."""
        um = slide.um_per_px
        if not pitch_um >= um:
            raise ValueError(
                f"pitch_um is {pitch_um}; points cannot be closer than a pixel of "
                f"{slide.path.name}, {um:.3g} micrometres."
            )
        if tile_um is not None and not tile_um >= pitch_um:
            raise ValueError(f"tile_um is {tile_um}; a tile holds one point at least: {pitch_um}.")
        spots = _checked(spots, slide)
        side = max(1, int((_tile_side(image, pitch_um) if tile_um is None else tile_um) / pitch_um))
        step = min(pitch_um / um, 2 * max(slide.size))  # no point is left then; it may be endless
        (x, y) = (np.arange(step / 2, length, step) for length in slide.size)
        column, row = (axis.ravel() for axis in np.meshgrid(np.arange(len(x)), np.arange(len(y))))
        points = np.stack([x[column], y[row]], axis=1)
        kept = slide.on_tissue(points)
        if not kept.any():
            size = " x ".join(f"{length * um:.0f}" for length in slide.size)
            raise ValueError(
                f"No point of a grid of {pitch_um} micrometres lies on the tissue of "
                f"{slide.path.name}, which has {size} micrometres. Choose a finer pitch_um."
            )
        points, places = points[kept], np.stack([row, column], axis=1)[kept]
        tile = places[:, 0] // side * (len(x) // side + 1) + places[:, 1] // side
        order = np.argsort(tile, kind="stable")
        edges = np.flatnonzero(np.diff(tile[order], prepend=-1))
        return cls(
            method,
            image,
            slide,
            parts_of(out),
            device,
            float(pitch_um),
            side * pitch_um,
            points[order],
            order,
            places[order],
            np.append(edges, len(order)),
            spots,
        )

    @cached_property
    def maps(self) -> slide_maps.SlideMaps | None:
        """Feature maps of the slide, for methods that see these."""
        if not isinstance(self.image, config.MapInput):
            return None
        near = self.points if self.spots is None else np.concatenate([self.points, self.spots])
        return slide_maps.SlideMaps(self.slide, self.image, self.folder / "maps", near, self.device)

    def __getstate__(self) -> dict:
        return {key: value for key, value in vars(self).items() if key != "maps"}

    # -- before and after ---------------------------------------------------------------------

    @property
    def settings(self) -> dict[str, Any]:
        """What must be the same for finished tiles to count."""
        return {
            "code": store.code_key("core", "data", "features", "methods", "spatial"),
            "slide": self.slide.key,
            "image": store.content_key(config.as_dict(self.image)),
            "encoder": encoders.fingerprint(self.image.encoder),
            "pitch_um": self.pitch_um,
            "tile_um": self.tile_um,
            "genes": store.content_key(list(self.method.genes)),
            "method": _learnt(self.method),
            "spots": None if self.spots is None else store.content_key(self.spots),
            "points": len(self.points),
        }

    def start(self, overwrite: bool) -> None:
        """Make the folder of parts, or find it as this run would have left it."""
        plan, probe = self.folder / PLAN, self.folder / PROBE
        said, settings = self._probe(), self.settings
        if plan.exists() and probe.exists():
            kept = store.cached_json(plan, dict)  # damaged, it is that of no run
            other = [key for key, value in settings.items() if kept.get(key) != value]
            if not other and not _alike(probe, said):
                other = ["method"]
            if not other:
                return
            if not overwrite:
                raise FileExistsError(
                    f"{self.folder} holds parts of a run with another {', '.join(other)}. Give "
                    "`out` another name, or overwrite=True to drop them."
                )
        drop(self.folder)
        self._check_room()
        store.save_array(probe, said)  # first: from here on the folder is ours
        for part in ("maps", "features", "expression"):
            (self.folder / part).mkdir(exist_ok=True)
        store.write_json(plan, settings)  # last: it says that the folder is whole

    def _probe(self) -> np.ndarray:
        """What the method says of a few made-up points."""
        rng = np.random.default_rng(0)
        if self.maps is not None:
            values = rng.normal(size=(_PROBES, self.maps.channels)).astype(np.float32)
            return self._predicted(values)
        shape = (_PROBES, self.image.size, self.image.size, 3)
        return self._predicted(self._encoded(rng.integers(256, size=shape, dtype=np.uint8)))

    def _check_room(self) -> None:
        genes, channels = len(self.method.genes), 0 if self.maps is None else self.maps.channels
        needed = 4 * len(self.points) * (2 * genes + channels)
        needed += 0 if self.maps is None else self.maps.bytes_needed()
        free = shutil.disk_usage(self.folder.parent).free
        if needed > free:
            raise OSError(
                errno.ENOSPC,
                f"{len(self.points):,} points need {needed / 2**30:.1f} GiB while they are made, "
                f"and {self.folder.parent} has {free / 2**30:.1f}. Choose a wider pitch_um, or "
                "another disk",
            )

    def finish(
        self,
        out: Path,
        layout: str,
        name: str | None,
        donor: str,
        made_by: Mapping[str, Any] | None,
        overwrite: bool,
    ) -> None:
        """Put the tiles together, chunk by chunk, and give the result its name."""
        import dask
        import dask.array as da

        made = self.slide.section(self.points, name=name, donor=donor, diameter_um=self.pitch_um)
        prefix = made.obs["section"].iloc[0]
        made.obs_names = [f"{prefix}_{number}" for number in self.numbers]
        made.obs["array_row"], made.obs["array_col"] = self.places.T
        made.obs["spot"] = False
        genes = list(self.method.genes)
        parts = [
            da.from_delayed(
                dask.delayed(slide_maps.read_part)(self._expression(number)),
                shape=(int(stop - start), len(genes)),
                dtype=np.float32,
            )
            for number, (start, stop) in enumerate(self._tiles())
        ]
        table = da.concatenate(parts).rechunk((_TILE_POINTS, len(genes)))
        whole = AnnData(table, obs=made.obs, obsm=dict(made.obsm), uns=dict(made.uns))
        whole.var_names = genes
        if made_by is not None:
            whole.uns[export.MADE_BY] = json.dumps(made_by, sort_keys=True)
        building = self.folder / "result.zarr"
        shutil.rmtree(building, ignore_errors=True)
        with dask.config.set(scheduler="synchronous"):
            if layout == "spatialdata":
                export.to_spatialdata(whole).write(building)
            else:
                whole.write_zarr(building)
        check_out(out, overwrite)  # again, for the work took its time
        old = self.folder / "replaced"
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(out, old)
        os.replace(building, out)
        drop(self.folder)

    # -- passes -------------------------------------------------------------------------------

    def _tiles(self) -> list[tuple[int, int]]:
        return list(zip(self.edges[:-1].tolist(), self.edges[1:].tolist(), strict=True))

    def _expression(self, tile: int) -> Path:
        return self.folder / "expression" / f"{tile}.npy"

    def _features(self, tile: int | str) -> Path:
        return self.folder / "features" / f"{tile}.npy"

    def run(self, client: Client | None) -> None:
        """All passes, leaving out what is done."""
        todo = [t for t in range(len(self._tiles())) if not self._expression(t).exists()]
        if not todo:
            return
        if self.maps is None:
            _through(self, "make_from_patches", todo, client, "predict tiles")
            return
        statistics = self.folder / "statistics.npy"
        tiles: list[int | str] = list(range(len(self._tiles())))
        spots = [] if self.spots is None else self._spots_parts()
        standard = [f"spots{part}" for part in range(len(spots))] or tiles
        needed = todo if statistics.exists() else list(dict.fromkeys([*tiles, *standard]))
        waiting = [tile for tile in needed if not self._features(tile).exists()]
        if waiting:
            maps = [tile for tile in self.maps.tiles() if not self.maps.is_made(tile)]
            _through(self, "make_map", maps, client, "feature maps")
            _through(self, "describe", waiting, client, "describe tiles")
        if not statistics.exists():
            found = _mean_and_deviation([self._features(tile) for tile in standard])
            store.save_array(statistics, np.stack(found))
        shutil.rmtree(self.folder / "maps", ignore_errors=True)  # gigabytes that are done with
        _through(self, "make_from_features", todo, client, "predict tiles")

    def make_map(self, tile: slide_maps.Tile) -> None:
        """One tile of the feature maps."""
        self.maps.make(tile)

    def describe(self, tile: int | str) -> None:
        """Features of the points of one tile, before any scaling."""
        if isinstance(tile, str):
            points = self._spots_parts()[int(tile.removeprefix("spots"))]
        else:
            points = self.points[slice(*self._tiles()[tile])]
        self._keep(self._features(tile), self.maps.describe(points))

    def make_from_features(self, tile: int) -> None:
        """Expression of one tile from its features and the statistics of the slide."""
        mean, deviation = slide_maps.read_part(self.folder / "statistics.npy")
        values = slide_maps.read_part(self._features(tile))
        made = [
            self._predicted(((part - mean) / (deviation + 1e-6)).astype(np.float32))
            for part in _pieces(values, _ROWS)
        ]
        self._keep(self._expression(tile), np.concatenate(made))
        self._features(tile).unlink(missing_ok=True)

    def make_from_patches(self, tile: int) -> None:
        """Expression of one tile from the patches around its points."""
        made, rows = [], max(1, min(_ROWS, _PIXELS // self.image.size**2))
        for points in _pieces(self.points[slice(*self._tiles()[tile])], rows):
            pixels = self.slide.patches(points, width_um=self.image.width_um, size=self.image.size)
            made.append(self._predicted(self._encoded(pixels)))
        self._keep(self._expression(tile), np.concatenate(made))

    def _encoded(self, pixels: np.ndarray) -> np.ndarray:
        """Vectors of patches; the patches themselves where the method encodes them."""
        import torch

        if not is_frozen(self.image):
            return pixels
        device = runtime.pick_device(self.device)
        encoder = slide_maps.encoder_of(self.image.encoder, device)
        with torch.inference_mode(), runtime.autocast(device):
            return encoder(torch.from_numpy(pixels).to(device)).float().cpu().numpy()

    def _predicted(self, values: np.ndarray) -> np.ndarray:
        inner = self.method
        while isinstance(inner, Shuffled | TrainHarmony):
            inner = inner.fitted
        if isinstance(self.image, config.MapInput):
            edges = np.cumsum(encoders.block_sizes(self.image))[:-1]
            return inner.predict_described(np.split(values, edges, axis=1))
        if is_frozen(self.image):
            return inner.predict_described([values])
        import torch

        assert isinstance(inner, Trained)
        return np.asarray(inner._predict_images(torch.from_numpy(values)), dtype=np.float32)

    def _spots_parts(self) -> list[np.ndarray]:
        """Spots from top to bottom, a tile's worth at a time: near ones share their maps."""
        rows = max(1, int(_tile_side(self.image, self.pitch_um) / self.pitch_um) ** 2)
        order = np.argsort(self.spots[:, 1], kind="stable")
        return list(_pieces(self.spots[order], rows))

    @staticmethod
    def _keep(path: Path, values: np.ndarray) -> None:
        if not np.isfinite(values).all():
            raise ValueError(f"{path.name}: values are not finite; the method or the image is bad.")
        store.save_array(path, values)


def _checked(spots: np.ndarray | None, slide: Pyramid) -> np.ndarray | None:
    if spots is None:
        return None
    spots = np.asarray(spots, dtype=np.float64)
    inside = spots.ndim == 2 and spots.shape[1:] == (2,) and len(spots) > 1
    if not inside or not ((spots >= 0) & (spots < slide.size)).all():
        raise ValueError(
            f"spots have shape {spots.shape} and must be (spots, 2), two or more, inside the slide "
            f"of {slide.size[0]} x {slide.size[1]} px."
        )
    return spots


def _tile_side(image: config.MapInput | config.PatchInput, pitch_um: float) -> float:
    """Side of a tile whose features stay within bounds, micrometres."""
    points = _TILE_POINTS
    if isinstance(image, config.MapInput):
        points = min(points, _TILE_BYTES // (4 * sum(encoders.block_sizes(image))))
    return min(_WIDEST_UM, max(1, math.isqrt(max(1, points))) * pitch_um)


def _pieces(values: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    for start in range(0, len(values), rows):
        yield values[start : start + rows]


def _learnt(method: Method) -> list[str | None]:
    """Keys of what a method, or each inside it, has learnt; None where only the probe can tell."""
    while isinstance(method, Shuffled | TrainHarmony):
        method = method.fitted
    if isinstance(method, Average):
        return [key for part in method.fitted for key in _learnt(part)]
    return [saved.parameters_key(method)]


def _alike(path: Path, said: np.ndarray) -> bool:
    """Whether a fitted method says what it said; threads and devices round differently."""
    known = slide_maps.read_part(path)
    return known.shape == said.shape and np.allclose(known, said, rtol=1e-2, atol=1e-3)


def _mean_and_deviation(paths: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Of the columns of all files together, one file after the other; float32 (channels,)."""
    total = count = 0
    for path in paths:
        values = slide_maps.read_part(path)
        total = total + values.sum(0, dtype=np.float64)
        count += len(values)
    mean, squares = total / count, 0.0
    for path in paths:
        for part in _pieces(slide_maps.read_part(path), _ROWS):
            squares = squares + ((part - mean) ** 2).sum(0)
    return mean.astype(np.float32), np.sqrt(squares / count).astype(np.float32)


# -- workers --------------------------------------------------------------------------------------


def _one(job: Job, step: str, task: object) -> None:
    """One tile, in whichever process this is."""
    with _ONE:
        getattr(job, step)(task)
        runtime.release_blocks()


def _through(
    job: Job, step: str, tasks: Sequence[object], client: Client | None, what: str
) -> None:
    """Run a step for all tasks, through Dask: here one after another, or on the cluster."""
    import dask

    if not tasks:
        return
    with tqdm(total=len(tasks), desc=what) as bar:
        if client is None:
            # A partial is not looked into: the job, with its method, is never hashed.
            work = dask.delayed(partial(_one, job, step), pure=False)
            for task in tasks:
                work(task).compute(scheduler="synchronous")
                bar.update()
            return
        from distributed import as_completed

        shared = client.scatter(job, broadcast=True, hash=False)
        futures = [client.submit(_one, shared, step, task, pure=False) for task in tasks]
        for future in as_completed(futures, loop=client.loop):
            future.result()  # raises what the worker raised
            bar.update()
