"""`diffalign doctor`: what works here, what does not, and what to do about it."""

from __future__ import annotations

import importlib
import importlib.util
import json
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

State = Literal["fine", "note", "wrong"]


@dataclass(frozen=True)
class Finding:
    topic: str
    state: State
    text: str


def examine(*, as_json: bool) -> bool:
    """Print all findings; whether none of them is wrong."""
    looks = (_python, _libraries, _torchvision, _hardware, _precision, _disk, _zoo, _extras, _rewards)
    findings = [finding for look in looks for finding in _findings_of(look)]
    if as_json:
        print(json.dumps([finding.__dict__ for finding in findings], indent=2))
    else:
        from rich.markup import escape

        from diffalign.cli.console import results_console

        signs = {"fine": "[green]fine [/]", "note": "[yellow]note [/]", "wrong": "[red]wrong[/]"}
        console = results_console(highlight=False, soft_wrap=True)
        for finding in findings:
            console.print(f"{signs[finding.state]} {escape(finding.topic)}: {escape(finding.text)}")
    return all(finding.state != "wrong" for finding in findings)


def _findings_of(look: Callable[[], list[Finding]]) -> list[Finding]:
    try:
        return look()
    except Exception as error:  # what one look needs may be what another has just found broken
        topic = look.__name__.strip("_")
        return [Finding(topic, "wrong", f"cannot be examined ({type(error).__name__}: {error})")]


def _python() -> list[Finding]:
    return [Finding("python", "fine", platform.python_version())]


def _libraries() -> list[Finding]:
    findings = []
    for name in ("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors", "pyarrow"):
        try:
            module = importlib.import_module(name)
            findings.append(Finding(name, "fine", str(module.__version__)))
        except Exception as error:  # a broken install may raise anything
            findings.append(
                Finding(name, "wrong", f"cannot be imported ({type(error).__name__}: {error}); install diffalign again")
            )
    return findings


def _torchvision() -> list[Finding]:
    if importlib.util.find_spec("torchvision") is None:
        return [Finding("torchvision", "fine", "not installed, and not needed")]
    try:
        importlib.import_module("torchvision")
    except Exception as error:
        text = f"installed but broken ({error}); it makes transformers fail too: "
        text += "pip uninstall torchvision, or install the build that matches torch"
        return [Finding("torchvision", "wrong", text)]
    return [Finding("torchvision", "fine", "works")]


def _hardware() -> list[Finding]:
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return [
            Finding(
                "GPU", "fine", f"{torch.cuda.get_device_name()}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
            )
        ]
    if torch.backends.mps.is_available():
        return [Finding("GPU", "fine", "Apple MPS")]
    text = f"none; on the CPU ({torch.get_num_threads()} threads) the zoo trains in minutes, full-size models do not"
    return [Finding("GPU", "note", text)]


def _precision() -> list[Finding]:
    """bf16 is slower than fp32 on CPUs without matrix instructions for it."""
    import torch

    if torch.cuda.is_available():
        fine = torch.cuda.is_bf16_supported()
        return [Finding("bf16", "fine" if fine else "note", "supported" if fine else "not supported: use fp16 or fp32")]
    seconds = {dtype: _time_product(dtype) for dtype in (torch.float32, torch.bfloat16)}
    ratio = seconds[torch.bfloat16] / seconds[torch.float32]
    if ratio > 1.5:
        return [
            Finding(
                "bf16", "note", f"a product takes {ratio:.1f} times as long as in fp32 here: keep model.precision: fp32"
            )
        ]
    return [Finding("bf16", "fine", f"a product takes {ratio:.1f} times as long as in fp32 here")]


def _time_product(dtype: Any, repeats: int = 5) -> float:
    import torch

    matrix, best = torch.ones(512, 512, dtype=dtype), float("inf")
    for _ in range(repeats + 1):  # the first one warms up
        started = time.perf_counter()
        matrix @ matrix
        best = min(best, time.perf_counter() - started)
    return best


def _disk() -> list[Finding]:
    free = shutil.disk_usage(".").free / 2**30
    try:
        with tempfile.NamedTemporaryFile(dir="."):
            pass
    except OSError as error:
        return [
            Finding(
                "disk", "wrong", f"this folder cannot be written ({error.strerror}); run elsewhere, or --set folder=..."
            )
        ]
    return [Finding("disk", "fine" if free > 2 else "note", f"{free:.1f} GiB free here")]


def _zoo() -> list[Finding]:
    from diffalign.training.build import build_inference
    from diffalign.zoo import list_zoo

    findings = []
    models = list_zoo()
    if not models:
        return [Finding("zoo", "wrong", "no models are there; install diffalign again")]
    for model in models:
        try:
            build_inference(model.card["family"], f"zoo://{model.name}", None, None)
            findings.append(Finding(f"zoo://{model.name}", "fine", "loads"))
        except Exception as error:
            findings.append(
                Finding(f"zoo://{model.name}", "wrong", f"does not load ({error}); install diffalign again")
            )
    return findings


def _extras() -> list[Finding]:
    from diffalign.cli.installed import extras

    found = extras()
    lack = [f"{name} (lacks {', '.join(gone)})" for name, gone in found.items() if gone]
    here = [name for name, gone in found.items() if not gone]
    hint = f"; pip install -e '.[{lack[0].partition(' ')[0]}]' in the checkout adds one" if lack else ""
    text = f"installed: {', '.join(here) or 'none'}; not installed: {', '.join(lack) or 'none'}{hint}"
    return [Finding("extras", "fine", text)]


def _rewards() -> list[Finding]:
    from diffalign.cli.installed import rewards, wheels

    run, models, settings, lacking = rewards()
    fetched, absent = wheels()
    findings = [
        Finding("rewards", "fine", f"run here: {', '.join(run)}"),
        Finding("rewards", "fine", f"with weights from the hub or a folder: {', '.join(models)}"),
        Finding("rewards", "fine", f"with settings of yours: {', '.join(settings)}"),
    ]
    findings += [Finding("rewards", "note", f"not here: {name}: {how}") for name, how in lacking.items()]
    hint = "; diffalign rewards fetch --all gets them" if absent else ""
    text = f"fetched: {', '.join(fetched) or 'none'}; not fetched: {', '.join(absent) or 'none'}{hint}"
    return [*findings, Finding("wheels", "fine", text)]
