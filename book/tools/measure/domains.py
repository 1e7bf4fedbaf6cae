"""Spatial domains: every input and every way to group spots, beside the known labels.

Writes ``book/results/domains_her2st.csv``, ``domains_dlpfc.csv`` or ``domains_synthetic.csv``.
A stopped run goes on where it stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from anndata import AnnData

from book.tools.measure.jobs import from_command_line, read, size_of, spread
from book.tools.results import write_results
from heclip_lite import evaluation, features, store
from heclip_lite.data import dlpfc, registration, sections
from heclip_lite.methods import recipes
from heclip_lite.methods.base import Method
from heclip_lite.methods.heclip import HECLIP
from heclip_lite.spatial import domains

SEEDS = (0, 1, 2, 3, 4)
ASKED = {"her2st": ("A1",), "dlpfc": ("151510",), "synthetic": ("P1-1", "P2-1", "P3-1")}
INPUTS = (
    *("place", "measured", "image", "predicted", "hidden_other_donors", "hidden_own_slide"),
    *("measured_and_image", "predicted_and_image"),
)


def asked_of(data: str, name: str) -> AnnData:
    """The section whose domains are looked for."""
    if data == "dlpfc":
        return dlpfc.read_dlpfc()
    (found,) = (s for s in read(data) if sections.name_of(s) == name)
    return found


def others_of(data: str, section: AnnData) -> list[AnnData]:
    """Sections of other donors: what predictions of this one may learn from."""
    return [s for s in read(data) if sections.donor_of(s) != sections.donor_of(section)]


def hidden(data: str, training: Sequence[AnnData], section: AnnData) -> np.ndarray:
    """Hidden features of HisToSGE, (spots, features), kept on disk."""
    method = recipes.histosge(size_of(data))
    key = store.content_key(
        evaluation.describe(method),
        [sections.section_key(s) for s in [*training, section]],
    )

    def make() -> np.ndarray:
        return method.fit(training).hidden(sections.hide_expression(section))

    return store.cached_array("hidden", key, make)


def predicted(data: str, section: AnnData) -> np.ndarray:
    """What HECLIP says of the section's genes, having seen other donors only, (spots, genes)."""
    size = size_of(data)
    method: Method = HECLIP.recommended(size.maps, size.heads, members=size.members)
    training = others_of(data, section)
    fold = evaluation.Fold(
        tuple(sections.name_of(s) for s in training), (sections.name_of(section),), unit="donor"
    )
    kept: dict = {}
    evaluation.contest({"heclip": method}, [*training, section], [fold], predictions=kept)
    return kept["heclip", sections.name_of(section)]


def feature(data: str, section: AnnData, name: str) -> np.ndarray:
    """One description of the spots, (spots, features)."""
    if "_and_" in name:
        return domains.together([feature(data, section, part) for part in name.split("_and_")])
    made: dict[str, Callable[[], np.ndarray]] = {
        "place": lambda: registration.positions_um(section),
        "measured": lambda: domains.expression(section),
        "image": lambda: features.table(section, size_of(data).maps),
        "predicted": lambda: predicted(data, section),
        "hidden_other_donors": lambda: hidden(data, others_of(data, section), section),
        "hidden_own_slide": lambda: hidden(data, [section], section),
    }
    return made[name]()


def inputs_of(data: str) -> tuple[str, ...]:
    """DLPFC has a thumbnail only: no input that looks at the image."""
    return ("place", "measured") if data == "dlpfc" else INPUTS


def prepare(data: str, name: str, which: str) -> None:
    """Compute and keep what takes long: predictions and hidden features."""
    feature(data, asked_of(data, name), which)


def job(data: str, name: str, which: str, seeds: tuple[int, ...]) -> None:
    """Find and score the domains of one section from one input; scores stay on disk."""
    measure(data, name, (which,), seeds)


def measure(
    data: str, name: str, which: Sequence[str], seeds: Sequence[int], **options: object
) -> pd.DataFrame:
    """Scores of all methods on some inputs of one section."""
    section = asked_of(data, name)
    count = section.obs["domain"].dropna().nunique()
    values = {one: feature(data, section, one) for one in which}
    return domains.compare(section, values, count, seeds=seeds, **options)


def main() -> int:
    """Measure and write."""
    data, quick = from_command_line(__doc__, tuple(ASKED))
    title = f"domains {data}{' quick' if quick else ''}"
    asked = ASKED[data][:1] if quick else ASKED[data]
    which = tuple(n for n in inputs_of(data) if not quick or n in ("place", "measured", "image"))
    seeds = SEEDS[:1] if quick else SEEDS
    slow = [(data, name, one) for name in asked for one in which if "_and_" not in one]
    seconds = spread(prepare, slow, label=f"{title}, inputs")
    todo = [(data, name, one, seeds) for name in asked for one in which]
    seconds += spread(job, todo, label=title)
    table = pd.concat([measure(data, name, which, seeds) for name in asked], ignore_index=True)
    settings = {"data": data, "sections": list(asked), "seeds": list(seeds), "quick": quick}
    write_results(f"domains_{data}", table, seconds=seconds, settings=settings, quick=quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
