"""`posttrain env`: versions and hardware."""

from __future__ import annotations

import os

from posttrain import __version__

EXAMPLES = ("posttrain env",)


def env() -> None:
    """Print versions and hardware, for bug reports."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import psutil
    import torch

    from posttrain.diagnose.engines.hardware import has_fast_bf16
    from posttrain.diagnose.verifiers.sandbox.isolation import describe

    print(f"posttrain {__version__}, python {platform.python_version()}, {platform.platform()}")
    for name in ("torch", "transformers", "reasoning-gym", "numpy", "scipy", "pyarrow", "vllm", "ray"):
        try:
            print(f"{name} {version(name)}")
        except PackageNotFoundError:
            print(f"{name} not installed")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "processor"
    print(
        f"{os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, device {device} ({name}), fast bf16: {'yes' if has_fast_bf16(device) else 'no'}"
    )
    print(f"isolation of code that a model wrote: {describe()}")
