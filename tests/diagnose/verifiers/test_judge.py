"""A served model as a verifier, against servers on loopback that agree, ramble, refuse or are not there."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from posttrain.diagnose import run
from posttrain.diagnose.behaviors import load_behavior
from posttrain.diagnose.errors import BehaviorError, SettingsError
from posttrain.diagnose.types import Behavior, GradeStatus, VerifierSpec
from posttrain.diagnose.verifiers import build_verifier
from posttrain.diagnose.verifiers.grader import Grader
from posttrain.diagnose.verifiers.judge import read_verdict

Answer = Callable[[dict[str, Any]], tuple[int, Any]]
"""Body of a request → status, and what the judge says (any other body where it is no text)."""


@contextmanager
def judging(answer: Answer, *, keys: list[str | None] | None = None) -> Iterator[str]:
    """Return a server on loopback that knows one path; gives its address, and notes the keys that it is sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if keys is not None:
                keys.append(self.headers["Authorization"])
            status, said = answer(body) if self.path == "/v1/chat/completions" else (404, {"error": "no such path"})
            reply = {"choices": [{"message": {"role": "assistant", "content": said}}]} if isinstance(said, str) else said
            content = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            server.shutdown()
            thread.join()


def asked(body: dict[str, Any]) -> str:
    """Return the response that a judge is asked about, under the default prompt."""
    return str(body["messages"][0]["content"]).split("Response:\n")[1].split("\n\nDoes the response")[0]


def load(folder: Path, url: str, **options: object) -> Behavior:
    rows = [{"id": f"p{i}", "prompt": f"{i} plus 1?", "answer": str(i + 1)} for i in range(6)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    verifier = {"kind": "judge", "url": url, "model": "m", "retries": 0, **options}
    (folder / "sums.yaml").write_text(f"problems: rows.jsonl\nverifier: {json.dumps(verifier)}\nprompt: {{format: completion}}\n")
    return load_behavior(folder / "sums.yaml")


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("yes", 1.0), ("No.", 0.0), (" **Yes** \n", 1.0), ("0.25", 0.25), ("1", 1.0), ("1.0", 1.0), (".5", 0.5), ("0", 0.0),
        ("<think>\nno? 0.3\n</think>\n\nyes", 1.0),
        ("1.5", None), ("2", None), ("-1", None), ("yes and no", None), ("Yes, because 2", None), ("", None), ("maybe", None),
        ("<think>yes", None), ("10", None), ("no 0.5", None),
    ],
)  # fmt: skip
def test_only_a_bare_verdict_is_one(reply: str, score: float | None) -> None:
    assert read_verdict(reply) == score


def test_each_answer_is_asked_about_with_question_and_expected_answer(tmp_path: Path) -> None:
    bodies: list[dict[str, Any]] = []

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        bodies.append(body)
        return 200, "yes" if asked(body) in ("1", "it is {answer}") else "0.2"

    with judging(answer) as url:
        behavior = load(tmp_path, f"{url}/")
        with Grader(behavior) as grader:
            grades = grader.grade(behavior.problems[0], ["1", "2", "it is {answer}", "1", "", "0 plus 1?"])
    assert [grade.score for grade in grades] == [1.0, 0.2, 1.0, 1.0, 0.0, 0.0]
    assert [grade.status.value for grade in grades] == ["scored"] * 4 + ["unparsed"] * 2
    assert len(bodies) == 3  # equal texts once, blanks and echoes not at all
    assert behavior.measure.success == 0.5
    first = next(body for body in bodies if asked(body) == "1")
    assert first["model"] == "m"
    assert first["temperature"] == 0
    assert "Question:\n0 plus 1?" in first["messages"][0]["content"]
    assert "Expected answer:\n1\n" in first["messages"][0]["content"]


def test_a_prompt_of_ones_own_and_odd_characters(tmp_path: Path) -> None:
    seen: list[str] = []

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        seen.append(body["messages"][0]["content"])
        return 200, "no"

    with judging(answer) as url:
        behavior = load(tmp_path, url, prompt="{response} | {answer} | {other}")
        with Grader(behavior) as grader:
            (grade,) = grader.grade(behavior.problems[2], ["{question} \ud800"])
    assert seen == ["{question} ? | 3 | {other}"]
    assert grade.score == 0.0


@pytest.mark.parametrize(
    ("status", "reply", "detail"),
    [
        (200, "I think it is right", "got 'I think it is right'; allowed: yes, no, or a number from 0 to 1"),
        (200, {"choices": []}, "got None"),
        (200, {"choices": [{"message": {"content": None}}]}, "got None"),
        (500, {"error": "broken"}, "no reply (500"),
    ],
)
def test_what_a_judge_fails_to_say_is_missing_and_never_wrong(status: int, reply: Any, detail: str, tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        return (200, "yes") if asked(body) == "1" else (status, reply)

    with judging(answer) as url:
        behavior = load(tmp_path, url)
        with Grader(behavior) as grader:
            good, bad = grader.grade(behavior.problems[0], ["1", "2"])
    assert good.score == 1.0
    assert (bad.status, bad.score, bad.missing) == (GradeStatus.ERROR, None, True)
    assert detail in bad.detail


def test_a_server_that_is_not_there_makes_grades_missing(tmp_path: Path) -> None:
    behavior = load(tmp_path, "http://127.0.0.1:9/v1", timeout=1.0)
    with Grader(behavior) as grader:
        (grade,) = grader.grade(behavior.problems[0], ["1"])
    assert grade.status is GradeStatus.ERROR
    assert "no reply" in grade.detail


def test_a_text_that_is_refused_is_missing_and_the_others_are_judged(tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        return (400, {"error": "filtered"}) if asked(body) == "bad words" else (200, "yes")

    with judging(answer) as url:
        behavior = load(tmp_path, url)
        with Grader(behavior) as grader:
            grades = grader.grade(behavior.problems[0], ["1", "bad words", "one"])
            alone = grader.grade(behavior.problems[0], ["bad words"])
    assert [grade.score for grade in grades] == [1.0, None, 1.0]
    assert "filtered" in grades[1].detail
    assert alone[0].status is GradeStatus.ERROR


def test_the_key_goes_to_hosts_that_the_user_allowed_and_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    sent: list[str | None] = []

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        return (200, "yes") if sent[-1] else (401, {"error": "no key"})

    for hosts, expected in ((None, None), ("api.openai.com,127.0.0.2", None), ("api.openai.com, 127.0.0.1", "Bearer secret")):
        monkeypatch.delenv("POSTTRAIN_API_KEY_HOSTS", raising=False)
        if hosts is not None:
            monkeypatch.setenv("POSTTRAIN_API_KEY_HOSTS", hosts)
        with judging(answer, keys=sent) as url:
            behavior = load(tmp_path, url)
            with Grader(behavior) as grader:
                if expected is None:
                    with pytest.raises(SettingsError) as refused:
                        grader.grade(behavior.problems[0], ["1"])
                    assert refused.value.code == "judge_refused"
                    assert "POSTTRAIN_API_KEY_HOSTS=127.0.0.1" in str(refused.value)
                else:
                    assert grader.grade(behavior.problems[0], ["1"])[0].score == 1.0
        assert set(sent) == {expected}
        sent.clear()


def test_a_server_that_refuses_everything_is_set_up_wrongly(tmp_path: Path) -> None:
    with judging(lambda body: (401, {"error": "no key"})) as url:
        behavior = load(tmp_path, url)
        with (
            pytest.raises(SettingsError) as refused,
            Grader(behavior) as grader,
        ):
            grader.grade(behavior.problems[0], ["1", "2"])
    assert refused.value.code == "judge_refused"
    assert "OPENAI_API_KEY" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_diagnosis_with_a_judge_and_one_whose_judge_believes_anything(tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text("success: 0.5\n")

    def fair(body: dict[str, Any]) -> tuple[int, Any]:
        question = str(body["messages"][0]["content"]).split("Question:\n")[1].split(" plus")[0]
        return 200, "0.9" if asked(body) == str(int(question) + 1) else "0.1"

    for answer, invalid in ((fair, False), (lambda body: (200, "yes"), True)):
        with judging(answer) as url:
            behavior = load(tmp_path, url)
            found = run(
                str(tmp_path / "model.yaml"),
                [behavior],
                out=tmp_path / f"run-{invalid}",
                engine="scripted",
                samples=8,
                probes=("none",),
            )
        assert (found.diagnoses[0].bottleneck == "invalid") is invalid
        if invalid:
            assert "garbage" in found.diagnoses[0].sentence or "answers nothing" in found.diagnoses[0].sentence
        else:
            assert 0 < found["sums"].table.score.mean() < 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"model": "m"}, "url is missing"),
        ({"url": "localhost:8000", "model": "m"}, "url: got 'localhost:8000'; allowed: the address of a server"),
        ({"url": "http://me:secret@host/v1", "model": "m"}, "without user, password or query"),
        ({"url": "http://host/v1"}, "model is missing"),
        ({"url": "http://host/v1", "model": "m", "prompt": "Is it right?"}, "the text {response} must stand in it"),
        ({"url": "http://host/v1", "model": "m", "temperature": 1}, "unknown key 'temperature'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BehaviorError) as refused:
        build_verifier(VerifierSpec(kind="judge", options=options))
    assert refused.value.code == "invalid_setting"
    assert said in str(refused.value)
