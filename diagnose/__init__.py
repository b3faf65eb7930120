"""Measures how reachable target behaviors are under a policy, and decides which bottleneck binds.

    from posttrain import diagnose

    run = diagnose.run("demo", ["products"], out="runs/products")
    print(run.diagnoses[0].sentence)

Importing this package needs neither torch nor vLLM; an engine imports what it needs when it is opened.
"""

from __future__ import annotations

from posttrain.diagnose.behaviors import bundled_behaviors, load_behavior, load_behaviors
from posttrain.diagnose.session import DiagnosedRun, assemble, plan_run, run
from posttrain.diagnose.transition import Transition, compare
from posttrain.diagnose.verdict import Thresholds

__all__ = [
    "DiagnosedRun",
    "Thresholds",
    "Transition",
    "assemble",
    "bundled_behaviors",
    "compare",
    "load_behavior",
    "load_behaviors",
    "plan_run",
    "run",
]
