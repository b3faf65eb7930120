"""What every engine promises: one suite, each engine in turn."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.completion_servers import answer_as_vllm, serve
from scipy import stats

from posttrain.diagnose.behaviors import load_behavior
from posttrain.diagnose.engines import open_engine
from posttrain.diagnose.engines.base import EncodedPrompt, Engine, SampleRequest, ScoreRequest
from posttrain.diagnose.errors import ModelError, SettingsError, UserError
from posttrain.diagnose.types import Behavior, Sampling, StopReason

FREE = Sampling(max_tokens=10)
CONTEXT = 512
"""Tokens that the tiny models read."""
# vLLM has an interpreter of its own: test_vllm_engine.py starts this suite there.
KINDS = ["vllm", "openai_vllm"] if os.environ.get("POSTTRAIN_VLLM_TESTS") == "1" else ["scripted", "transformers", "openai"]


@pytest.fixture
def behavior(sums_file: Path) -> Behavior:
    return load_behavior(sums_file)


@pytest.fixture(params=KINDS)
def engine(request: pytest.FixtureRequest, tmp_path: Path, behavior: Behavior) -> Iterator[Engine]:
    if request.param == "scripted":
        script = tmp_path / "script.yaml"
        script.write_text("success: 0.3\n")
        yield open_engine("scripted", str(script), [behavior])
    elif request.param == "vllm":
        yield request.getfixturevalue("vllm_engine")
    elif request.param == "openai_vllm":
        model, address = request.getfixturevalue("wide_model"), request.getfixturevalue("vllm_server")
        yield open_engine(f"openai:{address}/v1", str(model), [behavior])
    else:
        from posttrain.diagnose.engines.hf.transformers_engine import TransformersEngine

        model = request.getfixturevalue("tiny_model")
        embedded = TransformersEngine.open(str(model), sample_dtype="float32")
        if request.param == "transformers":
            yield embedded
        else:
            with serve(answer_as_vllm(embedded, str(model), CONTEXT)) as address:
                yield open_engine(f"openai:{address}", str(model), [behavior])


@pytest.fixture
def prompts(engine: Engine, behavior: Behavior) -> list[EncodedPrompt]:
    return [engine.codec.encode_prompt(problem.prompt, behavior.prompt) for problem in behavior.problems[:4]]


def requests(prompts: list[EncodedPrompt], num_samples: int) -> list[SampleRequest]:
    return [SampleRequest(key=f"p{i}", prompt_ids=p.token_ids, num_samples=num_samples) for i, p in enumerate(prompts)]


def test_shapes_and_stop_reasons(engine: Engine, prompts: list[EncodedPrompt]) -> None:
    drawn = engine.sample(requests(prompts, 5), FREE, seed="0")
    assert [len(row) for row in drawn] == [5] * len(prompts)
    for completion in (c for row in drawn for c in row):
        assert 1 <= len(completion.token_ids) <= FREE.max_tokens
        assert len(completion.policy_logprobs) == len(completion.sampler_logprobs) == len(completion.token_ids)
        assert (completion.policy_logprobs <= 0).all()
        assert completion.stop in (StopReason.EOS, StopReason.LENGTH)
        assert (completion.stop is StopReason.LENGTH) <= (len(completion.token_ids) == FREE.max_tokens)


def test_sampler_and_scorer_say_the_same_of_a_token(engine: Engine, prompts: list[EncodedPrompt]) -> None:
    drawn = engine.sample(requests(prompts, 6), FREE, seed="0")
    pairs = [(prompt, completion) for prompt, row in zip(prompts, drawn, strict=True) for completion in row]
    scored = engine.score([ScoreRequest(prompt_ids=p.token_ids, path_ids=c.token_ids) for p, c in pairs])
    for (_, completion), scores in zip(pairs, scored, strict=True):
        np.testing.assert_allclose(scores.logprobs, completion.policy_logprobs, atol=1e-4)


def test_greedy_takes_the_most_likely_token(engine: Engine, prompts: list[EncodedPrompt]) -> None:
    drawn = engine.sample(requests(prompts, 1), Sampling(max_tokens=10, temperature=0.0), seed="0")
    scored = engine.score(
        [ScoreRequest(prompt_ids=p.token_ids, path_ids=row[0].token_ids) for p, row in zip(prompts, drawn, strict=True)]
    )
    assert all((scores.ranks == 0).all() for scores in scored)
    assert all((row[0].sampler_logprobs == 0).all() for row in drawn)


def test_a_seed_names_the_samples(engine: Engine, prompts: list[EncodedPrompt]) -> None:
    def texts(seed: str) -> list[list[str]]:
        return [[c.text for c in row] for row in engine.sample(requests(prompts, 8), FREE, seed=seed)]

    assert texts("a") == texts("a")
    assert texts("a") != texts("b")


def test_samples_of_a_prompt_differ_and_are_numbered(engine: Engine, prompts: list[EncodedPrompt]) -> None:
    whole = engine.sample(requests(prompts[:1], 12), FREE, seed="0")[0]
    assert len({c.text for c in whole}) > 1
    later = engine.sample(
        [SampleRequest(key="p0", prompt_ids=prompts[0].token_ids, num_samples=4, first_sample=8)], FREE, seed="0"
    )[0]
    assert [c.text for c in later] == [c.text for c in whole[8:]]


def test_samples_follow_the_probabilities(engine: Engine, prompts: list[EncodedPrompt]) -> None:
    """Chi-square of the first token of 2,000 samples against the scorer's own probabilities."""
    n, prompt = 2000, prompts[0].token_ids
    one = Sampling(max_tokens=1)
    drawn = engine.sample([SampleRequest(key="p", prompt_ids=prompt, num_samples=n)], one, seed="chi")[0]
    seen, counts = np.unique([c.token_ids[0] for c in drawn], return_counts=True)
    scores = engine.score([ScoreRequest(prompt_ids=prompt, path_ids=(int(token),)) for token in seen])
    expected = n * np.exp([float(s.logprobs[0]) for s in scores])
    common = expected >= 5
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], n - expected[common].sum())
    keep = wanted > 1e-3
    assert stats.chisquare(observed[keep], wanted[keep] * observed[keep].sum() / wanted[keep].sum()).pvalue > 1e-3


def test_a_path_is_cut_in_ids_and_ends_with_the_end_token(
    engine: Engine, behavior: Behavior, prompts: list[EncodedPrompt]
) -> None:
    problem = behavior.problems[0]
    path = engine.codec.encode_path(prompts[0], problem.references[0])
    assert len(path.token_ids) == len(path.token_texts) == len(path.token_steps)
    assert "".join(path.token_texts[:-1]).strip() == problem.references[0].text.strip()
    assert path.token_steps[0] == 0
    assert path.token_steps[-1] == 1
    assert list(path.token_steps) == sorted(path.token_steps)
    first_of_second = path.token_steps.index(1)
    assert "".join(path.token_texts[first_of_second:-1]).strip() == problem.references[0].steps[1].strip()


def test_a_stop_text_ends_a_sample_and_is_cut_off(engine: Engine, prompts: list[EncodedPrompt]) -> None:
    free = engine.sample(requests(prompts, 8), FREE, seed="0")
    mark = next(c.text[2] for row in free for c in row if len(c.text) > 4)
    stopped = engine.sample(requests(prompts, 8), Sampling(max_tokens=10, stop=(mark,)), seed="0")
    ends = [c for row in stopped for c in row if c.stop is StopReason.STOP]
    assert ends
    assert all(mark not in c.text for c in ends)
    for with_stop, without in zip([c for row in stopped for c in row], [c for row in free for c in row], strict=True):
        assert with_stop.token_ids == without.token_ids[: len(with_stop.token_ids)]


def test_a_stop_text_may_span_tokens(engine: Engine, prompts: list[EncodedPrompt]) -> None:
    free = [c for row in engine.sample(requests(prompts, 8), FREE, seed="0") for c in row]
    mark = next(c.text[2:6] for c in free if len(c.text) > 6)
    stopped = [c for row in engine.sample(requests(prompts, 8), replace(FREE, stop=("\n\n?!", mark)), seed="0") for c in row]
    for with_stop, without in zip(stopped, free, strict=True):
        assert (with_stop.stop is StopReason.STOP) == (mark in without.text)
        assert with_stop.text == without.text.partition(mark)[0]
        assert with_stop.token_ids == without.token_ids[: len(with_stop.token_ids)]


def test_a_special_token_is_kept_in_the_text_and_may_be_a_stop_text(engine: Engine, prompts: list[EncodedPrompt]) -> None:
    if engine.info.name == "scripted":
        pytest.skip("a script writes bytes, none of them special")
    long = replace(FREE, max_tokens=40)
    free = [c for row in engine.sample(requests(prompts, 12), long, seed="0") for c in row]
    assert any("<unk>" in c.text for c in free)
    stopped = [c for row in engine.sample(requests(prompts, 12), replace(long, stop=("<unk>",)), seed="0") for c in row]
    for with_stop, without in zip(stopped, free, strict=True):
        assert (with_stop.stop is StopReason.STOP) == ("<unk>" in without.text)
        assert with_stop.text == without.text.partition("<unk>")[0]


def test_an_interrupt_ends_sampling_and_leaves_the_engine_usable(engine: Engine, prompts: list[EncodedPrompt]) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    before = engine.sample(requests(prompts, 2), FREE, seed="0")
    with pytest.raises(KeyboardInterrupt):
        engine.sample(requests(prompts, 20), FREE, seed="1", on_tokens=stop)
    path = ScoreRequest(prompt_ids=prompts[0].token_ids, path_ids=before[0][0].token_ids)
    with pytest.raises(KeyboardInterrupt):
        engine.score([path] * 3, on_tokens=stop)
    after = engine.sample(requests(prompts, 2), FREE, seed="0")
    assert [[c.token_ids for c in row] for row in after] == [[c.token_ids for c in row] for row in before]


def test_no_requests_give_no_samples(engine: Engine) -> None:
    assert engine.sample([], FREE, seed="0") == []
    assert engine.score([]) == []


def test_progress_counts_every_token(engine: Engine, prompts: list[EncodedPrompt]) -> None:
    counted: list[int] = []
    drawn = engine.sample(requests(prompts, 3), FREE, seed="0", on_tokens=counted.append)
    assert sum(counted) == sum(len(c.token_ids) for row in drawn for c in row)


def test_frozen_weights_are_the_same_after_a_refresh(engine: Engine, prompts: list[EncodedPrompt]) -> None:
    assert not engine.is_live
    before = engine.sample(requests(prompts[:1], 4), FREE, seed="0")
    engine.refresh()
    after = engine.sample(requests(prompts[:1], 4), FREE, seed="0")
    assert [one.token_ids for one in after[0]] == [one.token_ids for one in before[0]]


def test_a_codec_travels_to_another_process(engine: Engine, behavior: Behavior, prompts: list[EncodedPrompt]) -> None:
    """A pool encodes with the codec of an engine that is open elsewhere."""
    codec = pickle.loads(pickle.dumps(engine.codec))
    problem = behavior.problems[0]
    assert codec.encode_prompt(problem.prompt, behavior.prompt) == prompts[0]
    path = codec.encode_path(prompts[0], problem.references[0])
    assert path == engine.codec.encode_path(prompts[0], problem.references[0])
    assert codec.eos_ids == engine.codec.eos_ids
    assert path.token_ids[-1] in codec.eos_ids


def test_a_prompt_may_hold_the_start_of_a_path(engine: Engine, behavior: Behavior, prompts: list[EncodedPrompt]) -> None:
    """What follows the prompt and three tokens of a path is what the scorer says follows them."""
    path = engine.codec.encode_path(prompts[0], behavior.problems[0].references[0]).token_ids
    longer = (*prompts[0].token_ids, *path[:3])
    drawn = engine.sample([SampleRequest(key="p", prompt_ids=longer, num_samples=4)], FREE, seed="0")[0]
    after = engine.score([ScoreRequest(prompt_ids=longer, path_ids=c.token_ids) for c in drawn])
    whole = engine.score([ScoreRequest(prompt_ids=prompts[0].token_ids, path_ids=(*path[:3], *c.token_ids)) for c in drawn])
    for completion, one, all_of_it in zip(drawn, after, whole, strict=True):
        np.testing.assert_allclose(one.logprobs, completion.policy_logprobs, atol=1e-4)
        np.testing.assert_allclose(all_of_it.logprobs[3:], one.logprobs, atol=1e-4)
        np.testing.assert_array_equal(all_of_it.ranks[3:], one.ranks)


def test_a_prompt_longer_than_the_context_is_refused(engine: Engine, prompts: list[EncodedPrompt]) -> None:
    if engine.info.name == "scripted":
        pytest.skip("a script has no context")
    long = (prompts[0].token_ids * CONTEXT)[: CONTEXT + 1]
    with pytest.raises(UserError) as caught:
        engine.sample([SampleRequest(key="p", prompt_ids=long, num_samples=1)], FREE, seed="0")
    assert caught.value.code == "prompt_too_long"
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError) as caught:
        engine.score([ScoreRequest(prompt_ids=long, path_ids=prompts[0].token_ids)])
    assert caught.value.code == "path_too_long"


def test_unknown_engine_is_refused(behavior: Behavior) -> None:
    with pytest.raises(SettingsError) as caught:
        open_engine("transformer", "x", [behavior])
    assert caught.value.code == "unknown_engine"
    assert "did you mean transformers" in str(caught.value)
    for name in ("openai", "vllm:8", "scripted:"):
        with pytest.raises(SettingsError) as caught:
            open_engine(name, "x", [behavior])
        assert caught.value.code == "engine_address"


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda path: path / "nothing", "model_not_found"),
        (lambda path: (path / "empty").mkdir() or path / "empty", "not_a_model_folder"),
        (lambda path: _file(path / "model.bin", "x"), "not_a_model_file"),
        (lambda path: _file(path / "model.gguf", "not a gguf file"), "model_not_loadable"),
    ],
)
def test_a_model_that_is_none_gives_one_line(tmp_path: Path, make: Callable[[Path], Path], code: str) -> None:
    from posttrain.diagnose.engines.hf.transformers_engine import TransformersEngine

    with pytest.raises(ModelError) as caught:
        TransformersEngine.open(str(make(tmp_path)))
    assert caught.value.code == code
    assert "\n" not in str(caught.value)


def test_weights_that_are_missing_or_nan_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    import shutil

    import torch
    from safetensors.torch import load_file, save_file

    from posttrain.diagnose.engines.models.loading import load_model

    for name, spoil in {
        "missing": lambda w: w.pop("model.layers.1.mlp.up_proj.weight"),
        "nan": lambda w: w["model.norm.weight"].fill_(float("nan")),
    }.items():
        folder = tmp_path / name
        shutil.copytree(tiny_model, folder)
        weights = load_file(folder / "model.safetensors")
        spoil(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ModelError) as caught:
            load_model(folder, dtype=torch.float32)
        assert caught.value.code == "broken_checkpoint"


def _file(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
