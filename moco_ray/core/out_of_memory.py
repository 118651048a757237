"""What running out of memory looks like."""

from __future__ import annotations

import torch

# Of errors that are no torch.OutOfMemoryError: libraries that allocate for themselves say it in words of their own.
_WORDS = (
    "out of memory",  # CUDA's own words, which NCCL repeats
    "Failed to CUDA calloc",  # NCCL's
    "DefaultCPUAllocator: can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate",  # no room for its workspace
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    # Torch tries cuDNN's algorithms one by one, and says this when there was no workspace for any of them.
    "FIND was unable to find an engine to execute this computation",
    "GET was unable to find an engine to execute this computation",
    "nable to find a valid cuDNN algorithm to run convolution",
)


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device, or the machine, has no memory left."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)
