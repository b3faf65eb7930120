"""A wrong MODEL is refused before anything heavy is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.completion_servers import Reply, serve

from posttrain.diagnose.engines import check_model
from posttrain.diagnose.errors import ModelError

HEAVY = ("torch", "transformers", "scipy", "matplotlib", "pandas", "huggingface_hub")
PROGRAM = f"""
import json, sys
from posttrain.diagnose.engines import open_engine
from posttrain.diagnose.errors import ModelError
try:
    open_engine("transformers", sys.argv[1], [])
except ModelError as error:
    print(json.dumps([error.code, str(error), [name for name in {HEAVY!r} if name in sys.modules]]))
"""


def folder_without_model(folder: Path) -> str:
    return str(folder)


def text_file(folder: Path) -> str:
    (folder / "model.txt").write_text("no weights")
    return str(folder / "model.txt")


def adapter_without_base(folder: Path) -> str:
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/nowhere/base"}))
    return str(folder)


@pytest.mark.parametrize(
    ("source", "code"),
    [
        (lambda folder: str(folder / "missing"), "model_not_found"),
        (lambda folder: "./missing.gguf", "model_not_found"),
        (lambda folder: "missing-owner/nothing", "model_not_found"),
        (folder_without_model, "not_a_model_folder"),
        (text_file, "not_a_model_file"),
        (adapter_without_base, "base_not_found"),
    ],
    ids=["path", "gguf", "hub id", "folder", "file", "adapter"],
)
def test_nothing_heavy_is_imported(source: Callable[[Path], str], code: str, tmp_path: Path) -> None:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, source(tmp_path)], env=environment, capture_output=True, text=True, check=True
    )
    found, message, heavy = json.loads(done.stdout)
    assert found == code
    assert "\n" not in message
    assert heavy == []


@pytest.mark.parametrize(
    ("status", "token", "known"), [(200, "", True), (404, "", False), (401, "", False), (401, "mine", True), (500, "", True)]
)
def test_the_hub_is_asked(status: int, token: str, known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the hub has, what it may hide from us, and what it cannot tell now is left to the loader; the rest is refused."""
    asked = []

    def answer(path: str, body: dict[str, object]) -> Reply:
        asked.append(path)
        return Reply(status, {})

    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    with serve(answer) as address:
        monkeypatch.setenv("HF_ENDPOINT", address)
        if known:
            check_model("transformers", "some/model")
        else:
            with pytest.raises(ModelError) as refused:
                check_model("vllm", "some/model")
            assert refused.value.code == "model_not_found"
        assert asked == ["/api/models/some/model"]
        (tmp_path / "hub" / "models--some--model" / "snapshots").mkdir(parents=True)
        check_model("transformers", "some/model")
        assert len(asked) == 1, "it is in the local cache"


def test_names_that_a_server_knows_are_not_looked_for() -> None:
    check_model("openai:http://localhost:1/v1", "/nowhere/model")
