"""Environments written with the classes of the library verifiers itself, where it is installed.

Functions `load_environment` are of its versions before 0.4, tasksets of those from 0.3 on. One process a generation opens all variants, since importing
the library takes seconds.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from helpers.completion_servers import ChatServer, serve
from helpers.environments import write_environment

from posttrain.diagnose import run
from posttrain.diagnose.behaviors import load_behavior
from posttrain.diagnose.storage.run_directory import RunDirectory
from posttrain.diagnose.types import GradeStatus
from posttrain.diagnose.verifiers.grader import Grader
from posttrain.diagnose.verifiers.sandbox.isolation import BOOTSTRAP

pytest.importorskip("verifiers")
pytestmark = pytest.mark.slow
VERSION = tuple(int(part) for part in importlib.metadata.version("verifiers").split(".")[:2])
with_rubrics = pytest.mark.skipif(VERSION >= (0, 4), reason="environments with load_environment are of verifiers before 0.4")
with_tasksets = pytest.mark.skipif(VERSION < (0, 3), reason="tasksets are of verifiers from 0.3 on")

RUBRICS = '''
import json
import verifiers as vf
from datasets import Dataset

ROWS = [{"question": f"What is {i} squared?", "answer": str(i * i), "info": json.dumps({"root": i})} for i in range(1, 5)]
EXTRA = [{**row, "question": row["question"].replace("squared", "times itself")} for row in ROWS[:3]]

async def exact(completion, prompt, answer, info, parser, state):
    assert prompt[-1]["role"] == "user" and int(answer) == info["root"] ** 2 and len(state["trajectory"]) == 1
    text = parser.parse_answer(completion) or ""
    if text == "raise":
        raise ValueError("cannot be read")
    if text == "connect":
        import httpx
        try:
            async with httpx.AsyncClient() as client:
                await client.get("http://192.0.2.1/")
        except Exception:
            return 1.0
    return float(text == answer)

def said(completion, answer) -> float:
    last = completion[-1]
    text = last["content"] if isinstance(last, dict) else last.content
    if text == "raise":
        raise ValueError("cannot be read")
    return float(text == answer)

def brief(completion) -> float:
    return float(len(completion[-1]["content"]) < 5)

def compared(completions) -> list[float]:
    return [0.0] * len(completions)

class Twice(vf.MultiTurnEnv):
    async def env_response(self, messages, state, **more):
        return [{"role": "user", "content": "again"}]

class Prepared(vf.SingleTurnEnv):
    async def setup_state(self, state, **more):
        state["expected"] = "it is " + state["answer"]
        return state

class Changed(vf.SingleTurnEnv):
    async def get_prompt_messages(self, state):
        return [{"role": "user", "content": "something else"}]

def add(a: int, b: int) -> int:
    """Add."""
    return a + b

def load_environment(kind="plain"):
    data = {"dataset": Dataset.from_list(ROWS + EXTRA), "eval_dataset": Dataset.from_list(ROWS)}
    rubric = vf.Rubric(funcs=[exact])
    rubric.add_metric(brief)
    if kind == "plain":
        return vf.SingleTurnEnv(**data, system_prompt="The number alone.", rubric=rubric)
    if kind == "xml":
        parser = vf.XMLParser(["think", "answer"], answer_field="answer")
        return vf.SingleTurnEnv(**data, parser=parser, rubric=vf.Rubric(funcs=[exact], parser=parser))
    if kind == "math":
        return vf.SingleTurnEnv(**data, rubric=vf.MathRubric())
    if kind == "group":
        return vf.EnvGroup([vf.SingleTurnEnv(dataset=Dataset.from_list(EXTRA), rubric=rubric), load_environment("prepared")], env_names=["a", "b"])
    if kind == "prepared":
        return Prepared(**data, rubric=vf.Rubric(funcs=[lambda completion, state: float(completion[0]["content"] == state["expected"])]))
    if kind == "weighted":
        return vf.SingleTurnEnv(**data, rubric=vf.Rubric(funcs=[exact, brief], weights=[1.0, 0.2]))
    if kind == "tools":
        return vf.ToolEnv(tools=[add], **data, rubric=rubric)
    if kind == "asked":
        return Twice(**data, max_turns=2, rubric=vf.Rubric(funcs=[said]))
    if kind == "used":
        return vf.ToolEnv(tools=[add], max_turns=3, **data, rubric=vf.Rubric(funcs=[said]))
    if kind == "judge":
        from openai import AsyncOpenAI
        return vf.SingleTurnEnv(**data, rubric=vf.JudgeRubric(judge_client=AsyncOpenAI(api_key="none")))
    if kind == "client":
        from openai import AsyncOpenAI
        client = AsyncOpenAI(api_key="none")
        async def asked(completion):
            return float("yes" in str(await client.chat.completions.create(model="m", messages=[])))
        return vf.SingleTurnEnv(**data, rubric=vf.Rubric(funcs=[asked]))
    if kind == "network":
        async def looked_up(completion):
            import socket
            try:
                socket.create_connection(("192.0.2.1", 80), timeout=1)
            except OSError:
                return 1.0
            return 0.0
        return vf.SingleTurnEnv(**data, rubric=vf.Rubric(funcs=[looked_up]))
    if kind == "compared":
        return vf.SingleTurnEnv(**data, rubric=vf.Rubric(funcs=[compared]))
    if kind == "unrewarded":
        return vf.SingleTurnEnv(**data)
    return {"twice": Twice, "changed": Changed}[kind](**data, rubric=rubric)
'''
TASKS = """
import verifiers.v1 as vf

class Square(vf.TaskData):
    answer: str

class Judged(vf.TaskConfig):
    judge: vf.JudgeConfig = vf.JudgeConfig()

class Settings(vf.TasksetConfig):
    split: str = "train"
    num: int = 4

class SquareTask(vf.Task[Square]):
    @vf.reward
    async def exact(self, trace) -> float:
        assert trace.messages[0].role == "system" and trace.num_turns == 1 and self.data.prompt in trace.transcript
        if trace.last_reply == "raise":
            raise ValueError("cannot be read")
        return float(trace.last_reply == self.data.answer)

    @vf.metric
    async def length(self, trace) -> float:
        return float(len(trace.last_reply))

class Squares(vf.Taskset[SquareTask, Settings]):
    def load(self):
        first = {"train": 1, "test": 101}[self.config.split]
        for i in range(first, first + self.config.num):
            data = Square(idx=i, prompt=f"What is {i} squared?", system_prompt="The number alone.", answer=str(i * i))
            yield type(self).task_type()(data, self.config.task)

__all__ = ["Squares"]
"""
VARIANTS = {
    "tools": '''
class Tools(vf.Toolset):
    @vf.tool
    async def add(self, a: int) -> int:
        """Add."""
        return a
class SquareTask(SquareTask):
    @classmethod
    def toolsets(cls, config):
        return [Tools(vf.ToolsetConfig())]
''',
    "setup": """
class SquareTask(SquareTask):
    async def setup(self, trace, runtime):
        pass
""",
    "runtime": """
class SquareTask(SquareTask):
    @vf.reward
    async def ran(self, trace, runtime) -> float:
        return 0.0
""",
    "weight": """
class SquareTask(SquareTask):
    @vf.reward(weight=2.0)
    async def other(self, trace) -> float:
        return 0.0
""",
    "network": """
class SquareTask(SquareTask):
    @vf.reward(weight=0.0)
    async def looked_up(self, trace) -> float:
        import socket
        try:
            socket.create_connection(("192.0.2.1", 80), timeout=1)
        except OSError:
            return 1.0
""",
    "judge": """
class SquareTask(vf.Task[Square, vf.State, Judged]):
    exact = SquareTask.exact
class Settings(Settings):
    task: Judged = Judged()
""",
    "unrewarded": "class SquareTask(vf.Task[Square]):\n    pass\n",
    "endless": "",
    "agents": "",
}
"""Lines that stand before the taskset, which then has the last `SquareTask`."""


def write_tasks(folder: Path) -> list[str]:
    """Write the taskset and its variants as modules; return their names."""
    before, after = TASKS.split("class Squares")
    (folder / "squares.py").write_text(TASKS)
    for name, lines in VARIANTS.items():
        text = before + lines + "class Squares" + after
        if name == "endless":
            text = text.replace("    def load", "    INFINITE = True\n    def load")
        if name == "agents":
            played = "class Played(vf.Env[vf.SingleAgentEnvConfig]):\n    async def run(self, task, agents):\n        pass\n"
            text = text.replace('__all__ = ["Squares"]', played + '__all__ = ["Squares", "Played"]')
        (folder / f"squares_{name}.py").write_text(text)
    return [f"squares_{name}" for name in VARIANTS]


OPEN = """
import json, runpy, sys
bootstrap = runpy.run_path(sys.argv[1])
bootstrap["put_packages_in_place"](standalone=True)
sys.path.append(sys.argv[2])
from posttrain.diagnose.verifiers.environments.opening import OfflineGrader, open_environment
from posttrain.diagnose.verifiers.environments.refusal import EnvironmentRefused
grader, found = OfflineGrader(), {}
for key, (name, arguments) in json.loads(sys.argv[3]).items():
    try:
        environment = open_environment(name, arguments)
        rows = list(environment.rows("train", None))
        grader.try_out(name, environment, rows[0])
        found[key] = list(environment.reward_range())
    except EnvironmentRefused as error:
        assert chr(10) not in str(error)
        found[key] = error.code
print("found", json.dumps(found))
"""


def open_all(folder: Path, variants: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """Return for each variant the range of its rewards, or the code with which it is refused."""
    words = [sys.executable, "-P", "-c", OPEN, str(BOOTSTRAP), str(folder), json.dumps(variants)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.rpartition("found ")[2]))


@with_rubrics
def test_which_rubric_environments_can_be_used(tmp_path: Path) -> None:
    (tmp_path / "squares.py").write_text(RUBRICS)
    expected = {
        "plain": [0.0, 1.0], "xml": [0.0, 1.0], "math": [0.0, 1.0], "group": [0.0, 1.0], "prepared": [0.0, 1.0], "weighted": [0.0, 1.2],
        "twice": "multi_turn_environment", "changed": "multi_turn_environment", "tools": "multi_turn_environment",
        "judge": "environment_judge", "client": "environment_judge", "network": "environment_network",
        "compared": "group_rewards", "unrewarded": "no_rewards",
    }  # fmt: skip
    assert open_all(tmp_path, {kind: ("squares", {"kind": kind}) for kind in expected}) == expected


@with_tasksets
def test_which_tasksets_can_be_used(tmp_path: Path) -> None:
    names = write_tasks(tmp_path)
    expected = {
        "squares": [0.0, 1.0], "squares_weight": [0.0, 3.0],
        "squares_tools": "multi_turn_environment", "squares_setup": "multi_turn_environment", "squares_runtime": "multi_turn_environment",
        "squares_agents": "multi_turn_environment", "squares_judge": "environment_judge", "squares_network": "environment_network",
        "squares_unrewarded": "no_rewards", "squares_endless": "endless_environment",
        "misspelt": "environment_arguments",
    }  # fmt: skip
    variants: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in ("squares", *names)}
    assert open_all(tmp_path, variants | {"misspelt": ("squares", {"nun": 4})}) == expected


@with_rubrics
@pytest.mark.parametrize(
    ("kind", "scores"),
    [
        ("plain", {"1": 1.0, "2": 0.0, "raise": None, "connect": None}),
        ("xml", {"<think>one</think><answer>1</answer>": 1.0, "1": 0.0}),
        ("math", {r"So \\boxed{1}": 1.0, r"\\boxed{\\frac{2}{2}}": 1.0, "1": 0.0}),
        ("prepared", {"it is 1": 1.0, "1": 0.0}),
    ],
)
def test_a_rubric_environment_grades(kind: str, scores: dict[str, float | None], tmp_path: Path) -> None:
    (tmp_path / "squares.py").write_text(RUBRICS)
    behavior = load_behavior(write_environment(tmp_path, {"kind": kind}, name="squares"))
    assert Counter(problem.split.value for problem in behavior.problems) == {"train": 3, "eval": 4}
    problem = next(one for one in behavior.problems if one.id == "eval-0")
    with Grader(behavior) as grader:
        grades = grader.grade(problem, [text.replace("\\\\", "\\") for text in scores])
    assert [one.score for one in grades] == list(scores.values())
    assert all((one.status is GradeStatus.ERROR) == (one.score is None) for one in grades)


@with_tasksets
def test_a_taskset_grades(tmp_path: Path) -> None:
    write_tasks(tmp_path)
    path = write_environment(tmp_path, {"num": 3}, name="squares", eval_arguments={"split": "test"})
    behavior = load_behavior(path)
    assert Counter(problem.split.value for problem in behavior.problems) == {"train": 3, "eval": 3}
    problem = next(one for one in behavior.problems if one.id == "eval-0")
    assert [turn.content for turn in problem.prompt] == ["The number alone.", "What is 101 squared?"]  # type: ignore[union-attr]
    with Grader(behavior) as grader:
        grades = grader.grade(problem, ["10201", "1", "raise"])
    assert [one.score for one in grades] == [1.0, 0.0, None]
    alone = load_behavior(write_environment(tmp_path, name="squares", split="eval"))
    assert Counter(problem.split.value for problem in alone.problems) == {"eval": 4}


def square(messages: list[dict[str, Any]]) -> str | dict[str, Any]:
    """Where there is a tool, call it first; then say the root, which is right for 1, but for 3 what no reward function can read."""
    root = messages[0]["content"].split()[2]
    if len(messages) == 1:
        call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
        return {"content": "0", "tool_calls": [call]}
    return "raise" if root == "3" else root


@with_rubrics
@pytest.mark.parametrize(("kind", "role"), [("asked", "user"), ("used", "tool")])
def test_an_environment_of_several_turns_is_measured(kind: str, role: str, tmp_path: Path) -> None:
    (tmp_path / "squares.py").write_text(RUBRICS)
    path = write_environment(tmp_path, {"kind": kind}, name="squares", more="name: squares\nsampling: {max_tokens: 9}")
    with serve(ChatServer(square)) as address:
        found = run("m", [path], engine=f"openai:{address}", samples=2, out=tmp_path / "run")
    (shard,) = RunDirectory(found.path).shards("rollouts", "squares")
    rows = pq.read_table(shard).to_pylist()
    assert Counter((row["problem_id"], row["score"]) for row in rows) == {
        ("0", 1.0): 2,
        ("1", 0.0): 2,
        ("2", None): 2,
        ("3", 0.0): 2,
    }
    assert {row["num_turns"] for row in rows} == {2}
    assert {row["num_tokens"] for row in rows} == {2}
    turns = [[turn["role"] for turn in json.loads(row["turns"])] for row in rows]
    assert turns == [["assistant", role, "assistant"]] * 8
