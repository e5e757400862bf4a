"""The soak, bounded to twenty minutes: `make soak`, `python -m benchmarks.soak [--minutes 5] [--only …]`.

Each part has its share of the time and says how much of its work it came to; what is found wrong is told in
words, and the exit code is 1 then. Every part works in a process of its own, which is killed if it does not
end on time. Prints a table, then one line of JSON.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("OMP_NUM_THREADS", "1")

if not sys.platform.startswith("linux"):
    raise SystemExit("The soak needs Linux.")

from benchmarks.soak import forks
from benchmarks.soak.disks import unmount_below
from benchmarks.soak.found import FAULTS_TOLD, GRACE_S, Found, in_child

MINUTES = 20
# How the time is divided. What a part leaves of its share is for those after it.
SHARES = {
    "write points": 225,
    "disk sizes": 55,
    "real starts": 370,
    "stand-in starts": 345,
    "1,000 runs": 25,
    "200 MB logs": 35,
    "fuzzing": 60,
    "the app's memory": 85,
}
READ_A_RUN = {"1,000 runs", "200 MB logs", "fuzzing"}
REAL, STAND_INS = 200, 10_000


def parts(given: argparse.Namespace, settings: dict[str, Any], room: Path) -> dict[str, Callable[..., Found]]:
    """By its name, each part as a function of its folder and its seconds. Imports come with the part."""
    seed, lanes = given.seed, given.lanes

    def finished() -> Any:
        return forks.finished_run(room, settings)

    def write_points(folder: Path, budget_s: float) -> Found:
        from benchmarks.soak.write_points import write_points

        return write_points(folder, budget_s, settings, lanes)

    def disk_sizes(folder: Path, budget_s: float) -> Found:
        from benchmarks.soak.disks import disk_sizes

        return disk_sizes(folder, budget_s, settings)

    def real_starts(folder: Path, budget_s: float) -> Found:
        from benchmarks.soak.starts import real_starts

        return real_starts(folder, budget_s, given.real, settings, seed, lanes)

    def stand_in_starts(folder: Path, budget_s: float) -> Found:
        from benchmarks.soak.starts import stand_in_starts

        return stand_in_starts(folder, budget_s, given.stand_ins, seed, lanes)

    def thousand_runs(folder: Path, budget_s: float) -> Found:
        from benchmarks.soak.reading import thousand_runs

        return thousand_runs(folder, finished())

    def long_logs(folder: Path, budget_s: float) -> Found:
        from benchmarks.soak.reading import long_logs

        return long_logs(folder, finished())

    def fuzz(folder: Path, budget_s: float) -> Found:
        from benchmarks.soak.fuzz import fuzz

        return fuzz(folder, budget_s, finished(), seed)

    def app_memory(folder: Path, budget_s: float) -> Found:
        from benchmarks.soak.app_memory import app_memory

        return app_memory(folder, budget_s, seed)

    each = (
        write_points,
        disk_sizes,
        real_starts,
        stand_in_starts,
        thousand_runs,
        long_logs,
        fuzz,
        app_memory,
    )
    return dict(zip(SHARES, each, strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=MINUTES, help="the time of all chosen parts")
    parser.add_argument("--only", choices=SHARES, action="append", help="this part, and no other")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lanes", type=int, default=2, help="processes that work side by side")
    parser.add_argument(
        "--settings", type=Path, help="JSON of a short run's settings, instead of the starter's"
    )
    parser.add_argument("--real", type=int, default=REAL, help="real starts that are wanted")
    parser.add_argument(
        "--stand-ins", type=int, default=STAND_INS, help="starts of a stand-in that are wanted"
    )
    given = parser.parse_args()
    chosen = [name for name in SHARES if not given.only or name in given.only]
    # The last part may take a little longer to come to its end.
    ends = time.monotonic() + 60 * given.minutes - (GRACE_S if given.only is None else 0)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        room = Path(folder)
        settings = json.loads(given.settings.read_text()) if given.settings else forks.short_settings(room)
        if READ_A_RUN & {*chosen}:
            forks.finished_run(room, settings)
        found, all_parts = {}, parts(given, settings, room)
        for number, name in enumerate(chosen):
            share = SHARES[name] / sum(SHARES[later] for later in chosen[number:])
            budget_s = share * max(0.0, ends - time.monotonic())
            found[name] = one(name, all_parts[name], room / f"part-{number}", budget_s)
            unmount_below(room)
    return told(found)


def one(name: str, part: Callable[[Path, float], Found], folder: Path, budget_s: float) -> Found:
    print(f"{name}: {budget_s:.0f} s", file=sys.stderr, flush=True)
    folder.mkdir()
    began = time.monotonic()
    found = in_child(folder / "found.json", lambda: part(folder, budget_s), began + budget_s)
    found.seconds = round(time.monotonic() - began, 1)
    for fault in found.faults[:FAULTS_TOLD]:
        print(f"  {fault}", file=sys.stderr, flush=True)
    return found


def told(found: dict[str, Found]) -> int:
    """Prints all that was found; returns the exit code."""
    print("| part | reached | of | s | figures | faults |\n|---|---|---|---|---|---|")
    for name, part in found.items():
        figures = "; ".join(f"{what} {value}" for what, value in part.figures.items())
        print(f"| {name} | {part.tried:,} | {part.of:,} | {part.seconds} | {figures} | {len(part.faults)} |")
    facts = {
        name: {"reached": part.tried, "of": part.of, "seconds": part.seconds}
        | part.figures
        | {"faults": part.faults[:FAULTS_TOLD], "fault_count": len(part.faults)}
        for name, part in found.items()
    }
    print(json.dumps(facts, ensure_ascii=False))
    return int(any(part.faults for part in found.values()))


if __name__ == "__main__":
    sys.exit(main())
