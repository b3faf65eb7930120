"""The formats that samples can be imported from, one module each."""

from __future__ import annotations

from posttrain.diagnose.importing.formats.areal import AREAL
from posttrain.diagnose.importing.formats.counts import COUNTS
from posttrain.diagnose.importing.formats.every_eval_ever import EVERY_EVAL_EVER
from posttrain.diagnose.importing.formats.inspect_reader import INSPECT
from posttrain.diagnose.importing.formats.lighteval import LIGHTEVAL
from posttrain.diagnose.importing.formats.lm_eval import LM_EVAL
from posttrain.diagnose.importing.formats.nemo_gym import NEMO_GYM
from posttrain.diagnose.importing.formats.nemo_rl import NEMO_RL
from posttrain.diagnose.importing.formats.open_instruct import OPEN_INSTRUCT
from posttrain.diagnose.importing.formats.openai_evals import OPENAI_EVALS
from posttrain.diagnose.importing.formats.prime_rl import PRIME_RL
from posttrain.diagnose.importing.formats.table import TABLE
from posttrain.diagnose.importing.formats.tinker import TINKER
from posttrain.diagnose.importing.formats.trl import TRL
from posttrain.diagnose.importing.formats.verifiers import VERIFIERS
from posttrain.diagnose.importing.formats.verl import VERL
from posttrain.diagnose.importing.imported import Format

FORMATS: dict[str, Format] = {
    one.name: one
    for one in (
        COUNTS,
        TABLE,
        LM_EVAL,
        INSPECT,
        EVERY_EVAL_EVER,
        LIGHTEVAL,
        OPENAI_EVALS,
        VERIFIERS,
        PRIME_RL,
        NEMO_GYM,
        NEMO_RL,
        VERL,
        TRL,
        OPEN_INSTRUCT,
        TINKER,
        AREAL,
    )
}
"""Name on the command line → format; register a new one here."""
