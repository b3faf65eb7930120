"""Reports of a run that is not finished: what the samples so far show of the behaviors that take long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from posttrain.diagnose.pipeline.assemble import Unfinished, assemble
from posttrain.diagnose.progress import Reporter
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.types import Behavior


class FirstReports:
    """Writes the report again each time that a behavior has samples to show.

    Args:
        directory: The run.
        behaviors: All that the run measures.
        reporter: Where the verdict so far is said.
    """

    def __init__(self, directory: RunDirectory, behaviors: Sequence[Behavior], reporter: Reporter) -> None:
        self._directory, self._behaviors, self._reporter = directory, behaviors, reporter
        self._unfinished: dict[str, Unfinished] = {}

    def __call__(self, behavior: Behavior, unfinished: Unfinished) -> None:
        """Say what the samples of a behavior show so far, and write the report of all that have some."""
        # Drawing figures needs matplotlib: not before it is used.
        from posttrain.diagnose.pipeline.run_files import write_first_report

        name = behavior.name
        self._unfinished[name] = unfinished
        done = {one.name for one in self._behaviors if self._directory.is_done(one.name)}
        begun = done | self._unfinished.keys()
        shown = [one for one in self._behaviors if one.name in begun]
        to_follow = tuple(one.name for one in self._behaviors if one.name not in begun)
        found = assemble(
            self._directory.path,
            behaviors=shown,
            unfinished={key: replace(one, to_follow=to_follow) for key, one in self._unfinished.items() if key not in done},
        )
        self._reporter.say(
            f"{found[name].diagnosis.sentence} First report, before {unfinished.to_come}: {write_first_report(found)}"
        )
