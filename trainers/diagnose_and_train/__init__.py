"""The loop: diagnose, train the stage that the diagnosis names, measure the same behaviors again in the same way, and decide whether to go on.

A round is one stage: the one that most target behaviors name, trained on those behaviors alone; the others are measured too, so that what a
stage costs elsewhere is seen. Where a behavior that was fine has fallen, the next round brings it back from the checkpoint before the fall. A
stage that was tried without a gain makes room for the next alternative. The checkpoint to keep is the one that gained most on the targets
less what it lost on retention, by paired differences. The final split is sampled once, after the last round, for the trained behaviors.
"""

from posttrain.trainers.diagnose_and_train.loop_request import MOST_ROUNDS, LoopOptions, LoopRequest
from posttrain.trainers.diagnose_and_train.loop_result import LoopResult, LoopRound
from posttrain.trainers.diagnose_and_train.run_loop import loop

__all__ = ["MOST_ROUNDS", "LoopOptions", "LoopRequest", "LoopResult", "LoopRound", "loop"]
