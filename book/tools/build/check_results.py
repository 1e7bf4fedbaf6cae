"""Check that every chapter left its results, made on the device that was asked for."""

from __future__ import annotations

import argparse
import json
import sys

from book.tools.build.run_notebooks import result_files
from book.tools.settings import RESULTS, notebooks


def main() -> int:
    """Say which results are missing or were made on another device; 0 where all is well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", required=True, help="cpu, cuda or mps")
    device = parser.parse_args().device
    complaints = []
    for notebook in notebooks():
        files = result_files(notebook, RESULTS)
        if not files:
            complaints.append(f"{notebook.stem}: no results")
        for path in files:
            used = json.loads(path.read_text(encoding="utf-8")).get("device")
            if used != device:
                complaints.append(f"{path.name}: made on {used}, not on {device}")
    print("\n".join(complaints) or f"All results were made on {device}.")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
