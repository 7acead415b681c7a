"""Where and how numbers are computed: device, precision, threads, and how memory is kept."""

from __future__ import annotations

import ctypes
import platform
from contextlib import nullcontext

import torch


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_bfloat16() -> bool:
    """Whether this machine's processor (or GPU) computes in bfloat16 natively."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(
        torch.ops.mkldnn._is_mkldnn_bf16_supported() and torch.cpu._is_avx512_bf16_supported()
    )


def autocast(precision: str):
    """Context in which matrix products run at a precision: "float32", "bfloat16" or "auto" (bfloat16 where native)."""
    wanted = precision == "bfloat16" or (precision == "auto" and has_bfloat16())
    return torch.autocast(device().type, torch.bfloat16) if wanted else nullcontext()


def fork_rng():
    """Context that leaves torch's global generators as they were, touching no GPU but the one in use."""
    return torch.random.fork_rng([torch.cuda.current_device()] if device().type == "cuda" else [])


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory instead of returning it to the system (Linux; elsewhere nothing happens).

    A training step frees and takes the same few hundred megabytes again and again; given back each time, the
    page faults cost half of the step.
    """
    if platform.system() != "Linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        m_trim_threshold, m_mmap_max = -1, -4
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, ctypes.c_int(-1))
