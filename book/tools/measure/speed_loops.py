"""The loops that `benchmark_speed` compares: how batches are made, and what is done with one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor

from heclip_lite import config, losses, networks, training
from heclip_lite.data import genes, patches
from heclip_lite.data.sections import read_image, um_per_px
from heclip_lite.features import encoders

NETWORK, SIZE, WIDTH_UM = "resnet50", 256, 150.0
Batches = Iterator[tuple[Tensor, Tensor]]


def plain_batches(
    slides: list[AnnData], panel: genes.GenePanel, batch_size: int, device: str, *, turned: bool
) -> Batches:
    """A DataLoader over single spots with all workers, as the released code of the field has it."""
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    class Spots(Dataset):
        def __init__(self) -> None:
            self.slides = [Image.fromarray(read_image(s)) for s in slides]
            self.scale = [um_per_px(s) for s in slides]
            self.places = [(i, *xy) for i, s in enumerate(slides) for xy in s.obsm["spatial"]]
            self.random = np.random.default_rng(0)
            self.expression = np.concatenate([genes.expression(s, panel) for s in slides])

        def __len__(self) -> int:
            return len(self.places)

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            slide, x, y = self.places[index]
            half = WIDTH_UM / self.scale[slide] / 2
            box = (round(x - half), round(y - half), round(x + half), round(y + half))
            patch = self.slides[slide].crop(box).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            if turned:
                if self.random.random() < 0.5:
                    patch = patch.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
                patch = patch.rotate(90 * int(self.random.integers(4)))
            pixels = torch.from_numpy(np.array(patch)).permute(2, 0, 1).float()
            return pixels, torch.from_numpy(self.expression[index])

    loader = DataLoader(
        Spots(),
        batch_size,
        shuffle=turned,
        drop_last=True,
        num_workers=os.cpu_count() or 1,
        pin_memory=device == "cuda",
        persistent_workers=True,
    )
    while True:
        for pixels, expression in loader:
            yield pixels.to(device, non_blocking=True), expression.to(device, non_blocking=True)


def our_batches(
    slides: list[AnnData], panel: genes.GenePanel, batch_size: int, device: str, *, turned: bool
) -> Batches:
    """Batches as :func:`heclip_lite.training.train` makes them: cut once, turned on the device."""
    cut = [patches.cut_patches(s, width_um=WIDTH_UM, size=SIZE) for s in slides]
    pixels = torch.from_numpy(np.concatenate(cut))
    expression = torch.from_numpy(np.concatenate([genes.expression(s, panel) for s in slides]))
    order = torch.Generator().manual_seed(0)
    while True:
        rows_of_all = torch.randperm(len(pixels), generator=order) if turned else None
        rows_of_all = torch.arange(len(pixels)) if rows_of_all is None else rows_of_all
        for rows in rows_of_all.split(batch_size):
            if len(rows) == batch_size:
                batch = pixels[rows].to(device)
                if turned:
                    batch = training.flip_and_turn(batch, order)
                yield batch.permute(0, 3, 1, 2).float(), expression[rows].to(device)


def training_step(
    features: int, device: str, *, compiled: bool
) -> Callable[[Tensor, Tensor], None]:
    """HECLIP's step on a batch: forward, loss, backward, AdamW."""
    encoder = encoders.ImageEncoder(config.Encoder(NETWORK))
    model = networks.heclip_hvg(encoder.network, encoder.features, features).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-3)
    called = torch.compile(model) if compiled else model

    def step(pixels: Tensor, expression: Tensor) -> None:
        with precision(device):
            image, spot = called(pixels, expression)
        loss = losses.image_centric_loss(image.float(), spot.float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def extraction_step(device: str, *, compiled: bool) -> Callable[[Tensor, Tensor], None]:
    """A frozen encoder over a batch."""
    network = encoders.ImageEncoder(config.Encoder(NETWORK)).network.eval().to(device)
    called = torch.compile(network) if compiled else network

    def step(pixels: Tensor, expression: Tensor) -> None:
        with torch.inference_mode(), precision(device):
            called(pixels)

    return step


def precision(device: str) -> torch.autocast:
    """bfloat16 autocast on CUDA, plain float32 elsewhere: the same for every variant."""
    return torch.autocast(device, torch.bfloat16, enabled=device == "cuda")


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def operations(task: str) -> float:
    """Floating-point operations that one patch costs, counted on a device that computes nothing."""
    from torch.utils.flop_counter import FlopCounterMode

    network = encoders.ImageEncoder(config.Encoder(NETWORK)).network.to("meta")
    pixels = torch.empty(2, 3, SIZE, SIZE, device="meta")
    with FlopCounterMode(display=False) as counter:
        if task == "train":
            network(pixels).sum().backward()
        else:
            with torch.no_grad():
                network(pixels)
    return counter.get_total_flops() / len(pixels)


def arithmetic_limit(device: str) -> float:
    """Operations a second of one large matrix product in the same precision, the best of ten."""
    side, kind = (8192, torch.bfloat16) if device == "cuda" else (2048, torch.float32)
    one = torch.randn(side, side, device=device, dtype=kind)
    best = 0.0
    for _ in range(10):
        wait(device)
        clock = time.perf_counter()
        one @ one
        wait(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - clock))
    return best
