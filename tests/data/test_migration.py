"""The page for users of HECLIP, BLEEP and HisToSGE: its code runs on files such as they have."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import contents
import layouts
import pytest
import torch

from heclip_lite import config, networks
from heclip_lite.data import readers
from heclip_lite.data.readers import visium as readers_visium
from heclip_lite.features import encoders

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "book" / "migration.md").read_text(encoding="utf-8")
READING, STORING, LOADING = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_their_series_becomes_sections(small_sections, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, section in zip(("A1", "B1", "C1", "D1"), small_sections, strict=True):
        layouts.gse240429(section, Path("GSE240429") / name)
        (tmp_path / "GSE240429" / name / "GSE240429").rename(tmp_path / "moved")
        (tmp_path / "GSE240429" / name).rmdir()
        (tmp_path / "moved").rename(tmp_path / "GSE240429" / name)
    found: dict = {}
    exec(READING, found)
    assert {s.obs["donor"].iloc[0] for s in found["sections"]} == {"C73"}
    assert [s.n_obs for s in found["sections"]] == [s.n_obs for s in small_sections]
    assert len(found["report"]) == 4


def test_their_own_folders_become_sections(tmp_path):
    section = layouts.drawn_section()
    data = layouts.bleep(section, tmp_path).path / "data"
    for number in ("2", "3", "4"):
        (data / readers_visium.BLEEP_COUNTS / number).mkdir()
    folders = {readers_visium.BLEEP_COUNTS, readers_visium.BLEEP_POSITIONS}
    row = next(line for line in PAGE.splitlines() if all(name in line for name in folders))
    assert folders <= {path.name for path in data.iterdir()}
    (name,) = re.findall(r'name="(\w+)"', row)
    found = readers.read_section(data.parent, name=name)
    assert found.shape == section.shape and found.obs["donor"].iloc[0] == "C73"
    for other in re.findall(r"`(C73_\w+)`", row):
        with pytest.raises(FileNotFoundError, match=r"matrix.mtx"):  # theirs is empty here
            readers.read_section(data.parent, name=other)


def test_their_checkpoint_becomes_a_network(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    encoder = encoders.ImageEncoder(config.Encoder("resnet50", seed=3))
    head = networks.ProjectionHead(encoder.features, 30)
    state = {f"image_encoder.model.{k}": v for k, v in encoder.network.state_dict().items()}
    state |= {f"image_projection.{k}": v for k, v in head.state_dict().items()}
    torch.save(state | {"spot_encoder.fc.weight": torch.zeros(4, 4)}, "best.pt")
    found: dict = {}
    exec(STORING, found)
    exec(LOADING, found)
    model = found["model"].eval()
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    with torch.inference_mode():
        theirs = head.eval()(encoder.network.eval()(model.image_encoder.prepare(images)))
        torch.testing.assert_close(model.embed_images(images), theirs)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([a-z_]+\.[A-Za-z_.]+)\(?", PAGE))))
def test_every_name_is_one_of_ours_or_of_a_file_of_theirs(name):
    if re.search(r"\.(npy|csv|py|h5|pt|h5ad)$", name):
        return
    module, *parts = name.rstrip(".").split(".")
    found = importlib.import_module(contents.modules()[module])
    for part in parts:
        found = getattr(found, part)


@pytest.mark.parametrize("call", sorted(set(re.findall(r"`([a-zA-Z_.]+\([^`]*=[^`]*\))`", PAGE))))
def test_every_option_that_is_named_exists(call):
    import inspect

    node = ast.parse(call.replace("...", "Ellipsis"), mode="eval").body
    module, *parts = ast.unparse(node.func).split(".")
    found = importlib.import_module(contents.modules()[module])
    for part in parts:
        found = getattr(found, part)
    assert {keyword.arg for keyword in node.keywords} <= set(inspect.signature(found).parameters)
