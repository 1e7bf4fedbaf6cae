"""The explorers: what they draw, what they say, and what is left without a running kernel."""

from __future__ import annotations

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from heclip_course import leakage, widgets
from heclip_lite import config, plotting
from heclip_lite.data import genes, sections
from heclip_lite.data.synthetic import tissue
from heclip_lite.methods import interpolation
from heclip_lite.spatial import domains, superres


@pytest.fixture(scope="module")
def slides():
    """A training section, a held-out one, a panel, and predictions."""
    training, held_out = tissue.synthetic_sections(1, 2, size_um=900)
    panel = genes.GenePanel(tuple(training.var_names[:20]), {})
    return training, held_out, panel, genes.expression(held_out, panel)


@pytest.fixture
def explorer(slides):
    training, held_out, panel, measured = slides
    rows = np.tile(np.arange(6), (held_out.n_obs, 1))
    return widgets.gene_explorer(
        held_out,
        {"HECLIP": measured / 2, "ridge": measured / 4},
        panel.genes,
        training=[training],
        rows=rows,
        gene=panel.genes[3],
    )


def title(explorer) -> str:
    return explorer.figure.get_suptitle()


def test_explorer_shows_the_chosen_gene_method_and_spot(explorer, slides):
    _, _, panel, measured = slides
    explorer.controls["spot"].value = 5
    explorer.controls["method"].value = "ridge"
    level = measured[5, 3]
    assert title(explorer).startswith(
        f"{panel.genes[3]} in spot 5: measured {level:.2f}, ridge {level / 4:.2f}"
    )
    explorer.controls["gene"].value = panel.genes[7]
    assert title(explorer).startswith(f"{panel.genes[7]} in spot 5: measured {measured[5, 7]:.2f}")


def test_explorer_shows_the_retrieved_patches_with_their_levels(explorer, slides):
    training, _, panel, _ = slides
    there = genes.expression(training, panel)[:5, 3]
    titles = [ax.get_title() for ax in explorer.figure.axes]
    name = training.obs["section"].iloc[0]
    assert [t for t in titles if t.startswith(f"{name}: ")] == [f"{name}: {v:.2f}" for v in there]
    assert "held-out spot" in titles


def test_a_gene_is_found_in_any_case(explorer, slides):
    explorer.controls["gene"].value = f" {slides[2].genes[7].lower()} "
    assert explorer.message == ""
    assert title(explorer).startswith(slides[2].genes[7])


def test_unknown_gene_and_spot_are_named_and_the_last_figure_stays(explorer, slides):
    before = title(explorer)
    explorer.controls["gene"].value = slides[2].genes[0] + "<b>"
    assert "There is no gene" in explorer.message and slides[2].genes[0] in explorer.message
    assert "<b>" not in explorer.message, "what was typed is text, not markup"
    assert title(explorer) == before
    explorer.controls["gene"].value = slides[2].genes[0]
    assert explorer.message == ""
    explorer.controls["spot"].value = 10_000
    assert "There is no spot 10000" in explorer.message
    explorer.controls["spot"].value = -1
    assert "There is no spot -1" in explorer.message


def test_controls_have_labels_and_answer_to_the_keyboard(explorer):
    for control in explorer.controls.values():
        assert control.description
        assert getattr(control, "continuous_update", False) is False


def test_explorer_works_without_retrieved_spots(slides):
    _, held_out, panel, measured = slides
    made = widgets.gene_explorer(held_out, {"HECLIP": measured}, panel.genes)
    assert title(made).startswith(panel.genes[0])


def test_what_does_not_fit_is_named_at_once(slides):
    training, held_out, panel, measured = slides
    with pytest.raises(ValueError, match="'HECLIP' has shape"):
        widgets.gene_explorer(held_out, {"HECLIP": measured[:, :3]}, panel.genes)
    with pytest.raises(ValueError, match="no prediction"):
        widgets.gene_explorer(held_out, {}, panel.genes)
    with pytest.raises(ValueError, match="both `training` and `rows`"):
        widgets.gene_explorer(held_out, {"a": measured}, panel.genes, training=[training])
    rows = np.full((held_out.n_obs, 3), training.n_obs)
    with pytest.raises(ValueError, match=f"{training.n_obs} training spots"):
        widgets.gene_explorer(
            held_out, {"a": measured}, panel.genes, training=[training], rows=rows
        )
    with pytest.raises(ValueError, match="no gene 'NONE'"):
        widgets.gene_explorer(held_out, {"a": measured}, panel.genes, gene="NONE")


def test_slide_explorer_steps_through_sections_and_genes(slides):
    training, held_out, panel, _ = slides
    made = widgets.slide_explorer([training, held_out], panel.genes)
    first = plotting.png(made.figure)
    made.controls["gene"].index = 4
    assert panel.genes[4] in title(made)
    assert plotting.png(made.figure) != first
    name = sections.name_of(held_out)
    made.controls["section"].value = name
    assert made.figure.axes[0].get_title().startswith(name)
    assert panel.genes[4] in title(made), "the gene stays"
    shown = widgets.slide_explorer([training, held_out], panel.genes, section=name)
    assert shown.figure.axes[0].get_title().startswith(name)
    assert widgets.slide_explorer(training, panel.genes).controls["section"].options


def test_slide_explorer_says_what_does_not_exist(slides):
    training, held_out, panel, _ = slides
    names = f"{sections.name_of(training)}, {sections.name_of(held_out)}"
    both = [training, held_out]
    with pytest.raises(ValueError, match=f"no section 'P9'; there are {names}"):
        widgets.slide_explorer(both, panel.genes, section="P9")
    with pytest.raises(ValueError, match=f"no gene 'NONE' in section {names}"):
        widgets.slide_explorer(both, ["NONE"])
    with pytest.raises(ValueError, match="no gene to choose"):
        widgets.slide_explorer(training, [])
    with pytest.raises(ValueError, match="0 sections"):
        widgets.slide_explorer([], panel.genes)
    with pytest.raises(ValueError, match="2 sections with 1 names"):
        widgets.slide_explorer([training, training], panel.genes)


def test_a_gene_that_a_section_does_not_list_is_named_and_the_last_figure_stays(slides):
    training, held_out, panel, _ = slides
    gene, name = panel.genes[2], sections.name_of(held_out)
    fewer = held_out[:, held_out.var_names != gene].copy()
    made = widgets.slide_explorer([training, fewer], panel.genes)
    made.choose(gene=gene)
    before = title(made)
    with pytest.raises(ValueError, match=f"Section {name} does not list gene {gene}"):
        made.choose(section=name)
    assert f"does not list gene {gene}" in made.message and title(made) == before
    made.choose(gene=panel.genes[3])
    assert made.message == "" and made.figure.axes[0].get_title().startswith(name)


def test_what_is_chosen_from_code_is_checked(slides, explorer):
    training, _, panel, _ = slides
    made = widgets.slide_explorer(training, panel.genes)
    with pytest.raises(ValueError, match=r"Gene: there is no 'NONE'; choose one of .* more"):
        made.choose(gene="NONE")
    with pytest.raises(ValueError, match=r"Section: there is no 'P9'; choose one of"):
        made.choose(section="P9")
    with pytest.raises(ValueError, match="no control 'spot'; there are section, gene"):
        made.choose(spot=3)
    with pytest.raises(ValueError, match="There is no spot 9999"):
        explorer.choose(spot=9999)
    with pytest.raises(ValueError, match="there is no 'five'"):
        explorer.choose(spot="five")
    explorer.choose(spot=5, method="ridge")
    assert "in spot 5" in title(explorer)


def test_a_choice_that_fails_says_so(slides):
    made = widgets.slide_explorer(slides[0], slides[2].genes)
    made._draw = lambda **_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        made.choose(gene=slides[2].genes[1])
    assert "This choice failed with ZeroDivisionError" in made.message


def test_the_figure_is_an_output_of_its_own(tmp_path):
    """The site drops outputs that hold a widget: the picture must not be in one of them."""
    from nbclient import NotebookClient

    code = (
        "from heclip_course import widgets\n"
        "from heclip_lite import plotting\n"
        "from heclip_lite.data.synthetic import tissue\n"
        "plotting.use_style()\n"
        "section = tissue.synthetic_sections(1, 1, size_um=600)[0]\n"
        "made = widgets.slide_explorer(section, section.var_names[:5])\n"
        "made"
    )
    cells = [new_code_cell(code), new_code_cell("made.controls['gene'].index = 3")]
    notebook = new_notebook(cells=cells)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    nbformat.validate(notebook)
    kinds = [set(o.data) for o in notebook.cells[0].outputs if "data" in o]
    widget = "application/vnd.jupyter.widget-view+json"
    assert [widget in kind for kind in kinds] == [True, False]
    assert "image/png" in kinds[1]
    pictures = [
        o.data["image/png"] for o in notebook.cells[0].outputs if "image/png" in o.get("data", {})
    ]
    assert len(pictures) == 1, "a choice changes the figure in its place and adds none"


def test_target_explorer_shows_targets_sharpen():
    image = np.random.default_rng(0).normal(size=(8, 64))
    explorer = widgets.target_explorer(image)
    title = explorer.figure.axes[0].get_title()
    assert title.startswith("temperature 1: 1.0 effective targets of 8")
    explorer.controls["temperature"].value = 1000.0
    assert "8.0 effective targets" in explorer.figure.axes[0].get_title()
    assert explorer.figure.axes[0].images[0].get_clim() == (0, 1), "a pale matrix has to look pale"
    explorer.controls["temperature"].value = 1.0
    explorer.controls["scaled"].value = True
    assert "1.0 effective" not in explorer.figure.axes[0].get_title()
    with pytest.raises(ValueError, match="give embeddings"):
        widgets.target_explorer(np.zeros(3))


def test_resolution_explorer_slides_over_factors(slides):
    training, _, panel, _ = slides
    method = interpolation.InverseDistance((2.0,))
    method.panel = panel
    method.fit([training])
    dense = {f: superres.predict(method, superres.fill_in(training, f)) for f in (4, 9)}
    explorer = widgets.resolution_explorer(
        training, dense, truth=tissue.truth(training).expression, genes=panel.genes[:3]
    )
    assert [ax.get_title() for ax in explorer.figure.axes[:3]] == [
        "measured",
        f"predicted, 4x, {dense[4].n_obs:,} points",
        "true",
    ]
    explorer.controls["factor"].value = f"9x, {dense[9].n_obs:,} points"
    assert "9x" in explorer.figure.axes[1].get_title()
    with pytest.raises(ValueError, match="no gene 'NONE'"):
        widgets.resolution_explorer(training, dense, genes=["NONE"])
    with pytest.raises(ValueError, match="no dense section"):
        widgets.resolution_explorer(training, {})
    with pytest.raises(ValueError, match="there is no '16x'"):
        explorer.choose(factor="16x")
    fewer = {4: dense[4], 9: dense[9][:, 1:].copy()}
    with pytest.raises(ValueError, match=r"dense section of factor 9: There is no gene"):
        widgets.resolution_explorer(training, fewer, genes=panel.genes[:3])
    lacking = training[:, training.var_names != panel.genes[0]].copy()
    with pytest.raises(ValueError, match=f"In section .*: There is no gene '{panel.genes[0]}'"):
        widgets.resolution_explorer(lacking, dense, genes=panel.genes[:3])


def test_domain_explorer_finds_and_scores(slides):
    training, _, _, _ = slides
    inputs = {"expression": domains.expression(training)}
    explorer = widgets.domain_explorer(training, inputs)
    before = explorer.figure.get_suptitle()
    assert before.startswith("ARI ")
    explorer.controls["number"].value = 2
    assert explorer.figure.get_suptitle() != before
    explorer.controls["smooth"].value = 3
    smooth = domains.find_domains(training, 2, features=inputs["expression"], smooth=3)
    ari = domains.score(smooth)["ari"]
    assert explorer.figure.get_suptitle().startswith(f"ARI {ari:.2f}")
    bare = training.copy()
    del bare.obs["domain"]
    (legend,) = [a.get_legend() for a in widgets.domain_explorer(bare, inputs).figure.axes]
    assert legend.get_title().get_text() == "found in expression"
    with pytest.raises(ValueError, match="nothing to find domains in"):
        widgets.domain_explorer(training, {})
    with pytest.raises(ValueError, match=r"'few' has shape \(5, 2\), but section .* spots"):
        widgets.domain_explorer(training, {"few": np.zeros((5, 2))})
    with pytest.raises(ValueError, match=r"no column 'layer' in obs; it has"):
        widgets.domain_explorer(training, inputs, labels="layer")


def test_leak_explorer_shows_a_pipeline_beside_the_honest_one(small_sections):
    table = leakage.simulate(small_sections, "P1-1", config.AppearanceInput())
    made = widgets.leak_explorer(table)
    assert title(made) == "This pipeline: tested on random spots."
    (ax,) = made.figure.axes
    honest, reported = ax.lines[0].get_xdata(), ax.lines[1].get_xdata()
    assert np.allclose(honest, leakage.scores(table))
    assert np.allclose(reported, leakage.scores(table, leakage.Leaks(split="random spots")))
    limits = ax.get_xlim()
    made.choose(split="new donor")
    assert title(made) == "This pipeline: nothing leaks."
    assert np.allclose(made.figure.axes[0].lines[1].get_xdata(), honest)
    made.choose(fitted=True, corrected=True, panel=leakage.PANELS[2])
    everything = leakage.Leaks("new donor", leakage.PANELS[2], "training and test", "corrected")
    assert np.allclose(made.figure.axes[0].lines[1].get_xdata(), leakage.scores(table, everything))
    assert made.figure.axes[0].get_xlim() == limits, "one axis for all choices"
    with pytest.raises(ValueError, match=r"no column truth; make it with leakage\.simulate"):
        widgets.leak_explorer(table.drop(columns="truth"))
    with pytest.raises(ValueError, match="Tested on: there is no 'spots'"):
        made.choose(split="spots")
