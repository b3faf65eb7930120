"""What run.json must hold for a reader: its fields and their types; all others are kept as they are."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator

from posttrain.diagnose.behaviors.behavior_options import BehaviorOptions
from posttrain.diagnose.thresholds import Thresholds
from posttrain.diagnose.types import LimitSource, Split


class RunSettings(BaseModel):
    """What a resumed run must share."""

    model_config = ConfigDict(extra="allow")

    behaviors: dict[str, str] = Field(default_factory=dict)
    """Name → fingerprint."""
    seed: int = 0
    split: Split = Split.EVAL
    thresholds: dict[str, Any] = Field(default_factory=dict)


class TokenLimitRecord(BaseModel):
    """A limit that was found."""

    model_config = ConfigDict(extra="allow")

    max_tokens: int = Field(ge=1)
    source: LimitSource


class DecisionRecord(BaseModel):
    """What a run was decided again with, in the place of what it was measured with; None leaves that."""

    model_config = ConfigDict(extra="allow")

    retention_weight: float | None = None
    epsilon: float | None = None
    primary_k: int | None = None
    before: str | None = None
    """An earlier run whose samples were compared with those of this one; the findings lie in the folder `decision`."""
    command: str = ""


class RunRecord(BaseModel):
    """What every run.json holds."""

    model_config = ConfigDict(extra="allow")

    kind: str
    settings: RunSettings
    created: str = ""
    command: str = ""
    model: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    sources: dict[str, str] = Field(default_factory=dict)
    """Name of each behavior → where it was found."""
    behavior_options: dict[str, BehaviorOptions] = Field(default_factory=dict)
    """Name of a behavior → settings that were given beside its file."""
    token_limits: dict[str, TokenLimitRecord] = Field(default_factory=dict)
    """Name of a behavior whose `max_tokens` is `auto` → what was found."""
    decision: DecisionRecord = DecisionRecord()

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        """Refuse a diagnosis that does not say what its samples are of."""
        if self.kind == "diagnose":
            has = {"run": self.model_fields_set, "settings": self.settings.model_fields_set}
            wanted = {"run": {"created", "command", "model", "versions", "sources"}, "settings": {*RunSettings.model_fields}}
            if lacking := sorted(name for part in wanted for name in wanted[part] - has[part]):
                raise ValueError(f"no {lacking[0]!r}")
            if lacking := sorted(set(self.settings.behaviors) - set(self.sources)):
                raise ValueError(f"no source of {lacking[0]!r}")
            if "source" not in self.model:
                raise ValueError("no source of the model")
            TypeAdapter(Thresholds).validate_python(self.settings.thresholds)
        return self
