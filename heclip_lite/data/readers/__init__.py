"""Read a section of your own: one call for every layout, and one file for each of them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "assemble",
        "matrices",
        "files",
        "gene_ids",
        "h5ad",
        "images",
        "layouts",
        "orientation",
        "spatialdata",
        "tables",
        "visium",
    ],
    submod_attrs={
        "layouts": ["LAYOUTS", "detect", "read_section"],
        "gene_ids": ["match_genes"],
    },
)
