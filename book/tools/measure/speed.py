"""Our training step and feature extraction beside plain PyTorch loops, measured in one run.

All variants use ResNet50 on 256 px patches of the synthetic tissue, in the same precision.
The plain loop is what most code does: a `Dataset` that crops, turns and scales one patch per call,
behind a `DataLoader` with all workers and pinned memory. Ours cuts the patches once into uint8,
turns them as batches on the device, and keeps large memory blocks in the process.
Each variant runs in a process of its own, and the variants take turns.
The result goes to ``book/results/speed_<device>.csv``, unless ``--quick`` is given.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import pandas as pd

TASKS = ("train", "extract")
VARIANTS = {
    "plain": "one patch at a time, DataLoader with all workers and pinned memory",
    "ours": "patches cut once, batches turned on the device, large blocks kept",
    "blocks returned": "as ours, but the allocator gives large blocks back",
    "compiled": "as ours, with torch.compile",
}
WARM_UP = 2  # batches that do not count: memory, workers and compilation start there


def measure(task: str, variant: str, batch_size: int, steps: int, device: str) -> dict:
    """Seconds per batch for loading and for the step."""
    from book.tools.measure import speed_loops
    from heclip_lite import runtime
    from heclip_lite.data import genes
    from heclip_lite.data.synthetic import tissue

    slides = tissue.synthetic_sections(1, 2)
    panel = genes.fit_panel(slides)
    if variant not in ("plain", "blocks returned"):
        runtime.keep_large_blocks()
    make = speed_loops.plain_batches if variant == "plain" else speed_loops.our_batches
    batches = make(slides, panel, batch_size, device, turned=task == "train")
    options = {"compiled": variant == "compiled"}
    if task == "train":
        step = speed_loops.training_step(len(panel.genes), device, **options)
    else:
        step = speed_loops.extraction_step(device, **options)
    load, spent = [], []
    for _ in range(steps + WARM_UP):
        started = time.perf_counter()
        pixels, expression = next(batches)
        speed_loops.wait(device)
        loaded = time.perf_counter()
        step(pixels, expression)
        speed_loops.wait(device)
        load.append(loaded - started)
        spent.append(time.perf_counter() - loaded)
    limits = {
        "operations": speed_loops.operations(task),
        "limit": speed_loops.arithmetic_limit(device),
    }
    return {"load": load[WARM_UP:], "step": spent[WARM_UP:], **limits}


def table_of(runs: dict[tuple[str, str], dict], batch_size: int) -> pd.DataFrame:
    """One row per task and variant: median times, throughput, ratios, share of the limit.

    ``share_of_limit`` is the arithmetic of a patch times patches a second, over the speed of a
    large matrix product on the same device in the same run.
    """
    rows = []
    for (task, variant), run in runs.items():
        load, step = statistics.median(run["load"]), statistics.median(run["step"])
        rate = batch_size / (load + step)
        rows.append(
            {
                "task": task,
                "variant": variant,
                "batch": batch_size,
                "load_s": load,
                "step_s": step,
                "patches_per_s": rate,
                "share_of_limit": rate * run["operations"] / run["limit"],
                "limit_tflops": run["limit"] / 1e12,
            }
        )
    table = pd.DataFrame(rows)
    plain = table[table["variant"] == "plain"].set_index("task")["patches_per_s"]
    table["ratio_to_plain"] = table["patches_per_s"] / table["task"].map(plain)
    return table


def report(table: pd.DataFrame) -> str:
    """What the difference comes from, in words."""
    lines = [table.round(3).to_string(index=False), ""]
    for task, part in table.groupby("task", sort=False):
        by = part.set_index("variant")
        waits = (by["load_s"] / (by["load_s"] + by["step_s"])).round(3)
        lines.append(
            f"{task}: waiting for a batch takes {waits['plain']:.1%} of the plain loop and "
            f"{waits['ours']:.1%} of ours; they reach {by.loc['plain', 'share_of_limit']:.1%} and "
            f"{by.loc['ours', 'share_of_limit']:.1%} of the arithmetic limit."
        )
        if "blocks returned" in by.index:
            kept = by.loc["blocks returned", "step_s"] / by.loc["ours", "step_s"]
            lines.append(f"{task}: keeping large blocks makes the step {kept:.2f} times as fast.")
    lines.append("While its workers prepare the next batch, they also use the step's cores.")
    return "\n".join(lines)


def variants_on(device: str) -> list[str]:
    """What is worth comparing there: the allocator matters on a CPU, compilation on a GPU."""
    return [v for v in VARIANTS if v != ("blocks returned" if device == "cuda" else "compiled")]


def main() -> None:
    """Command line: ``benchmark_speed.py [--batch-size N] [--steps N] [--turns N] [--quick]``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-size", type=int, help="default 32 on a CPU, 128 on a GPU")
    parser.add_argument("--steps", type=int, help="measured steps in each turn; 3, on a GPU 30")
    parser.add_argument("--turns", type=int, default=2, help="turns of each variant")
    parser.add_argument("--quick", action="store_true", help="print only, write no table")
    parser.add_argument("--task", choices=TASKS, help="one of the two only")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    from heclip_lite.runtime import pick_device

    device = pick_device()
    batch_size = arguments.batch_size or (128 if device == "cuda" else 32)
    steps = arguments.steps or (30 if device == "cuda" else 3)
    if arguments.variant:
        print(json.dumps(measure(arguments.task, arguments.variant, batch_size, steps, device)))
        return
    chosen = variants_on(device)
    print(f"ResNet50, 256 px, batch {batch_size}, on {device}")
    for name in chosen:
        print(f"  {name}: {VARIANTS[name]}")
    # The allocators are what is compared: nothing may set them from outside.
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    tasks = [arguments.task] if arguments.task else list(TASKS)
    runs: dict[tuple[str, str], dict] = {}
    started = time.perf_counter()
    for turn in range(arguments.turns):
        for task in tasks:
            for name in chosen:
                print(f"turn {turn + 1} of {arguments.turns}: {task}, {name} ...", flush=True)
                command = [sys.executable, "-m", __spec__.name, "--task", task, "--variant", name]
                command += ["--batch-size", str(batch_size), "--steps", str(steps)]
                done = subprocess.run(command, env=clean, stdout=subprocess.PIPE, text=True)
                if done.returncode:
                    sys.exit(f"{task}, {name} failed; see the messages above.")
                found = json.loads(done.stdout.splitlines()[-1])
                run = runs.setdefault((task, name), {"load": [], "step": [], "limit": 0.0})
                run["load"] += found["load"]
                run["step"] += found["step"]
                run["operations"] = found["operations"]
                run["limit"] = max(run["limit"], found["limit"])
    table = table_of(runs, batch_size)
    print("\n" + report(table))
    if not arguments.quick:
        write(table, device, seconds=time.perf_counter() - started)


def write(table: pd.DataFrame, device: str, *, seconds: float) -> None:
    """Leave the table among the committed results, with the device's name."""
    import torch

    from book.tools.results import write_results

    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    settings = {"network": "resnet50", "pixels": 256, "device_name": name, "cores": os.cpu_count()}
    write_results(f"speed_{device}", table, seconds=seconds, settings=settings)


if __name__ == "__main__":
    main()
