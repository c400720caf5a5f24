"""The stability simulator: how its tests agree with each other, and how many shapes a second one core judges.

    OMP_NUM_THREADS=1 python -m benchmarks.stability               # both tables
    OMP_NUM_THREADS=1 python -m benchmarks.stability --tables speed
    OMP_NUM_THREADS=1 python -m benchmarks.stability --picture settling.png    # and a picture of six of the solids

23 solids made by hand (boxes, pins, L, tables, sheared cones, balancing ones, tilted boxes) and random T and L shapes of
two boxes on a flat foot are judged by the static test, by the quasi-static roll, by the recipe of DSO's labels, and with
exact inertia by MuJoCo: for all of 10 s, with an early end, that without the nudge, and until they lie (settled). Ends with
1 where fewer than 90 solids a second are simulated.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image

from benchmarks.quasi_static_roll import quasi_static_roll
from diffalign.sim import Mesh, Stability, settling, simulate, simulate_stability, solid_of, static_stability
from tests.sim.solids import SOLIDS, blob, solid, two_boxes


def whole(mesh: Mesh) -> Stability:
    """With exact inertia and the nudge, and no end before 10 s."""
    with patch.object(simulate, "_QUIET_CHECKS", 10**9):
        return simulate_stability(mesh, settle=True, seconds=10.0)


TESTS: dict[str, Callable[[Mesh], bool | None]] = {
    "static": lambda mesh: static_stability(mesh).stable,
    "roll": lambda mesh: quasi_static_roll(solid_of(mesh)).stable(),
    "dso": lambda mesh: simulate_stability(mesh, mode="dso").stable,
    "exact, 10 s": lambda mesh: whole(mesh).stable,
    "exact": lambda mesh: simulate_stability(mesh).stable,
    "exact, no nudge": lambda mesh: simulate_stability(mesh, nudge=0.0).stable,
    "exact, settled": lambda mesh: simulate_stability(mesh, settle=True).stable,
}
PAIRS = [
    ("static", "dso"),
    ("static", "exact"),
    ("static", "exact, no nudge"),
    ("roll", "dso"),
    ("roll", "exact"),
    ("roll", "exact, no nudge"),
    ("dso", "exact, 10 s"),
    ("exact, 10 s", "exact"),
    ("exact", "exact, settled"),
]
PROMISED = 90  # solids a second on one core
SHOWN = ("table, 3 legs", "table, 2 legs", "L 0.6", "L 0.9", "cone sheared by 1.3", "cone on its tip")


def agreement(random_shapes: Sequence[Mesh]) -> None:
    print(
        "| solid | static: margin | critical angle | roll: tilt | dso: rotation | exact, 10 s: tilt | exact: seconds |\n"
        + "|---" * 7
        + "|"
    )
    labels: dict[str, dict[str, bool | None]] = {}
    for name in SOLIDS:
        mesh = solid(name)
        labels[name] = {test: judge(mesh) for test, judge in TESTS.items()}
        says = {test: "stands" if label else "falls" for test, label in labels[name].items()}
        static, dso = static_stability(mesh), simulate_stability(mesh, mode="dso")
        print(
            f"| {name} | {says['static']}, {static.margin:.4f} | {static.critical_angle:.2f}° | {says['roll']}, "
            f"{quasi_static_roll(solid_of(mesh)).tilt:.2f}° | {says['dso']}, {dso.rotation:.2f}° | {says['exact, 10 s']}, "
            f"{whole(mesh).tilt:.2f}° | {says['exact']}, {simulate_stability(mesh).seconds:.2f} |",
            flush=True,
        )
    compare("the 23 solids", labels)
    judged = {}
    for mesh in random_shapes:
        static = static_stability(mesh)
        judged[f"{static.margin:.4f}, {static.critical_angle:.2f}°"] = {
            test: judge(mesh) for test, judge in TESTS.items()
        }
    compare(
        f"{len(judged)} random shapes, of which {sum(bool(each['static']) for each in judged.values())} stand", judged
    )


def compare(title: str, labels: Mapping[str, Mapping[str, bool | None]]) -> None:
    print(f"\n| {title} | agree | differ |\n|---|---|---|")
    for first, second in PAIRS:
        differ = [name for name, each in labels.items() if each[first] != each[second]]
        print(
            f"| {first} / {second} | {len(labels) - len(differ)} of {len(labels)} | {'; '.join(differ) or '-'} |",
            flush=True,
        )


def per_second(
    tests: Mapping[str, Callable[[Mesh], object]], meshes: Sequence[Mesh], seconds: float
) -> dict[str, float]:
    """The best of the passes over all meshes, at least two; the tests take turns, so many seconds each."""
    rates: dict[str, list[float]] = {name: [] for name in tests}
    start = time.perf_counter()
    passes = 0
    while passes < 2 or time.perf_counter() - start < seconds * len(tests):
        passes += 1
        for name, test in tests.items():
            before = time.process_time()  # of this process alone: others may share its core
            for mesh in meshes:
                test(mesh)
            rates[name].append(len(meshes) / (time.process_time() - before))
    return {name: max(each) for name, each in rates.items()}


def speed(random_shapes: Sequence[Mesh], seconds: float) -> float:
    """Prints the tables; the rate of the early end on the solids."""
    solids = [solid(name) for name in SOLIDS]
    print(f"\n| per second and core | {len(solids)} solids | {len(random_shapes)} random shapes |\n|---|---|---|")
    by_hand, by_chance = (per_second(TESTS, meshes, seconds) for meshes in (solids, random_shapes))
    for name in TESTS:
        print(f"| {name} | {by_hand[name]:.0f} | {by_chance[name]:.0f} |", flush=True)
    print("\n| seconds a shape | " + " | ".join(["reading arrays", *TESTS]) + " |\n" + "|---" * (len(TESTS) + 2) + "|")
    for finer in (4, 5, 6):
        vertices, faces = blob(finer)
        reading = {"reading arrays": lambda _: Mesh.of(vertices, faces)}  # noqa: B023
        rates = per_second(reading | TESTS, [Mesh.of(vertices, faces)], seconds / 4)
        times = " | ".join(f"{1 / each:.3f}" for each in rates.values())
        print(f"| blob of {len(faces)} faces | {times} |", flush=True)
    return by_hand["exact"]


def picture(file: Path) -> None:
    shown = []
    for name in SHOWN:
        mesh = solid(name)
        shown.append(settling(mesh, simulate_stability(mesh, settle=True).pose, size=150))
    rows = [np.concatenate(shown[row : row + 2], axis=1) for row in range(0, len(shown), 2)]
    Image.fromarray(np.concatenate(rows)).quantize(64).save(file, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="*", choices=["agreement", "speed"], default=["agreement", "speed"])
    parser.add_argument("--shapes", type=int, default=60, help="random ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=8.0, help="each measurement takes of a clock")
    parser.add_argument("--picture", type=Path, metavar="FILE")
    options = parser.parse_args()
    generator = np.random.default_rng(options.seed)
    random_shapes = [Mesh.of(*two_boxes(generator)) for _ in range(options.shapes)]
    if "agreement" in options.tables:
        agreement(random_shapes)
    if options.picture is not None:
        picture(options.picture)
    if "speed" in options.tables and speed(random_shapes, options.seconds) < PROMISED:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
