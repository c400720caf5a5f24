"""The package as a user meets it: light to import, quick to answer, complete when installed."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import diffalign

CHECKOUT = Path(__file__).parents[1]

# Runs the code of argv[1] and writes, as the last line of stderr, which of the libraries of argv[2:] it loaded.
RUNNER = """
import sys
code, libraries, sys.argv = sys.argv[1], sys.argv[2:], ["diffalign"]
status = 0
try:
    exec(code, {"__name__": "__main__"})
except SystemExit as stop:
    status = stop.code or 0
print("loaded:", *[name for name in libraries if name in sys.modules], file=sys.stderr)
sys.exit(status)
"""


def loaded_by(code: str, *libraries: str) -> tuple[set[str], str]:
    """Which of `libraries` a fresh interpreter has loaded after `code`, and what the code printed."""
    command = [sys.executable, "-c", RUNNER, code, *libraries]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr or done.stdout
    last = done.stderr.strip().splitlines()[-1]
    return set(last.removeprefix("loaded:").split()), done.stdout


def run_command(*arguments: str) -> str:
    """Code that does what `python -m diffalign.cli ARGUMENTS` does."""
    return (
        f"import runpy, sys; sys.argv = ['diffalign', *{list(arguments)!r}]; "
        "runpy.run_module('diffalign.cli', run_name='__main__', alter_sys=False)"
    )


HEAVY = ("torch", "diffusers", "transformers", "accelerate", "peft", "matplotlib", "pyarrow")


def test_import_is_light():
    code = "import diffalign; diffalign.ConfigError; diffalign.__version__; dir(diffalign)"
    loaded, _ = loaded_by(code, *HEAVY, "pydantic", "numpy", "jaxtyping")
    assert loaded == set()


def test_runner_sees_what_is_loaded():  # the test of the test
    assert loaded_by("import json; print('x')", "json", "torch") == ({"json"}, "x\n")


def test_load_config_needs_no_torch():
    loaded, _ = loaded_by("import diffalign; diffalign.load_config", *HEAVY)
    assert loaded == set()


def test_rewards_need_no_trainer():
    loaded, _ = loaded_by("import diffalign.rewards", "diffusers", "diffalign.training", "diffalign.backbones")
    assert loaded == set()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(("--help",), "train", id="help"),
        pytest.param(("list", "zoo"), "shapes", id="list"),
        pytest.param(("check", "--config", "quickstart/diffusion_dpo.yaml"), "", id="check"),
    ],
)
def test_quick_commands_load_no_torch(arguments, says):
    loaded, printed = loaded_by(run_command(*arguments), *HEAVY)
    assert loaded == set()
    assert printed.strip()
    assert says in printed


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        _ = diffalign.tarin


def test_all_names_are_listed_and_typed():
    """Each name of __all__ is there for the reader, the type checker and at run time."""
    tree = ast.parse((CHECKOUT / "diffalign" / "__init__.py").read_text("utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert set(diffalign.__all__) <= imported | {"__version__"}
    assert set(dir(diffalign)) == set(diffalign.__all__)
    assert set(diffalign._ROOMS) <= set(diffalign.__all__)


@pytest.mark.parametrize("name", sorted(diffalign._ROOMS))
def test_lazy_name_is_found_in_its_room(name):
    assert callable(getattr(diffalign, name))


def test_version_is_the_project_file_s():
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]
    assert diffalign.__version__ in (project["version"], "0+unknown")


def test_constraints_meet_the_lower_bounds():
    """Every core requirement is pinned in the tested set, and no pin contradicts a bound or an extra."""
    from packaging.requirements import Requirement

    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = (CHECKOUT / "constraints-cpu.txt").read_text("utf-8").splitlines()
    pins = dict(line.lower().replace("_", "-").split("==") for line in lines if "==" in line and line[0] != "#")
    core = [Requirement(line) for line in project["dependencies"]]
    extras = [Requirement(line) for group in project["optional-dependencies"].values() for line in group]
    for requirement in [*core, *extras]:
        exact = [bound for bound in requirement.specifier if bound.operator == "=="]
        assert not exact, f"{requirement}: exact pins belong in constraints-cpu.txt"
        pin = pins.get(requirement.name.lower().replace("_", "-"))
        assert pin is None or pin in requirement.specifier, f"{requirement} against the tested {pin}"
    assert not {requirement.name for requirement in core} - set(pins)
