"""The weight files of a public model: whether they are all there, how much memory they take, their fingerprint."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from longtake.errors import CheckpointError

# What a model needs beside its weights, at the least: activations and the CUDA context.
HEADROOM_BYTES = 512 * 2**20
# What is read of each tensor for a fingerprint, at its start, in its middle and at its end.
SAMPLE_BYTES = 2**12


def weight_files(folder: Path) -> list[Path]:
    """The directory's safetensors files; complete where there is an index of them.

    Raises:
        CheckpointError: none, or one that the index names is missing.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index}: {one_line(error)}") from error
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise CheckpointError(
                f"{folder}: {len(missing)} of {len(names)} weight files are missing, first {missing[0]}"
            )
        return [folder / name for name in names]
    files = sorted(folder.glob("*.safetensors"))
    if files:
        return files
    pickled = sorted(folder.glob("*.bin"))
    hint = f"; {pickled[0].name} is a pickle, which is never loaded" if pickled else ""
    raise CheckpointError(f"{folder}: no *.safetensors in this model directory{hint}")


def header(file: Path) -> dict[str, Any]:
    """The header of a safetensors file: dtype, shape and place of each tensor.

    Raises:
        CheckpointError: it is none.
    """
    try:
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            if not 0 < size <= file.stat().st_size - 8:
                raise ValueError("the file is cut short or is none")
            content = json.loads(stream.read(size))
            ends = [one["data_offsets"][1] for name, one in content.items() if name != "__metadata__"]
            if 8 + size + max(ends, default=0) > file.stat().st_size:
                raise ValueError("the file is cut short")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file}: no safetensors file: {one_line(error)}") from error
    return {name: one for name, one in content.items() if name != "__metadata__"}


def weights_bytes(files: Iterable[Path], dtype: torch.dtype) -> int:
    """How large the weights are once they are loaded in `dtype`."""
    shapes = [tensor["shape"] for file in files for tensor in header(file).values()]
    return sum(math.prod(map(int, shape)) for shape in shapes) * dtype.itemsize


def available_bytes(device: torch.device) -> int:
    """Memory that is free on a device; on the CPU also what the container allows."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
        free = int(found[1]) * 1024 if found else free
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdigit():
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free


def check_memory(folder: Path, files: list[Path], dtype: torch.dtype, device: torch.device) -> None:
    """Refuse a model that does not fit, before anything is loaded.

    Raises:
        CheckpointError: the weights and some headroom are more than what is free.
    """
    needed, free = weights_bytes(files, dtype), available_bytes(device)
    if needed + HEADROOM_BYTES <= free:
        return
    smaller = "bfloat16 takes half, or " if dtype == torch.float32 else ""
    raise CheckpointError(
        f"{folder}: the weights take {needed / 2**30:.1f} GiB in {str(dtype).removeprefix('torch.')} and {device} has"
        f" {free / 2**30:.1f} GiB free; {smaller}use a smaller model"
    )


def fingerprint(folder: Path, files: Iterable[Path], dtype: torch.dtype | None = None) -> str:
    """Sixteen hex digits of the config, the preprocessor and the weights, and of the dtype of the computation if given.

    Of each tensor three samples are read: hashing all of 15 GB would take longer than loading, and whoever trains a
    tensor changes all of it.
    """
    digest = hashlib.sha256(b"" if dtype is None else str(dtype).encode())
    for name in ("config.json", "preprocessor_config.json", "video_preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            digest.update(name.encode() + (folder / name).read_bytes())
    for file in sorted(files):
        tensors = header(file)
        digest.update(f"{file.name} {file.stat().st_size} {json.dumps(tensors, sort_keys=True)}".encode())
        with file.open("rb") as stream:
            first = 8 + int.from_bytes(stream.read(8), "little")
            for start, stop in sorted(tensor["data_offsets"] for tensor in tensors.values()):
                last = max(start, stop - SAMPLE_BYTES)
                for place in (start, (start + last) // 2, last):
                    stream.seek(first + place)
                    digest.update(stream.read(min(SAMPLE_BYTES, stop - place)))
    return digest.hexdigest()[:16]


def one_line(error: BaseException) -> str:
    """An error's message as one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__
