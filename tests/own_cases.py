"""Cases of one's own: `GRAMIAN_CASES=FILE python -m pytest tests/laws` runs the laws over those of a file, too.

The file defines one or more of `PENALTIES`, `RULES`, `LAYOUTS` and `PRIORS`, each a dictionary as in `tests/cases.py`
and `tests/prior_cases.py`. `docs/extending.md` has an example of each.
"""

import os
import runpy
from typing import Any


def own_cases(table: str) -> dict[str, Any]:
    """Return the cases that the file adds to a table; none without a file."""
    path = os.environ.get("GRAMIAN_CASES")
    return runpy.run_path(path).get(table, {}) if path else {}
