"""Tests of the package without run-time shape checks; `tests/test_bare.py` runs them in a process of its own."""

import jaxtyping

collect_ignore_glob = [] if jaxtyping.config.jaxtyping_disable else ["test_*.py"]
