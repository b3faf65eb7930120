"""The loop: diagnose, train the stage that the diagnosis names, and measure the same behaviors again in the same way.

A round is one stage: the one that most target behaviors name, trained on those behaviors alone; the others are measured too, so
that what a stage costs elsewhere is seen. The final split is sampled once, after the last round, for the behaviors that were trained.
"""

from posttrain.trainers.diagnose_and_train.loop_request import MOST_ROUNDS, LoopOptions, LoopRequest
from posttrain.trainers.diagnose_and_train.loop_result import LoopResult, LoopRound
from posttrain.trainers.diagnose_and_train.run_loop import loop

__all__ = ["MOST_ROUNDS", "LoopOptions", "LoopRequest", "LoopResult", "LoopRound", "loop"]
