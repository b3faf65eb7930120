"""Rows that share a prompt, and rows of different lengths in one batch, score as each does alone, whatever the architecture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.small_models import ARCHITECTURES, RECURRENT, VOCABULARY, logprobs_alone, small_model

from posttrain.diagnose.types import Split
from posttrain.trainers.step.logprobs import Shortcuts, find_shortcuts, token_logprobs
from posttrain.trainers.step.packing import collate, pack_rows
from posttrain.trainers.training_types import TrainingRow


def rows_of(*lengths: tuple[int, int]) -> list[TrainingRow]:
    """Return rows of (prompt, completion) lengths; prompts of one length are equal."""
    rng = np.random.default_rng(0)
    prompts = {length: tuple(map(int, rng.integers(3, VOCABULARY, length))) for length, _ in lengths}
    return [
        TrainingRow(
            behavior="", problem_id="", split=Split.TRAIN, group_id="", prompt_ids=prompts[prompt],
            completion_ids=tuple(map(int, rng.integers(3, VOCABULARY, completion))),
        )
        for prompt, completion in lengths
    ]  # fmt: skip


@pytest.mark.parametrize("spread", [0.02, 0.3])
@pytest.mark.parametrize("kind", [*ARCHITECTURES, *RECURRENT])
@torch.no_grad()
def test_whatever_is_allowed_changes_no_score(kind: str, spread: float) -> None:
    """New models have weights of 0.02, with which little shows between neighbours."""
    model = small_model(kind, spread=spread)
    rows = rows_of((80, 60), (80, 33), (80, 50), (7, 5))
    allowed = find_shortcuts(model)
    for share in {False, allowed.shared_prefixes}:
        batch = collate(pack_rows(rows, range(len(rows)), share=share, hidden_size=2**20, max_tokens=4096))
        shortcuts = Shortcuts(chunked_projection=allowed.chunked_projection, shared_prefixes=share)
        found = token_logprobs(model, batch, shortcuts, dtype=torch.float32).logprobs.split(list(batch.lengths))
        for index, values in zip(batch.rows, found, strict=True):
            alone = logprobs_alone(model, rows[index].prompt_ids, rows[index].completion_ids)
            torch.testing.assert_close(values, alone, atol=1e-4, rtol=0)
