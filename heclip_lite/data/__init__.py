"""Sections: what they are, how they are read, drawn, checked, brought together and written."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "contract",
        "datasets",
        "dlpfc",
        "download",
        "export",
        "genes",
        "her2st",
        "images",
        "lattice",
        "patches",
        "pyramid",
        "readers",
        "registration",
        "sections",
        "slide_files",
        "synthetic",
    ],
    submod_attrs={
        "contract": [
            "check_section",
            "common_genes",
            "donor_of",
            "name_of",
            "read_image",
            "spot_diameter_um",
            "spot_pitch_um",
            "um_per_px",
        ],
        "sections": ["hide_expression", "make_section", "piece"],
        "her2st": ["read_her2st"],
        "dlpfc": ["read_dlpfc"],
        "genes": ["GenePanel", "expression", "fit_panel"],
        "registration": ["harmonise"],
        "patches": ["cut_patches"],
        "readers.layouts": ["read_section"],
        "readers.gene_ids": ["match_genes"],
        "synthetic.tissue": ["synthetic_sections", "truth"],
    },
)
