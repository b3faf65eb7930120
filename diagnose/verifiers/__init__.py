"""From (problem, text) to `Grade`, with everything that parses or executes model text in a child process."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from posttrain.diagnose.errors import BehaviorError
from posttrain.diagnose.strict_settings import explain, unknown
from posttrain.diagnose.types import VerifierSpec
from posttrain.diagnose.verifiers.base import ModelVerifier, Verifier
from posttrain.diagnose.verifiers.choice import ChoiceVerifier
from posttrain.diagnose.verifiers.code import CodeVerifier
from posttrain.diagnose.verifiers.environment import EnvironmentVerifier
from posttrain.diagnose.verifiers.exact import ExactVerifier
from posttrain.diagnose.verifiers.ifeval import IfevalVerifier
from posttrain.diagnose.verifiers.imported_grades import ImportedVerifier
from posttrain.diagnose.verifiers.judge import JudgeVerifier
from posttrain.diagnose.verifiers.math import MathVerifier
from posttrain.diagnose.verifiers.number import NumberVerifier
from posttrain.diagnose.verifiers.python import PythonVerifier
from posttrain.diagnose.verifiers.reasoning_gym import ReasoningGymVerifier
from posttrain.diagnose.verifiers.regex import RegexVerifier
from posttrain.diagnose.verifiers.reward_model import RewardModelVerifier

VERIFIERS: dict[str, type[Any]] = {
    "exact": ExactVerifier,
    "number": NumberVerifier,
    "choice": ChoiceVerifier,
    "regex": RegexVerifier,
    "math": MathVerifier,
    "ifeval": IfevalVerifier,
    "python": PythonVerifier,
    "code": CodeVerifier,
    "reasoning_gym": ReasoningGymVerifier,
    "environment": EnvironmentVerifier,
    "reward_model": RewardModelVerifier,
    "judge": JudgeVerifier,
    "imported": ImportedVerifier,
}
"""Every kind by name. A kind is made from its `Options` and follows `Verifier` or `ModelVerifier`."""


def build_verifier(spec: VerifierSpec, *, where: str = "verifier") -> Verifier | ModelVerifier:
    """Make the verifier that a behavior names.

    Args:
        spec: Kind and options.
        where: The file, for error messages.

    Raises:
        BehaviorError: If the kind is unknown, or an option is unknown or wrong.
    """
    if spec.kind not in VERIFIERS:
        raise BehaviorError(f"{where}: {unknown('verifier kind', spec.kind, VERIFIERS)}", code="unknown_verifier")
    kind = VERIFIERS[spec.kind]
    try:
        options = kind.Options.model_validate(dict(spec.options))
    except ValidationError as error:
        raise BehaviorError(f"{where}: verifier {spec.kind}: {explain(error, kind.Options)}", code="invalid_setting") from None
    verifier: Verifier | ModelVerifier = kind(options)
    return verifier


__all__ = ["VERIFIERS", "ModelVerifier", "Verifier", "build_verifier"]
