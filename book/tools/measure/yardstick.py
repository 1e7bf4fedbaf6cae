"""Make the predictions of every method with one checkout, and compare those of two.

A change that moves code must move no number, and a table may only say that it is still today's
after somebody has looked.
``make`` fits every method of the contest, and those that fill in a slide, on one fold of her2st
and one of the synthetic tissue, with one seed and little training; it predicts the held-out
section, dense points and domains, and keeps the arrays.
``compare`` says how far two such runs lie apart, or one from the figures (scores and hashes) that
``record`` keeps of another.

    python yardstick.py make OUT [--checkout FOLDER] [--data her2st]
    python yardstick.py compare OLD_OR_FILE.json NEW
    python yardstick.py record OUT FILE.json

A checkout of an older commit is measured by this same script: it looks for the modules where they
are today, then where they were.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

import numpy as np

TOLERANCE = 1e-6
BETWEEN_MACHINES = 0.02  # of a mean correlation, where figures are all there is
# Training sections and the one held out: another donor's.
FOLDS = {"synthetic": (("P1-1", "P2-1"), "P3-1"), "her2st": (("C2", "A1"), "B4")}
SEED = 0
# Where a module is, then where it was before the package had folders.
PLACES = {
    "tissue": ("data.synthetic.tissue", "tissue"),
    "sections": ("data.sections", "sections"),
    "her2st": ("data.her2st", "sections"),
    "registration": ("data.registration", "registration"),
    "genes": ("data.genes", "genes"),
    "recipes": ("methods.recipes", "recipes"),
    "pretrained": ("features.backbones", "backbones"),
    "description": ("features.description", "features"),
    "predictions": ("evaluation.benchmark", "evaluation"),
    "recovery": ("evaluation.recovery", "recovery"),
    "dense": ("spatial.superres", "superres"),
    "domains": ("spatial.domains", "domains"),
}
GROUPINGS = ("kmeans", "mixture", "leiden")


def module(name: str):
    """One module of the checkout that is measured."""
    for place in PLACES[name]:
        try:
            return import_module(f"heclip_lite.{place}")
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("heclip_lite"):
                raise
    raise ModuleNotFoundError(f"This checkout has no module for {name!r}: {PLACES[name]}")


def size_of(data: str):
    """Everything as in the contest, but small: sameness needs no good prediction."""
    from heclip_lite import config

    short = config.Training(epochs=2, batch_size=64)
    encoder = module("pretrained").coral_mobilenet() if data == "her2st" else config.Encoder()
    return module("recipes").Size(
        maps=config.MapInput(encoder),
        patches=config.PatchInput(encoder, size=64),
        end_to_end=config.Training(epochs=1, batch_size=64),
        reference=config.Training(epochs=1, batch_size=64),
        heads=short,
        dense=short,
        dense_reference=config.Training(epochs=1, batch_size=64),
        members=2,
    )


def read(data: str) -> tuple[list, object]:
    """Training sections and the one held out."""
    names, test = FOLDS[data]
    if data == "her2st":
        found = module("her2st").read_her2st([*names, test])
    else:
        found = module("tissue").synthetic_sections(seed=SEED)
    by_name = {module("sections").name_of(section): section for section in found}
    return [by_name[name] for name in names], by_name[test]


def made(data: str, folder: Path) -> dict[str, np.ndarray]:
    """Every array that must not move, by name; ``truth`` names what it is scored against."""
    from tqdm import tqdm

    sections, recipes = module("sections"), module("recipes")
    training, test = read(data)
    size = size_of(data)
    found: dict[str, np.ndarray] = {}
    for section in [*training, test] if data == "synthetic" else []:
        known = module("tissue").truth(section)
        where = f"tissue/{sections.name_of(section)}"
        found[f"{where}/counts"] = np.asarray(section.X.todense(), dtype=np.float32)
        found[f"{where}/truth"] = known.expression(section.obsm["spatial"])
        found[f"{where}/image"] = np.asarray(sections.read_image(section))
    panel = module("genes").fit_panel(training)
    found["contest/truth"] = module("genes").expression(test, panel, absent=0.0)

    def predict(kind, name, method, sections_, tests, genes):
        (one,) = (
            module("predictions")
            .predictions_of(name, method, sections_, tests, genes, seed=SEED, folder=folder)
            .values()
        )
        found[f"{kind}/{name}"] = one

    everyone = recipes.everyone(size)
    for name, method in tqdm(everyone.items(), desc=f"{data} contest"):
        predict("contest", name, method, training, [test], panel)

    out = module("recovery").hold_out(test, "block", seed=SEED)
    known = module("recovery").kept_part(test, out)
    rest = sections.piece(test, out, [], name="rest")
    own = module("genes").fit_panel([known])
    found["within/truth"] = module("genes").expression(rest, own, absent=0.0)
    within = recipes.within_slide(size, sections.um_per_px(test))
    for name, method in tqdm(within.items(), desc=f"{data} within"):
        predict("within", name, method, [known], [rest], own)

    points = module("dense").fill_in(sections.hide_expression(test), 4)
    found["dense/points"] = np.asarray(points.obsm["spatial"], dtype=np.float64)
    for name in tqdm(("heclip_recommended", "kernel_ridge", "histosge"), desc=f"{data} dense"):
        method = within[name].with_seed(SEED).fit([known])
        found[f"dense/{name}"] = np.asarray(module("dense").predict(method, points).X)

    described = {
        "measured": None,
        "place": module("registration").positions_um(test),
        "image": module("description").table(test, size.maps),
        "predicted": found["contest/heclip_recommended"],
    }
    for name, values in described.items():
        for grouping in GROUPINGS:
            grouped = module("domains").find_domains(test, 4, grouping, features=values, seed=SEED)
            found[f"domains/{name}_{grouping}"] = grouped.obs["found"].astype(int).to_numpy()
    return found


def make(out: Path, checkout: Path, datasets: list[str]) -> None:
    """Run this script once more with the package of the checkout, and keep what it makes."""
    own = Path(__file__).resolve()
    for data in datasets:
        with tempfile.TemporaryDirectory() as cache:  # nothing that other code has kept
            environment = os.environ | {
                "PYTHONPATH": os.pathsep.join([str(checkout), str(checkout / "book")]),
                "HECLIP_LITE_CACHE": cache,
                "PYTHONHASHSEED": "0",
                "OMP_NUM_THREADS": "1",  # sums in one order, whatever else the machine does
                "NUMBA_NUM_THREADS": "1",
            }
            job = [sys.executable, str(own), "_made", str(out.absolute() / f"{data}.npz"), data]
            subprocess.run(job, env=environment, cwd=checkout, check=True)


def read_arrays(folder: Path) -> dict[str, np.ndarray]:
    """All arrays of a run, by dataset and name."""
    found = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as kept:
            found |= {f"{path.stem}/{name}": kept[name] for name in kept.files}
    if not found:
        raise SystemExit(f"{folder} holds no run; `yardstick.py make {folder}` makes one.")
    return found


def compare(old: Path, new: Path) -> int:
    """Print the largest difference of every array; 1 if one is above the tolerance or missing."""
    before, after = read_arrays(old), read_arrays(new)
    apart: dict[str, float] = {}
    for name in sorted(before.keys() | after.keys()):
        pair = before.get(name), after.get(name)
        if any(one is None for one in pair) or pair[0].shape != pair[1].shape:
            apart[name] = np.inf
        else:
            apart[name] = float(np.abs(pair[0].astype(float) - pair[1]).max())
    worst = {name: gap for name, gap in apart.items() if not gap <= TOLERANCE}
    for name, gap in worst.items():
        print(f"{name}: {'missing or of another shape' if gap == np.inf else f'{gap:.3g}'}")
    same = sum(np.array_equal(before[n], after[n]) for n in before.keys() & after.keys())
    print(f"{len(apart)} arrays, {same} equal to the bit, {len(worst)} apart by over {TOLERANCE}")
    return int(bool(worst))


def figures(arrays: dict[str, np.ndarray]) -> dict[str, dict]:
    """Shape, hash and, for predictions, mean correlation of every array."""
    found: dict[str, dict] = {}
    for name, values in arrays.items():
        content = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
        found[name] = {"shape": list(values.shape), "sha256": content[:16]}
        kind, _, _ = name.rpartition("/")
        if kind.endswith(("/contest", "/within")):
            found[name]["pearson"] = round(_pearson(arrays[f"{kind}/truth"], values), 5)
    return found


def record(folder: Path, file: Path) -> None:
    """Keep the figures of a run, one line an array."""
    lines = [f"{json.dumps(n)}: {json.dumps(v)}" for n, v in figures(read_arrays(folder)).items()]
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def check(file: Path, folder: Path) -> int:
    """Hold a run against recorded figures: hashes on the same machine, else correlations."""
    now = figures(read_arrays(folder))
    measured = {name.partition("/")[0] for name in now}  # datasets: a run may hold one of them
    recorded = json.loads(file.read_text(encoding="utf-8"))
    then = {name: kept for name, kept in recorded.items() if name.partition("/")[0] in measured}
    same = sum(then[n]["sha256"] == now[n]["sha256"] for n in then.keys() & now.keys())
    gaps = {
        name: abs(then[name]["pearson"] - now[name]["pearson"])
        for name in then.keys() & now.keys()
        if "pearson" in then[name]
    }
    worst = max(gaps, key=gaps.__getitem__)
    print(
        f"{len(then)} arrays recorded, {len(then.keys() - now.keys())} missing, {same} equal to "
        f"the bit; correlations differ by at most {gaps[worst]:.5f} ({worst})"
    )
    return int(then.keys() != now.keys() or gaps[worst] > BETWEEN_MACHINES)


def _pearson(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Mean over genes that vary in the truth; a constant prediction counts 0."""
    truth, predicted = truth - truth.mean(0), predicted - predicted.mean(0)
    scale = np.sqrt((truth**2).sum(0) * (predicted**2).sum(0))
    defined = np.ptp(truth, axis=0) > 0
    product = (truth * predicted).sum(0)
    return float(np.where(scale > 1e-9, product / np.maximum(scale, 1e-9), 0.0)[defined].mean())


def main() -> int:
    """Make, compare or record."""
    if sys.argv[1:2] == ["_made"]:
        out, data = Path(sys.argv[2]), sys.argv[3]
        with tempfile.TemporaryDirectory() as folder:
            arrays = made(data, Path(folder))
        from heclip_lite import store

        with store.atomic_path(out) as temporary:
            np.savez_compressed(temporary, **arrays)
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    making = commands.add_parser("make")
    making.add_argument("out", type=Path)
    making.add_argument("--checkout", type=Path, default=Path(__file__).resolve().parents[3])
    making.add_argument("--data", action="append", choices=tuple(FOLDS))
    comparing = commands.add_parser("compare")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    recording = commands.add_parser("record")
    recording.add_argument("out", type=Path)
    recording.add_argument("file", type=Path)
    asked = parser.parse_args()
    if asked.command == "make":
        make(asked.out, asked.checkout.resolve(), asked.data or list(FOLDS))
    elif asked.command == "compare":
        return (compare if asked.old.is_dir() else check)(asked.old, asked.new)
    else:
        record(asked.out, asked.file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
