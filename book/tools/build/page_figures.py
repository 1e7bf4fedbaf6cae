"""Figures of the pages that are drawn from tables: each with its alternative text and caption."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from heclip_lite import plotting

Draw = Callable[[str, Any, str, str], str]


def drawer(folder: Path, page: str) -> Draw:
    """How `page` draws a figure: ``draw(name, figure, alt, caption)`` writes it into `folder`.

    What it returns is the figure's place in the page, as Markdown.
    """
    plotting.use_style()
    folder.mkdir(parents=True, exist_ok=True)

    def draw(name: str, figure: Any, alt: str, caption: str) -> str:
        file = f"{page}-{name}.png"
        (folder / file).write_bytes(plotting.png(figure))
        return (
            f"```{{figure}} _static/{file}\n:name: fig-{page}-{name}\n:alt: {alt}\n\n{caption}\n```"
        )

    return draw
