"""A pool of workers does what one engine does, whoever does it and whoever dies. Workers are Ray actors on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from posttrain.diagnose.behaviors import load_behavior
from posttrain.diagnose.engines.base import Completion, Engine, SampleRequest, ScoreRequest, TokenScores
from posttrain.diagnose.engines.ray import open_cluster
from posttrain.diagnose.engines.ray.pieces import PieceSize, cut_samples, cut_scores
from posttrain.diagnose.engines.scripted import ScriptedEngine
from posttrain.diagnose.errors import ModelError, SettingsError
from posttrain.diagnose.types import Behavior, PromptFormat, Reference, Sampling

ray = pytest.importorskip("ray")

from posttrain.diagnose.engines.ray.pool_engine import PoolEngine  # noqa: E402
from posttrain.diagnose.engines.ray.worker_queue import WorkerError  # noqa: E402

FREE = Sampling(max_tokens=12)
SMALL = PieceSize(samples=8, tokens=120)
FORMAT = PromptFormat(format="completion")
ANSWERS = {f"{n} + {n} =": [(f"{2 * n}", 0.4), (f"{2 * n + 1}, or so", 0.6)] for n in range(6)}


class Fragile(ScriptedEngine):
    """A scripted engine that does what the key of a request says: `once:FILE`, `always`, `slow:FILE`, or nothing of that."""

    def sample(self, requests: Sequence[SampleRequest], sampling: Sampling, **given: Any) -> list[list[Completion]]:
        for request in requests:
            order, _, file = request.key.partition(":")
            if order == "once" and not Path(file).exists():
                super().sample(requests, sampling, **given)  # dies when its progress is reported already
                Path(file).touch()
                time.sleep(0.5)
                os.kill(os.getpid(), signal.SIGKILL)
            if order == "always":
                os.kill(os.getpid(), signal.SIGKILL)
            if order == "raise":
                raise ZeroDivisionError("of the engine")
            if order == "slow":
                with Path(file).open("a") as log:
                    log.write(f"{os.getpid()}\n")
                for _ in range(200):
                    given["on_tokens"](0)
                    time.sleep(0.05)
                Path(file).write_text("to the end")
        return super().sample(requests, sampling, **given)


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.delenv("RAY_ADDRESS", raising=False)
    open_cluster._join(None)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    ray.shutdown()
    patch.undo()


@pytest.fixture(scope="module")
def pool() -> Iterator[PoolEngine]:
    with closing(PoolEngine(partial(Fragile, ANSWERS), workers=2, size=SMALL)) as pool:
        yield pool


@pytest.fixture(scope="module")
def alone() -> ScriptedEngine:
    return ScriptedEngine(ANSWERS)


def ask(engine: Engine, keys: Sequence[str] = (), num_samples: Sequence[int] = (3, 20, 1, 0, 8, 8)) -> list[SampleRequest]:
    names = [*keys, *(f"p{i}" for i in range(len(keys), len(ANSWERS)))]
    prompts = [engine.codec.encode_prompt(prompt, FORMAT).token_ids for prompt in ANSWERS]
    return [
        SampleRequest(key=k, prompt_ids=p, num_samples=n, first_sample=2)
        for k, p, n in zip(names, prompts, num_samples, strict=True)
    ]


def same(ours: Sequence[Sequence[Completion]], theirs: Sequence[Sequence[Completion]]) -> bool:
    """Bit for bit."""

    def bits(c: Completion) -> tuple[Any, ...]:
        return c.token_ids, c.policy_logprobs.tobytes(), c.sampler_logprobs.tobytes(), c.stop, c.text

    return [[bits(c) for c in row] for row in ours] == [[bits(c) for c in row] for row in theirs]


def same_scores(ours: Sequence[TokenScores], theirs: Sequence[TokenScores]) -> bool:
    return [(s.logprobs.tobytes(), s.ranks.tobytes()) for s in ours] == [
        (s.logprobs.tobytes(), s.ranks.tobytes()) for s in theirs
    ]


def nearly(ours: Sequence[TokenScores | Completion], theirs: Sequence[TokenScores | Completion]) -> bool:
    """But for the rounding of sums that another number of threads adds up in another order."""

    def parts(one: TokenScores | Completion) -> tuple[Any, Any]:
        return (one.policy_logprobs, one.token_ids) if isinstance(one, Completion) else (one.logprobs, one.ranks.tolist())

    pairs = [(parts(a), parts(b)) for a, b in zip(ours, theirs, strict=True)]
    return all(a[1] == b[1] and np.allclose(a[0], b[0], atol=1e-5) for a, b in pairs)


# ---------------------------------------------------------------------------------------------------------------- one engine


def test_a_pool_samples_what_one_engine_samples(pool: PoolEngine, alone: ScriptedEngine) -> None:
    ours, theirs = [], []
    requests = ask(alone)
    assert same(
        pool.sample(requests, FREE, seed="0", on_tokens=ours.append),
        alone.sample(requests, FREE, seed="0", on_tokens=theirs.append),
    )
    assert sum(ours) == sum(theirs)
    assert pool.info.fingerprint == alone.info.fingerprint


def test_a_pool_scores_what_one_engine_scores(pool: PoolEngine, alone: ScriptedEngine) -> None:
    requests = [
        ScoreRequest(prompt_ids=request.prompt_ids, path_ids=completion.token_ids)
        for request, row in zip(ask(alone), alone.sample(ask(alone), FREE, seed="0"), strict=True)
        for completion in row
    ]
    ours, theirs = [], []
    assert same_scores(pool.score(requests, on_tokens=ours.append), alone.score(requests, on_tokens=theirs.append))
    assert sorted(ours) == sorted(theirs)  # one call for each path, as the engine makes them
    assert pool.score([]) == []


def test_a_pool_writes_what_one_engine_writes(pool: PoolEngine, alone: ScriptedEngine) -> None:
    prompt = alone.codec.encode_prompt("1 + 1 =", FORMAT)
    assert pool.codec.encode_prompt("1 + 1 =", FORMAT) == prompt
    path = Reference(steps=("1 + 1", "= 2"))
    assert pool.codec.encode_path(prompt, path) == alone.codec.encode_path(prompt, path)


def test_results_can_be_written_to(pool: PoolEngine) -> None:
    completion = pool.sample(ask(pool), FREE, seed="0")[0][0]
    completion.policy_logprobs[0] = 0.0


def test_batches_come_as_they_are_done_and_the_pool_does_other_work_between(pool: PoolEngine, alone: ScriptedEngine) -> None:
    batches = [ask(alone), [], ask(alone, num_samples=[1] * 6), ask(alone, num_samples=[0] * 6)]
    found = {}
    for index, drawn in pool.sample_batches(batches, FREE, seed="0"):
        found[index] = drawn
        assert pool.codec.encode_prompt(f"{index}", FORMAT).text == alone.codec.encode_prompt(f"{index}", FORMAT).text
    assert sorted(found) == [0, 1, 2, 3]
    assert all(same(found[i], alone.sample(batches[i], FREE, seed="0")) for i in found)


def test_what_an_engine_refuses_a_pool_refuses_in_the_same_words(pool: PoolEngine, alone: ScriptedEngine) -> None:
    refused = []
    for engine in (pool, alone):
        with pytest.raises(SettingsError) as caught:
            engine.sample(ask(alone), Sampling(top_p=0.5), seed="0")
        refused.append((caught.value.code, str(caught.value)))
    assert refused[0] == refused[1]
    assert refused[0][0] == "truncation_unsupported"


def test_a_pool_refuses_sampling_settings_before_it_samples(pool: PoolEngine) -> None:
    pool.check_sampling(FREE)
    with pytest.raises(SettingsError) as caught:
        pool.check_sampling(Sampling(max_tokens=12, top_p=0.9))
    assert caught.value.code == "truncation_unsupported"


def test_the_number_of_workers_changes_nothing(alone: ScriptedEngine) -> None:
    """Three here, two in the tests above, one where a pool is opened by name."""
    with closing(PoolEngine(partial(ScriptedEngine, ANSWERS), workers=3, size=SMALL)) as pool:
        assert same(pool.sample(ask(alone), FREE, seed="0"), alone.sample(ask(alone), FREE, seed="0"))


def test_two_workers_do_what_the_embedded_engine_does_with_one_piece_after_the_other(tiny_model: Path) -> None:
    from posttrain.diagnose.engines.hf.transformers_engine import TransformersEngine

    opener = partial(TransformersEngine.open, str(tiny_model), sample_dtype="float32")
    here = opener()
    requests = [
        SampleRequest(key=f"p{n}", prompt_ids=here.codec.encode_prompt(f"{10**n} + 1 =", FORMAT).token_ids, num_samples=n + 1)
        for n in range(6)
    ]
    expected: list[list[Completion]] = [[] for _ in requests]
    for piece in cut_samples(requests, SMALL, FREE.max_tokens):
        for owner, row in zip(piece.owners, here.sample(piece.requests, FREE, seed="0"), strict=True):
            expected[owner] += row
    paths = [
        ScoreRequest(prompt_ids=r.prompt_ids, path_ids=c.token_ids)
        for r, row in zip(requests, expected, strict=True)
        for c in row
    ]
    scores: dict[int, TokenScores] = {}
    for part in cut_scores(paths, SMALL):
        scores.update(zip(part.owners, here.score(part.requests), strict=True))
    with closing(PoolEngine(opener, workers=2, size=SMALL)) as pool:
        drawn = pool.sample(requests, FREE, seed="0")
        assert all(nearly(ours, theirs) for ours, theirs in zip(drawn, expected, strict=True))
        assert nearly(pool.score(paths), [scores[i] for i in range(len(paths))])


# -------------------------------------------------------------------------------------------------------------------- deaths


def test_a_worker_that_dies_changes_nothing(pool: PoolEngine, alone: ScriptedEngine, tmp_path: Path) -> None:
    requests = ask(alone, ["p0", f"once:{tmp_path / 'a'}"])
    ours, theirs = [], []
    drawn = pool.sample(requests, FREE, seed="0", on_tokens=ours.append)
    assert (tmp_path / "a").exists()
    assert same(drawn, alone.sample(requests, FREE, seed="0", on_tokens=theirs.append))
    assert sum(ours) == sum(theirs)  # what a piece reported before its worker died is not reported twice


def test_a_piece_that_kills_every_worker_is_given_up(pool: PoolEngine, alone: ScriptedEngine) -> None:
    with pytest.raises(WorkerError) as given_up:
        pool.sample(ask(alone, ["always"]), FREE, seed="0")
    assert given_up.value.code == "call_ends_workers"
    assert "samples 2 to 4 of always" in str(given_up.value)
    assert "\n" not in str(given_up.value)
    assert same(pool.sample(ask(alone), FREE, seed="0"), alone.sample(ask(alone), FREE, seed="0"))


def test_an_error_of_an_engine_is_raised_after_three_attempts(pool: PoolEngine, alone: ScriptedEngine) -> None:
    with pytest.raises(WorkerError) as given_up:
        pool.sample(ask(alone, ["raise"]), FREE, seed="0")
    assert given_up.value.code == "call_ends_workers"
    assert "ZeroDivisionError: of the engine" in str(given_up.value)


def _open_and_die() -> Engine:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def _open_another(file: Path) -> Engine:
    """Give one model to the first one to come, and another to the others."""
    try:
        file.touch(exist_ok=False)
    except FileExistsError:
        return ScriptedEngine({"other": [("a", 1.0)]})
    return ScriptedEngine({"one": [("a", 1.0)]})


def test_a_model_that_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkerError) as ended:
        PoolEngine(_open_and_die, workers=1)
    assert ended.value.code == "workers_end_while_opening"
    with pytest.raises(ModelError) as refused:
        PoolEngine(partial(_open_another, tmp_path / "first"), workers=2)
    assert refused.value.code == "workers_differ"


# -------------------------------------------------------------------------------------------------------------- cancellation


def test_an_interrupt_cancels_what_is_under_way(pool: PoolEngine, alone: ScriptedEngine, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def stop(_: int) -> None:
        if log.exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pool.sample(ask(alone, [f"slow:{log}"]), FREE, seed="0", on_tokens=stop)
    assert same(pool.sample(ask(alone), FREE, seed="0"), alone.sample(ask(alone), FREE, seed="0"))
    assert all(pool.sample(ask(alone), FREE, seed=str(i)) for i in range(20))  # both workers are at it again
    assert "to the end" not in log.read_text()


# ------------------------------------------------------------------------------------------------------------------- opening


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.yaml"
    path.write_text("success: 0.3\n")
    return path


def test_a_pool_is_opened_by_name(script: Path, sums_file: Path) -> None:
    behavior: Behavior = load_behavior(sums_file)
    problem = behavior.problems[0]
    alone = ScriptedEngine.open(str(script), [behavior])
    request = SampleRequest(
        key="p", prompt_ids=alone.codec.encode_prompt(problem.prompt, behavior.prompt).token_ids, num_samples=5
    )
    with closing(open_cluster.open_pool("scripted", str(script), [behavior], workers=1)) as pool:
        assert pool.info.model == str(script)
        assert same(pool.sample([request], behavior.sampling, seed="0"), alone.sample([request], behavior.sampling, seed="0"))
    with pytest.raises(RuntimeError):
        pool.sample([request], behavior.sampling, seed="0")


@pytest.mark.parametrize(
    ("given", "code"), [({"workers": 0}, "too_few_workers"), ({"workers": 2, "gpus_per_worker": 64.0}, "too_many_workers")]
)
def test_a_pool_that_cannot_be_is_refused(given: dict[str, Any], code: str, script: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        open_cluster.open_pool("scripted", str(script), [], **given)
    assert refused.value.code == code
    assert "\n" not in str(refused.value)


def test_a_model_that_is_not_there_is_refused_by_the_workers() -> None:
    with pytest.raises(ModelError) as refused:
        open_cluster.open_pool("scripted", "nothing.yaml", [], workers=1)
    assert refused.value.code == "model_not_found"
    assert "\n" not in str(refused.value)


def test_without_ray_the_user_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingsError) as refused:
        open_cluster.open_pool("scripted", "x", [], workers=2)
    assert refused.value.code == "missing_package"


def test_ray_is_imported_by_pools_alone() -> None:
    code = "import sys, posttrain.diagnose.pipeline.diagnose_run, posttrain.diagnose.engines.ray.open_cluster; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("machines", "workers", "cpus", "gpus", "each"),
    [
        ([(16.0, 0.0)], 1, None, 0.0, 16),
        ([(16.0, 0.0)], 3, None, 0.0, 5),
        ([(16.0, 0.0), (16.0, 0.0)], 3, None, 0.0, 8),  # a worker lies on one machine: not 10
        ([(96.0, 8.0), (96.0, 8.0)], 16, None, 1.0, 12),
        ([(96.0, 8.0), (8.0, 0.0)], 8, None, 1.0, 12),
        ([(96.0, 8.0)], 2, None, 4.0, 48),
        ([(96.0, 2.0)], 4, 3, 0.5, 3),
    ],
)
def test_workers_share_the_machines(
    machines: list[tuple[float, float]], workers: int, cpus: int | None, gpus: float, each: int
) -> None:
    assert open_cluster.share_processors(machines, workers, cpus, gpus) == each


def test_more_workers_than_there_is_room_for_are_refused() -> None:
    with pytest.raises(SettingsError) as refused:
        open_cluster.share_processors([(8.0, 0.0), (8.0, 0.0)], 3, 6, 0.0)
    assert refused.value.code == "too_many_workers"
    assert "room for 2" in str(refused.value)


# -------------------------------------------------------------------------------------------------------------------- pieces


def request(num_samples: int, length: int = 3, key: str = "p") -> SampleRequest:
    return SampleRequest(key=key, prompt_ids=tuple(range(length)), num_samples=num_samples, first_sample=7)


def test_what_fits_into_a_piece_is_one_and_as_it_was_given() -> None:
    requests = [request(4, 9, "a"), request(4, 3, "b")]
    (piece,) = cut_samples(requests, PieceSize(samples=8), 10)
    assert piece.requests == tuple(requests)
    assert piece.owners == (0, 1)
    assert piece.cost == 9 + 3 + 8 * 10


@pytest.mark.parametrize("sizes", [[65], [64, 1], [1] * 65, [16] * 30, [200, 3, 3, 130], [0, 5, 0]])
def test_pieces_hold_every_sample_once_and_are_about_equal(sizes: list[int]) -> None:
    requests = [request(n, 3 + i % 4, f"p{i}") for i, n in enumerate(sizes)]
    pieces = cut_samples(requests, PieceSize(samples=64), 10)
    held: dict[int, list[int]] = {}
    for piece in pieces:
        for owner, part in zip(piece.owners, piece.requests, strict=True):
            assert (part.key, part.prompt_ids) == (requests[owner].key, requests[owner].prompt_ids)
            held.setdefault(owner, []).extend(range(part.first_sample, part.first_sample + part.num_samples))
    assert held == {i: list(range(7, 7 + n)) for i, n in enumerate(sizes) if n}
    rows = [sum(part.num_samples for part in piece.requests) for piece in pieces]
    assert max(rows) <= 64
    assert all(sum(pair) > 32 for pair in pairwise(rows))


def test_prompts_of_one_length_lie_together_and_stay_whole() -> None:
    pieces = cut_samples([request(16, 3 + i % 2, f"p{i}") for i in range(8)], PieceSize(samples=64), 10)
    assert [piece.owners for piece in pieces] == [(0, 2, 4, 6), (1, 3, 5, 7)]


def test_long_prompts_make_small_pieces() -> None:
    assert len(cut_samples([request(1, 100, f"p{i}") for i in range(8)], PieceSize(tokens=250), 10)) == 4


def test_paths_of_one_prompt_are_scored_together() -> None:
    requests = [ScoreRequest(prompt_ids=(1, i % 2), path_ids=(3,) * 8) for i in range(8)]
    assert [piece.owners for piece in cut_scores(requests, PieceSize(tokens=40))] == [(0, 2, 4, 6), (1, 3, 5, 7)]


def test_the_cut_depends_on_the_requests_alone(request: pytest.FixtureRequest) -> None:
    rng = np.random.default_rng(0)
    requests = [globals()["request"](int(n), int(length)) for n, length in rng.integers(1, 90, (40, 2))]
    cut: Callable[[], Any] = partial(cut_samples, requests, PieceSize(), 10)
    assert cut() == cut()
