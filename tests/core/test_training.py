"""The training loop: repeatable, resumable bit for bit, stopped early by a whole section."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from heclip_lite import config, losses, networks, store, training
from heclip_lite.config import Training
from heclip_lite.methods.heclip import HECLIP

SETTINGS = Training(epochs=4, batch_size=16, device="cpu", seed=3)


def pair(seed: int = 0, spots: int = 70) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    colour = torch.randint(0, 200, (spots, 1, 1, 3), generator=generator)
    pixels = colour + torch.randint(0, 50, (spots, 8, 8, 3), generator=generator)
    mixing = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    return pixels.to(torch.uint8), pixels.float().mean((1, 2)) @ mixing / 50


class Pixels(nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels.float().flatten(1) / 255


def model(seed: int = 0) -> networks.ContrastiveModel:
    torch.manual_seed(seed)
    return networks.heclip_hvg(Pixels(), 192, 6, dropout=0.3)


def objective(net: nn.Module, images: torch.Tensor, spots: torch.Tensor) -> torch.Tensor:
    return losses.image_centric_loss(
        *net(images, spots), cosine=True, targets="identity", temperature=0.3
    )


def run(settings=SETTINGS, net=None, *, aim=objective, augment=True, **options):
    net = model() if net is None else net
    options = {"about": "a test"} | options
    history = training.train(net, pair(), aim, settings, augment=augment, **options)
    return net.state_dict(), history


def assert_same(one, other) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_the_loss_falls():
    history = run(replace(SETTINGS, epochs=12, learning_rate=1e-2))[1]
    assert history[-1]["loss"] < history[0]["loss"] - 0.2


def test_the_same_seed_gives_the_same_numbers():
    (first, history), (second, again) = run(), run()
    assert_same(first, second)
    assert history == again
    assert history != run(replace(SETTINGS, seed=4))[1]


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_resumed_training_ends_where_an_uninterrupted_one_ends(tmp_path, stop_after):
    whole, history = run(replace(SETTINGS, patience=4), validation=pair(1, 40))

    class Stop(Exception):
        pass

    def stopping(net, images, spots):
        if net.training and len(calls := stopping.calls) >= stop_after * 4 + 2:
            raise Stop(calls)
        stopping.calls.append(net.training)
        return objective(net, images, spots)

    stopping.calls = []
    options = {"checkpoint": tmp_path, "validation": pair(1, 40)}
    with pytest.raises(Stop):
        run(replace(SETTINGS, patience=4), aim=stopping, **options)
    net = model()
    torch.manual_seed(99)  # another process would not share the random state
    state, resumed = run(replace(SETTINGS, patience=4), net, **options)
    assert resumed == history
    assert_same(whole, state)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1
    assert not list(tmp_path.glob(".*"))


def test_a_compiled_network_learns_the_same(tmp_path, monkeypatch):
    graphs, compile_ = [], torch.compile

    def traced(graph, _):  # runs as it is: to make machine code of it takes too long for a test
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda net, **_: compile_(net, backend=traced))
    found = []
    for flag in (False, True):
        folder, settings = tmp_path / str(flag), replace(SETTINGS, epochs=2, compile=flag)
        state, history = run(settings, validation=pair(1, 40), checkpoint=folder)
        (kept,) = folder.glob("*.safetensors")
        found.append((state | {"losses": torch.tensor([r["validation"] for r in history])}, kept))
        assert bool(graphs) == flag
    (plain, states), (compiled, others) = found
    torch.testing.assert_close(compiled, plain)
    assert load_file(states).keys() == load_file(others).keys()


def test_early_stopping_keeps_the_best_epoch(monkeypatch):
    values = iter([3.0, 2.0, 2.5, 2.6, 1.0])
    monkeypatch.setattr(training, "_evaluate", lambda *_: next(values))
    settings = replace(SETTINGS, epochs=5, patience=2)
    stopped, history = run(settings, validation=pair(1, 40))
    assert [h["validation"] for h in history] == [3.0, 2.0, 2.5, 2.6]
    values = iter([3.0, 2.0])
    best, _ = run(replace(settings, epochs=2), validation=pair(1, 40))
    assert_same(stopped, best)


def test_flips_and_turns_are_the_eight_views_in_equal_shares():
    patch = torch.arange(9).view(1, 3, 3, 1).expand(4000, -1, -1, -1)
    turned = training.flip_and_turn(patch, torch.Generator().manual_seed(0))[..., 0]
    square = patch[0, ..., 0]
    views = [torch.rot90(v, k) for v in (square, square.T) for k in range(4)]
    shares = [sum(torch.equal(t, v) for t in turned) / len(turned) for v in views]
    assert shares == pytest.approx([1 / 8] * 8, abs=0.02)


@pytest.mark.parametrize(
    "other",
    [
        {"settings": replace(SETTINGS, learning_rate=1e-2)},
        {"net": 5},
        {"augment": False},
        {"validation": pair(2, 40)},
        {"about": {"temperature": 0.3}},
    ],
    ids=lambda other: "-".join(other),
)
def test_a_checkpoint_of_another_training_is_refused(tmp_path, other):
    validation = pair(1, 40)
    run(checkpoint=tmp_path, validation=validation)
    if "net" in other:
        other = {"net": model(other["net"])}
    with pytest.raises(ValueError, match="belongs to other data, settings, another objective or"):
        run(**{"checkpoint": tmp_path, "validation": validation} | other)
    assert len(run(checkpoint=tmp_path, validation=validation)[1]) == 4


@pytest.mark.parametrize("other", [{"loss": "clip"}, {"temperature": 0.3}], ids=str)
def test_a_method_with_another_objective_is_refused(tmp_path, small_sections, other):
    maps = config.MapInput(config.Encoder("test_resnet"), um_per_px=(2.4,), components=8)

    def fit(**contrast):
        settings = Training(epochs=2, batch_size=16, device="cpu")
        method = HECLIP.recommended(maps, settings, members=1, checkpoint=tmp_path)
        method.contrast = replace(method.contrast, **contrast)
        return method.fit(small_sections[:1])

    assert fit().history == fit().history
    with pytest.raises(ValueError, match="another objective or another network"):
        fit(**other)


def test_a_checkpoint_needs_to_know_the_objective(tmp_path):
    with pytest.raises(ValueError, match="A checkpoint needs `about`: what the objective"):
        run(checkpoint=tmp_path, about=None)
    assert not list(tmp_path.iterdir())


def test_more_epochs_go_on_from_the_same_checkpoint(tmp_path):
    run(checkpoint=tmp_path)
    state, history = run(replace(SETTINGS, epochs=6), checkpoint=tmp_path)
    wanted, whole = run(replace(SETTINGS, epochs=6))
    assert history == whole
    assert_same(state, wanted)


def test_what_a_killed_process_had_not_written_to_its_end_is_removed(tmp_path):
    unfinished = [tmp_path / f".state-0003.0123abcd.{end}" for end in ("safetensors", "json")]
    for path in unfinished:
        path.write_bytes(b"half")
    run(checkpoint=tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_a_damaged_checkpoint_is_named(tmp_path):
    run(checkpoint=tmp_path)
    tensors = next(tmp_path.glob("*.safetensors"))
    whole = tensors.read_bytes()
    tensors.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"is damaged .* delete the folder"):
        run(checkpoint=tmp_path)
    tensors.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    with pytest.raises(ValueError, match=r"is damaged \(its SHA-256 is another\)"):
        run(checkpoint=tmp_path)
    tensors.unlink()
    with pytest.raises(ValueError, match=r"is damaged .*No such file"):
        run(checkpoint=tmp_path)


@pytest.mark.parametrize("lost", [None, "file", "history", "identity", "sha256", "a digit"])
def test_a_damaged_record_of_a_checkpoint_is_named(tmp_path, lost):
    run(checkpoint=tmp_path)
    record = json.loads((tmp_path / "state.json").read_text(encoding="utf-8"))
    if lost is None:
        record = [record]
    elif lost == "a digit":
        record["history"][0]["loss"] += 0.01
    else:
        del record[lost]
    store.write_json(tmp_path / "state.json", record)
    with pytest.raises(ValueError, match=r"is damaged .* delete the folder"):
        run(checkpoint=tmp_path)


def test_another_process_waits_for_the_folder_and_goes_on_from_there(tmp_path, monkeypatch):
    """It comes while a state lies there whose name `state.json` does not know yet."""
    wanted, whole = run(replace(SETTINGS, epochs=6))
    come, found, write = threading.Event(), [], store.write_json
    longer, net = replace(SETTINGS, epochs=6), model()

    def do() -> None:
        found.append(run(longer, net, checkpoint=tmp_path))
        come.set()

    other = threading.Thread(target=do, daemon=True)

    def warn(text, **_):
        if "Another process works in" in text:
            come.set()

    def interrupted(*arguments):
        if other.ident is None:
            other.start()
            assert come.wait(60)
        write(*arguments)

    monkeypatch.setattr(store, "write_json", interrupted)
    monkeypatch.setattr(store.warnings, "warn", warn)
    _, history = run(checkpoint=tmp_path)
    other.join(60)
    ((state, resumed),) = found
    assert history == whole[:4] and resumed == whole
    assert_same(state, wanted)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (replace(SETTINGS, batch_size=71), "70 training spots, fewer than one batch of 71"),
        (replace(SETTINGS, patience=1), "patience is set, but there is no validation"),
    ],
)
def test_impossible_settings_are_named_before_training(settings, message):
    with pytest.raises(ValueError, match=message):
        run(settings)


def test_a_diverged_loss_stops_the_training():
    def nan(net, images, spots):
        return objective(net, images, spots) * float("nan")

    with pytest.raises(FloatingPointError, match="Lower learning_rate"):
        training.train(model(), pair(), nan, SETTINGS)
