"""A short learning run, measured once for all tests of its page."""

import pytest

from gramian.images.evaluation.record import LearningRecord, learning_record
from gramian.images.run import LearningRun, RunSettings


@pytest.fixture(scope="session")
def record() -> LearningRecord:
    run = LearningRun(RunSettings(groups=8, size=2, patch=8, steps=20, batch=16, iterations=5, report_every=10))
    while not run.finished:
        run.advance()
        if run.should_report:
            run.metrics.append(run.evaluate(seconds=1.0))
    return learning_record(run)
