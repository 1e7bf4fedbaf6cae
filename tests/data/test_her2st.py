"""The her2st reader: fetching without surprises, and the pitfalls of the real slides."""

from __future__ import annotations

import hashlib
import http.server
import re
import threading
from functools import partial

import numpy as np
import pandas as pd
import pytest

from heclip_lite.data import download, sections
from heclip_lite.data import her2st as tumours
from heclip_lite.data.her2st import read_her2st

NAMES = ["A1", "A2", "B4", "C2", "C3", "C4", "C5", "C6"]
SPOTS = dict(zip(NAMES, [346, 325, 283, 187, 180, 184, 181, 178], strict=True))
MEDIAN_COUNTS = dict(zip(NAMES, [4291, 7982, 648, 8508, 9549, 10190, 10015, 12427], strict=True))


# --- Fetching (nothing here needs a network) ------------------------------------------------


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """An empty data folder and an address at which nobody answers."""
    monkeypatch.setenv("HECLIP_LITE_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(tumours, "HER2ST_ADDRESS", "http://127.0.0.1:9/her2st/")
    return tmp_path / "data"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_registry_is_complete():
    registry = tumours.registry()
    wanted = {path for name in NAMES for path in tumours.files_of(name).values()}
    assert wanted == set(registry)
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in registry.values())


def test_no_network(offline):
    with pytest.raises(FileNotFoundError) as caught:
        read_her2st(["C2"])
    message = str(caught.value)
    name = "data/ST-cnts/C2.tsv.gz"
    for part in [
        f"her2st: {name} could not be fetched",
        "3 file(s) are missing",
        f"http://127.0.0.1:9/her2st/{name}",
        str(offline / "her2st" / name),
        tumours.registry()[name],
        "HECLIP_LITE_DATA",
        "synthetic_sections(). It is never used in their place unasked.",
    ]:
        assert part in message
    assert not [path for path in offline.rglob("*") if path.is_file()]  # no half files


def test_wrong_hash_is_told_and_left_alone(offline):
    path = offline / "her2st" / "data/ST-cnts/C2.tsv.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"cut short")
    expected = tumours.registry()["data/ST-cnts/C2.tsv.gz"]
    for _ in range(2):  # it is not replaced behind the reader's back
        with pytest.raises(ValueError, match=r"C2.tsv.gz") as caught:
            read_her2st(["C2"])
        assert f"expected SHA-256 {expected}, found {sha256(b'cut short')}" in str(caught.value)
        assert "(9 bytes)" in str(caught.value)
        assert "Delete it and run again" in str(caught.value)
    assert path.read_bytes() == b"cut short"


@pytest.mark.parametrize("names", [["C2", "D1"], "D1", []])
def test_unknown_section(offline, names):
    with pytest.raises(ValueError, match=r"sections are A1, A2, B4, C2, C3, C4, C5, C6"):
        read_her2st(names)
    assert not offline.exists()


def test_section_asked_for_twice(offline):
    with pytest.raises(ValueError, match=r"1 section name.s. occur more than once, first 'C2'"):
        read_her2st(["C2", "C3", "C2"])


@pytest.fixture
def server(tmp_path):
    """A local web server over `tmp_path/public`; it counts what it was asked for."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if self.path == "/cut.txt":  # the connection breaks before the file is whole
                self.send_response(200)
                self.send_header("Content-Length", "100")
                self.end_headers()
                self.wfile.write(b"first")
            else:
                super().do_GET()

        def log_message(self, *_):
            pass

    public = tmp_path / "public"
    public.mkdir()
    handler = partial(Handler, directory=str(public))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield public, f"http://127.0.0.1:{running.server_port}/", asked
        running.shutdown()


def test_fetched_once(server, tmp_path, monkeypatch):
    public, address, asked = server
    monkeypatch.setenv("HECLIP_LITE_DATA", str(tmp_path / "data"))
    (public / "deep").mkdir()
    (public / "deep" / "a.txt").write_bytes(b"first")
    call = partial(
        download.fetch,
        "set",
        ["deep/a.txt"],
        address=address,
        registry={"deep/a.txt": sha256(b"first")},
    )
    for _ in range(2):
        (path,) = call()
        assert path == tmp_path / "data" / "set" / "deep" / "a.txt"
        assert path.read_bytes() == b"first"
    assert asked == ["/deep/a.txt"]


@pytest.mark.parametrize(
    ("name", "reason"), [("other.txt", "SHA256 hash of"), ("cut.txt", ".*"), ("none.txt", "404")]
)
def test_failed_downloads_are_not_kept(server, tmp_path, monkeypatch, name, reason):
    public, address, asked = server
    monkeypatch.setenv("HECLIP_LITE_DATA", str(tmp_path / "data"))
    (public / "other.txt").write_bytes(b"another file")
    with pytest.raises(FileNotFoundError, match=rf"set: {name} could not be fetched \({reason}"):
        download.fetch("set", [name], address=address, registry={name: sha256(b"whole file")})
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert len(asked) == 2  # one more try, then the message


def test_a_full_disk_stops_a_download(server, tmp_path, monkeypatch, full_disk):
    public, address, _ = server
    (public / "a.bin").write_bytes(bytes(9000))
    monkeypatch.setenv("HECLIP_LITE_DATA", str(tmp_path / "data"))
    call = partial(
        download.fetch, "set", ["a.bin"], address=address, registry={"a.bin": sha256(bytes(9000))}
    )
    with full_disk(), pytest.raises(OSError, match=r"too large. Make room there .*data/set/a.bin"):
        call()
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert call()[0].read_bytes() == bytes(9000)


def test_folder_that_cannot_be_written(server, tmp_path, monkeypatch):
    public, address, _ = server
    (public / "a.txt").write_bytes(b"first")
    (tmp_path / "data").write_text("a file where the folder should be")
    monkeypatch.setenv("HECLIP_LITE_DATA", str(tmp_path / "data"))
    with pytest.raises(FileNotFoundError, match=r"(?s)a.txt could not be fetched.*put it at"):
        download.fetch("set", ["a.txt"], address=address, registry={"a.txt": sha256(b"first")})


def test_nothing_is_written_where_all_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HECLIP_LITE_DATA", str(tmp_path))
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.txt").write_bytes(b"first")
    (tmp_path / "set").chmod(0o555)
    try:
        registry = {"a.txt": sha256(b"first")}
        download.fetch("set", ["a.txt"], address="http://127.0.0.1:9/", registry=registry)
        assert [path.name for path in (tmp_path / "set").iterdir()] == ["a.txt"]
    finally:
        (tmp_path / "set").chmod(0o755)


# --- The real slides ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slides():
    """All eight sections, read once for this file."""
    return {}


@pytest.fixture
def her2st(her2st_dir, slides, monkeypatch):
    monkeypatch.setattr(tumours, "HER2ST_ADDRESS", "http://127.0.0.1:9/")  # never asked
    if not slides:
        slides.update({sections.name_of(s): s for s in read_her2st()})
    return slides


@pytest.mark.real_data
def test_sections_and_spots(her2st):
    assert list(her2st) == NAMES
    for name, section in her2st.items():
        assert sections.donor_of(section) == name[0]
        assert section.n_obs == SPOTS[name]
        totals = np.asarray(section.X.sum(axis=1)).ravel()
        assert int(np.median(totals)) == MEDIAN_COUNTS[name]
        assert sections.um_per_px(section) == (3.19 if name[0] == "A" else 0.69)
        assert sections.spot_diameter_um(section) == pytest.approx(100)
    assert len(sections.common_genes(list(her2st.values()))) == 13345


@pytest.mark.real_data
def test_order_is_the_one_asked_for(her2st):
    assert [sections.name_of(s) for s in read_her2st(["C6", "C2"])] == ["C6", "C2"]


@pytest.mark.real_data
def test_scale_agrees_with_the_array(her2st):
    """The array was printed at 200 um; its fitted steps must say the same scale within 1 %."""
    for section in her2st.values():
        array = section.obs[["array_col", "array_row"]].to_numpy(float)
        design = np.column_stack([array, np.ones(len(array))])
        steps = np.linalg.lstsq(design, section.obsm["spatial"], rcond=None)[0][:2]
        pitch = np.linalg.norm(steps, axis=1).mean() * sections.um_per_px(section)
        assert pitch == pytest.approx(200, rel=0.01)


@pytest.mark.real_data
def test_counts_are_joined_by_name(her2st, her2st_dir):
    table = pd.read_csv(her2st_dir / "data/ST-cnts/B4.tsv.gz", sep="\t", index_col=0)
    spots = pd.read_csv(her2st_dir / "data/ST-spotfiles/B4_selection.tsv", sep="\t")
    assert len(spots) == len(table) + 1
    row = spots.iloc[100]
    label = f"{row.x:.0f}x{row.y:.0f}"
    spot = her2st["B4"][f"B4_{label}"]
    np.testing.assert_array_equal(spot.X.toarray()[0], table.loc[label].to_numpy())
    np.testing.assert_array_equal(spot.obsm["spatial"][0], [row.pixel_x, row.pixel_y])
    assert spot.obs[["array_col", "array_row"]].to_numpy().tolist() == [[row.x, row.y]]


def darkness(section):
    """Share of each spot's disc that is cut-out black, and its mean brightness."""
    image = sections.read_image(section).mean(axis=-1)
    radius = 50 / sections.um_per_px(section)
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    black, bright = [], []
    for cx, cy in section.obsm["spatial"]:
        x0, y0 = int(cx - radius) - 1, int(cy - radius) - 1
        window = np.s_[max(y0, 0) : y0 + 40, max(x0, 0) : x0 + 40]
        disc = (x[window] - cx) ** 2 + (y[window] - cy) ** 2 <= radius**2
        black.append((image[window][disc] == 0).mean())
        bright.append(image[window][disc].mean())
    return np.array(black), np.array(bright)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["A1", "A2"])
def test_spots_of_donor_a_lie_on_tissue(her2st, name):
    black, _ = darkness(her2st[name])
    assert (black == 0).mean() > 0.98
    assert black.max() < 0.5


@pytest.mark.real_data
def test_a1_labels_match_what_the_slide_shows(her2st):
    section = her2st["A1"]
    labels = section.obs["domain"]
    assert labels.value_counts().to_dict() == {
        "invasive cancer": 282,
        "connective tissue": 24,
        "cancer in situ": 21,
        "adipose tissue": 12,
        "immune infiltrate": 2,
    }
    assert labels.isna().sum() == 5  # undetermined
    assert labels.dtype == "category"
    bright = pd.Series(darkness(section)[1], labels.index).groupby(labels, observed=True).mean()
    assert bright["adipose tissue"] > bright["invasive cancer"] + 25  # fat is pale
    assert bright["connective tissue"] > bright["invasive cancer"] + 8


@pytest.mark.real_data
def test_a2_is_in_the_frame_of_its_image(her2st, her2st_dir):
    """Neighbouring sections A1 and A2 show the same tissue at the same place.

    In its own frame, A2 would be turned by 5 degrees against its image.
    """
    spots = pd.read_csv(her2st_dir / "data/ST-spotfiles/A2_selection.tsv", sep="\t")
    labels = ["A2_" + f"{x}x{y}" for x, y in spots[["x", "y"]].to_numpy()]
    unwarped = her2st["A2"][labels].copy()
    unwarped.obsm["spatial"] = spots[["pixel_x", "pixel_y"]].to_numpy() * 2000 / 6966
    assert np.abs(unwarped.obsm["spatial"] - her2st["A2"][labels].obsm["spatial"]).max() > 50
    depth = np.log(np.asarray(unwarped.X.sum(axis=1)).ravel())
    right = -np.corrcoef(depth, darkness(her2st["A2"][labels])[1])[0, 1]
    wrong = -np.corrcoef(depth, darkness(unwarped)[1])[0, 1]
    assert right > wrong + 0.05  # spots full of nuclei are dark, and yield more counts

    path = her2st_dir / "res/ST-cluster/lbl/A2-cluster-annotation.tsv.gz"
    given = pd.read_csv(path, sep="\t", index_col=0)
    assert len(given) == 323  # two fewer than there are spots with counts
    named = ["A2_" + f"{x}x{y}" for x, y in given[["x", "y"]].to_numpy()]
    expected = given[["warped_x", "warped_y"]].to_numpy() * [2000 / 6966, 2136 / 7441]
    np.testing.assert_allclose(her2st["A2"][named].obsm["spatial"], expected, atol=0.01)


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["A1", "A2"])
def test_thumbnail_is_masked(her2st, name):
    section = her2st[name]
    assert (sections.read_image(section)[:535, 1495:] == 0).all()
    small, scale = sections.preview(section)
    assert (small[: int(535 * scale), int(1495 * scale) + 1 :] == 0).all()
    assert small.any()


@pytest.mark.real_data
def test_background_is_the_colour_of_the_slide(her2st):
    for section in her2st.values():
        small, _ = sections.preview(section)
        rim = np.concatenate([small[:5].reshape(-1, 3), small[-5:].reshape(-1, 3)])
        assert np.abs(np.median(rim, axis=0) - sections.background_of(section)).max() < 12


@pytest.mark.real_data
def test_a_truncated_copy_is_noticed(her2st_dir, tmp_path, monkeypatch):
    content = (her2st_dir / "data/ST-cnts/C6.tsv.gz").read_bytes()
    path = tmp_path / "her2st" / "data/ST-cnts/C6.tsv.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(content[: len(content) // 2])
    monkeypatch.setenv("HECLIP_LITE_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"C6.tsv.gz .446,426 bytes. is damaged.*Delete it"):
        read_her2st(["C6"])
