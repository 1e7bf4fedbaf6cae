"""Our training step beside a plain PyTorch loop, as ratios measured in one run.

Both train ResNet50 on 256 px patches of the synthetic tissue with HECLIP's loss, in the same
precision. The plain loop is what most code does: a `Dataset` that crops, turns and scales one
patch per call, behind a `DataLoader` with all workers. Ours cuts the patches once into uint8,
turns them as batches on the device, and keeps large memory blocks in the process.
Each variant runs in a process of its own, and the variants take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

SIZE, WIDTH_UM = 256, 150.0
VARIANTS = {
    "plain": "one patch at a time, DataLoader with all workers",
    "ours": "patches cut once, batches turned on the device, large blocks kept",
    "ours, blocks returned": "as ours, but the allocator gives large blocks back",
}


def plain_batches(sections, panel, batch_size, device):
    """A DataLoader over single spots, as the released code of the field has it."""
    import numpy as np
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    from heclip_lite import genes
    from heclip_lite.sections import read_image, um_per_px

    class Spots(Dataset):
        def __init__(self):
            self.slides = [Image.fromarray(read_image(s)) for s in sections]
            self.scale = [um_per_px(s) for s in sections]
            self.places = [(i, *xy) for i, s in enumerate(sections) for xy in s.obsm["spatial"]]
            self.random = np.random.default_rng(0)
            self.expression = np.concatenate([genes.expression(s, panel) for s in sections])

        def __len__(self):
            return len(self.places)

        def __getitem__(self, index):
            slide, x, y = self.places[index]
            half = WIDTH_UM / self.scale[slide] / 2
            box = (round(x - half), round(y - half), round(x + half), round(y + half))
            patch = self.slides[slide].crop(box).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
            if self.random.random() < 0.5:
                patch = patch.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            patch = patch.rotate(90 * int(self.random.integers(4)))
            pixels = torch.from_numpy(np.array(patch)).permute(2, 0, 1).float()
            return pixels, torch.from_numpy(self.expression[index])

    loader = DataLoader(
        Spots(),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=os.cpu_count() or 1,
        pin_memory=device == "cuda",
        persistent_workers=True,
    )
    while True:
        for pixels, expression in loader:
            yield pixels.to(device, non_blocking=True), expression.to(device, non_blocking=True)


def our_batches(sections, panel, batch_size, device):
    """Batches as :func:`heclip_lite.training.train` makes them."""
    import numpy as np
    import torch

    from heclip_lite import genes, patches, training

    cut = [patches.cut_patches(s, width_um=WIDTH_UM, size=SIZE) for s in sections]
    pixels = torch.from_numpy(np.concatenate(cut))
    expression = torch.from_numpy(np.concatenate([genes.expression(s, panel) for s in sections]))
    order = torch.Generator().manual_seed(0)
    while True:
        for rows in torch.randperm(len(pixels), generator=order).split(batch_size):
            if len(rows) == batch_size:
                turned = training.flip_and_turn(pixels[rows].to(device), order)
                yield turned.permute(0, 3, 1, 2).float(), expression[rows].to(device)


def measure(variant: str, batch_size: int, steps: int, device: str) -> dict:
    """Seconds per batch for loading and for the step; the first batch and step do not count."""
    import torch

    from heclip_lite import config, encoders, genes, losses, networks, runtime, tissue

    sections = tissue.synthetic_sections(1, 2)
    panel = genes.fit_panel(sections)
    if variant == "ours":
        runtime.keep_large_blocks()
    make = plain_batches if variant == "plain" else our_batches
    batches = make(sections, panel, batch_size, device)
    encoder = encoders.ImageEncoder(config.Encoder("resnet50"))
    model = networks.heclip_hvg(encoder.network, encoder.features, len(panel.genes)).to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-3)
    precision = torch.autocast(device, torch.bfloat16, enabled=device == "cuda")
    load, step = [], []
    for _ in range(steps + 1):
        started = time.perf_counter()
        pixels, expression = next(batches)
        if device == "cuda":
            torch.cuda.synchronize()
        loaded = time.perf_counter()
        with precision:
            image, spot = model(pixels, expression)
        loss = losses.image_centric_loss(image.float(), spot.float())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if device == "cuda":
            torch.cuda.synchronize()
        load.append(loaded - started)
        step.append(time.perf_counter() - loaded)
    return {"load": load[1:], "step": step[1:]}


def report(runs: dict[str, dict[str, list[float]]]) -> str:
    """The table, as ratios to the plain loop, and what the difference comes from."""
    middle = {
        name: {part: statistics.median(values) for part, values in run.items()}
        for name, run in runs.items()
    }
    total = {name: sum(parts.values()) for name, parts in middle.items()}
    lines = [f"{'variant':<24}{'load':>10}{'step':>10}{'both':>10}{'speed':>9}"]
    for name, parts in middle.items():
        speed = total["plain"] / total[name]
        lines.append(
            f"{name:<24}{parts['load']:>8.3f} s{parts['step']:>8.3f} s{total[name]:>8.3f} s"
            f"{speed:>8.2f}x"
        )
    kept = middle["ours, blocks returned"]["step"] / middle["ours"]["step"]
    waits = {name: parts["load"] / total[name] for name, parts in middle.items()}
    lines += [
        "",
        f"Keeping large blocks makes the step {kept:.2f} times as fast.",
        f"Waiting for a batch takes {waits['plain']:.1%} of the plain loop and {waits['ours']:.1%} "
        "of ours.",
        "While its workers prepare the next batch, they also take time on the step's cores.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Command line: ``benchmark_speed.py [--batch-size N] [--steps N] [--turns N]``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, help="default 32 on a CPU, 128 on a GPU")
    parser.add_argument("--steps", type=int, default=3, help="measured steps in each turn")
    parser.add_argument("--turns", type=int, default=2, help="turns of each variant")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    from heclip_lite.runtime import pick_device

    device = pick_device()
    batch_size = arguments.batch_size or (128 if device == "cuda" else 32)
    if arguments.variant:
        print(json.dumps(measure(arguments.variant, batch_size, arguments.steps, device)))
        return
    print(f"ResNet50, {SIZE} px, batch {batch_size}, on {device}")
    for name, about in VARIANTS.items():
        print(f"  {name}: {about}")
    # The allocators are what is compared: nothing may set them from outside.
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    runs: dict[str, dict[str, list[float]]] = {name: {"load": [], "step": []} for name in VARIANTS}
    for turn in range(arguments.turns):
        for name in VARIANTS:
            print(f"turn {turn + 1} of {arguments.turns}: {name} ...", flush=True)
            command = [sys.executable, __file__, "--variant", name]
            command += ["--batch-size", str(batch_size), "--steps", str(arguments.steps)]
            done = subprocess.run(command, env=clean, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                sys.exit(f"{name} failed; see the messages above.")
            for part, values in json.loads(done.stdout.splitlines()[-1]).items():
                runs[name][part] += values
    print("\n" + report(runs))


if __name__ == "__main__":
    main()
