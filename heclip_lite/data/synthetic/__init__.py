"""A drawn tissue whose truth is known: anatomy, image and counts."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "anatomy",
        "genes",
        "image",
        "tissue",
    ],
    submod_attrs={
        "tissue": ["Truth", "synthetic_sections", "truth"],
    },
)
