"""The behavior files of an imported run, which lie in the run itself, so that it can be read back and graded again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from pydantic_core import from_json, to_json

from posttrain.diagnose.behaviors.behavior_files import behavior_of_rows
from posttrain.diagnose.behaviors.schema import BehaviorConfig
from posttrain.diagnose.importing.imported import SampleSource
from posttrain.diagnose.importing.sample_columns import BehaviorSamples
from posttrain.diagnose.storage.files import AS_IN_JSON
from posttrain.diagnose.types import Behavior, Sampling, Split
from posttrain.diagnose.verifiers.imported_grades import KIND


def behavior_files(
    folder: Path, samples: BehaviorSamples, source: SampleSource, split: Split
) -> tuple[Behavior, dict[Path, bytes]]:
    """Return one behavior as `load_behavior` will read it, and the files to read it from: `NAME.yaml` and `NAME.jsonl`.

    Args:
        folder: Where they will lie.
        samples: Of the behavior.
        source: What is known of them.
        split: What its problems may be used for.
    """
    said = {"split": split.value}
    rows = [row | said for row in samples.problems]
    lines = [to_json(row) for row in rows]
    content = {
        "name": samples.name,
        "problems": f"{samples.name}.jsonl",
        "verifier": {"kind": KIND},
        "sampling": _sampling(source),
        "measure": {"success": samples.read.success},
    }
    path = folder / f"{samples.name}.yaml"
    # Metadata may hold what JSON does not, such as dates; all else is texts.
    read = (row if _is_as_in_json(row.get("metadata", {})) else from_json(line) for row, line in zip(rows, lines, strict=True))
    behavior = behavior_of_rows(BehaviorConfig.model_validate(content), read, path, split)
    settings = yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode()
    return behavior, {path: settings, path.with_name(str(content["problems"])): b"\n".join([*lines, b""])}


def _is_as_in_json(metadata: Mapping[str, Any]) -> bool:
    """Return whether JSON surely gives back what is written: names of texts, whole numbers, truth values and nulls."""
    return AS_IN_JSON.issuperset(map(type, metadata.values())) and all(type(name) is str for name in metadata)


def _sampling(source: SampleSource) -> dict[str, Any]:
    """Return the settings of the sampler that the source tells, and `known: false` where it tells none."""
    if source.sampling is None:
        return {"known": False}
    limit = {"max_tokens": source.sampling.max_tokens} if source.sampling.max_tokens else {}
    given, default = asdict(source.sampling), asdict(Sampling())
    settings = {name: value for name, value in given.items() if name != "max_tokens" and value != default[name]}
    return {**settings, **({"stop": list(settings["stop"])} if "stop" in settings else {}), **limit}
