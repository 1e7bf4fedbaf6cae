"""The one training loop, on Lightning Fabric: seeded, resumable, with early stopping."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from heclip_lite import distributed, runtime, store
from heclip_lite.config import Training, as_dict

Objective = Callable[[nn.Module, Tensor, Tensor], Tensor]
Pair = tuple[Tensor, Tensor]


def flip_and_turn(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Flip and turn each patch of a batch into one of its 8 symmetric views, at random.

    Two mirrors and a transposition, each with probability one half, give every view equal odds.

    Parameters
    ----------
    pixels
        (batch, side, side, channels).
    generator
        CPU generator the choices are drawn from, on whatever device the batch lies.
    """
    return _turned(pixels, torch.rand(3, len(pixels), generator=generator) < 0.5)


def _turned(pixels: Tensor, choice: Tensor) -> Tensor:
    """The view of each patch that `choice`, bool (3, batch), names."""
    choice = choice.to(pixels.device)[..., None, None, None]  # (3, batch, 1, 1, 1)
    pixels = torch.where(choice[0], pixels.flip(1), pixels)
    pixels = torch.where(choice[1], pixels.flip(2), pixels)
    return torch.where(choice[2], pixels.transpose(1, 2), pixels)


def train(
    model: nn.Module,
    training: Pair,
    objective: Objective,
    settings: Training,
    *,
    validation: Pair | None = None,
    augment: bool = False,
    checkpoint: str | Path | None = None,
    about: Any = None,
    description: str = "train",
) -> list[dict[str, float]]:
    """Train `model` in place with AdamW and return one record per epoch.

    On the CPU the same call gives the same numbers, also when it was stopped and resumed.
    Started by ``torchrun``, each process takes an equal part of every batch; a batch stays as large
    as `settings` say, and so do its loss and its gradient (see :mod:`heclip_lite.distributed`).
    Dropout draws other values then, and batch norms see the whole batch on GPUs only: on CPUs each
    process normalises its own part.

    Parameters
    ----------
    model
        Trained in place; left in evaluation mode with the best parameters.
    training
        Inputs and targets, (spots, ...) each; they stay in memory as they are (uint8 patches
        stay uint8) and go to the device batch by batch.
    objective
        ``objective(model, inputs, targets)`` gives the loss of a batch.
    settings
        Epochs, batch size, optimiser, seed.
    validation
        Inputs and targets of a held-out training section; with `settings.patience` it decides
        when to stop and which epoch to keep.
    augment
        Flip and turn image inputs at random, as batches on the device.
    checkpoint
        Folder for the state after each epoch. If it holds the state of the same training, that
        training goes on where it stopped.
        One process works in it at a time; another one waits, and goes on from what it left.
    about
        What the objective is made of, such as loss and temperature: anything that JSON can hold.
        A checkpoint needs it, to know the same training from another.
    description
        Label of the progress bar.

    Returns
    -------
    list of dict
        ``epoch``, ``loss`` and, with `validation`, ``validation``; losses in nats.

    Raises
    ------
    ValueError
        If there are fewer spots than a batch, inputs and targets differ in length, a batch cannot
        be divided among the processes, patience is set without validation, or the checkpoint
        comes without `about`, is damaged or belongs to another training.
    FloatingPointError
        If the loss stops being finite.
    """
    inputs, targets = training
    _check_pair(inputs, targets, settings)
    if settings.patience is not None and validation is None:
        raise ValueError(
            "patience is set, but there is no validation section; "
            "give one whole training section as `validation` or set patience=None."
        )
    if checkpoint is not None and about is None:
        raise ValueError(
            "A checkpoint needs `about`: what the objective is made of, such as its loss and "
            "temperature, so that no other training goes on from it."
        )
    own = checkpoint is not None and distributed.rank() == 0
    with store.alone_in(checkpoint) if own else nullcontext():
        return _train(
            model,
            training,
            objective,
            settings,
            validation,
            augment,
            checkpoint,
            about,
            description,
        )


def _train(
    model: nn.Module,
    training: Pair,
    objective: Objective,
    settings: Training,
    validation: Pair | None,
    augment: bool,
    checkpoint: str | Path | None,
    about: Any,
    description: str,
) -> list[dict[str, float]]:
    """What `train` does, in a checkpoint folder that is its own."""
    inputs, targets = training
    runtime.keep_large_blocks()
    device = runtime.pick_device(settings.device)
    precision = settings.precision
    precision = runtime.pick_precision(device) if precision == "auto" else precision
    fabric = _fabric(device, precision)
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    _share_norms(model, device)
    shown_model = torch.compile(model) if settings.compile else model
    wrapped, optimiser = fabric.setup(shown_model, optimiser)
    order = torch.Generator().manual_seed(settings.seed)
    torch.manual_seed(settings.seed)  # dropout draws from the global generator

    identity = ""
    if checkpoint is not None:
        data = [*training, *(validation or ())]
        identity = _identity(model, data, settings, [augment, about])
    state = _State(model, optimiser, order, checkpoint, identity)
    distributed.wait()  # for the first one, whose the folder is
    history = state.load()
    epochs = range(len(history), settings.epochs)
    rank, size = distributed.rank(), distributed.size()
    look = {"leave": False, "initial": len(history), "disable": rank > 0 or None}
    with tqdm(epochs, desc=description, unit="epoch", **look) as shown:
        for epoch in shown:
            if _should_stop(history, settings.patience):
                break
            wrapped.train()
            if size > 1:  # dropout differs between ranks, and does not hang on earlier epochs
                torch.manual_seed(settings.seed + size * epoch + rank)
            total, steps = 0.0, 0
            for rows in torch.randperm(len(inputs), generator=order).split(settings.batch_size):
                if len(rows) < settings.batch_size:
                    break  # a smaller batch would be an easier contrast
                own = slice(rank, None, size)
                batch = fabric.to_device(inputs[rows[own]])
                if augment:
                    batch = _turned(
                        batch, (torch.rand(3, len(rows), generator=order) < 0.5)[:, own]
                    )
                loss = objective(wrapped, batch, fabric.to_device(targets[rows[own]]))
                optimiser.zero_grad()
                fabric.backward(loss)
                optimiser.step()
                total, steps = total + loss.detach(), steps + 1
            record = {"epoch": epoch + 1, "loss": float(distributed.mean(total)) / steps}
            if not torch.isfinite(torch.tensor(record["loss"])):
                raise FloatingPointError(
                    f"The loss of epoch {epoch + 1} is {record['loss']}. "
                    "Lower learning_rate or raise temperature."
                )
            if validation is not None:
                record["validation"] = _evaluate(wrapped, validation, objective, settings, fabric)
            history.append(record)
            shown.set_postfix(
                {k: f"{v:.3f}" for k, v in record.items() if k != "epoch"}, refresh=False
            )
            state.save(history)
            distributed.wait()
    if validation is not None and settings.patience is not None:
        state.restore_best()
    model.eval()
    return history


def _fabric(device: str, precision: str) -> Fabric:
    """One process, or those that ``torchrun`` started."""
    if distributed.size() == 1:
        return Fabric(accelerator=device, devices=1, precision=precision)
    from lightning_fabric.strategies import DDPStrategy

    devices, machines = distributed.here()
    strategy = DDPStrategy(find_unused_parameters=True)
    fabric = Fabric(
        accelerator=device,
        devices=devices,
        num_nodes=machines,
        precision=precision,
        strategy=strategy,
    )
    fabric.launch()
    return fabric


def _share_norms(model: nn.Module, device: str) -> None:
    """Let batch norms see the whole batch, whose parts lie on several GPUs.

    On CPUs PyTorch has no such norm: there each process keeps to the statistics of its own part.
    """
    if distributed.size() > 1 and device == "cuda":
        from timm.layers import convert_sync_batchnorm  # PyTorch's drops timm's activations

        for name, part in model.named_children():
            setattr(model, name, convert_sync_batchnorm(part))


def _check_pair(inputs: Tensor, targets: Tensor, settings: Training) -> None:
    if settings.batch_size % distributed.size():
        raise ValueError(
            f"A batch of {settings.batch_size} cannot be divided among "
            f"{distributed.size()} processes; choose a batch_size that is a multiple of "
            f"{distributed.size()}."
        )
    if len(inputs) != len(targets):
        raise ValueError(f"There are {len(inputs)} inputs but {len(targets)} targets.")
    if len(inputs) < settings.batch_size:
        raise ValueError(
            f"There are {len(inputs)} training spots, fewer than one batch of "
            f"{settings.batch_size}; lower batch_size or add sections."
        )


@torch.no_grad()
def _evaluate(
    model: nn.Module, pair: Pair, objective: Objective, settings: Training, fabric: Fabric
) -> float:
    model.eval()
    size = min(settings.batch_size, len(pair[0]))
    batches = [
        pair_rows
        for pair_rows in zip(pair[0].split(size), pair[1].split(size), strict=True)
        if len(pair_rows[0]) == size
    ]
    with distributed.alone():
        losses = [objective(model, *map(fabric.to_device, batch)).item() for batch in batches]
    return sum(losses) / len(losses)


def _best_epoch(history: list[dict[str, float]]) -> int:
    return min(range(len(history)), key=lambda i: history[i]["validation"])


def _should_stop(history: list[dict[str, float]], patience: int | None) -> bool:
    if patience is None or not history:
        return False
    return len(history) - 1 - _best_epoch(history) >= patience


def _identity(
    model: nn.Module, data: Sequence[Tensor], settings: Training, others: list[Any]
) -> str:
    """Key of a training: another number of epochs may go on from the same state, nothing else."""
    start = model.state_dict()
    return store.content_key(
        as_dict(replace(settings, epochs=1)),
        others,
        [[name, str(value.dtype), list(value.shape)] for name, value in start.items()],
        # As bytes: NumPy does not know bfloat16.
        *[v.detach().cpu().reshape(-1).view(torch.uint8).numpy() for v in start.values()],
        *[part.numpy() for part in data],
    )


class _State:
    """All that a training needs to go on: parameters, optimiser, generators, history.

    Tensors go to ``state-<epoch>.safetensors``; ``state.json`` names the valid one, with the
    SHA-256 of both, and is renamed into place last: at any moment a whole state can be read.
    """

    def __init__(
        self,
        model: nn.Module,
        optimiser: Any,
        order: torch.Generator,
        folder: str | Path | None,
        identity: str,
    ) -> None:
        self.model, self.optimiser, self.order = model, optimiser, order
        self.folder = None if folder is None else Path(folder)
        self.identity = identity
        self.best: dict[str, Tensor] = {}

    def save(self, history: list[dict[str, float]]) -> None:
        if "validation" in history[-1] and _best_epoch(history) == len(history) - 1:
            self.best = {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()}
        if self.folder is None or distributed.rank() > 0:
            return
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"best.{k}": v for k, v in self.best.items()}
        optimiser = self.optimiser.state_dict()
        for index, values in optimiser["state"].items():
            tensors |= {f"optimiser.{index}.{k}": v for k, v in values.items()}
        tensors |= {"order": self.order.get_state(), "global": torch.get_rng_state()}
        path = self.folder / f"state-{len(history):04d}.safetensors"
        with store.atomic_path(path) as temporary:
            save_file({k: v.detach().cpu().clone() for k, v in tensors.items()}, temporary)
        record = {"file": path.name, "history": history, "identity": self.identity}
        store.write_json(self.folder / "state.json", record | {"sha256": _seal(record, path)})
        for old in self.folder.glob("state-*.safetensors"):
            if old.name != path.name:
                old.unlink(missing_ok=True)

    def load(self) -> list[dict[str, float]]:
        if self.folder is None or not (self.folder / "state.json").exists():
            return []
        try:
            record = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
            path = self.folder / record["file"]
            if record.pop("sha256") != _seal(record, path):
                raise ValueError("its SHA-256 is another")
            tensors = load_file(path)
        except (ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
            raise ValueError(
                f"The checkpoint in {self.folder} is damaged ({error}); delete the folder to "
                "train anew."
            ) from error
        if record["identity"] != self.identity:
            raise ValueError(
                f"The checkpoint in {self.folder} belongs to other data, settings, another "
                "objective or another network; name another folder or delete this one."
            )
        self.model.load_state_dict(under(tensors, "model."))
        self.best = under(tensors, "best.")
        saved = self.optimiser.state_dict()
        saved["state"] = {}
        for name, value in under(tensors, "optimiser.").items():
            index, key = name.split(".", 1)
            saved["state"].setdefault(int(index), {})[key] = value
        self.optimiser.load_state_dict(saved)
        self.order.set_state(tensors["order"])
        torch.set_rng_state(tensors["global"])
        return record["history"]

    def restore_best(self) -> None:
        if self.best:
            self.model.load_state_dict(self.best)


def _seal(record: dict[str, Any], path: Path) -> str:
    """SHA-256 of a state: of its tensors' file and of what is written about it."""
    return store.content_key(record, store.file_hash(path))


def under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries whose names begin with `prefix`, without it."""
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
