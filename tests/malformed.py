"""Files and options that cannot be right, and what must be said about each.

`CASES` is the table, in parts by layout; ``Templates(folder).make(case, other_folder)`` makes one.
Nothing here needs pytest, so that the command line can walk the same table.
"""

from __future__ import annotations

import malformed_stores
import malformed_tables
import malformed_visium
from damage import Case, Templates

__all__ = ["CASES", "Case", "Templates"]

CASES: list[Case] = [
    *malformed_visium.visium(),
    *malformed_visium.matrices(),
    *malformed_visium.others(),
    *malformed_tables.tables(),
    *malformed_stores.stores(),
]
