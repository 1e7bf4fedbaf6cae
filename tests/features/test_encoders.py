"""Encoders: pixels in, vectors and pooled maps out, kept by content."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from heclip_lite import config, runtime, store
from heclip_lite.data import sections
from heclip_lite.features import encoders
from heclip_lite.spatial import superres

SMALL = config.Encoder("test_resnet")
MAPS = config.MapInput(SMALL, um_per_px=(2.4,), widths_um=(20.0, 70.0))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HECLIP_LITE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pixels(seed: int = 0, side: int = 64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (2, side, side, 3), generator=generator, dtype=torch.uint8)


def test_pixels_are_scaled_as_the_model_expects():
    encoder = encoders.ImageEncoder(SMALL)
    mean, std = (torch.tensor(encoder.network.pretrained_cfg[k]) for k in ("mean", "std"))
    wanted = ((pixels().float() / 255 - mean) / std).permute(0, 3, 1, 2)
    torch.testing.assert_close(encoder.prepare(pixels()), wanted)


def test_the_reference_pixels_are_blue_green_red_up_to_255():
    encoder = encoders.ImageEncoder(config.Encoder("test_resnet", colour="bgr", scaling="none"))
    wanted = pixels().flip(3).float().permute(0, 3, 1, 2)
    torch.testing.assert_close(encoder.prepare(pixels()), wanted)


def test_random_weights_follow_their_seed_only():
    one, same, other = (
        encoders.ImageEncoder(config.Encoder("test_resnet", seed=seed)).eval() for seed in (0, 0, 1)
    )
    with torch.no_grad():
        torch.testing.assert_close(one(pixels()), same(pixels()))
        assert not torch.allclose(one(pixels()), other(pixels()))


def test_local_weights_load_and_are_told_apart(tmp_path):
    made = encoders.ImageEncoder(config.Encoder("test_resnet", seed=7)).eval()
    path = tmp_path / "weights.safetensors"
    save_file(made.network.state_dict(), path)
    settings = config.Encoder("test_resnet", weights=str(path))
    with torch.no_grad():
        loaded = encoders.ImageEncoder(settings).eval()(pixels())
        torch.testing.assert_close(loaded, made(pixels()))
    before = encoders.fingerprint(settings)
    save_file(encoders.ImageEncoder(SMALL).network.state_dict(), path)
    assert encoders.fingerprint(settings) != before


def test_faulty_encoders_are_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"no encoder 'resnet51'. Near names: .*resnet50"):
        encoders.ImageEncoder(config.Encoder("resnet51"))
    with pytest.raises(FileNotFoundError, match=r"no weights file .*none.safetensors"):
        encoders.ImageEncoder(
            config.Encoder("test_resnet", weights=str(tmp_path / "none.safetensors"))
        )
    path = tmp_path / "weights.safetensors"
    save_file(encoders.ImageEncoder(config.Encoder("resnet10t")).network.state_dict(), path)
    with pytest.raises(ValueError, match="does not fit 'test_resnet'"):
        encoders.ImageEncoder(config.Encoder("test_resnet", weights=str(path)))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        encoders.ImageEncoder(config.Encoder("resnet10t", weights=str(path)))

    def no_network(*_, pretrained=False, **__):
        raise OSError("cannot reach the hub")

    monkeypatch.setattr("timm.create_model", no_network)
    with pytest.raises(RuntimeError, match=r"could not be fetched .*weights='random'"):
        encoders.ImageEncoder(config.Encoder("test_resnet", weights="pretrained"))


def test_patch_vectors_are_kept_by_content(small_sections, cache, monkeypatch):
    settings = config.PatchInput(SMALL, size=32, trainable=False)
    section = small_sections[0]
    vectors = encoders.patch_vectors(section, settings)
    assert vectors.shape == (section.n_obs, encoders.ImageEncoder(SMALL).features)
    monkeypatch.setattr(
        "heclip_lite.data.patches.cut_patches", lambda *_, **__: pytest.fail("cut again")
    )
    hidden = sections.hide_expression(section)
    np.testing.assert_array_equal(encoders.patch_vectors(hidden, settings), vectors)
    (kept,) = (cache / "vectors").glob("*.npy")
    kept.write_bytes(kept.read_bytes()[:200])
    with pytest.warns(UserWarning, match="is damaged"), pytest.raises(pytest.fail.Exception):
        encoders.patch_vectors(section, settings)


def test_maps_of_tiles_equal_the_map_of_the_whole(monkeypatch):
    encoder = encoders.ImageEncoder(SMALL).eval()
    image = np.random.default_rng(0).integers(0, 256, (200, 330, 3), dtype=np.uint8)
    whole = encoders._slide_maps(image, encoder, "cpu")
    monkeypatch.setattr(encoders, "TILE", 64)
    tiled = encoders._slide_maps(image, encoder, "cpu")
    for one, other, (_, stride, channels) in zip(whole, tiled, encoder.map_levels(), strict=True):
        assert one.shape == other.shape == (channels, 224 // stride, 352 // stride)
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("sigma", [0.7, 3.0, 20.0])
def test_pooling_is_a_gaussian_mean_and_deviation(sigma):
    rng = np.random.default_rng(0)
    level = rng.normal(size=(2, 60, 80)).cumsum(1).cumsum(2).astype(np.float32) / 100
    centres = rng.uniform((10, 10), (70, 50), size=(5, 2))
    mean, spread = encoders.pool(torch.from_numpy(level), centres, sigma, spread=True)
    y, x = np.mgrid[:60, :80] + 0.5
    for point, (cx, cy) in enumerate(centres):
        weight = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2))
        weight /= weight.sum()
        wanted = (level * weight).sum((1, 2))
        deviation = np.sqrt((level**2 * weight).sum((1, 2)) - wanted**2)
        scale = level.std()
        np.testing.assert_allclose(mean[point], wanted, atol=0.02 * scale)
        np.testing.assert_allclose(spread[point], deviation, atol=0.05 * scale)


def test_pooled_features_describe_any_point(small_sections, cache):
    section = small_sections[0]
    blocks = encoders.pooled_features(section, MAPS)
    levels = encoders.ImageEncoder(SMALL).map_levels()
    assert len(blocks) == sum(2 * (2 if stride < 32 else 1) for _, stride, _ in levels)
    for block in blocks:
        assert block.shape[0] == section.n_obs
        np.testing.assert_allclose(block.mean(0), 0, atol=1e-4)
    points = section.obsm["spatial"][:7] + 13
    assert all(len(block) == 7 for block in encoders.pooled_features(section, MAPS, points))
    hidden = encoders.pooled_features(sections.hide_expression(section), MAPS)
    np.testing.assert_array_equal(np.hstack(hidden), np.hstack(blocks))


@pytest.mark.parametrize("kind", ["vectors", "pooled"])
def test_features_of_another_device_are_not_taken(small_sections, monkeypatch, kind):
    """A card computes in bfloat16: what it left in the cache is not what a processor computes."""
    section, keys = small_sections[0], []
    describe = {
        "vectors": lambda: encoders.patch_vectors(section, config.PatchInput(SMALL, size=32)),
        "pooled": lambda: encoders.raw_features(section, MAPS, section.obsm["spatial"]),
    }[kind]
    monkeypatch.setattr(store, "cached_array", lambda kind, key, make: keys.append((kind, key)))
    for device in ("cpu", "cuda", "cpu"):
        monkeypatch.setattr(runtime, "pick_device", lambda _, device=device: device)
        describe()
    assert keys[0] == keys[2] and keys[0][0] == keys[1][0] == kind
    assert keys[0] != keys[1]


def test_maps_in_memory_are_not_those_of_another_device(small_sections):
    section = small_sections[0]
    dense = superres.grid(section, 200.0)
    for device in ("cpu", "meta", "cpu"):  # "meta" is torch's device without numbers
        for _, _, levels in encoders._scales(dense, MAPS, device):
            assert {level.device.type for _, level in levels} == {device}


def test_another_image_gives_other_features(small_sections, cache):
    section = small_sections[0].copy()
    name = sections.name_of(section)
    before = np.hstack(encoders.pooled_features(section, MAPS))
    image = section.uns["spatial"][name]["images"]["fullres"]
    section.uns["spatial"][name]["images"]["fullres"] = image[::-1].copy()
    after = np.hstack(encoders.pooled_features(section, MAPS))
    assert not np.allclose(before, after)
    assert len(list((store.cache_dir() / "pooled").glob("*.npy"))) == 2


def test_fixed_norms_stay_while_the_rest_is_trained():
    """A network whose batch norms were folded must see the same function in training."""
    settings = config.Encoder("test_resnet", fixed_norms=True)
    pixels = torch.randint(0, 255, (4, 32, 32, 3), dtype=torch.uint8)
    encoder = encoders.ImageEncoder(settings).train()
    trained = encoder(pixels)
    assert trained.requires_grad
    torch.testing.assert_close(trained, encoder.eval()(pixels))
    free = encoders.ImageEncoder(config.Encoder("test_resnet")).train()
    assert not torch.allclose(free(pixels), free.eval()(pixels), atol=1e-3)
