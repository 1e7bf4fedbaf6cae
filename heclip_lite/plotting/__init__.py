"""The figures of the book.

Every function returns a matplotlib `Figure`, which a notebook shows where it is a cell's last line.
Figures have a white ground, so that stains and colour scales look the same on a dark page,
and colours that readers with any colour vision can tell apart (Okabe and Ito, viridis).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "charts",
        "dense",
        "results",
        "style",
        "pictures",
    ],
    submod_attrs={
        "charts": [
            "bars",
            "contest",
            "curves",
            "gene_scores",
            "history",
            "matrices",
            "scatter2d",
            "spread_against_error",
        ],
        "style": ["COLOURS", "LEVEL", "METHOD_COLOURS", "WIDTH", "png", "use_style"],
        "dense": ["domain_scores", "enrichment", "input_name", "recovered", "resolution"],
        "results": [
            "ablation",
            "ceiling_scatter",
            "depth",
            "fold_means",
            "growth",
            "intervals",
            "ledger",
            "paired_differences",
            "ranking",
            "readable",
            "scopes",
            "set_name",
        ],
        "pictures": [
            "domains_beside",
            "draw_maps",
            "draw_neighbours",
            "expression_maps",
            "neighbours",
            "patches",
            "slide",
            "slides",
            "tallness",
        ],
    },
)
