"""What lies between the matrix products of a Llama-like model: `torch_kernels.Kernels`, in torch and in C (compiled where it runs)."""
