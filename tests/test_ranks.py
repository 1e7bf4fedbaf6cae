"""Several processes: the loss and its gradient are those of one process on the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from heclip_lite import config, networks, ranks, training
from heclip_lite.losses import LOSSES

OPTIONS = {
    "image_centric": {"temperature": 2.0},
    "bleep": {"temperature": 2.0},
    "clip": {"temperature": 0.2},
}
SPOTS, WIDTH, GENES, BATCH = 48, 6, 5, 16


def made() -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    """A small contrastive model without dropout, and spots, in double precision."""
    torch.manual_seed(0)
    model = networks.heclip_heg(nn.Identity(), WIDTH, GENES, dim=4)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    pair = torch.randn(SPOTS, WIDTH).double(), torch.rand(SPOTS, GENES).double()
    return model.double(), pair


def objective(name: str):
    def loss(model, images, spots):
        image, spot = map(ranks.gather, model(images, spots))
        return LOSSES[name](image, spot, **OPTIONS[name])

    return loss


def _gradients(rank: int, world: int, name: str, folder: str) -> None:
    """One of `world` processes: its part of a batch, then the mean of gradients over ranks."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "RANK": str(rank), "WORLD_SIZE": str(world)}
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world
    )
    model, (images, spots) = made()
    rows = slice(rank, BATCH, world)
    loss = objective(name)(model, images[rows], spots[rows])
    loss.backward()
    found = [ranks.mean(p.grad).numpy() for p in model.parameters()]
    if rank == 0:
        np.savez(f"{folder}/{name}.npz", *found, loss=loss.item())
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradient_are_those_of_the_whole_batch(world, name, tmp_path):
    model, (images, spots) = made()
    loss = objective(name)(model, images[:BATCH], spots[:BATCH])
    loss.backward()
    torch.multiprocessing.spawn(_gradients, args=(world, name, str(tmp_path)), nprocs=world)
    with np.load(tmp_path / f"{name}.npz") as found:
        assert float(found["loss"]) == pytest.approx(loss.item(), rel=1e-12)
        for number, parameter in enumerate(model.parameters()):
            np.testing.assert_allclose(
                found[f"arr_{number}"], parameter.grad.numpy(), rtol=1e-10, atol=1e-13
            )


def train_here(folder: str) -> None:
    """What each process of the next test does; rank 0 leaves the parameters in `folder`."""
    model, pair = made()
    settings = config.Training(epochs=3, batch_size=BATCH, precision="64-true", device="cpu")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # Fabric turns what a model gives into the default
    try:
        history = training.train(
            model,
            pair,
            objective("image_centric"),
            settings,
            validation=tuple(part[:BATCH] for part in pair),
            checkpoint=Path(folder) / "states",
            about="image_centric",
        )
    finally:
        torch.set_default_dtype(before)
    if ranks.rank() == 0:
        values = [p.detach().numpy() for p in model.parameters()]
        losses = [[record["loss"], record["validation"]] for record in history]
        np.savez(Path(folder) / "trained.npz", *values, losses=losses)


@pytest.mark.slow
def test_training_over_ranks_ends_where_one_process_ends(tmp_path):
    one, several = tmp_path / "one", tmp_path / "several"
    for folder in (one, several):
        folder.mkdir()
    train_here(str(one))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", __file__, str(several)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(one / "trained.npz") as alone, np.load(several / "trained.npz") as together:
        assert set(alone) == set(together)
        for name in alone:
            np.testing.assert_allclose(together[name], alone[name], rtol=1e-8, atol=1e-10)
    assert len(list((several / "states").glob("state-*.safetensors"))) == 1, "rank 0 writes"


def test_a_batch_that_cannot_be_divided_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    model, pair = made()
    with pytest.raises(ValueError, match="16 cannot be divided among 3 processes"):
        training.train(model, pair, objective("clip"), config.Training(batch_size=BATCH))


def test_alone_nothing_is_gathered():
    rows = torch.randn(3, 2)
    assert ranks.size() == 1 and ranks.rank() == 0 and ranks.here() == (1, 1)
    assert ranks.gather(rows) is rows and ranks.mean(rows) is rows
    ranks.wait()


if __name__ == "__main__":
    train_here(sys.argv[1])
