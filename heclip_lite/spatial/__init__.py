"""What a fitted method does in space: dense points, whole slides, domains."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "bare_slides",
        "domains",
        "slide_job",
        "slide_parts",
        "superres",
        "wholeslide",
    ],
    submod_attrs={
        "superres": ["fill_in", "grid"],
        "domains": ["NoSuchNumber", "find_domains"],
        "wholeslide": ["predict_slide"],
    },
)
