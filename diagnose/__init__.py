"""Measures how reachable target behaviors are under a policy, and decides which bottleneck binds.

    from posttrain import diagnose

    run = diagnose.run("demo", ["products"], out="runs/products")
    print(run.diagnoses[0].sentence)

Importing this package needs neither torch nor vLLM: names are looked up when they are used, and an engine imports what it needs when it
is opened.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posttrain.diagnose.behaviors import bundled_behaviors as bundled_behaviors
    from posttrain.diagnose.behaviors import load_behavior as load_behavior
    from posttrain.diagnose.behaviors import load_behaviors as load_behaviors
    from posttrain.diagnose.comparison.transition import Transition as Transition
    from posttrain.diagnose.gates.gate_result import GateResult as GateResult
    from posttrain.diagnose.pipeline.assemble import assemble as assemble
    from posttrain.diagnose.pipeline.checkpoint_files import compare_checkpoints as compare_checkpoints
    from posttrain.diagnose.pipeline.compare_files import compare as compare
    from posttrain.diagnose.pipeline.count_runs import gate as gate
    from posttrain.diagnose.pipeline.diagnose_run import run as run
    from posttrain.diagnose.pipeline.export_run import export as export
    from posttrain.diagnose.pipeline.forecast_run import forecast as forecast
    from posttrain.diagnose.pipeline.read_and_import import from_frame as from_frame
    from posttrain.diagnose.pipeline.read_and_import import import_samples as import_samples
    from posttrain.diagnose.pipeline.regrade_run import regrade as regrade
    from posttrain.diagnose.pipeline.request import DiagnoseRequest as DiagnoseRequest
    from posttrain.diagnose.pipeline.run_files import rewrite_report as rewrite_report
    from posttrain.diagnose.pipeline.run_plan import plan_run as plan_run
    from posttrain.diagnose.pipeline.second_decision import decide_again as decide_again
    from posttrain.diagnose.storage.count_files import read_counts as read_counts
    from posttrain.diagnose.storage.count_files import write_counts as write_counts
    from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun as DiagnosedRun
    from posttrain.diagnose.thresholds import Thresholds as Thresholds

_HOME = {
    "bundled_behaviors": "behaviors",
    "load_behavior": "behaviors",
    "load_behaviors": "behaviors",
    "DiagnoseRequest": "pipeline.request",
    "DiagnosedRun": "storage.diagnosed_run",
    "GateResult": "gates.gate_result",
    "assemble": "pipeline.assemble",
    "decide_again": "pipeline.second_decision",
    "forecast": "pipeline.forecast_run",
    "from_frame": "pipeline.read_and_import",
    "import_samples": "pipeline.read_and_import",
    "regrade": "pipeline.regrade_run",
    "plan_run": "pipeline.run_plan",
    "rewrite_report": "pipeline.run_files",
    "run": "pipeline.diagnose_run",
    "Transition": "comparison.transition",
    "compare": "pipeline.compare_files",
    "compare_checkpoints": "pipeline.checkpoint_files",
    "export": "pipeline.export_run",
    "gate": "pipeline.count_runs",
    "read_counts": "storage.count_files",
    "write_counts": "storage.count_files",
    "Thresholds": "thresholds",
}


def __getattr__(name: str) -> Any:
    """Look a public name up where it lives; scipy and matplotlib take seconds to import, and not every use needs them."""
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
