"""seq_kd: imitate what a teacher writes.

Sampled: n completions of every train problem, once, from the teacher; those that the verifier calls wrong are left out. The teacher may have another
tokenizer: its texts are tokenised as the student's.
Credit: none.
Loss: −log π(y_t), averaged over tokens.
Paper: arXiv 1606.07947.
No learning signal when the teacher fails too, or when its paths are already likely.
"""

from __future__ import annotations

from posttrain.trainers.config import TracesConfig
from posttrain.trainers.recipes.blocks import imitation_stage, teacher_traces
from posttrain.trainers.sources.prepared import PreparedRows
from posttrain.trainers.stage import Recipe, Stage, TrainingInputs


class SeqKdConfig(TracesConfig):
    """Settings of `seq_kd`."""


def build(inputs: TrainingInputs, config: SeqKdConfig) -> Stage:
    """Build the stage.

    Raises:
        SettingsError: The teacher cannot be used.
    """
    return imitation_stage(PreparedRows(teacher_traces(inputs, config, "seq_kd", same_tokens=False), config))


SEQ_KD = Recipe(name="seq_kd", config=SeqKdConfig, build=build)
