"""Functions in C for what a processor does between matrix products; see llama.c. They are compiled on the machine that runs them."""

from posttrain.diagnose.engines.llama.kernels.library import LANES, NativeLibrary, load_native

__all__ = ["LANES", "NativeLibrary", "load_native"]
