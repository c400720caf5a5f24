"""`diffalign score` killed with SIGKILL at random points and started again, against the call that nobody disturbed.

    python benchmarks/score_resume.py                       # 1,000 pictures, two rewards; 1 and 3 processes, 8 kills each

Of several processes half of the kills hit the one that watches the others, half one of these. Exit code 1 where a byte
differs.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from diffalign.rewards._scene_grammar import parse_caption, training_captions
from diffalign.rewards._scene_renderer import render_scene


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--reward", action="append", help="default: scene:form=graded and jpeg")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    rewards = told.reward or ["scene:form=graded", "jpeg"]
    draws = random.Random(told.seed)
    equal = True
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "pictures"
        write_pictures(folder, told.pictures)
        call = [sys.executable, "-m", "diffalign", "score", "--input", str(folder), "--batch", str(told.batch)]
        call += [part for reward in rewards for part in ("--reward", reward)]
        whole = Path(home) / "whole" / "scores.jsonl"
        begun = time.monotonic()
        subprocess.run([*call, "--out", str(whole)], check=True, capture_output=True)
        print(f"undisturbed: {told.pictures} pictures, {', '.join(rewards)}, {time.monotonic() - begun:.1f} s")
        for processes in told.processes:
            out = Path(home) / f"killed-{processes}" / "scores.jsonl"
            hits = killed([*call, "--out", str(out), "--processes", str(processes)], out, told.kills, draws)
            same = out.read_bytes() == whole.read_bytes() and [each.name for each in out.parent.iterdir()] == [out.name]
            equal &= same
            digest = hashlib.sha256(out.read_bytes()).hexdigest()[:12]
            print(
                f"{processes} processes, killed {hits} times: {'equal' if same else 'DIFFERENT'}, sha256 {digest}",
                flush=True,
            )
    return 0 if equal else 1


def write_pictures(folder: Path, count: int) -> None:
    """Scenes with their captions beside them; every third has the caption of another one."""
    folder.mkdir()
    captions = training_captions()
    for number in range(count):
        caption = captions[number * 7919 % len(captions)]
        scene = parse_caption(caption)
        assert scene is not None
        render_scene(scene, np.random.default_rng(number)).save(folder / f"{number:05d}.png")
        said = caption if number % 3 else captions[(number * 7919 + 1) % len(captions)]
        (folder / f"{number:05d}.txt").write_text(said, encoding="utf-8")


def killed(call: list[str], out: Path, kills: int, draws: random.Random) -> int:
    """Start and kill so many times, then let it come to its end; how many kills hit a life."""
    hits = 0
    for _ in range(kills):
        before = written(out)
        life = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while (
            life.poll() is None and written(out) == before and not draws.random() < 0.0005
        ):  # now and then before all else
            time.sleep(0.002)
        time.sleep(draws.uniform(0, 0.4))
        victims = [life.pid, *draws.sample(children(life.pid), min(1, len(children(life.pid))))]
        victim = draws.choice(victims)
        if life.poll() is None:
            try:
                os.kill(victim, signal.SIGKILL)
                hits += 1
            except ProcessLookupError:
                pass
        life.wait()
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return hits


def written(out: Path) -> int:
    """Bytes of the parts; another number once the file is there."""
    total = -1 if out.exists() else 0
    for part in out.parent.glob(f".{out.name}.part-*"):
        try:
            total += part.stat().st_size
        except FileNotFoundError:
            continue
    return total


def children(pid: int) -> list[int]:
    """Of a process (Linux), those that score: multiprocessing's tracker of resources is no such."""
    try:
        found = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return [each for each in found if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes()]
    except (FileNotFoundError, ProcessLookupError):
        return []


if __name__ == "__main__":
    sys.exit(main())
