"""The explorers: what they draw, what they say, and what is left without a running kernel."""

from __future__ import annotations

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from heclip_lite import domains, genes, interpolation, plotting, superres, tissue, widgets


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


def test_slide_explorer_steps_through_genes(slides):
    training, _, panel, _ = slides
    made = widgets.slide_explorer(training, panel.genes)
    first = plotting.png(made.figure)
    made.controls["gene"].index = 4
    assert panel.genes[4] in title(made)
    assert plotting.png(made.figure) != first
    with pytest.raises(ValueError, match="NONE"):
        widgets.slide_explorer(training, ["NONE"])


def test_the_figure_is_an_output_of_its_own(tmp_path):
    """The site drops outputs that hold a widget: the picture must not be in one of them."""
    from nbclient import NotebookClient

    code = (
        "from heclip_lite import plotting, tissue, widgets\n"
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
