"""Draw the cover: a synthetic slide, one gene as measured, and the same gene as HECLIP predicts it.

The prediction is real: the method learns from the chapters' training sections, and the section
shown comes from a donor that it has never seen.
Run it with ``make cover`` after a change of the tissue or of the recipe.
"""

from __future__ import annotations

import io
import sys

import numpy as np
from anndata import AnnData
from PIL import Image

import heclip_course as course
from book.tools.settings import ROOT, BuildError, notebook_environment
from heclip_lite import store
from heclip_lite.data import genes, sections
from heclip_lite.data.synthetic.tissue import synthetic_sections
from heclip_lite.methods import HECLIP

COVER = ROOT / "book" / "_static" / "cover.png"
GENE = "ERBB2"  # a marker of this tissue's tumour cells: one of the genes that the image does show
SECTION = "P3-1"  # from the donor that the chapters hold out
TILE, HEAD, FOOT = 460, 64, 54  # pixels: side of a square, height of its title, of the colour scale
PAPER = 250  # grey level, light on either page
LARGEST = 400_000  # bytes


def predict() -> tuple[AnnData, np.ndarray, np.ndarray]:
    """The held-out section, with the gene as measured and as predicted, (spots,) each."""
    drawn = {sections.name_of(section): section for section in synthetic_sections()}
    test = drawn[SECTION]
    method = HECLIP.recommended().fit([drawn[n] for n in course.DATASETS["synthetic"].training])
    column = method.genes.index(GENE)
    measured = genes.expression(test, method.panel)[:, column]
    return test, measured, method.predict(sections.hide_expression(test))[:, column]


def draw(section: AnnData, measured: np.ndarray, predicted: np.ndarray) -> Image.Image:
    """Three squares side by side; both maps share one colour scale."""
    from matplotlib import colormaps
    from matplotlib import pyplot as plt
    from matplotlib.collections import EllipseCollection

    image = Image.fromarray(sections.read_image(section))
    scale = TILE / image.width
    slide = np.asarray(image.resize((TILE, TILE), Image.Resampling.LANCZOS))
    pale = (0.3 * slide.mean(axis=2) + 0.7 * PAPER).astype(np.uint8)
    spots = section.obsm["spatial"] * scale
    # A third wider than on the slide, so that colours can still be told apart on a phone.
    width = 1.35 * sections.spot_diameter_um(section) / sections.um_per_px(section) * scale

    colours = colormaps["viridis"].resampled(9)  # few colours keep the file small
    size = (3 * TILE, HEAD + TILE + FOOT)
    figure = plt.figure(figsize=(size[0] / 100, size[1] / 100), dpi=100, facecolor=str(PAPER / 255))
    maps = [("The image", None), (f"{GENE}, measured", measured), (f"{GENE}, predicted", predicted)]
    for i, (title, values) in enumerate(maps):
        ax = figure.add_axes((i / 3, FOOT / size[1], 1 / 3, TILE / size[1]))
        ax.axis("off")
        if values is None:
            ax.imshow(slide, interpolation="none")
        else:
            ax.imshow(pale, interpolation="none", cmap="gray", vmin=0, vmax=255)
            sides = np.full(len(spots), width)
            circles = EllipseCollection(
                sides, sides, np.zeros(len(spots)), units="x", offsets=spots,
                offset_transform=ax.transData, array=values, cmap=colours,
                clim=np.percentile(measured, [2, 98]),
            )  # fmt: skip
            ax.add_collection(circles)
        middle = (i + 0.5) / 3
        figure.text(middle, 1 - HEAD / size[1] / 2, title, fontsize=26, ha="center", va="center")
    bar = figure.add_axes((0.5, 0.3 * FOOT / size[1], 1 / 3, 0.4 * FOOT / size[1]))
    bar.imshow(np.arange(9)[None], aspect="auto", cmap=colours)
    bar.axis("off")
    for x, word, side in ((0.49, "low", "right"), (0.5 + 0.343, "high", "left")):
        figure.text(x, FOOT / size[1] / 2, word, fontsize=24, ha=side, va="center")
    file = io.BytesIO()
    figure.savefig(file)
    plt.close(figure)
    return Image.open(file).convert("RGB")


def main() -> int:
    """Draw the cover and write it."""
    with notebook_environment():
        cover = draw(*predict())
    file = io.BytesIO()
    cover.quantize(256, dither=Image.Dither.NONE).save(file, "png", optimize=True)
    if len(file.getvalue()) > LARGEST:
        raise BuildError(f"The cover has {len(file.getvalue()):,} bytes; make TILE smaller.")
    with store.atomic_path(COVER) as temporary:
        temporary.write_bytes(file.getvalue())
    print(f"{COVER.relative_to(ROOT).as_posix()}: {len(file.getvalue()):,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
