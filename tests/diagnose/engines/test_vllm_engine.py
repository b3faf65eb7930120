"""The vLLM engine: what it says without vLLM, and, in an interpreter that has vLLM, what it computes."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.refusals import refused

from posttrain.diagnose.engines.base import SampleRequest, ScoreRequest
from posttrain.diagnose.engines.limits import check_sample_room, cut_at_stop, hashed_seed, read_stop_reason
from posttrain.diagnose.engines.vllm import vllm_engine
from posttrain.diagnose.errors import SettingsError
from posttrain.diagnose.types import Sampling, StopReason

ROOT = Path(__file__).parents[3]
IN_VLLM = os.environ.get("POSTTRAIN_VLLM_TESTS") == "1"
needs_vllm = pytest.mark.skipif(not IN_VLLM, reason="runs in the interpreter that test_with_vllm starts")
outside = pytest.mark.skipif(IN_VLLM, reason="needs no vLLM")


# ------------------------------------------------------------------------------------------------------------ without vLLM


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.timeout(1800)
@outside
def test_with_vllm(tmp_path: Path) -> None:
    """The contract suite and the tests below, in the interpreter that POSTTRAIN_VLLM_PYTHON names (this one, if it has vLLM)."""
    python = os.environ.get("POSTTRAIN_VLLM_PYTHON") or (sys.executable if importlib.util.find_spec("vllm") else None)
    if python is None:
        pytest.skip("vLLM is not installed here, and POSTTRAIN_VLLM_PYTHON names no interpreter that has it")
    package = tmp_path / "posttrain"  # this tree, as its imports are named
    package.mkdir()
    for source in [*(ROOT / "posttrain").iterdir(), *(ROOT / name for name in ("analysis", "diagnose", "trainers"))]:
        (package / source.name).symlink_to(source)
    here = Path(__file__).parent
    files = [here / "test_contract.py", here / "test_vllm_engine.py", here / "test_openai_engine.py"]
    files.append(ROOT / "tests" / "trainers" / "test_vllm_training.py")
    result = subprocess.run(
        [python, "-P", "-m", "pytest", "-q", "-W", "ignore", "-p", "no:cacheprovider", "--timeout", "900", *map(str, files)],
        cwd=ROOT,
        env={
            "VLLM_CPU_KVCACHE_SPACE": "1",
            **os.environ,
            "POSTTRAIN_VLLM_TESTS": "1",
            "PYTHONPATH": str(tmp_path),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
    )
    print(result.stdout[-4000:])
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-4000:]


@outside
def test_a_missing_vllm_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(SettingsError) as caught:
        vllm_engine.VllmEngine.open("demo")
    assert caught.value.code == "missing_package"
    assert "\n" not in str(caught.value)


@outside
@pytest.mark.parametrize(("found", "good"), [("0.32.0", True), ("0.32.1+cpu", True), ("0.31.2", False), ("0.33.0rc1", False)])
def test_an_untested_vllm_is_refused(monkeypatch: pytest.MonkeyPatch, found: str, good: bool) -> None:
    fake = types.ModuleType("vllm")
    fake.__version__ = found  # type: ignore[attr-defined]
    fake.__spec__ = importlib.util.spec_from_loader("vllm", None)
    monkeypatch.setitem(sys.modules, "vllm", fake)
    if good:
        assert vllm_engine.require_vllm() is fake
    else:
        with pytest.raises(SettingsError) as caught:
            vllm_engine.require_vllm()
        assert caught.value.code == "untested_version"
        assert found in str(caught.value)


@outside
def test_nothing_imports_vllm_before_it_is_asked_for() -> None:
    code = "import sys, posttrain.diagnose, posttrain.diagnose.engines; assert not {'vllm', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@outside
def test_seeds_belong_to_their_names() -> None:
    seeds = {hashed_seed(s, k, i) for s in "ab" for k in ("p", "p1", "1") for i in range(200)}
    assert len(seeds) == 2 * 3 * 200
    assert hashed_seed("a", "p", 1) == hashed_seed("a", "p", 1)
    assert max(seeds) < 2**63
    assert hashed_seed("a", "b", bits=52) < 2**52


@outside
@pytest.mark.parametrize(
    ("finish", "why", "stop"),
    [
        ("stop", None, StopReason.EOS),
        ("stop", 2, StopReason.EOS),
        ("stop", "\n", StopReason.STOP),
        ("length", None, StopReason.LENGTH),
        ("abort", None, StopReason.ERROR),
    ],
)
def test_stop_reasons(finish: str, why: Any, stop: StopReason) -> None:
    assert read_stop_reason(finish, why) is stop


@outside
def test_room_and_stop_texts() -> None:
    request = SampleRequest(key="p", prompt_ids=(1,) * 10, num_samples=1)
    check_sample_room([request], 6, 16)
    for requests, max_tokens, context, code in (
        ([request], 7, 16, "max_tokens_too_large"),
        ([request], 7, 10, "prompt_too_long"),
        ([SampleRequest(key="p", prompt_ids=(), num_samples=1)], 7, 10, "empty_prompt"),
    ):
        with pytest.raises(SettingsError) as refused:
            check_sample_room(requests, max_tokens, context)
        assert refused.value.code == code
        if code == "max_tokens_too_large":
            assert "max_tokens to 6" in str(refused.value)
    assert cut_at_stop("one\ntwo. three", (".", "\n")) == "one"


@outside
def test_weights_travel_in_the_precision_of_the_engine() -> None:
    """Matrices rounded, vectors and whole numbers as they are: vLLM keeps some vectors in float32."""
    import torch

    for weight, wanted in (
        (torch.ones(2, 3), torch.bfloat16),
        (torch.ones(3), torch.float32),
        (torch.ones(2, 3, dtype=torch.int64), torch.int64),
    ):
        sent = vllm_engine.copy_to_processor(weight, torch.bfloat16)
        assert sent.dtype == wanted
        assert sent.data_ptr() != weight.data_ptr()


@outside
def test_weights_that_shared_memory_cannot_hold_go_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if not Path("/dev/shm").is_dir():
        pytest.skip("there is no /dev/shm here")
    for free, wanted in ((64 * 2**20, None), (80 * 2**20, Path("/dev/shm"))):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: types.SimpleNamespace(free=free))
        assert vllm_engine.memory_folder([torch.empty(64 * 2**20, dtype=torch.int8, device="meta")]) == wanted


# --------------------------------------------------------------------------------------------------------------- with vLLM


@pytest.fixture
def prompt(vllm_engine: Any) -> tuple[int, ...]:
    return tuple(vllm_engine.codec.tokenizer("2 + 3 =")["input_ids"])


def _distribution(logits: Any, setting: Sampling, seen: Any) -> Any:
    """[V] the probabilities that a setting draws from, written out; one truncation at a time."""
    import torch

    penalty = torch.ones_like(logits)
    penalty[seen] = setting.repetition_penalty
    probabilities = (torch.where(logits > 0, logits / penalty, logits * penalty) / setting.temperature).softmax(-1)
    ordered = probabilities.sort(descending=True).values
    kept = probabilities >= setting.min_p * ordered[0]
    if setting.top_k:
        kept &= probabilities >= ordered[setting.top_k - 1]
    if setting.top_p < 1:
        kept &= probabilities >= ordered[(ordered.cumsum(-1) - ordered < setting.top_p).sum() - 1]
    return probabilities * kept / (probabilities * kept).sum()


@needs_vllm
@pytest.mark.parametrize(
    "setting",
    [
        Sampling(max_tokens=8, temperature=0.7),
        Sampling(max_tokens=8, temperature=1.4, top_p=0.8),
        Sampling(max_tokens=8, top_k=5),
        Sampling(max_tokens=8, min_p=0.2),
        Sampling(max_tokens=8, repetition_penalty=1.5, temperature=0.9),
    ],
)
def test_both_log_probabilities_are_exact(vllm_engine: Any, wide_model: Path, prompt: tuple[int, ...], setting: Sampling) -> None:
    """Against the model in transformers, token by token: the policy as it is, and the distribution that was drawn from."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(wide_model, dtype=torch.float32).eval()
    drawn = vllm_engine.sample([SampleRequest(key="p", prompt_ids=prompt, num_samples=6)], setting, seed="0")[0]
    for completion in drawn:
        ids = torch.tensor([(*prompt, *completion.token_ids)])
        with torch.no_grad():
            logits = model(ids).logits[0].float()
        for t, token in enumerate(completion.token_ids):
            row = logits[len(prompt) + t - 1]
            sampler = _distribution(row, setting, ids[0, : len(prompt) + t])
            assert completion.policy_logprobs[t] == pytest.approx(row.log_softmax(-1)[token].item(), abs=1e-3)
            assert completion.sampler_logprobs[t] == pytest.approx(sampler[token].log().item(), abs=1e-3)


@needs_vllm
def test_scores_are_those_of_the_embedded_engine(vllm_engine: Any, wide_model: Path, prompt: tuple[int, ...]) -> None:
    from posttrain.diagnose.engines.hf.transformers_engine import TransformersEngine

    requests = [ScoreRequest(prompt_ids=prompt[: 1 + i], path_ids=tuple(range(5 + i, 15 + 2 * i))) for i in range(5)]
    embedded = TransformersEngine.open(str(wide_model), sample_dtype="float32")
    for mine, theirs in zip(vllm_engine.score(requests), embedded.score(requests), strict=True):
        np.testing.assert_allclose(mine.logprobs, theirs.logprobs, atol=1e-4)
        np.testing.assert_array_equal(mine.ranks, theirs.ranks)
        assert mine.top_logprobs is not None
        assert ((mine.top_logprobs == mine.logprobs) == (mine.ranks == 0)).all()


@needs_vllm
def test_more_prompt_tokens_than_a_step_takes(vllm_engine: Any, prompt: tuple[int, ...]) -> None:
    """Seeded requests whose prompts fill several steps: none may be read in parts where that ends vLLM."""
    long = [SampleRequest(key=f"p{i}", prompt_ids=(*prompt * 40, 5 + i), num_samples=1) for i in range(60)]
    assert sum(len(request.prompt_ids) for request in long) > 2 * 4096
    drawn = vllm_engine.sample(long, Sampling(max_tokens=3), seed="0")
    alone = vllm_engine.sample(long[37:38], Sampling(max_tokens=3), seed="0")
    assert drawn[37][0].token_ids == alone[0][0].token_ids


@needs_vllm
def test_a_temperature_that_vllm_would_change_is_refused(vllm_engine: Any, prompt: tuple[int, ...]) -> None:
    with refused(SettingsError, "temperature_too_low"):
        vllm_engine.sample(
            [SampleRequest(key="p", prompt_ids=prompt, num_samples=1)], Sampling(max_tokens=2, temperature=0.005), seed="0"
        )


@needs_vllm
def test_new_weights_take_the_place_of_the_old(vllm_engine: Any, wide_model: Path, prompt: tuple[int, ...]) -> None:
    """Scores follow the weights, a prefix that was cached under the old ones included, and the fingerprint changes."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(wide_model, dtype=torch.float32).eval()
    old = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    fingerprint, longer = vllm_engine.info.fingerprint, prompt * 20
    request = [SampleRequest(key="p", prompt_ids=longer, num_samples=4)]
    before = vllm_engine.sample(request, Sampling(max_tokens=8), seed="0")[0]
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
    vllm_engine.load_weights(model.named_parameters(), model_fingerprint="step 1")
    try:
        assert vllm_engine.info.fingerprint != fingerprint
        after = vllm_engine.sample(request, Sampling(max_tokens=8), seed="0")[0]
        assert [c.token_ids for c in after] != [c.token_ids for c in before]
        for completion in after:
            with torch.no_grad():
                logits = model(torch.tensor([(*longer, *completion.token_ids)])).logits[0].log_softmax(-1)
            wanted = [logits[len(longer) + t - 1, token].item() for t, token in enumerate(completion.token_ids)]
            np.testing.assert_allclose(completion.policy_logprobs, wanted, atol=1e-3)
    finally:
        vllm_engine.load_weights(old.items(), model_fingerprint="wide")
    again = vllm_engine.sample(request, Sampling(max_tokens=8), seed="0")[0]
    assert [c.token_ids for c in again] == [c.token_ids for c in before]
