"""Several processes: what they learn is what one process learns, and one of them writes."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import multiprocessing
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_tools import SMALL, run
from torch import nn

from heclip_lite import config, distributed, networks, training
from heclip_lite.data import export
from heclip_lite.features import encoders
from heclip_lite.losses import LOSSES
from heclip_lite.methods import histosge, saved
from heclip_lite.methods.heclip import HECLIP
from heclip_lite.methods.regression import LIKELIHOODS, Regression

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "08_your_own_slide.ipynb"
IMAGE = config.AppearanceInput()
SPOTS, WIDTH, GENES, BATCH, GROUP = 48, 6, 5, 16, 4
TRAINED = ("image_centric", "histosge", "negative_binomial")
# One epoch: three steps and a look at the validation section.
CALLS = SPOTS // BATCH + 1


def made(name: str, *, dropout: float = 0.0):
    """A small network, the objective of its method, inputs and targets, in double precision."""
    torch.manual_seed(0)
    inputs, targets = torch.randn(SPOTS, WIDTH), torch.rand(SPOTS, GENES)
    if name in LOSSES:
        contrast = config.Contrast(loss=name, temperature=2.0, head="projection", dim=4)
        method = HECLIP(IMAGE, contrast, config.Decode(), config.Training())
        model = method._build(WIDTH, GENES)
    elif name == "histosge":
        attention = config.Attention(groups="file", heads=1, hidden=8)
        method = histosge.HisToSGE(IMAGE, attention, config.Training())
        model = method._build(WIDTH, GENES)
        # Some groups are nearly empty.
        there = torch.arange(GROUP) < torch.randint(1, GROUP + 1, (SPOTS, 1))
        inputs = torch.randn(SPOTS, GROUP, WIDTH + 3)
        inputs[..., -1] = there
        targets = torch.rand(SPOTS, GROUP, GENES)
        targets[~there] = torch.nan
    else:
        method = Regression(IMAGE, config.Training(), likelihood=name, hidden=3)
        model = method._build(WIDTH, np.zeros(GENES))
        if name != "gaussian":
            targets = torch.cat([targets.mul(9).round(), targets.mul(9).sum(1, True) + 1], 1)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
    objective = getattr(method, "_objective", histosge._objective)
    return model.double(), objective, (inputs.double(), targets.double())


def loss_and_gradients(name: str, rows: slice) -> list[torch.Tensor]:
    model, objective, (inputs, targets) = made(name)
    loss = objective(model, inputs[rows], targets[rows])
    loss.backward()
    gradients = (torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters())
    return [loss.detach(), *gradients]


def _mean_over_ranks(rank: int, world: int, folder: str) -> None:
    """One of `world` processes: its part of a batch, then the mean over ranks, as DDP takes it."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "RANK": str(rank), "WORLD_SIZE": str(world)}
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world
    )
    found = {
        f"{name}.{number}": distributed.mean(value).numpy()
        for name in (*LOSSES, *LIKELIHOODS, "histosge")
        for number, value in enumerate(loss_and_gradients(name, slice(rank, BATCH, world)))
    }
    if rank == 0:
        np.savez(f"{folder}/found.npz", **found)
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("world", [2, 4])
def test_loss_and_gradient_are_those_of_the_whole_batch(world, tmp_path):
    # Where the system can fork, the packages are imported once for all processes.
    forks = "forkserver" in multiprocessing.get_all_start_methods()
    multiprocessing.set_forkserver_preload(
        ["heclip_lite.methods.heclip", "heclip_lite.methods.histosge"]
    )
    torch.multiprocessing.start_processes(
        _mean_over_ranks,
        args=(world, str(tmp_path)),
        nprocs=world,
        start_method="forkserver" if forks else "spawn",
    )
    with np.load(tmp_path / "found.npz") as found:
        for name in (*LOSSES, *LIKELIHOODS, "histosge"):
            for number, value in enumerate(loss_and_gradients(name, slice(BATCH))):
                one, several = value.numpy(), found[f"{name}.{number}"]
                np.testing.assert_allclose(several, one, rtol=1e-10, atol=1e-13, err_msg=name)


def trained(name: str, *, stop: int | None = None, dropout: float = 0.0, **options):
    """Parameters and losses after three epochs, and how often the loss was computed."""
    model, objective, pair = made(name, dropout=dropout)
    calls = itertools.count()

    def counted(*batch):
        if next(calls) == stop:
            raise InterruptedError
        return objective(*batch)

    settings = config.Training(epochs=3, batch_size=BATCH, precision="64-true", device="cpu")
    looked_at = tuple(part[:BATCH] for part in pair)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # Fabric turns what a model gives into the default
    try:
        history = training.train(
            model, pair, counted, settings, validation=looked_at, about=name, **options
        )
    finally:
        torch.set_default_dtype(before)
    losses = [[record["loss"], record["validation"]] for record in history]
    return [np.array(losses), *(p.detach().numpy() for p in model.parameters())], next(calls)


def stopped_and_resumed(folder: Path) -> dict:
    """Whether a training that stopped within its second epoch ends where another one ends."""
    whole, _ = trained("image_centric", dropout=0.3)
    with contextlib.suppress(InterruptedError):
        trained("image_centric", dropout=0.3, stop=CALLS + 2, checkpoint=folder / "states")
    torch.manual_seed(99)  # other processes would not share the random state
    resumed, calls = trained("image_centric", dropout=0.3, checkpoint=folder / "states")
    return {"same": all(map(np.array_equal, whole, resumed)), "calls": calls}


def watch(folder: Path) -> set[str]:
    """Whatever this process opens for writing, renames or removes below a folder from now on."""
    touched: set[str] = set()

    def hook(event: str, arguments: tuple) -> None:
        changes = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir")
        if event == "open":
            changes = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if changes and isinstance(arguments[0], str | os.PathLike):
            path = Path(os.path.abspath(arguments[0]))
            if path.is_relative_to(folder):
                touched.add(str(path.relative_to(folder)))

    sys.addaudithook(hook)
    return touched


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def one_of_several(folder: Path) -> None:
    """What each process does that torchrun starts; it leaves a note of its own in `folder`."""
    touched = watch(folder)
    sys.argv = ["train.py", "D1.h5ad", "D2.h5ad"]
    with contextlib.chdir(folder), contextlib.redirect_stderr(Terminal()) as shown:
        runpy.run_path("train.py", run_name="__main__")
    with contextlib.chdir(folder):
        command = ["train", "D1.h5ad", "D2.h5ad", "--out", "by_command", "--batch-size", "32"]
        done = run(*command, *SMALL, "--json")
        alone = run("evaluate", "D1.h5ad", "D2.h5ad", "--out", "contest", code=1)
    note = stopped_and_resumed(folder) | {"shown": shown.getvalue(), "touched": sorted(touched)}
    note |= {"printed": done.out, "refused": alone.err}
    for name in TRAINED:
        found, _ = trained(name)
        if distributed.rank() == 0:
            np.savez(folder / f"{name}.npz", *found)
    (folder / f"rank-{distributed.rank()}.json").write_text(json.dumps(note), encoding="utf-8")


def script_of_the_chapter() -> str:
    """``train.py`` of chapter 08, with a network that trains in seconds."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells)
    (script,) = (
        part.partition("```")[0]
        for part in text.split("```python\n")[1:]
        if "distributed.rank()" in part
    )
    smaller = {
        '"resnet50", "pretrained"': '"test_resnet", "random"',
        "epochs=15, batch_size=128": "epochs=1, batch_size=32",
    }
    for before, after in smaller.items():
        assert before in script
        script = script.replace(before, after)
    return script


@pytest.fixture(scope="module")
def several(small_sections, tmp_path_factory) -> Path:
    """Folder of two processes that torchrun started; starting them takes longest."""
    folder = tmp_path_factory.mktemp("several")
    (folder / "train.py").write_text(script_of_the_chapter(), encoding="utf-8")
    for number, section in enumerate(small_sections[:2], 1):
        export.to_h5ad(section, folder / f"D{number}.h5ad")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", __file__, str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def notes(folder: Path) -> list[dict]:
    paths = (folder / f"rank-{rank}.json" for rank in range(2))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_training_over_ranks_ends_where_one_process_ends(several, name):
    alone, _ = trained(name)
    with np.load(several / f"{name}.npz") as together:
        for number, value in enumerate(alone):
            np.testing.assert_allclose(together[f"arr_{number}"], value, rtol=1e-8, atol=1e-10)


@pytest.mark.slow
def test_a_stopped_training_over_ranks_goes_on_to_the_same_end(several):
    for note in notes(several):
        assert note["same"] and note["calls"] == 2 * CALLS


@pytest.mark.slow
def test_the_first_rank_alone_writes(several):
    first, second = notes(several)
    assert second["touched"] == [] and "HECLIP" not in second["shown"]
    written = {Path(path).parent.name for path in first["touched"]}
    assert {"states", "model"} <= written and "HECLIP 1/1" in first["shown"]
    assert len(list((several / "states").glob("state-*.safetensors"))) == 1


@pytest.mark.slow
def test_the_script_of_chapter_08_leaves_a_model(several, small_sections):
    method = HECLIP.load(several / "model")
    predicted = method.predict(small_sections[2])
    assert predicted.shape == (small_sections[2].n_obs, len(method.genes))
    assert np.isfinite(predicted).all()


@pytest.mark.slow
def test_the_command_shares_its_training_and_nothing_else(several, small_sections):
    first, second = notes(several)
    assert json.loads(first["printed"])["model"] == "by_command" and second["printed"] == ""
    assert saved.read_record(several / "by_command")["about"]["processes"] == 2
    assert not (several / "by_command" / "training").exists(), "it came to its end"
    predicted = saved.load(several / "by_command").method.predict(small_sections[2])
    assert np.isfinite(predicted).all()
    for note in (first, second):
        assert "torchrun started 2 processes" in note["refused"]
        assert "heclip-lite evaluate" in note["refused"] and "alone" in note["refused"]
    assert not (several / "contest").exists()


def test_norms_see_the_whole_batch_on_gpus_only(monkeypatch):
    encoder = encoders.ImageEncoder(config.Encoder("test_efficientnet"))  # norms that activate
    model = networks.heclip_hvg(encoder, encoder.features, GENES).eval()
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    wanted, parameters = model.embed_images(pixels), list(model.parameters())

    def shared() -> set[bool]:
        norms = (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
        return {isinstance(norm, nn.SyncBatchNorm) for norm in norms}

    for processes, device, expected in (
        ("1", "cuda", False),
        ("2", "cpu", False),
        ("2", "cuda", True),
    ):
        monkeypatch.setenv("WORLD_SIZE", processes)
        training._share_norms(model, device)
        assert shared() == {expected}
    assert torch.equal(model.embed_images(pixels), wanted)
    assert all(map(torch.Tensor.is_set_to, model.parameters(), parameters))


def test_a_batch_that_cannot_be_divided_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    model, objective, pair = made("clip")
    with pytest.raises(ValueError, match="16 cannot be divided among 3 processes"):
        training.train(model, pair, objective, config.Training(batch_size=BATCH))
    with pytest.raises(ValueError, match=r"all 5 groups .* among 3 processes; set batch_size to 3"):
        histosge.HisToSGE(IMAGE, config.Attention(), config.Training())._settings(5)


def test_alone_nothing_is_gathered():
    rows = torch.randn(3, 2)
    assert distributed.size() == 1 and distributed.rank() == 0 and distributed.here() == (1, 1)
    assert distributed.gather(rows) is rows and distributed.mean(rows) is rows
    assert distributed.weighted(rows, torch.tensor(3)) is rows
    distributed.wait()


if __name__ == "__main__":
    one_of_several(Path(sys.argv[1]))
