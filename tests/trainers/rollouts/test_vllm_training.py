"""Training with vLLM as the sampler, in the interpreter that has it: `tests/diagnose/engines/test_vllm_engine.py` starts this file there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from posttrain import trainers
from posttrain.diagnose.engines.base import ScoreRequest
from posttrain.diagnose.engines.models.loading import fingerprint_model, load_model

needs_vllm = pytest.mark.skipif(
    os.environ.get("POSTTRAIN_VLLM_TESTS") != "1", reason="runs in the interpreter that test_with_vllm starts"
)
TOLERANCE = 1e-3
"""Nats per token that float32 in another order of sums explains; what the engine says of itself."""


def logprobs(model: Path, request: ScoreRequest) -> torch.Tensor:
    """[T] of the path, by transformers."""
    with torch.no_grad():
        ids = torch.tensor([(*request.prompt_ids, *request.path_ids)])
        logits = load_model(model, dtype=torch.float32)(ids).logits[0, len(request.prompt_ids) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(request.path_ids)[:, None])[:, 0]


@needs_vllm
def test_two_steps_with_live_weights_in_place(vllm_engine: Any, wide_model: Path, tmp_path: Path) -> None:
    """The second round of samples is made with the weights that the first step left, and the engine ends with those of the checkpoint."""
    rows = [{"id": f"{c}{i}", "prompt": f"say {c} {i}:", "answer": c} for c in "abcd" for i in range(4)]
    (tmp_path / "letters.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    behavior = tmp_path / "letters.yaml"
    behavior.write_text(
        "problems: letters.jsonl\nverifier: {kind: regex, pattern: '([a-d])', select: first}\nprompt: {format: completion}\n"
        "sampling: {max_tokens: 16, stop: [' ', '=', '?', '.', ',', ':']}\nsplit: {train: 0.5}\n"
    )
    path = ScoreRequest(prompt_ids=tuple(vllm_engine.codec.tokenizer("say a 0:")["input_ids"]), path_ids=tuple(range(5, 25)))
    out, moved = tmp_path / "out", 20 * TOLERANCE
    overrides = ["num_steps=2", "learning_rate=1e-2", "problems_per_batch=4", "group_size=32", "autocast=float32", "save_every=1"]
    try:
        trainers.train("grpo", wide_model, [behavior], out=out, overrides=overrides, engine=vllm_engine)
        start, one, two = (logprobs(folder, path) for folder in (wide_model, out / "checkpoint-1", out))
        assert (one - start).abs().mean() > moved, "the first step must move the policy, or stale weights would go unseen"
        assert (two - one).abs().mean() > moved
        log = [json.loads(line) for line in (out / "training_log.jsonl").read_text().splitlines()]
        steps = [record for record in log if record["event"] == "step"]
        assert [record["status"] for record in steps] == ["updated", "updated"]
        assert all(0 < record["sampler_gap"] < vllm_engine.info.logprob_tolerance <= TOLERANCE for record in steps), steps
        assert vllm_engine.info.model_fingerprint == fingerprint_model(out)
        assert vllm_engine.score([path])[0].logprobs == pytest.approx(two.numpy(), abs=TOLERANCE)
        assert json.loads((out / "posttrain_config.json").read_text())["engine"] == "vllm"
    finally:
        vllm_engine.load_weights(load_model(wide_model, dtype=torch.float32).named_parameters(), model_fingerprint="wide")
