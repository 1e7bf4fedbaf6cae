"""Pathology encoders by name; none of their weights is needed here."""

from __future__ import annotations

import traceback

import pytest
import torch

from heclip_lite import config
from heclip_lite.features import encoders, pathology


@pytest.fixture
def no_token(monkeypatch):
    for name in pathology.TOKEN_VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", [*pathology.MODELS, "hf-hub:someone/model"])
def test_without_a_token_the_error_says_what_to_do(name, no_token):
    with pytest.raises(PermissionError, match=r"Accept it at .*HF_TOKEN"):
        pathology.patch_input(name)


@pytest.mark.parametrize("name", pathology.MODELS)
def test_with_a_token_the_hub_is_asked_for_the_named_model(name, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    asked = {}

    def create(given, **arguments):
        asked.update(name=given, **arguments)
        raise OSError("401 Client Error for token hf_secret")

    monkeypatch.setattr("timm.create_model", create)
    made = pathology.patch_input(name)
    assert made.width_um == 112 and made.size == 224 and not made.trainable
    with pytest.raises(RuntimeError, match="could not be fetched") as caught:
        encoders.ImageEncoder(made.encoder)
    shown = "".join(traceback.format_exception(caught.value))  # with all that it is chained to
    assert "hf_secret" not in shown and "***" in str(caught.value)
    assert "hf_secret" not in str(config.as_dict(made))
    assert asked["name"] == f"hf-hub:{pathology.MODELS[name].repository}" and asked["pretrained"]
    assert dict(pathology.MODELS[name].options).items() <= asked.items()


def test_uni_is_made_without_the_hub(no_token, monkeypatch):
    """The network of UNI with random weights, two blocks of it: 1,024 numbers per patch."""
    made = pathology.patch_input("UNI", weights="random", width_um=100)
    small = config.Encoder(
        **{**vars(made.encoder), "options": {**made.encoder.options, "depth": 2}}
    )
    encoder = encoders.ImageEncoder(small)
    assert made.width_um == 100 and encoder.features == 1024
    assert encoder(torch.zeros(1, 224, 224, 3, dtype=torch.uint8)).shape == (1, 1024)


def test_faulty_names_are_refused():
    with pytest.raises(ValueError, match="'dino' is unknown; use one of uni, "):
        pathology.patch_input("dino")
    with pytest.raises(ValueError, match="can only be made from the hub"):
        pathology.patch_input("h-optimus-0", weights="weights.safetensors")
