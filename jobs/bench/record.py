"""What a figure needs to be believed: the machine, the versions, the commit and the command beside it."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import longtake
from longtake.errors import InputError

PACKAGES = ("torch", "triton", "av", "decord", "ray", "pylance", "numpy")


def record(name: str, figures: dict[str, Any]) -> dict[str, Any]:
    """A benchmark's figures with what they were measured on."""
    return {
        "benchmark": name,
        **figures,
        "command": " ".join(["longtake", *sys.argv[1:]]),
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": _machine(),
        "versions": _versions(),
    }


def write_record(path: str | None, name: str, figures: dict[str, Any]) -> None:
    """Write a benchmark's record as JSON; None writes nothing.

    Raises:
        InputError: the file cannot be written.
    """
    if path is not None:
        write_json(Path(path), record(name, figures))


def write_json(path: Path, value: Any) -> None:
    """Write JSON for a person to read, the whole file or nothing of it.

    Raises:
        InputError: the file cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot write the figures: {error.strerror}") from error


def _machine() -> dict[str, Any]:
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
        # Other work on the machine slows clocks down, and CPU seconds a little.
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "gpu": _gpu(),
    }


def _gpu() -> dict[str, Any] | None:
    """The GPU that PyTorch uses; None where it has none, or where this benchmark did not need PyTorch."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "driver": _driver(),
        # The toolkit that PyTorch was built with.
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
    }


def _driver() -> str | None:
    """The GPU driver's version, by its own tool or the kernel's file; None where neither tells."""
    words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True).stdout.split()
        if said:
            return said[0]
    except (OSError, subprocess.SubprocessError):
        pass
    try:
        text = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"\b\d{3,}\.\d+(\.\d+)?\b", text)
    return found[0] if found else None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _versions() -> dict[str, str]:
    found = {"longtake": longtake.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """The commit of the code that runs, marked when files differ from it; outside a checkout what LONGTAKE_COMMIT says.

    A copy without its history, as one takes to a GPU, cannot tell. None where nothing tells.
    """
    folder = Path(__file__).resolve().parent
    words = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        found = subprocess.run(words, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        found = ""
    return found or os.environ.get("LONGTAKE_COMMIT") or None
