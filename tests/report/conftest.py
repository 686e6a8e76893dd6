"""A short learning run, measured once for all tests of its page."""

import pytest

from gramian.cli.record import learning_record
from gramian.coding.learning_run import LearningRun, RunSettings
from gramian.report import LearningRecord


@pytest.fixture(scope="session")
def record() -> LearningRecord:
    run = LearningRun(RunSettings(groups=8, size=2, patch=8, steps=20, batch=16, iterations=5, report_every=10))
    while not run.finished:
        run.advance()
        if run.due:
            run.metrics.append(run.evaluate(seconds=1.0))
    return learning_record(run)
