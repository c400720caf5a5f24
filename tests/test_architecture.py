"""The house rules of imports, file sizes and names, read from the syntax trees; nothing of diffalign is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "diffalign"
MAX_LINES = 300
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "core"}

# Which room may import which. Besides: every room itself, `exceptions` and `rgb`, those with torch also `types`.
ARROWS: dict[str, set[str]] = {
    "cli": {
        "training",
        "evaluation",
        "pipelines",
        "rewards",
        "reports",
        "data",
        "config",
        "zoo",
        "objectives",
        "annotation",
    },
    # sim: files of shapes, and how like two shapes are
    "evaluation": {"pipelines", "rewards", "data", "config", "annotation", "sim"},
    # zoo: build.py resolves zoo://NAME/preferences and zoo://NAME/held_out
    "training": {
        "config",
        "data",
        "backbones",
        "samplers",
        "objectives",
        "denoising",
        "rewards",
        "pipelines",
        "zoo",
        "annotation",  # rounds that wait for people's votes
    },
    "pipelines": {"backbones", "samplers", "rewards", "denoising", "data", "sim"},  # sim: pictures and files of shapes
    "samplers": {"denoising"},
    "backbones": {"denoising", "zoo"},
    "rewards": {"sim", "config"},
    "objectives": {"config"},
    "denoising": set(),
    "data": set(),
    "config": set(),
    "sim": set(),
    "reports": set(),
    "zoo": set(),
    "annotation": set(),
    # The files beside the rooms.
    "types": set(),
    "rgb": set(),
    "exceptions": set(),
    "__main__": {"cli"},  # python -m diffalign
}
WITHOUT_TORCH = {"annotation", "config", "sim", "reports", "zoo", "exceptions", "rgb"}
TORCH_LIBRARIES = {
    "accelerate",
    "diffusers",
    "open_clip",
    "peft",
    "safetensors.torch",
    "torch",
    "torchaudio",
    "torchvision",
    "transformers",
}


def _imported(tree: ast.AST, module: str, *, is_package: bool) -> Iterator[tuple[int, str, str]]:
    """Line, module and name ("" for the module itself) of every import, at whatever depth, resolved to absolute names."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            parent = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*parent, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, source, alias.name
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            target = node.args[0] if node.args else None
            if isinstance(target, ast.Constant) and isinstance(target.value, str) and not target.value.startswith("."):
                yield node.lineno, target.value, ""


def _within(module: str, libraries: set[str]) -> bool:
    parts = module.split(".")
    return any(".".join(parts[:length]) in libraries for length in range(1, len(parts) + 1))


def import_problems(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """What the house forbids among the imports of one file; `module` is its dotted name, `diffalign.rewards.clip`."""
    room = module.split(".")[1] if "." in module else ""
    if not room:  # diffalign/__init__ opens every door
        return []
    if room not in ARROWS:
        return [f"{module}: room '{room}' is not in the plan; the rooms are {', '.join(sorted(ARROWS))}"]
    allowed = ARROWS[room] | {room, "exceptions", "rgb"} | (set() if room in WITHOUT_TORCH else {"types"})
    if room == "exceptions":
        allowed = {room}
    problems = []
    for line, target, name in _imported(ast.parse(source), module, is_package=is_package):
        where = f"{module}:{line}"
        if target == "diffalign" and name == "__version__":
            continue
        if target == "diffalign" and name not in ARROWS:
            problems.append(f"{where} imports from the package's front door; import from the room instead")
        elif target.split(".")[0] == "diffalign":
            other = name if target == "diffalign" else target.split(".")[1]
            if other not in allowed:
                problems.append(f"{where} {room} -> {other}; {room} may import {', '.join(sorted(allowed))}")
        elif room in WITHOUT_TORCH and (_within(target, TORCH_LIBRARIES) or f"{target}.{name}" in TORCH_LIBRARIES):
            problems.append(f"{where} imports {target}; {room} has no torch")
    return list(dict.fromkeys(problems))  # one line may name several things


def shape_problems(path: Path, source: str) -> list[str]:
    lines = source.count("\n") + (not source.endswith("\n"))
    problems = [f"{path}: {lines} lines, at most {MAX_LINES}"] if lines > MAX_LINES else []
    vague = [part for part in path.with_suffix("").parts if part.strip("_") in VAGUE_NAMES]
    return problems + [f"{path}: '{part}' says nothing; name it after what it holds" for part in vague]


def _files() -> list[Path]:
    return sorted(path.relative_to(PACKAGE.parent) for path in PACKAGE.rglob("*.py"))


def test_imports_go_one_way():
    problems = []
    for path in _files():
        parts = path.with_suffix("").parts
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        text = (PACKAGE.parent / path).read_text(encoding="utf-8")
        problems += import_problems(text, module, is_package=is_package)
    assert not problems, "\n" + "\n".join(problems)


def test_files_are_short_and_named_after_what_they_hold():
    assert _files(), f"no Python files under {PACKAGE}"
    problems = [
        problem for path in _files() for problem in shape_problems(path, (PACKAGE.parent / path).read_text("utf-8"))
    ]
    assert not problems, "\n" + "\n".join(problems)


def test_the_plan_has_no_cycle():
    below: dict[str, set[str]] = {}

    def collect(room: str, above: tuple[str, ...] = ()) -> set[str]:
        assert room not in above, f"cycle: {' -> '.join((*above, room))}"
        if room not in below:
            below[room] = ARROWS[room].union(*(collect(other, (*above, room)) for other in ARROWS[room]))
        return below[room]

    for room in ARROWS:
        collect(room)
    # A room without torch must not get it through a neighbour either.
    assert all(below[room] <= WITHOUT_TORCH for room in WITHOUT_TORCH)


# The test of the test: texts with a forbidden arrow are found, allowed ones pass.


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("diffalign.rewards.clip", "from diffalign.training import train", "rewards -> training"),
        ("diffalign.rewards.clip", "import diffalign.training.build as b", "rewards -> training"),
        ("diffalign.rewards.clip", "from diffalign import backbones", "rewards -> backbones"),
        ("diffalign.rewards.clip", "from ..data import records", "rewards -> data"),
        ("diffalign.rewards.clip", "from .. import samplers", "rewards -> samplers"),
        ("diffalign.samplers.ddim", "def f():\n    from diffalign.backbones import sd", "samplers -> backbones"),
        ("diffalign.data.records", "if TYPE_CHECKING:\n    from diffalign.config import RunConfig", "data -> config"),
        ("diffalign.data.records", "import importlib\nimportlib.import_module('diffalign.zoo')", "data -> zoo"),
        ("diffalign.objectives.smpo", "from diffalign.denoising import draw", "objectives -> denoising"),
        ("diffalign.training.build", "from diffalign.cli import app", "training -> cli"),
        ("diffalign.data.readers", "from diffalign.zoo import locate, names", "data -> zoo"),
        ("diffalign.__main__", "from diffalign.training import train", "__main__ -> training"),
        ("diffalign.types", "from diffalign.denoising import Process", "types -> denoising"),
        ("diffalign.exceptions", "from diffalign.types import Condition", "exceptions -> types"),
        ("diffalign.config.run", "from diffalign.types import Condition", "config -> types"),
        ("diffalign.config.run", "import torch.nn", "has no torch"),
        ("diffalign.config.run", "from torch import Tensor", "has no torch"),
        ("diffalign.reports.page", "def f():\n    from safetensors.torch import load_file", "has no torch"),
        ("diffalign.reports.page", "from safetensors import torch", "has no torch"),
        ("diffalign.sim.body", "if TYPE_CHECKING:\n    import torch", "has no torch"),
        ("diffalign.zoo.locate", "from transformers import AutoModel", "has no torch"),
        ("diffalign.rewards.clip", "from diffalign import load_config", "front door"),
        ("diffalign.rewards.clip", "import diffalign", "front door"),
        ("diffalign.toolbox.file", "import os", "not in the plan"),
    ],
)
def test_forbidden_import_is_found(module, source, found):
    problems = import_problems(source, module)
    assert len(problems) == 1
    assert found in problems[0]
    assert problems[0].startswith(module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("diffalign", "from diffalign.training import train\nimport torch"),
        ("diffalign.cli.train", "def f():\n    from diffalign.training import train"),
        ("diffalign.cli.doctor", "from diffalign import __version__"),
        ("diffalign.rewards.clip", "from diffalign.rewards.scene import parse\nfrom .scene import draw\nimport torch"),
        (
            "diffalign.rewards.clip",
            "from diffalign.types import GroupBatch\nfrom diffalign.exceptions import DataError",
        ),
        ("diffalign.config.run", "from diffalign.config.params import Params\nfrom ..exceptions import ConfigError"),
        ("diffalign.reports.page", "from safetensors.numpy import load_file\nimport torchbearer"),
        ("diffalign.samplers.ddim", "'''from diffalign.training import train'''"),
    ],
)
def test_allowed_import_passes(module, source):
    assert import_problems(source, module) == []


def test_relative_import_in_a_package_file_starts_at_that_package():
    source = "from . import scene\nfrom .clip import CLIP\nfrom ..sim import body"
    assert import_problems(source, "diffalign.rewards", is_package=True) == []
    assert "rewards -> zoo" in import_problems("from ..zoo import locate", "diffalign.rewards", is_package=True)[0]


def test_long_file_and_vague_name_are_found():
    assert "301 lines" in shape_problems(Path("diffalign/data/records.py"), "x = 1\n" * 301)[0]
    assert shape_problems(Path("diffalign/data/records.py"), "x = 1\n" * 300) == []
    assert "'utils' says nothing" in shape_problems(Path("diffalign/data/utils.py"), "")[0]
    assert "'_helpers' says nothing" in shape_problems(Path("diffalign/_helpers/x.py"), "")[0]
