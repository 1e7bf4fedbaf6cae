"""Wrong inputs of every command but `check`, which walks `malformed.CASES`, and what is said.

Commands run in a folder that holds what `workplace` writes: sections ``S1.h5ad`` and ``S2.h5ad``
of two donors, the same slide as ``slide.png`` and ``slide.tif``, tables in ``t/S2``, the models
``model`` (a ridge regression) and ``mean``, the predictions ``p.h5ad``, ``p.zarr`` and ``s.zarr``
(as `slide` writes them), and the contest ``ev``.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import anndata
import layouts
import numpy as np
from cli_tools import run
from damage import Damage, adata, cut, drop, image, parts, put

from heclip_lite.data import export


@dataclass(frozen=True)
class Wrong:
    """One command that cannot be right.

    Attributes
    ----------
    line
        What is typed after ``heclip-lite``; results would be called ``x``.
    says
        Words that the message must hold (a regular expression).
    damage
        Functions of the folder, as in `damage`.
    code
        1 if the input is wrong, 2 if the usage is.
    """

    line: str
    says: str
    damage: tuple[Damage, ...] = ()
    code: int = 1


def workplace(folder: Path) -> None:
    """Write what the commands read."""
    for number, name in enumerate(("S1", "S2")):
        section = layouts.drawn_section(name=name, seed=number)
        section.obs["donor"] = f"D{number}"
        export.to_h5ad(section, folder / f"{name}.h5ad")
    layouts.tables(section, folder / "t")
    layouts.write_image(section, folder / "slide.png")
    layouts.write_image(section, folder / "slide.tif")
    run("train", folder / "S1.h5ad", "--out", folder / "mean", "-m", "mean")
    ridge = ["-m", "ridge", "--scales", "16", "--components", "4"]
    run("train", folder / "S1.h5ad", "--out", folder / "model", *ridge)
    for ending in ("h5ad", "zarr"):
        run("predict", folder / "mean", folder / "S2.h5ad", "--out", folder / f"p.{ending}")
    anndata.read_h5ad(folder / "p.h5ad").write_zarr(folder / "s.zarr")
    (folder / "ev").mkdir()
    record = {"folds": [{"training": ["S1"], "test": ["S2"]}]}
    (folder / "ev/record.json").write_text(json.dumps(record))


def lost(name: str) -> Damage:
    """Delete the values of a store of predictions, which zarr would read as zeros."""

    def step(folder: Path, written: object) -> None:
        chunks = [path for path in (folder / name).rglob("X/**/[0-9]*") if path.is_file()]
        assert chunks
        for path in chunks:
            path.unlink()

    return step


def deep(pixels) -> np.ndarray:
    """With 16 bits per channel."""
    return np.asarray(pixels).astype(np.uint16) * 257


def unfinite(found) -> None:
    found.X[3, 4] = np.nan


TABLE = "t/S2 --um-per-px 4 --spot-diameter-um 55 --positions q.csv"
ALONE = "--image slide.png --um-per-px 4"
WHOLE = "slide model slide.tif --um-per-px 4 --pitch-um 100 --out x.zarr"
MODEL, RECORD, LEARNT = "saved model in", "model/model.json", "model/model.safetensors"
TEXT = put("bad.h5ad", b"text")
NO_PLACES = put("q.csv", b"spot,left\na,1\n")


def whole_sections() -> list[Wrong]:
    """A section that cannot be used stops every command."""
    lines = (
        "train S1.h5ad bad.h5ad --out x",
        "evaluate S1.h5ad bad.h5ad --out x",
        "audit S1.h5ad bad.h5ad --out x.csv",
        "domains bad.h5ad -n 2 --out x.csv",
        "predict mean bad.h5ad --out x.h5ad",
        "superres mean bad.h5ad --out x.zarr",
    )
    missing = (
        "train none.h5ad --out x",
        "evaluate S1.h5ad none.h5ad --out x",
        "domains none.h5ad -n 2 --out x.csv",
        "predict mean none.h5ad --out x.h5ad",
    )
    twice = (
        "train S1.h5ad S1.h5ad --out x",
        "evaluate S1.h5ad S1.h5ad --out x",
        "audit S1.h5ad S1.h5ad --out x.csv",
    )
    places = (
        f"train {TABLE} --out x -m mean",
        f"domains {TABLE} -n 2 --out x.csv",
        f"predict mean {TABLE} --out x.h5ad",
        f"predict mean {ALONE} --positions q.csv --out x.h5ad",
        f"superres mean {ALONE} --positions q.csv --out x.h5ad",
        f"{WHOLE} --positions q.csv",
    )
    return [
        *(Wrong(line, "bad.h5ad .* could not be read", (TEXT,)) for line in lines),
        *(Wrong(line, "none.h5ad .*does not exist") for line in missing),
        *(Wrong(line, "occur more than once, first 'S1'") for line in twice),
        *(Wrong(line, "q.csv .*no column for x", (NO_PLACES,)) for line in places),
        Wrong(f"{WHOLE} --positions q.csv", "q.csv .*is empty", (put("q.csv", b""),)),
        Wrong(
            f"predict mean {ALONE} --positions q.csv --out x.h5ad",
            "1 of 1 spots lie outside",
            (put("q.csv", b"spot,x,y\na,-5,9\n"),),
        ),
        Wrong("evaluate S1.h5ad --out x", "only one donor"),
        Wrong("audit S1.h5ad --out x.csv", "only one donor"),
        Wrong(
            "domains q.csv -n 2 --out x.csv", "not clear", (put("q.csv", b"spot,domain\na,1\n"),)
        ),
    ]


def options() -> list[Wrong]:
    """Files and numbers that options give."""
    genes = "train S1.h5ad --out x -m mean --genes g.txt"
    ridge = "train S1.h5ad --out x -m ridge"
    weights = f"{ridge} --weights w.safetensors"
    numbers = (
        (f"{ridge} --scales 0", "give one or more scales above 0"),
        (f"{ridge} --scales nan", "give one or more scales above 0"),
        (f"{ridge} --learning-rate -1", "learning_rate is -1.0"),
        (f"{ridge} --patch-um nan", "width_um is nan"),
        ("audit S1.h5ad S2.h5ad --context-um nan", "context_um is nan"),
        (f"predict mean {ALONE} --um-per-px 0 --out x.h5ad", "0.0 micrometres per pixel"),
        (f"predict mean {ALONE} --pitch-um -9 --out x.h5ad", "Points -9 micrometres apart"),
        (f"predict mean {ALONE} --spot-diameter-um -1 --out x.h5ad", "diameter of -1.0"),
        ("superres mean S2.h5ad --factor 5 --out x.h5ad", "factor is 5; give a square"),
        ("superres mean S2.h5ad --pitch-um inf --out x.h5ad", "no point of a grid of inf"),
        (f"{WHOLE} --um-per-px nan", "nan micrometres per pixel"),
        (f"{WHOLE} --pitch-um 0", "pitch_um is 0.0"),
        (f"{WHOLE} --pitch-um inf", "grid of inf micrometres"),
        ("domains S1.h5ad -n 9999 --out x.csv", "n_domains is 9999"),
    )
    words = (
        f"{ridge} --patch-um many",
        "evaluate S1.h5ad S2.h5ad --out x --seeds many",
        "audit S1.h5ad S2.h5ad --context-um far",
        f"predict mean {ALONE} --pitch-um many --out x.h5ad",
        "superres mean S2.h5ad --factor 4.5 --out x.h5ad",
        f"{WHOLE} --um-per-px many",
        "domains S1.h5ad -n many --out x.csv",
    )
    endings = (
        "predict mean S2.h5ad --out x.csv",
        "superres mean S2.h5ad --out x",
        "slide model slide.tif --out x.h5ad",
        "domains S1.h5ad -n 2 --out x.txt",
        "audit S1.h5ad S2.h5ad --out x.h5ad",
    )
    configured = (
        "train S1.h5ad --out x",
        "evaluate S1.h5ad S2.h5ad --out x",
        "audit S1.h5ad S2.h5ad",
        "predict mean S2.h5ad --out x.h5ad",
        "superres mean S2.h5ad --out x.h5ad",
        WHOLE,
        "domains S1.h5ad -n 2 --out x.csv",
        "data where",
    )
    broken = put("run.toml", b"seed = ")
    return [
        *(Wrong(line, says) for line, says in numbers),
        *(Wrong(line, "Invalid value", code=2) for line in words),
        *(Wrong(line, "this command writes") for line in endings),
        *(Wrong(f"{one} --config run.toml", "not valid TOML", (broken,)) for one in configured),
        Wrong(genes, "g.txt names no gene", (put("g.txt", b""),)),
        Wrong(genes, "g.txt is not text in UTF-8", (put("g.txt", "GENE1".encode("utf-16")),)),
        Wrong(genes, "g.txt: No such file"),
        Wrong(genes, "lacks 1 of the 2", (put("g.txt", b"GENE1\nNOGENE"),)),
        Wrong(genes, "'GENE1' twice", (put("g.txt", b"GENE1\nGENE1"),)),
        Wrong(weights, "w.safetensors is not a whole", (put("w.safetensors", b""),)),
        Wrong(weights, "w.safetensors does not exist|w.safetensors: No such|no .*w.safetensors"),
        Wrong(f"{ridge} --weights {LEARNT}", "parameters are missing"),
        Wrong(f"{ridge} --encoder resnet_of_nobody", "resnet_of_nobody"),
        Wrong(f"{ridge} --device abacus", "device is 'abacus'"),
        Wrong("train S1.h5ad --out S2.h5ad", "already there"),
        Wrong("evaluate S1.h5ad S2.h5ad --out x -m mean --gene-set hvg0", "no gene set 'hvg0'"),
        Wrong("evaluate S1.h5ad S2.h5ad --out x --keep S1.h5ad", "S1.h5ad is a file"),
        Wrong("audit S1.h5ad S2.h5ad --truth no", "truth is 'no'"),
        Wrong("slide model slide.tif --out x.zarr", "micrometres per pixel"),
        Wrong(f"{WHOLE} --layout x", "'x' is unknown", code=2),
        Wrong(f"{WHOLE} --name a/b", "without a slash"),
        Wrong(f"{WHOLE} --cluster nowhere", "No Dask scheduler answers at nowhere"),
        Wrong("data where nonsense", "no data set 'nonsense'"),
    ]


def files() -> list[Wrong]:
    """Images, models, predictions, contests and public data."""
    used = (
        "predict model S2.h5ad --out x.h5ad",
        "superres model S2.h5ad --out x.h5ad",
        "domains S1.h5ad -n 2 --model model --out x.csv",
        WHOLE,
    )
    predict, domains = used[0], "domains p.h5ad -n 2 --out x.csv"
    bare = f"predict model {ALONE} --out x.h5ad"
    contest = "audit S1.h5ad S2.h5ad --contest ev --out x.csv"
    coral = "data/coral-test_data/mobilenet_v2_1.0_224_quant.tflite"

    def record(**changes) -> tuple[Damage, ...]:
        return (parts(RECORD, **changes),)

    def says(text: bytes) -> tuple[Damage, ...]:
        return (put("ev/record.json", text),)

    return [
        *(Wrong(line, f"{MODEL} model is damaged", (cut(RECORD),)) for line in used),
        *(Wrong(line, f"{MODEL} model is damaged", (cut(LEARNT),)) for line in used),
        Wrong(predict, f"{MODEL} model is damaged", (put(LEARNT, b""),)),
        Wrong(predict, f"{MODEL} model lacks model.safetensors", (drop(LEARNT),)),
        Wrong(
            predict,
            "not the file that model.json",
            (lambda f, w: shutil.copy(f / "mean/model.safetensors", f / LEARNT) and None,),
        ),
        Wrong(predict, "other weights of its image encoder", record(encoder_sha256="0")),
        Wrong(predict, "format 99", record(format=99)),
        Wrong(predict, f"{MODEL} model is damaged", record(panel=[])),
        Wrong(predict, f"{MODEL} model is damaged", record(settings={})),
        Wrong(predict, f"{MODEL} model is damaged", record(about=[])),
        Wrong(predict, f"{MODEL} model is damaged", record(about={"sections": [1]})),
        Wrong(bare, f"{MODEL} model is damaged", record(about={"spot_pitch_um": "wide"})),
        Wrong("predict ev S2.h5ad --out x.h5ad", "no saved model in ev"),
        Wrong("predict S1.h5ad S2.h5ad --out x.h5ad", "no saved model in S1.h5ad"),
        Wrong("slide mean slide.tif --um-per-px 4 --out x.zarr", "predicts no whole slide"),
        Wrong("predict mean p.h5ad --out x.h5ad", "raw counts"),
        Wrong(bare, "slide.png is empty", (put("slide.png", b""),)),
        Wrong(bare, "slide.png is cut short", (cut("slide.png"),)),
        Wrong(bare, "slide.png does not exist|slide.png .* does not exist", (drop("slide.png"),)),
        Wrong(
            "predict model --image slide.tif --um-per-px 4 --out x.h5ad",
            "slide.tif has 16 bits",
            (image("slide.tif", deep),),
        ),
        Wrong(f"superres mean {ALONE} --out x.h5ad", "cut short", (cut("slide.png"),)),
        Wrong(WHOLE, "slide.tif is empty", (put("slide.tif", b""),)),
        Wrong(WHOLE, "slide.tif is damaged or cut short", (cut("slide.tif"),)),
        Wrong(WHOLE, "slide.tif holds uint16 pixels", (image("slide.tif", deep),)),
        Wrong(WHOLE, "slide.tif is no slide", (put("slide.tif", b"no slide"),)),
        Wrong(WHOLE, "no slide .*slide.tif", (drop("slide.tif"),)),
        Wrong(domains, "p.h5ad .* could not be read", (cut("p.h5ad"),)),
        Wrong(domains, "p.h5ad .* could not be read", (put("p.h5ad", b""),)),
        Wrong(domains, "not finite", (adata("p.h5ad", unfinite),)),
        Wrong(
            domains,
            r"obsm\['spatial'\] is missing",
            (adata("p.h5ad", lambda a: a.obsm.clear()),),
        ),
        Wrong(
            "domains p.zarr -n 2 --out x.csv", "p.zarr .* parts of it are lost", (lost("p.zarr"),)
        ),
        Wrong("domains s.zarr -n 2 --out x.csv", "its values are lost", (lost("s.zarr"),)),
        Wrong(
            "domains p.zarr -n 2 --out x.csv",
            "p.zarr .* could not be read",
            (drop("p.zarr/shapes"),),
        ),
        Wrong(f"{domains} --model mean", "holds predictions already", code=2),
        Wrong("audit S1.h5ad S2.h5ad --contest none", "no none/record.json"),
        Wrong("audit S1.h5ad S2.h5ad --contest S1.h5ad", "no S1.h5ad/record.json"),
        Wrong(contest, "ev/record.json is damaged", says(b"")),
        Wrong(contest, "ev/record.json is damaged", says(b"[]")),
        Wrong(contest, "ev/record.json is damaged", says(b"\xff\xfe{")),
        Wrong(contest, "ev/record.json is damaged", says(b'{"folds": []}')),
        Wrong(contest, "ev/record.json is damaged", says(b'{"folds": [{"test": ["S1"]}]}')),
        Wrong(
            contest,
            "names section 'S9'",
            says(b'{"folds": [{"training": ["S1"], "test": ["S9"]}]}'),
        ),
        Wrong("data verify coral", "1 missing"),
        Wrong("data verify coral", "1 damaged", (put(coral, b"damaged"),)),
        Wrong("data fetch coral", "is damaged or not the expected", (put(coral, b"damaged"),)),
    ]


COMMANDS = [*whole_sections(), *options(), *files()]
