"""Finds and loads a model: a Hugging Face directory or id, a LoRA adapter's folder, or a GGUF file.

A GGUF file is converted once to an ordinary directory in the cache folder (`POSTTRAIN_CACHE`, else `~/.cache/posttrain`), because
rebuilding its tokenizer takes several seconds each time; an adapter is merged into its base in the same way, so that every engine takes it.
Whatever goes wrong becomes an error of one line.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posttrain.diagnose.engines.limits import first_line, short_hash
from posttrain.diagnose.engines.models.adapter_folder import adapter_files, base_of, is_adapter, merge_adapter
from posttrain.diagnose.engines.models.model_files import model_files
from posttrain.diagnose.engines.models.model_source import cache_dir, missing_base, resolve_model
from posttrain.diagnose.errors import ModelError, UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_HASH_WHOLE_BELOW = 4 * 2**30
_BLOCK, _SAMPLED = 2**20, 2**14


def fingerprint_files(paths: list[Path], *, root: Path | None = None) -> str:
    """Hash the contents of files: all of them below 4 GiB in sum, else sizes and the first 16 KiB of every MiB.

    So a change of one matrix of a large model is noticed, which has more than a MiB.

    Args:
        paths: The files.
        root: The folder that they are named from; by default each is named without its folder.
    """
    digest = hashlib.sha256()
    whole = sum(path.stat().st_size for path in paths) < _HASH_WHOLE_BELOW
    for path in sorted(paths):
        size = path.stat().st_size
        name = path.name if root is None else path.relative_to(root).as_posix()
        digest.update(f"{name}:{size}:".encode())
        with path.open("rb") as file:
            if whole:
                while block := file.read(_BLOCK):
                    digest.update(block)
            else:
                for start in range(0, size, _BLOCK):
                    file.seek(start)
                    digest.update(file.read(_SAMPLED))
    return digest.hexdigest()[:16]


def fingerprint_model(source: str | Path) -> str:
    """Hash what makes the model's numbers: weights, configuration, tokenizer and chat template."""
    resolved = resolve_model(source)
    if isinstance(resolved, str):
        from huggingface_hub import snapshot_download  # a hub model is fingerprinted by its files, fetched if need be

        patterns = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
        try:
            folder = Path(snapshot_download(resolved, allow_patterns=patterns))
            if not any(folder.glob("*.safetensors")):  # then its weights are what transformers loads instead
                folder = Path(snapshot_download(resolved, allow_patterns=[*patterns, "*.bin"]))
            resolved = folder
        except Exception as error:
            raise _not_loadable(source, error) from error
    if resolved.is_file():
        return fingerprint_files([resolved])
    if is_adapter(resolved):  # an adapter's numbers are its own and its base's
        both = fingerprint_files(adapter_files(resolved)) + _fingerprint_base(resolved)
        return short_hash(both)
    return fingerprint_files(model_files(resolved), root=resolved)


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a MODEL.

    Raises:
        ModelError: It cannot be found or loaded, or gives no character offsets.
    """
    from transformers import AutoTokenizer

    resolved = materialize(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(resolved, trust_remote_code=False)
    except Exception as error:
        raise _not_loadable(source, error) from error
    if not tokenizer.is_fast:
        raise ModelError(
            f"model {source}: its tokenizer gives no character offsets; use one with a tokenizer.json", code="slow_tokenizer"
        )
    return tokenizer


def load_model(source: str | Path, *, dtype: torch.dtype) -> PreTrainedModel:
    """Load the weights of a MODEL in one precision, in evaluation mode, on the processor.

    Raises:
        ModelError: It cannot be found or loaded, or weights are missing from it.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model, loading = _load_weights(AutoModelForCausalLM, source, materialize(source), dtype)
    if loading["missing_keys"] or loading.get("mismatched_keys"):
        missing = sorted(loading["missing_keys"]) or sorted(map(str, loading["mismatched_keys"]))
        raise ModelError(
            f"model {source}: {len(missing)} weights are missing or of another shape (first: {missing[0]}); the checkpoint is broken",
            code="broken_checkpoint",
        )
    bad = next((name for name, value in model.named_parameters() if not bool(torch.isfinite(value).all())), None)
    if bad is not None:
        raise ModelError(
            f"model {source}: the weight {bad} holds NaN or infinity; the checkpoint is broken, use an earlier one",
            code="broken_checkpoint",
        )
    return model.eval()


def load_reward_model(source: str | Path) -> PreTrainedModel:
    """Load a sequence classifier with one label, in single precision and evaluation mode, on the processor.

    Raises:
        ModelError: It cannot be found or loaded, or is none.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    model, loading = _load_weights(AutoModelForSequenceClassification, source, resolve_model(source), torch.float32)
    if loading["missing_keys"] or model.config.num_labels != 1:
        missing = sorted(loading["missing_keys"])
        why = f"its weights lack {missing[0]}" if missing else f"it has {model.config.num_labels} labels"
        raise ModelError(
            f"model {source}: is no reward model ({why}); give a folder that `posttrain train reward_model` wrote, or a sequence classifier with one label",
            code="not_a_reward_model",
        )
    return model.eval()


def _load_weights(kind: Any, source: str | Path, resolved: Path | str, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    """Return a model of an Auto class of transformers, and what transformers says of its loading."""
    try:
        with _quiet_transformers():
            model, loading = kind.from_pretrained(resolved, dtype=dtype, output_loading_info=True, trust_remote_code=False)
            _make_writable(model)
            return model, loading
    except Exception as error:
        raise _not_loadable(source, error) from error


def _make_writable(model: PreTrainedModel) -> None:
    """Change generation settings that transformers reads and refuses to write, such as a temperature without `do_sample`.

    Where it is not that, the end tokens and other ids are kept and the rest is dropped: nothing here samples by these settings.
    """
    from transformers import GenerationConfig

    settings = getattr(model, "generation_config", None)
    if settings is None or _is_writable(settings):
        return
    settings.do_sample = True
    if not _is_writable(settings):
        ids = {name: getattr(settings, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        model.generation_config = GenerationConfig(**ids)


def _is_writable(settings: Any) -> bool:
    try:
        settings.validate(strict=True)
    except ValueError:
        return False
    return True


def materialize(source: str | Path) -> Path | str:
    """Return a directory or id that transformers loads; a GGUF file is converted once, an adapter merged into its base once.

    Raises:
        ModelError: It cannot be found or converted.
    """
    resolved = resolve_model(source)
    if isinstance(resolved, str) or (resolved.is_dir() and not is_adapter(resolved)):
        return resolved
    if resolved.is_dir():
        target = cache_dir() / f"{resolved.name}-{fingerprint_model(resolved)}"
        if not (target / "config.json").exists():
            _merge_into_base(resolved, target)
        return target
    target = cache_dir() / f"{resolved.stem}-{fingerprint_files([resolved])}"
    if not (target / "config.json").exists():
        _convert_gguf(resolved, target)
    return target


def _fingerprint_base(adapter: Path) -> str:
    base = base_of(adapter)
    try:
        return fingerprint_model(base)
    except ModelError as error:
        raise missing_base(adapter, base) from error


def _merge_into_base(adapter: Path, target: Path) -> None:
    """Write an adapter's base with the adapter added (fp32) and the tokenizer of whichever has one."""
    import torch
    from transformers import AutoTokenizer

    base = base_of(adapter)
    with _complete_folder(adapter, target) as work, _quiet_transformers():
        merge_adapter(load_model(base, dtype=torch.float32), adapter).save_pretrained(work)
        own = (adapter / "tokenizer_config.json").exists()
        (AutoTokenizer.from_pretrained(adapter) if own else load_tokenizer(base)).save_pretrained(work)


def _convert_gguf(file: Path, target: Path) -> None:
    """Write a GGUF file as safetensors (fp32) with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with _complete_folder(file, target) as work, _quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(
            str(file.parent), gguf_file=file.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
        _make_writable(model)
        model.save_pretrained(work)
        tokenizer.save_pretrained(work)


@contextmanager
def _complete_folder(source: Path, target: Path) -> Iterator[Path]:
    """Give a folder to write a model into; it becomes `target` when it is complete, and is removed on an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".convert-", dir=target.parent))
    try:
        yield work
        try:
            work.rename(target)
        except OSError:  # another process has made the same one in the meantime
            if not (target / "config.json").exists():
                raise
    except UserError:
        raise
    except Exception as error:
        raise _not_loadable(source, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _not_loadable(source: str | Path, error: Exception) -> ModelError:
    """Say in one line what a loader raised."""
    return ModelError(
        f"model {source}: cannot be loaded ({type(error).__name__}: {first_line(error)}); give a whole Hugging Face directory, a .gguf file or a hub id",
        code="model_not_loadable",
    )


class _quiet_transformers:
    """Silences transformers' progress bars and reports; this project shows its own."""

    def __enter__(self) -> None:
        from transformers.utils import logging

        self._verbosity = logging.get_verbosity()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *_: Any) -> None:
        from transformers.utils import logging

        logging.set_verbosity(self._verbosity)


if __name__ == "__main__":
    # `python -m posttrain.diagnose.engines.models.loading MODEL` fetches and converts ahead of the first run.
    print(f"model: {materialize(sys.argv[1])}")
