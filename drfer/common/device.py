"""Where and how numbers are computed: device, precision, and how memory is kept."""

from __future__ import annotations

import ctypes
import platform
from contextlib import AbstractContextManager, nullcontext

import torch

from drfer.common.errors import check_known


def device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_bfloat16() -> bool:
    """Return whether the processor (the GPU, if there is one) computes in bfloat16 by itself."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(
        torch.ops.mkldnn._is_mkldnn_bf16_supported() and torch.cpu._is_avx512_bf16_supported()
    )


def autocast(precision: str) -> AbstractContextManager:
    """Return a context in which matrix products run at a precision.

    Args:
        precision: "float32", "bfloat16", or "auto" for bfloat16 where the processor computes in it.

    Raises:
        DrferError: there is no such precision.
    """
    check_known("precision", precision, ("float32", "bfloat16", "auto"))
    if precision == "bfloat16" or (precision == "auto" and has_bfloat16()):
        return torch.autocast(device().type, torch.bfloat16)
    return nullcontext()


def fork_rng() -> AbstractContextManager:
    """Return a context after which torch's global generators are as they were before it.

    No GPU is touched but the one in use.
    """
    return torch.random.fork_rng([torch.cuda.current_device()] if device().type == "cuda" else [])


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory instead of returning it to the system.

    A training step frees and takes the same few hundred megabytes again and again. If they are given
    back each time, page faults cost half of the step. On other systems than Linux nothing happens.
    """
    if platform.system() != "Linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        trim_threshold = -1
        mmap_max = -4
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, ctypes.c_int(-1))


def sent(tensor: torch.Tensor, to: torch.device) -> torch.Tensor:
    """Copy a tensor to a device without waiting for what it still computes."""
    if to.type == "cuda":
        tensor = tensor.pin_memory()  # from other memory, the driver may wait after all
    return tensor.to(to, non_blocking=True)
