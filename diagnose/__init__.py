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
    from posttrain.diagnose.behaviors import bundled_behaviors, load_behavior, load_behaviors
    from posttrain.diagnose.comparison.transition import Transition
    from posttrain.diagnose.gates.decide_gates import gate
    from posttrain.diagnose.gates.gate_result import GateResult
    from posttrain.diagnose.pipeline.assemble import assemble
    from posttrain.diagnose.pipeline.compare_files import compare
    from posttrain.diagnose.pipeline.diagnose_run import run
    from posttrain.diagnose.pipeline.request import DiagnoseRequest
    from posttrain.diagnose.pipeline.run_files import rewrite_report
    from posttrain.diagnose.pipeline.run_plan import plan_run
    from posttrain.diagnose.storage.diagnosed_run import DiagnosedRun
    from posttrain.diagnose.thresholds import Thresholds

_HOME = {
    "bundled_behaviors": "behaviors",
    "load_behavior": "behaviors",
    "load_behaviors": "behaviors",
    "DiagnoseRequest": "pipeline.request",
    "DiagnosedRun": "storage.diagnosed_run",
    "GateResult": "gates.gate_result",
    "assemble": "pipeline.assemble",
    "plan_run": "pipeline.run_plan",
    "rewrite_report": "pipeline.run_files",
    "run": "pipeline.diagnose_run",
    "Transition": "comparison.transition",
    "compare": "pipeline.compare_files",
    "gate": "gates.decide_gates",
    "Thresholds": "thresholds",
}

__all__ = [
    "DiagnoseRequest",
    "DiagnosedRun",
    "GateResult",
    "Thresholds",
    "Transition",
    "assemble",
    "bundled_behaviors",
    "compare",
    "gate",
    "load_behavior",
    "load_behaviors",
    "plan_run",
    "rewrite_report",
    "run",
]


def __getattr__(name: str) -> Any:
    """Look a public name up where it lives; scipy and matplotlib take seconds to import, and not every use needs them."""
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
