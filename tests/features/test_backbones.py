"""The public backbone: dequantised, named as timm names it, equal to an independent conversion."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from heclip_lite.features import backbones, encoders


def fake_convolutions() -> list[tuple[np.ndarray, np.ndarray]]:
    """Convolutions of the right shapes, laid out as TensorFlow lays them out."""
    import timm

    network = timm.create_model("mobilenetv2_100", num_classes=0)
    rng = np.random.default_rng(0)
    made = []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            weight = rng.normal(size=tuple(module.weight.shape)).astype(np.float32)
            order = (1, 2, 3, 0) if module.groups > 1 else (0, 2, 3, 1)
            made.append((weight.transpose(order), np.float32(rng.normal(size=len(weight)))))
    return made


def test_dequantising_undoes_rounding():
    whole = np.array([[0, 128, 255]], dtype=np.uint8)
    np.testing.assert_allclose(backbones.dequantise(whole, 0.5, 128), [[-64.0, 0.0, 63.5]])


def test_the_state_covers_every_parameter_but_the_classifier(tmp_path):
    from safetensors.numpy import save_file

    state = backbones.timm_state(fake_convolutions())
    save_file(state, tmp_path / "weights.safetensors")
    encoder = encoders.ImageEncoder(backbones.mobilenet(str(tmp_path / "weights.safetensors")))
    names = {n for n in encoder.network.state_dict() if not n.endswith("num_batches_tracked")}
    assert set(state) == names


def test_folded_batch_norms_only_add_the_bias():
    state = backbones.timm_state(fake_convolutions())
    norm = torch.nn.BatchNorm2d(32, eps=backbones.BN_EPS).eval()
    own = {k.removeprefix("bn1."): torch.from_numpy(v) for k, v in state.items() if k[:4] == "bn1."}
    norm.load_state_dict(own, strict=False)
    x = torch.randn(2, 32, 3, 3)
    wanted = x + own["bias"][:, None, None]
    torch.testing.assert_close(norm(x), wanted, rtol=1e-4, atol=1e-5)


def test_unfolding_keeps_the_function_and_makes_training_see_it(tmp_path):
    from safetensors.numpy import save_file

    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (4, 32, 32, 3), np.uint8)
    scaled = [(0.1 * weight, 0.1 * bias) for weight, bias in fake_convolutions()]
    folded = backbones.timm_state(scaled)
    found = {}
    for name, state in (("folded", folded), ("unfolded", backbones.unfolded(folded, pixels))):
        save_file(state, tmp_path / f"{name}.safetensors")
        settings = replace(
            backbones.mobilenet(str(tmp_path / f"{name}.safetensors")), fixed_norms=False
        )
        encoder = encoders.ImageEncoder(settings)
        with torch.inference_mode():
            given = torch.from_numpy(pixels)
            found[name] = encoder.eval()(given), encoder.train()(given)
    torch.testing.assert_close(found["unfolded"][0], found["folded"][0], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found["unfolded"][1], found["folded"][0], rtol=1e-2, atol=1e-3)
    assert not torch.allclose(found["folded"][1], found["folded"][0], rtol=0.1, atol=0.1)


def test_another_network_is_named():
    made = fake_convolutions()
    with pytest.raises(ValueError, match="holds 5 convolutions, but MobileNetV2 has 52"):
        backbones.timm_state(made[:5])
    made[3] = (made[3][0][..., :-1], made[3][1])
    with pytest.raises(ValueError, match="is needed"):
        backbones.timm_state(made)


@pytest.mark.real_data
def test_conversion_equals_an_independent_one(her2st_dir, tmp_path, monkeypatch):
    """`backbones/` of the development data holds the same network, converted by other code."""
    from safetensors.torch import load_file

    folder = Path(os.environ["HECLIP_LITE_DATA"])
    monkeypatch.setenv("HECLIP_LITE_CACHE", str(tmp_path))
    settings = backbones.coral_mobilenet()
    ours = load_file(settings.weights)
    other = load_file(folder / "backbones" / "mobilenetv2_100.safetensors")
    for name, value in ours.items():
        if "bn" in name:
            continue  # the other one leaves its norms folded
        torch.testing.assert_close(other[name].float(), value, rtol=1e-3, atol=2e-3)
    first = Path(settings.weights).read_bytes()
    Path(settings.weights).unlink()
    assert Path(backbones.coral_mobilenet().weights).read_bytes() == first

    pixels = torch.randint(0, 255, (2, 96, 96, 3), dtype=torch.uint8)
    theirs = backbones.mobilenet(str(folder / "backbones" / "mobilenetv2_100.safetensors"))
    with torch.inference_mode():
        a, b = (encoders.ImageEncoder(s).eval()(pixels) for s in (settings, theirs))
    # The other file is rounded to half precision.
    assert torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] > 0.999
