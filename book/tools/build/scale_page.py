"""The page on scale: retrieval among many references, whole slides, and throughput."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from book.tools.build.benchmark_page import markdown
from book.tools.build.page_figures import drawer
from book.tools.results import code_key, is_committed, read_results, read_settings
from heclip_lite import plotting

PAGE = "scale.md"
SPEED = {"speed_cpu": "processor", "speed_cuda": "graphics card"}  # what each was measured on
TABLES = {
    "retrieval": "make benchmark-retrieval",
    "wholeslide": "make benchmark-slide",
    **dict.fromkeys(SPEED, "make benchmark-speed"),
}


def fill_in(figures: Path) -> dict[str, str]:
    """Generated text by the marker it replaces; draws the figure into `figures`."""
    table, record = read_results("retrieval")
    picture = drawer(figures, "scale")(
        "retrieval",
        plotting.growth(table),
        "Three charts over the number of references, one line for each of three ways to search.",
        "Searching among more and more references: seconds of the processor for all queries, "
        "memory beyond the index, and the share of the true neighbours that was found.",
    )
    slides, of_slides = read_results("wholeslide")
    return {
        "scale-record": record_text(record) + other_code(),
        "scale-retrieval": "\n\n".join([found_text(table), picture, retrieval_table(table)]),
        "scale-slides": "\n\n".join([slides_text(slides, of_slides), slides_table(slides)]),
        "scale-speed": "\n\n".join(map(speed_text, SPEED)),
    }


def record_text(record: dict) -> str:
    """What was asked, and on what."""
    asked = record["settings"]
    return (
        f"`make benchmark-retrieval` asked {asked['queries']:,} queries of {asked['dim']} "
        f"dimensions for their {asked['k']} nearest, with a recall of "
        f"{asked['recall_asked']:.2f} asked of the approximate index; on {record['device']} with "
        f"{asked['threads']} thread(s), torch {record['versions']['torch']} and faiss "
        f"{asked['faiss']}, in {record['seconds'] / 60:.0f} minutes.\n"
        "All times are seconds of the processor, so that what else ran beside does not count."
    )


def other_code() -> str:
    """A warning that names the tables which other code has made; empty if there is none."""
    there = [name for name in TABLES if is_committed(name)]
    old = [name for name in there if read_settings(name).get("code") != code_key(name)]
    if not old:
        return ""
    again = ", ".join(f"`{command}`" for command in dict.fromkeys(TABLES[name] for name in old))
    return (
        "\n\n:::{admonition} Measured with other code\n:class: warning\n"
        f"The code that makes these tables has changed since: {', '.join(old)}. "
        f"{again} measures them again.\n:::"
    )


def found_text(table: pd.DataFrame) -> str:
    """What the table says of the largest number of references."""
    most = int(table["references"].max())
    at = table[table["references"] == most].set_index("way")
    exact, near = at.loc["exact"], at.loc["approximate"]
    flat = table[(table["way"] == "exact") & (table["references"] >= 10_000)]["search_mib"]
    return (
        f"Among {most:,} references, exact search takes {exact['search_seconds']:.1f} s and the "
        f"approximate one {near['search_seconds']:.2f} s, once {near['build_seconds']:.0f} s have "
        f"arranged them; it finds {near['recall']:.1%} of the neighbours.\n"
        f"From ten thousand references on, a search by the exact index takes {flat.min():.0f} to "
        f"{flat.max():.0f} MiB beyond the index, whatever their number."
    )


def retrieval_table(table: pd.DataFrame) -> str:
    """All rows, with units."""
    shown = pd.DataFrame(
        {
            "References": [f"{n:,}" for n in table["references"]],
            "Way": table["way"],
            "Arranging, s": table["build_seconds"],
            "Search, s": table["search_seconds"],
            "Index, MiB": table["index_mib"].round().astype(int),
            "Search, MiB": table["search_mib"].round().astype(int),
            "Recall": table["recall"],
        }
    )
    return markdown(shown, left=2)


def slides_text(table: pd.DataFrame, record: dict) -> str:
    """What the largest slide took."""
    most = table.loc[table["side_px"].idxmax()]
    return (
        f"A slide of {int(most['side_px']):,} x {int(most['side_px']):,} px, "
        f"{most['slide_mib'] / 1024:.1f} GiB if it were decoded, was predicted at "
        f"{int(most['points']):,} points in {most['seconds']:.0f} s on {record['device']} with "
        f"{record['settings']['threads']} thread(s) and at most {most['mib']:.0f} MiB beyond the "
        f"loaded model: the median time and the most memory of {record['settings']['runs']} runs."
    )


def slides_table(table: pd.DataFrame) -> str:
    """All slides, with units."""
    shown = pd.DataFrame(
        {
            "Side, px": [f"{n:,}" for n in table["side_px"]],
            "Decoded, MiB": table["slide_mib"].round().astype(int),
            "Points": [f"{n:,}" for n in table["points"]],
            "Seconds": table["seconds"].round().astype(int),
            "MiB beyond the model": table["mib"].round().astype(int),
        }
    )
    return markdown(shown)


def speed_text(name: str) -> str:
    """What was measured on one kind of device; where nothing was, that."""
    if not is_committed(name):
        return f"No {SPEED[name]} has been measured yet; `make benchmark-speed` does it on one."
    table, record = read_results(name)
    asked = record["settings"]
    by = table.set_index(["task", "variant"])
    lines = [
        f"On a {SPEED[name]} ({asked['device_name']}, {asked['cores']} cores), batches of "
        f"{table['batch'].iloc[0]}; a large matrix product runs at "
        f"{table['limit_tflops'].max():.2f} Tflop/s there, which is taken as the limit; it is "
        "measured too, so a share can come out above 100%."
    ]
    for task, what in {"train": "Training", "extract": "Extracting features"}.items():
        ours, plain = by.loc[(task, "ours")], by.loc[(task, "plain")]
        waits = ours["load_s"] / (ours["load_s"] + ours["step_s"])
        waits_plain = plain["load_s"] / (plain["load_s"] + plain["step_s"])
        lines.append(
            f"{what} is {ours['ratio_to_plain']:.2f} times as fast as in the plain loop, which "
            f"waits for its batches {waits_plain:.0%} of the time, ours {waits:.0%}; they reach "
            f"{plain['share_of_limit']:.0%} and {ours['share_of_limit']:.0%} of the limit."
        )
        if (task, "blocks returned") in by.index:
            gain = by.loc[(task, "blocks returned"), "step_s"] / ours["step_s"]
            lines.append(
                "Ours keeps large blocks of memory, which the system would otherwise take back "
                f"after each use; that alone makes its step {gain:.2f} times as fast as in the row "
                "*blocks returned*."
            )
        if (task, "compiled") in by.index:
            gain = ours["step_s"] / by.loc[(task, "compiled"), "step_s"]
            lines.append(f"With `torch.compile` the step is {gain:.2f} times as fast.")
    shown = pd.DataFrame(
        {
            "Task": table["task"],
            "Variant": table["variant"],
            "Loading, s": table["load_s"],
            "Step, s": table["step_s"],
            "Patches a second": table["patches_per_s"].round(1),
            "To the plain loop": table["ratio_to_plain"],
            "Of the limit": table["share_of_limit"],
        }
    )
    return "\n".join(lines) + "\n\n" + markdown(shown, left=2)
