"""Imports run one way, and each heavy library appears in its own layer only. Read from the source, not by importing."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Lowest first: a layer may import itself and what stands before it.
LAYERS = ("kernels", "operators", "pipeline", "jobs")
# Where a library may be imported: a layer, or a path inside one (the kernel benchmark may reach for Triton).
HOMES = {
    "triton": ("kernels/", "jobs/bench"),
    "ray": ("pipeline/",),
    "lance": ("pipeline/",),
    "av": ("pipeline/",),
    "decord": ("pipeline/",),
    "argparse": ("jobs/",),
    "transformers": ("operators/vlm/", "operators/hub/", "operators/bench/", "operators/model/encoders/"),
    "huggingface_hub": ("operators/hub/",),
}
# What a room, a folder of a layer with all below it, may import of its own layer besides itself. `ablation`,
# `synthetic` and `bench` are experimental: they stand on top, and can be deleted without touching the rest.
ROOMS: dict[str, dict[str, set[str]]] = {
    "operators": {
        "hub": set(),
        "model": {"hub"},
        "vlm": {"hub", "model"},
        "inspect_model": {"hub", "model", "vlm"},
        "training": {"model"},
        "synthetic": {"model", "training"},
        "ablation": {"model", "training", "synthetic"},
        "bench": {"hub", "model", "vlm"},
    },
    "pipeline": {
        "media": set(),
        "table": set(),
        "indexing": {"media", "table"},
        "answering": {"media", "table"},
        "training": {"media", "table", "indexing", "answering"},
        "evaluation": {"answering"},
        "synthetic": {"evaluation"},
        "bench": {"media"},
    },
}
EXPERIMENTAL = {"ablation", "synthetic", "bench"}
BLOCKED_ON_A_GPU_MACHINE = ("ray", "lance", "av", "decord")


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every module that a file imports anywhere in it, with the line; imports for type checkers only count too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import hides the layer"
            assert node.module is not None
            # `from longtake import pipeline` imports the layer as much as `import longtake.pipeline` does.
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def is_or_is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_itself_and_lower_ones(layer: str) -> None:
    above = LAYERS[LAYERS.index(layer) + 1 :]
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {layer} imports {module}"
        for path in sources(layer)
        for line, module in imports(path)
        if any(is_or_is_in(module, f"longtake.{higher}") for higher in above)
    ]
    assert not wrong, "\n".join(wrong)


def module_name(path: Path) -> str:
    return "longtake." + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def import_graph() -> dict[str, set[str]]:
    """Every module of the four layers, and which others it imports anywhere in it."""
    files = {module_name(path): path for path in sources(*LAYERS)}
    graph: dict[str, set[str]] = {}
    for name, path in files.items():
        wanted = {module if module in files else module.rpartition(".")[0] for _, module in imports(path)}
        graph[name] = (wanted & files.keys()) - {name}
    return graph


def room_of(module: str) -> tuple[str, str]:
    """The layer and the room of a module, such as ("pipeline", "media")."""
    _, layer, room, *_ = module.split(".")
    return layer, room


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """What is left when everything that imports nothing left, or that nothing left imports, is taken away in turn."""
    left = {name: set(wanted) for name, wanted in graph.items()}
    while True:
        wanted = set().union(*left.values()) if left else set()
        inner = {name for name in left if left[name] & left.keys() and name in wanted}
        if len(inner) == len(left):
            return [sorted(left)] if left else []
        left = {name: left[name] & inner for name in inner}


def test_no_files_import_one_another_in_a_circle() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == [["b", "c"]]
    assert circles(import_graph()) == []


@pytest.mark.parametrize("layer", ROOMS)
def test_rooms_of_a_layer_import_one_way(layer: str) -> None:
    rooms: dict[str, set[str]] = {}
    wrong: list[str] = []
    for name, wanted in import_graph().items():
        inside, room = room_of(name)
        if inside != layer:
            continue
        others = rooms.setdefault(room, set())
        for module in wanted:
            other_layer, other = room_of(module)
            if other_layer == layer and other != room:
                others.add(other)
                if other not in ROOMS[layer].get(room, set()):
                    wrong.append(f"{name} imports {module}: {room} -> {other}")
    assert not wrong, "\n".join(wrong)
    assert rooms.keys() == ROOMS[layer].keys(), "a room that the table does not know, or that is gone"
    assert circles(ROOMS[layer]) == []


def test_nothing_but_experiments_needs_experiments() -> None:
    for rooms in ROOMS.values():
        assert not [room for room, wanted in rooms.items() if room not in EXPERIMENTAL and wanted & EXPERIMENTAL]


@pytest.mark.parametrize("library", HOMES)
def test_a_library_is_imported_only_at_its_home(library: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: imports {module}"
        for path in [*sources(*LAYERS), ROOT / "src/longtake/__init__.py"]
        for line, module in imports(path)
        if is_or_is_in(module, library) and not str(path.relative_to(ROOT)).startswith(HOMES[library])
    ]
    assert not wrong, "\n".join(wrong)


def test_the_folders_are_never_imported_by_their_bare_names() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: imports {module} instead of longtake.{module}"
        for path in sources(*LAYERS, "tests", "src/longtake")
        for line, module in imports(path)
        if module.split(".")[0] in LAYERS
    ]
    assert not wrong, "\n".join(wrong)


def test_the_four_folders_are_no_packages_of_their_own() -> None:
    # A bare package called `kernels` on the path breaks other libraries' imports.
    assert [layer for layer in LAYERS if (ROOT / layer / "__init__.py").exists()] == []


def run_python(program: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)


def test_the_network_and_training_import_on_a_machine_without_ray_lance_and_decoders() -> None:
    modules = [
        module_name(path) for path in [*sources("kernels", "operators"), ROOT / "jobs/train/main.py"] if path.exists()
    ]
    assert "longtake.operators.model.config" in modules
    program = f"""
import importlib, sys
blocked = {BLOCKED_ON_A_GPU_MACHINE}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ImportError(f"{{name}} is blocked here")
sys.meta_path.insert(0, Refuse())
for name in {modules!r}:
    importlib.import_module(name)
try:
    import av
except ImportError:
    print("blocked, and all imported")
"""
    done = run_python(program)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == "blocked, and all imported\n"


def test_the_command_line_answers_without_loading_anything_heavy() -> None:
    program = """
import sys
from longtake.jobs.main import main
assert main(["--help"]) == 0
heavy = {"torch", "numpy", "ray", "lance", "av", "decord", "triton", "tokenizers", "rich", "pyarrow", "matplotlib"}
sys.exit(f"loaded: {sorted(heavy & set(sys.modules))}" if heavy & set(sys.modules) else 0)
"""
    done = run_python(program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: longtake")


@pytest.mark.parametrize("stage", ["demux", "decode"])
def test_demuxers_and_decoders_do_without_torch(stage: str) -> None:
    # It would cost each of their processes a second and 200 MB.
    program = f"""
import sys
import longtake.pipeline.indexing.stages.{stage}
from longtake.operators.model.presets import tiny
from longtake.pipeline.media.model_input import NativeInput
NativeInput(config=tiny())
heavy = {{"torch", "torchaudio", "ray", "lance", "transformers"}} & set(sys.modules)
sys.exit(f"loaded: {{sorted(heavy)}}" if heavy else 0)
"""
    done = run_python(program)
    assert done.returncode == 0, done.stderr
