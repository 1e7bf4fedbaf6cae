"""Image encoders: one vector per patch, or feature maps of a whole slide pooled around points."""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from anndata import AnnData
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from heclip_lite import config, runtime, store
from heclip_lite.data import patches, registration, sections
from heclip_lite.features import pathology, stain
from heclip_lite.runtime import without_tokens

TILE, HALO = 1024, 128  # pixels of a map computed at once, and of overlap around them
POINTS, CHANNELS = 256, 32  # points and channels pooled at once: bounds memory


def _create(settings: config.Encoder) -> nn.Module:
    import timm

    if not settings.name.startswith(pathology.HUB) and not timm.is_model(settings.name):
        near = timm.list_models(f"*{settings.name[:6]}*")[:5]
        hint = f" Near names: {', '.join(near)}." if near else ""
        raise ValueError(f"timm knows no encoder {settings.name!r}.{hint}")
    arguments = {"num_classes": 0, **settings.options}
    if settings.weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            return timm.create_model(settings.name, pretrained=False, **arguments)
    if settings.weights == "pretrained":
        try:
            return timm.create_model(settings.name, pretrained=True, **arguments)
        except Exception as error:  # hubs raise many kinds of errors
            reason = without_tokens(f"{type(error).__name__}: {error}").splitlines()[0]
        # Outside of the block: a traceback would show the original, which may hold the token.
        raise RuntimeError(
            f"The pretrained weights of {settings.name!r} could not be fetched ({reason}). "
            "Check the network, or use weights='random' or a local safetensors file."
        )
    return _load_local(timm.create_model(settings.name, pretrained=False, **arguments), settings)


def _load_local(network: nn.Module, settings: config.Encoder) -> nn.Module:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(settings.weights).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no weights file {path}. Give the path of a safetensors file, "
            "or weights='random' or 'pretrained'."
        )
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}).") from error
    wanted = network.state_dict()
    given = {name: value.float() for name, value in state.items() if name in wanted}
    shapes = [name for name, value in given.items() if value.shape != wanted[name].shape]
    absent = [n for n in wanted if n not in given and not n.endswith("num_batches_tracked")]
    for names, what in ((shapes, "have another shape"), (absent, "are missing")):
        if names:
            raise ValueError(
                f"{path} does not fit {settings.name!r}: {len(names)} of {len(wanted)} "
                f"parameters {what}, the first is {names[0]!r}. "
                "Check the encoder's name and options."
            )
    network.load_state_dict(given, strict=False)
    return network


class ImageEncoder(nn.Module):
    """A timm network that takes uint8 pixels.

    Parameters
    ----------
    settings
        Which network, weights and pixel scaling.

    Attributes
    ----------
    network
        The timm model without its classifier.
    features
        Width of the vector it gives per image.

    Raises
    ------
    ValueError
        If timm has no such model or the weights do not fit.
    FileNotFoundError
        If the weights file does not exist.
    RuntimeError
        If pretrained weights could not be fetched.
    """

    def __init__(self, settings: config.Encoder) -> None:
        super().__init__()
        self.settings = settings
        self.network = _create(settings)
        with torch.no_grad():  # in evaluation mode, so that no batch norm learns from zeros
            probe = self.network.eval()(torch.zeros(1, 3, *self._probe_size()))
        self.features = probe.shape[1]
        self.train()
        trained = self.network.pretrained_cfg
        mean = settings.mean or trained["mean"]
        std = settings.std or trained["std"]
        if settings.scaling == "none":  # undo the division by 255 below
            mean, std = (0.0, 0.0, 0.0), (1 / 255,) * 3
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def _probe_size(self) -> tuple[int, int]:
        fixed = self.network.pretrained_cfg.get("fixed_input_size", False)
        return tuple(self.network.pretrained_cfg["input_size"][1:]) if fixed else (64, 64)

    def train(self, mode: bool = True) -> Self:
        """Switch to training; batch norms stay as they are with ``fixed_norms``."""
        super().train(mode)
        for module in self.network.modules() if self.settings.fixed_norms else ():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def prepare(self, pixels: Tensor) -> Tensor:
        """uint8 (batch, height, width, 3) RGB to scaled float (batch, 3, height, width)."""
        x = pixels.permute(0, 3, 1, 2)
        if self.settings.colour == "bgr":
            x = x.flip(1)
        return (x.to(self.mean.dtype) / 255 - self.mean) / self.std

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 (batch, height, width, 3) RGB to (batch, features)."""
        return self.network(self.prepare(pixels))

    def map_levels(self) -> list[tuple[int, int, int]]:
        """Index, stride in pixels and channels of each feature map at strides 8 to 32."""
        info = self.network.feature_info
        info = info.info if hasattr(info, "info") else info
        levels = [(i, f["reduction"], f["num_chs"]) for i, f in enumerate(info)]
        strides = {stride for _, stride, _ in levels}
        # Networks without a pyramid (vision transformers) repeat one stride: keep the last layer.
        return [
            [level for level in levels if level[1] == stride][-1]
            for stride in sorted(strides)
            if 8 <= stride <= 32
        ]

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """uint8 (batch, height, width, 3) to one map (batch, channels, h, w) per level."""
        return self.network.forward_intermediates(
            self.prepare(pixels),
            indices=[index for index, _, _ in self.map_levels()],
            intermediates_only=True,
            output_fmt="NCHW",
        )


def fingerprint(settings: config.Encoder) -> str:
    """Content key of an encoder: settings, weights and the library that makes them."""
    weights: object = settings.weights
    if settings.weights not in ("random", "pretrained"):
        weights = store.file_hash(Path(settings.weights).expanduser())
    return store.content_key(
        config.as_dict(settings) | {"weights": weights}, metadata.version("timm")
    )


@torch.inference_mode()
def patch_vectors(
    section: AnnData,
    settings: config.PatchInput,
    points: np.ndarray | None = None,
    *,
    batch_size: int = 128,
    device: str = "auto",
) -> np.ndarray:
    """One vector per point from a frozen encoder.

    They are kept on disk by content and by the kind of device that computed them.

    Parameters
    ----------
    section
        Where to look; only its image, scale and spot positions are used.
    settings
        Encoder, width and size of the patches.
    points
        (points, 2), pixels of the full-resolution image; the spots by default.
    batch_size
        Patches encoded at once.
    device
        Where the encoder runs.

    Returns
    -------
    ndarray, float32, (points, features)
    """
    points = section.obsm["spatial"] if points is None else np.asarray(points, float)
    where = runtime.pick_device(device)

    def compute() -> np.ndarray:
        runtime.keep_large_blocks()
        encoder = ImageEncoder(settings.encoder).eval().to(where)
        pixels = patches.cut_patches(
            section, width_um=settings.width_um, size=settings.size, points=points
        )
        batches = torch.from_numpy(pixels).split(batch_size)
        name = sections.name_of(section)
        shown = tqdm(batches, desc=f"encode {name}", leave=False, disable=len(batches) < 8)
        with runtime.autocast(where):
            return torch.cat([encoder(batch.to(where)).float().cpu() for batch in shown]).numpy()

    key = store.content_key(
        store.code_key("core", "data", "features"),
        sections.image_key(section),
        points,
        sections.um_per_px(section),
        fingerprint(settings.encoder),
        [settings.width_um, settings.size],
        where,  # a card computes in another precision
    )
    return store.cached_array("vectors", key, compute)


def pooled_features(
    section: AnnData,
    settings: config.MapInput,
    points: np.ndarray | None = None,
    *,
    device: str = "auto",
) -> list[np.ndarray]:
    """Describe points by multi-scale feature maps of the slide around them.

    The encoder runs over the whole slide at each scale, fully convolutionally;
    tiles without tissue count as empty slide.
    Around each point its maps are pooled with Gaussian windows of several widths: the mean, and
    for maps finer than stride 32 the standard deviation.
    Every column is then brought to mean 0 and standard deviation 1 over the points of this
    section; this uses the section's own image, never its expression.

    Parameters
    ----------
    section
        Where to look; only its image, scale and spot positions are used.
    settings
        Encoder, scales and widths.
    points
        (points, 2), pixels of the full-resolution image; the spots by default.
    device
        Where the encoder runs.

    Returns
    -------
    list of ndarray
        One float32 block (points, channels) per scale, stride, width and statistic.
    """
    points = np.asarray(section.obsm["spatial"] if points is None else points, float)
    spots = sections.spots_of(section).obsm["spatial"]
    known = raw_features(section, settings, spots, device)
    rows = _rows_of(points, spots)
    values = raw_features(section, settings, points, device) if rows is None else known[rows]
    values = (values - known.mean(0)) / (known.std(0) + 1e-6)
    edges = np.cumsum(block_sizes(settings))[:-1]
    return np.split(values.astype(np.float32), edges, axis=1)


def block_sizes(settings: config.MapInput) -> list[int]:
    """Channels of each block that :func:`pooled_features` gives."""
    sizes: list[int] = []
    for stride, channels in strides_and_channels(settings.encoder):
        sizes += [channels] * len(settings.widths_um) * (2 if stride < 32 else 1)
    return sizes * len(settings.um_per_px)


def _rows_of(points: np.ndarray, spots: np.ndarray) -> np.ndarray | None:
    """Which spots the points are, if all of them are spots."""
    known = {place: row for row, place in enumerate(map(tuple, np.asarray(spots, float).tolist()))}
    rows = [known.get(tuple(point)) for point in points.tolist()]
    return None if None in rows else np.array(rows)


def raw_features(
    section: AnnData, settings: config.MapInput, points: np.ndarray, device: str = "auto"
) -> np.ndarray:
    """What :func:`pooled_features` gives before scaling, its blocks side by side.

    Returns
    -------
    ndarray, float32, (points, channels)
        Kept on disk by content and by the kind of device that computed them.
    """
    widths = settings.widths_um
    where = runtime.pick_device(device)
    key = store.content_key(
        store.code_key("core", "data", "features"),
        sections.image_key(section),
        points,
        sections.um_per_px(section),
        fingerprint(settings.encoder),
        [list(settings.um_per_px), list(widths)],
        *([settings.stain] if settings.stain != "none" else []),
        where,
    )

    def compute() -> np.ndarray:
        blocks: list[np.ndarray] = []
        for scale, per_px, levels in _scales(section, settings, where):
            for stride, level in levels:
                for width in widths:
                    sigma = width / scale / stride
                    blocks += pool(level, points * per_px / stride, sigma, spread=stride < 32)
        return np.concatenate(blocks, axis=1)

    return store.cached_array("pooled", key, compute)


_Scale = tuple[float, np.ndarray, list[tuple[int, Tensor]]]
_LAST: dict[str, list[_Scale]] = {}  # maps of the slide whose dense points are being described


def _scales(section: AnnData, settings: config.MapInput, device: str) -> Iterator[_Scale]:
    """Micrometres per pixel, pixels of the map per pixel of the slide (x, y), stride and maps.

    Chunks of dense points are described one after another: their slide's maps stay in memory.
    """
    spots = sections.spots_of(section)
    key = store.content_key(
        sections.image_key(section),
        spots.obsm["spatial"],
        sections.um_per_px(section),
        fingerprint(settings.encoder),
        [list(settings.um_per_px), settings.stain],
        device,
    )
    if key in _LAST:
        yield from _LAST[key]
        return
    runtime.keep_large_blocks()
    encoder = ImageEncoder(settings.encoder).eval().to(device)
    image = Image.fromarray(sections.read_image(section))
    strides = [stride for _, stride, _ in encoder.map_levels()]
    found: list[_Scale] = []
    for scale in tqdm(settings.um_per_px, desc=f"maps of {sections.name_of(section)}"):
        zoom = sections.um_per_px(section) / scale
        size = [max(32, round(side * zoom)) for side in image.size]
        small = np.asarray(image.resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0))
        if settings.stain != "none":
            small = stain.estimate(section, settings.stain).apply(small)
        near = _near_tissue(section, spots.obsm["spatial"], small.shape[:2])
        maps = _slide_maps(small, encoder, device, near, sections.background_of(section))
        runtime.release_blocks()
        made = (scale, np.array(size) / image.size, list(zip(strides, maps, strict=True)))
        if spots is not section:
            found.append(made)
        yield made
        del maps, made
        runtime.release_blocks()  # the next scale needs other sizes
    if found:
        _LAST.clear()
        _LAST[key] = found


_KNOWN_LEVELS: dict[str, list[tuple[int, int]]] = {}


def strides_and_channels(settings: config.Encoder) -> list[tuple[int, int]]:
    """Of an encoder's maps; building a network to ask it takes longer than training a head."""
    key = fingerprint(settings)
    if key not in _KNOWN_LEVELS:
        levels = ImageEncoder(settings).map_levels()
        _KNOWN_LEVELS[key] = [(stride, channels) for _, stride, channels in levels]
    return _KNOWN_LEVELS[key]


def _near_tissue(section: AnnData, points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Where an image of this shape shows tissue or points: bool, one cell per 32 pixels."""
    cells = tuple(math.ceil(side / 32) for side in shape)
    mask = Image.fromarray(registration.tissue_mask(section).astype(np.uint8) * 255)
    small = mask.resize(cells[::-1], Image.Resampling.BOX)
    found = np.asarray(small) > 0
    size = np.array(sections.image_size(section))  # x, y
    places = (points / size * (shape[1], shape[0]) // 32).astype(int)
    places = np.clip(places, 0, np.array(cells[::-1]) - 1)
    found = found.copy()
    found[places[:, 1], places[:, 0]] = True
    return found


@torch.inference_mode()
def _slide_maps(
    pixels: np.ndarray,
    encoder: ImageEncoder,
    device: str,
    near: np.ndarray | None = None,
    background: tuple[int, int, int] = (255, 255, 255),
) -> list[Tensor]:
    """Feature maps (channels, h, w) of a whole image, computed tile by tile with overlap.

    Tiles without tissue, where `near` is given, count as empty slide, of one colour.
    """
    height, width = (math.ceil(side / 32) * 32 for side in pixels.shape[:2])
    padded = np.pad(
        pixels,
        (
            (HALO, HALO + height - pixels.shape[0]),
            (HALO, HALO + width - pixels.shape[1]),
            (0, 0),
        ),
        mode="edge",
    )
    levels = encoder.map_levels()
    maps = [torch.empty(c, height // s, width // s, device=device) for _, s, c in levels]
    blank: dict[tuple, list[Tensor]] = {}  # maps of tiles of one colour, by shape and colour
    for top, left in corners(height, width):
        tall, wide = min(TILE, height - top), min(TILE, width - left)
        tile = padded[top : top + tall + 2 * HALO, left : left + wide + 2 * HALO]
        if near is not None and not near[cells_of(top, tall), cells_of(left, wide)].any():
            tile = np.full_like(tile, background)
        colour = tile[0, 0]
        key = (tile.shape, *colour.tolist()) if (tile == colour).all() else None
        found = blank.get(key)
        if found is None:
            with runtime.autocast(device):
                pixels_on = torch.from_numpy(np.ascontiguousarray(tile))[None].to(device)
                found = [level.float() for level in encoder.maps(pixels_on)]
        if key is not None:
            blank[key] = found
        for (_, s, _), whole, part in zip(levels, maps, found, strict=True):
            inner = part[0, :, HALO // s : (HALO + tall) // s, HALO // s : (HALO + wide) // s]
            whole[:, top // s : (top + tall) // s, left // s : (left + wide) // s] = inner
    return maps


def cells_of(start: int, length: int) -> slice:
    """Cells of 32 pixels that a tile and its overlap cover."""
    return slice(max(0, (start - HALO) // 32), math.ceil((start + length + HALO) / 32))


def corners(height: int, width: int) -> Iterator[tuple[int, int]]:
    """Top and left of every tile."""
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            yield top, left


@torch.inference_mode()
def pool(level: Tensor, centres: np.ndarray, sigma: float, *, spread: bool) -> list[np.ndarray]:
    """Gaussian mean, and standard deviation if `spread`, of a map (channels, h, w) around points.

    `centres` (points, 2) are x and y in cells, with cell i covering i to i + 1.
    A wide window is evaluated on a map averaged down until `sigma` is about 4 cells, which changes
    the result little and makes the cost independent of the width.
    """
    factor = max(1, min(int(sigma // 4), min(level.shape[1:])))
    found = [
        _pooled_channels(part, centres / factor, sigma / factor, factor, spread)
        for part in level.split(CHANNELS)
    ]
    mean = np.concatenate([part[0] for part in found], axis=1)  # (points, channels)
    if not spread:
        return [mean]
    square = np.concatenate([part[1] for part in found], axis=1)
    return [mean, np.sqrt(np.maximum(square - mean**2, 0))]


def _pooled_channels(
    level: Tensor, centres: np.ndarray, sigma: float, factor: int, spread: bool
) -> list[np.ndarray]:
    """Windowed means (points, channels) of a map averaged down by `factor`, and of its square."""
    stack = torch.cat([level, level**2]) if spread else level
    small = F.avg_pool2d(stack[None], factor, ceil_mode=True, count_include_pad=False)[0]
    reach = math.ceil(4 * max(sigma, 1))
    parts = []
    for chunk in torch.as_tensor(centres, dtype=small.dtype).split(POINTS):
        near, windows = small, []
        for axis, centre in ((2, chunk[:, 0]), (1, chunk[:, 1])):
            # Cells beyond the reach of every window of this chunk carry no weight: leave them out.
            cells = small.shape[axis]
            start = min(max(0, int(centre.min()) - reach), cells - 1)
            stop = max(start + 1, min(cells, int(centre.max()) + reach + 1))
            near = near.narrow(axis, start, stop - start)
            windows.append(_window(centre.to(small.device), start, stop, sigma))
        parts.append(torch.einsum("py,cyx,px->pc", windows[1], near, windows[0]).cpu())
    both = torch.cat(parts).numpy()
    return np.split(both, 2, axis=1) if spread else [both]


def _window(centre: Tensor, start: int, stop: int, sigma: float) -> Tensor:
    """Gaussian weights over cells start to stop, (points, cells), each row summing to 1."""
    middle = torch.arange(start, stop, dtype=centre.dtype, device=centre.device) + 0.5
    distance = (middle[None] - centre[:, None]) / max(sigma, 0.3)  # a window holds a cell at least
    return torch.softmax(-0.5 * distance**2, dim=1)
