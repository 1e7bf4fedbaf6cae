"""The synthetic tissue: it keeps the contract, and its truth is the truth."""

import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from heclip_lite.data.sections import check_sections, hide_expression, read_image
from heclip_lite.data.synthetic.anatomy import CELL_TYPES, DOMAINS
from heclip_lite.data.synthetic.tissue import synthetic_sections, truth

SMALL = {"size_um": 1000, "um_per_px": 1.6, "pitch_um": 70, "n_genes": 120, "seed": 3}


@pytest.fixture(scope="module")
def sections():
    """Two donors with two sections each."""
    return synthetic_sections(2, 2, **SMALL)


def one(**changes):
    return synthetic_sections(1, 1, **{**SMALL, **changes})[0]


def counts(section):
    return section.X.toarray()


def log_share(values):
    return np.log1p(1e4 * values / values.sum(axis=1, keepdims=True))


def per_gene(a, b):
    """Pearson correlation of columns, for columns that vary in both."""
    vary = (a.std(axis=0) > 1e-4) & (b.std(axis=0) > 1e-4)
    a, b = a[:, vary] - a[:, vary].mean(axis=0), b[:, vary] - b[:, vary].mean(axis=0)
    return (a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))


def test_sections_keep_the_contract(sections):
    check_sections(sections)
    assert [s.obs["section"].iloc[0] for s in sections] == ["P1-1", "P1-2", "P2-1", "P2-2"]
    assert [s.obs["donor"].iloc[0] for s in sections] == ["P1", "P1", "P2", "P2"]
    for section in sections:
        image = read_image(section)
        assert image.shape == (624, 624, 3)  # 1000 um at 1.6 um, on the grid of 4 pixels
        assert list(section.obs["domain"].cat.categories) == list(DOMAINS)
        assert not section.obs["domain"].isna().any()
        assert section.n_obs > 60


def test_the_seed_decides(sections):
    again, other = one(), one(seed=4)
    assert np.array_equal(counts(again), counts(sections[0]))
    assert np.array_equal(read_image(again), read_image(sections[0]))
    assert not np.array_equal(read_image(again), read_image(other))
    assert again.obs_names.equals(sections[0].obs_names)


def test_spots_lie_on_tissue(sections):
    for section in sections:
        image = read_image(section).astype(float)
        x, y = section.obsm["spatial"].round().astype(int).T
        stained = uniform_filter(image.min(axis=2), 30)[y, x]
        rim = np.median(image[:10].min(axis=2))
        fat = section.obs["domain"] == "fat"  # empty cells: mostly as bright as the glass
        assert (stained < rim - 10)[~fat].mean() > 0.97
        assert (truth(section).domains(section.obsm["spatial"]) != "glass").all()


@pytest.mark.parametrize("lattice", ["hex", "square"])
def test_lattice(lattice):
    section = one(lattice=lattice, pitch_um=90)
    um = section.obsm["spatial"] * 1.6
    gaps = np.linalg.norm(um[:, None] - um[None], axis=2)
    np.fill_diagonal(gaps, np.inf)
    assert gaps.min(axis=1) == pytest.approx(90, abs=1e-6)
    row, col = section.obs["array_row"].to_numpy(), section.obs["array_col"].to_numpy()
    first = row == row[len(row) // 2]
    steps = np.diff(np.sort(col[first]))
    assert steps.min() == (2 if lattice == "hex" else 1)
    per_column = 45 if lattice == "hex" else 90
    assert np.ptp(um[:, 0] - per_column * col) == pytest.approx(0, abs=1e-6)


def test_counts_tend_to_the_truth():
    section = one(overdispersion=0, depth=1_000_000)
    x = counts(section)
    assert (x == np.round(x)).all() and x.min() >= 0
    expected = truth(section).expression(section.obsm["spatial"])
    assert np.abs(log_share(x) - expected).max() < 0.3
    biology = truth(section).expression(section.obsm["spatial"], batch=False)
    assert np.abs(log_share(x) - biology).max() > 0.5


def test_truth_adds_up_to_ten_thousand(sections):
    values = truth(sections[0]).expression(sections[0].obsm["spatial"])
    assert values.dtype == np.float32
    assert np.expm1(values).sum(axis=1) == pytest.approx(1e4, rel=1e-3)


def test_depth_is_what_was_asked():
    ordinary, deep = (counts(one(depth=d)).sum(axis=1).mean() for d in (1000, 4000))
    assert 600 < ordinary < 1700
    assert deep / ordinary == pytest.approx(4, rel=0.1)


def test_overdispersion_adds_to_poisson_variance():
    def excess(overdispersion):
        """The negative binomial's `a`, from (variance - mean) / mean**2 round the truth."""
        section = one(overdispersion=overdispersion, depth=20_000)
        share = np.expm1(truth(section).expression(section.obsm["spatial"])) / 1e4
        x = counts(section).astype(float)
        mean = x.sum(axis=1, keepdims=True) * share
        return np.median((((x - mean) ** 2 - mean) / mean**2).mean(axis=0))

    assert abs(excess(0.0)) < 0.02
    assert excess(0.4) == pytest.approx(0.4, rel=0.35)


def test_dropout_loses_counts():
    whole, lossy = (np.mean(counts(one(dropout=d, depth=50_000)) == 0) for d in (0.0, 0.4))
    assert whole < 0.02
    assert lossy == pytest.approx(0.4, abs=0.03)


def test_the_image_shows_determined_genes_only():
    """Colours learned on two donors explain markers in a third; hidden genes stay hidden."""
    test, *train = synthetic_sections(3, 1, **{**SMALL, "size_um": 1300, "n_genes": 240})
    axis = np.arange(60, 750, 20.0)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)

    def seen_and_true(section):
        known = truth(section)
        points = grid[known.domains(grid) != "glass"]
        stain = -np.log((read_image(section) + 1.0) / 256)
        dark = stain[..., 0] > 1
        empty = stain[..., 1] < 0.25
        maps = [*np.moveaxis(stain, 2, 0), dark * 1.0, empty * 1.0, stain[..., 0] ** 2]
        x, y = points.round().astype(int).T
        seen = np.stack([uniform_filter(m, w)[y, x] for m in maps for w in (15, 40)], axis=1)
        seen = (seen - seen.mean(axis=0)) / seen.std(axis=0)  # stains differ between donors
        seen = np.column_stack([np.ones(len(x)), seen, seen**2])
        return seen, known.expression(points, batch=False)

    seen, true = (np.concatenate(parts) for parts in zip(*map(seen_and_true, train), strict=True))
    weights, *_ = np.linalg.lstsq(seen, true, rcond=None)
    seen, true = seen_and_true(test)
    kinds = truth(test).genes["kind"].to_numpy()
    score = {
        kind: np.median(per_gene((seen @ weights)[:, kinds == kind], true[:, kinds == kind]))
        for kind in ("marker", "state", "position", "section")
    }
    assert score["marker"] > 0.5
    assert score["marker"] > score["state"] + 0.1
    assert score["marker"] > max(abs(score["position"]), abs(score["section"])) + 0.3


def test_hidden_genes_know_nothing_of_cells(sections):
    """Two widths mix other cells; genes without morphology stay exactly where they are."""
    known = truth(sections[0])
    points = sections[0].obsm["spatial"]
    change = np.abs(known.expression(points, 20) - known.expression(points, 150)).max(axis=0)
    none = (known.genes["morphology"] == "none").to_numpy()
    assert change[none].max() < 1e-5
    assert change[~none].min() > 0.1


def test_serial_sections_share_architecture_and_hidden_position_genes(sections):
    axis = np.arange(60, 570, 15.0)
    points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    known = [truth(s) for s in sections]
    domains = [k.domains(points) for k in known]

    def agreement(a, b):
        both = (domains[a] != "glass") & (domains[b] != "glass")
        return (domains[a] == domains[b])[both].mean()

    assert agreement(0, 1) > 0.6
    assert agreement(0, 1) > agreement(0, 2) + 0.2
    assert agreement(2, 3) > agreement(1, 3) + 0.2
    assert not np.array_equal(domains[0], domains[1])

    on_all = np.logical_and.reduce([d != "glass" for d in domains])
    levels = [k.expression(points[on_all]) for k in known]
    of = {kind: (known[0].genes["kind"] == kind).to_numpy() for kind in ("position", "section")}

    def alike(a, b, kind):
        return np.median(per_gene(levels[a][:, of[kind]], levels[b][:, of[kind]]))

    assert alike(0, 1, "position") > 0.7
    assert abs(alike(0, 2, "position")) < 0.5
    assert abs(alike(0, 1, "section")) < 0.5


def test_donors_differ_by_batch_and_batch_can_be_taken_out(sections):
    levels = {}
    for batch in (True, False):
        means = [
            truth(s).expression(s.obsm["spatial"], batch=batch).mean(axis=0)
            for s in (sections[0], sections[2])
        ]
        same = (truth(sections[0]).genes["kind"] == "housekeeping").to_numpy()
        levels[batch] = np.abs(means[0] - means[1])[same].max()
    assert levels[False] < 1e-5
    assert levels[True] > 0.2


def test_a_finer_truth_holds_more_variance(sections):
    known = truth(sections[0])
    axis = np.arange(100, 520, 6.0)
    points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    points = points[known.domains(points) != "glass"]
    markers = (known.genes["kind"] == "marker").to_numpy()
    fine, spot, coarse = (
        known.expression(points, width)[:, markers].var(axis=0).mean() for width in (15, 55, 200)
    )
    assert fine > 1.03 * spot
    assert spot > 1.1 * coarse
    lost = (known.expression(points, 15) - known.expression(points, 55))[:, markers]
    assert (lost**2).mean() > 0.15 * fine


def test_truth_off_the_tissue_is_undefined(sections):
    known = truth(sections[0])
    corner = np.array([[2.0, 2.0], [312.0, 312.0]])
    assert known.domains(corner)[0] == "glass" != known.domains(corner)[1]
    values = known.expression(corner)
    assert np.isnan(values[0]).all() and np.isfinite(values[1]).all()
    assert known.expression(corner[:0]).shape == (0, 120)


def test_composition_follows_the_cells(sections):
    known = truth(sections[0])
    shares = known.composition(sections[0].obsm["spatial"])
    assert list(shares.columns) == list(CELL_TYPES)
    assert shares.sum(axis=1).to_numpy() == pytest.approx(1)
    fat = (sections[0].obs["domain"] == "fat").to_numpy()
    assert shares["adipocyte"][fat].mean() > 3 * shares["adipocyte"][~fat].mean()
    assert set(known.cells["type"].cat.categories) == set(CELL_TYPES)


def test_truth_survives_a_file_and_a_selection_of_spots(sections, tmp_path):
    import anndata

    part = sections[1][10:40].copy()
    with anndata.settings.override(allow_write_nullable_strings=True):  # pandas 3
        part.write_h5ad(tmp_path / "part.h5ad")
    back = anndata.read_h5ad(tmp_path / "part.h5ad")
    points = part.obsm["spatial"]
    assert np.array_equal(truth(back).expression(points), truth(sections[1]).expression(points))
    assert list(back.obs["domain"]) == list(truth(back).domains(points))


def test_no_truth_where_expression_is_hidden(sections):
    with pytest.raises(ValueError, match="no known truth"):
        truth(hide_expression(sections[0]))


def test_genes_of_known_cell_types(sections):
    genes = truth(sections[0]).genes
    assert list(genes.index) == list(sections[0].var_names)
    assert set(genes["morphology"]) == {"determined", "partly", "none"}
    assert genes.loc["EPCAM", "marker_of"] == "tumour"
    domain = sections[0].obs["domain"].to_numpy()
    level = log_share(counts(sections[0]))[:, sections[0].var_names.get_loc("EPCAM")]
    assert level[domain == "tumour"].mean() > level[domain == "fat"].mean() + 0.5


def test_asking_changes_nothing(sections):
    genes = truth(sections[0]).genes
    genes["morphology"] = "none"
    assert set(truth(sections[0]).genes["morphology"]) == {"determined", "partly", "none"}


@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"n_donors": 0}, "n_donors"),
        ({"sections_per_donor": 1.5}, "sections_per_donor"),
        ({"seed": -1}, "seed"),
        ({"n_genes": 5}, "n_genes"),
        ({"size_um": 50}, "size_um"),
        ({"um_per_px": 0}, "um_per_px"),
        ({"pitch_um": -5}, "pitch_um"),
        ({"pitch_um": 50, "spot_um": 60}, "spot_um"),
        ({"depth": float("nan")}, "depth"),
        ({"overdispersion": -0.1}, "overdispersion"),
        ({"dropout": 1.0}, "dropout"),
        ({"batch_effect": "big"}, "batch_effect"),
        ({"lattice": "round"}, "lattice"),
    ],
)
def test_wrong_parameters_are_named(wrong, named):
    with pytest.raises(ValueError, match=named):
        synthetic_sections(**wrong)


def test_wrong_questions_are_named(sections):
    known = truth(sections[0])
    with pytest.raises(ValueError, match="points_px"):
        known.expression(np.zeros(3))
    with pytest.raises(ValueError, match="width_um"):
        known.expression(np.zeros((1, 2)), 0)
