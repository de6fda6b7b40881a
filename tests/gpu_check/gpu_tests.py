"""Part a, second half: the tests marked ``gpu`` (tests/gpu), each recorded as it ends."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any

from tests.gpu_check.part import Asked, child
from tests.gpu_check.runner import ROOT, traceback_of

TABLE = "Tests"
FILES = ("test_texts.py", "test_memory.py", "test_training.py")
"""In the order of their worth; a test holds them to be all."""


class Recording:
    """A plugin of pytest: a row a test, and no test begun when the time is over."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked

    def pytest_runtest_setup(self) -> None:
        import pytest

        if self.asked.left < 2:
            pytest.skip("No time was left.")

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        name = report.nodeid.rpartition("::test_")[2].replace("_", " ")
        told = "; ".join(f"{key} {shown(value)}" for key, value in report.user_properties)
        why = report.longrepr[2] if report.skipped and isinstance(report.longrepr, tuple) else ""
        cells = {"outcome": report.outcome, "seconds": report.duration}
        self.asked.row(TABLE, name, cells | {"measured": "; ".join(filter(None, (told, why)))})
        if report.failed:
            text = traceback_of(report.longreprtext)
            self.asked.block(f"Failed: {name}", f"```text\n{text}\n```")


def shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def run(asked: Asked) -> None:
    if importlib.util.find_spec("pytest") is None:
        asked.note("Left out: pytest is not installed.")
        return
    import pytest

    os.environ |= {"GPU_TESTS_DEVICE": asked.device, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    # A library's warning on a machine with other versions is no failure here.
    options = ["-q", "-m", "gpu", "-W", "default", "-p", "no:cacheprovider", "--tb=short"]
    files = [str(ROOT / "tests" / "gpu" / name) for name in FILES]
    code = pytest.main([*options, *files], plugins=[Recording(asked)])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        sys.exit(f"pytest ended with {code!r}.")
    if code == pytest.ExitCode.TESTS_FAILED:
        sys.exit("Some tests failed; their tracebacks stand below the table.")


if __name__ == "__main__":
    child("gpu_tests", run)
