"""What a MODEL names: a folder, a GGUF file, an adapter, a model on the hub or the demo model. Imports nothing heavy.

So a wrong MODEL is refused before torch and transformers are imported, which takes seconds.
"""

from __future__ import annotations

import os
import re
import socket
import urllib.error
import urllib.request
from pathlib import Path

from posttrain.diagnose.engines.models.adapter_folder import base_of, is_adapter
from posttrain.diagnose.engines.models.model_files import check_index_files
from posttrain.diagnose.errors import ModelError

DEMO = "demo"
"""The MODEL that is downloaded from PyPI."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_HUB_SECONDS = 10.0


def cache_dir() -> Path:
    """Return the folder for converted models: `POSTTRAIN_CACHE`, else `~/.cache/posttrain`."""
    return Path(os.environ.get("POSTTRAIN_CACHE") or Path.home() / ".cache" / "posttrain")


def check_model(source: str | Path) -> None:
    """Refuse a MODEL that cannot be found, within a fraction of a second and without downloading it.

    Raises:
        ModelError: Nothing of that name is here or on the hub, the folder holds no model, or an adapter's base cannot be found.
    """
    if str(source) == DEMO:
        return
    resolved = resolve_model(source)
    if isinstance(resolved, str):
        _check_hub(resolved)
    elif resolved.is_dir() and is_adapter(resolved):
        base = base_of(resolved)
        try:
            check_model(base)
        except ModelError as error:
            raise missing_base(resolved, base) from error


def missing_base(adapter: Path, base: str) -> ModelError:
    """Say that an adapter's base model cannot be found."""
    return ModelError(
        f"model {adapter}: its base model {base} cannot be found; set base_model_name_or_path in its adapter_config.json to where it is",
        code="base_not_found",
    )


def resolve_model(source: str | Path) -> Path | str:
    """Check that a MODEL can be what it claims to be; return a path for local models, the id itself for one on the hub.

    Raises:
        ModelError: Nothing of that name is here, or the folder holds no model.
    """
    if str(source) == DEMO and not Path(source).exists():
        from posttrain.diagnose.engines.models import demo_model

        return demo_model.fetch()
    path = Path(source).expanduser()
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelError(
                f"model {source}: got a file that is not .gguf; give a Hugging Face directory, a .gguf file or a hub id",
                code="not_a_model_file",
            )
        return path.resolve()
    if path.is_dir():
        if not is_adapter(path) and not (path / "config.json").exists():
            raise ModelError(
                f"model {source}: the folder has no config.json; give a Hugging Face model directory, a LoRA adapter's folder, a .gguf "
                "file or a hub id",
                code="not_a_model_folder",
            )
        check_index_files(path.resolve())
        return path.resolve()
    text = str(source)
    if path.is_absolute() or text.startswith((".", "~")) or text.endswith(".gguf") or not _HUB_ID.fullmatch(text):
        raise ModelError(
            f"model {source}: no such file or folder; give a Hugging Face directory, a .gguf file or a hub id",
            code="model_not_found",
        )
    return text


def _check_hub(model_id: str) -> None:
    """Refuse an id that is neither in the hub's local cache nor on the hub; whatever else goes wrong is left to the loader.

    Environment variables are those of huggingface_hub: HF_HUB_CACHE, HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT and HF_TOKEN.
    """
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    if (cache / f"models--{model_id.replace('/', '--')}" / "snapshots").is_dir():
        return
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        raise _not_on_hub(model_id, "the hub's local cache does not have it, and HF_HUB_OFFLINE is set")
    has_token = bool(os.environ.get("HF_TOKEN")) or (home / "token").exists()
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    try:
        with urllib.request.urlopen(f"{endpoint}/api/models/{model_id}", timeout=_HUB_SECONDS):
            return
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 404 or (error.code == 401 and not has_token):  # to strangers a private model is 401 too
            raise _not_on_hub(model_id, f"{endpoint} has no model of that name for you") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, socket.gaierror):
            raise _not_on_hub(model_id, f"{endpoint} cannot be reached") from error
    except (OSError, ValueError):
        return


def _not_on_hub(model_id: str, reason: str) -> ModelError:
    return ModelError(
        f"model {model_id}: no such file or folder, and {reason}; give a Hugging Face directory, a .gguf file or a hub id",
        code="model_not_found",
    )
