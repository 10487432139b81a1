"""What all tests keep to."""

from __future__ import annotations

import pytest

collect_ignore = ["conftest.py"]  # for doctests: others are called conftest, too


@pytest.fixture(scope="session", autouse=True)
def _the_log_of_who_runs_the_tests_stays_as_it_is(tmp_path_factory):
    """Also that of processes that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield
