"""The explorers of the book, in one place.

Slides are explored by :mod:`heclip_course.slide_widgets`,
models by :mod:`heclip_course.model_widgets`.
"""

from __future__ import annotations

from heclip_course.controls import Explorer
from heclip_course.model_widgets import (
    domain_explorer,
    leak_explorer,
    resolution_explorer,
    target_explorer,
)
from heclip_course.slide_widgets import gene_explorer, slide_explorer

__all__ = [
    "Explorer",
    "domain_explorer",
    "gene_explorer",
    "leak_explorer",
    "resolution_explorer",
    "slide_explorer",
    "target_explorer",
]
