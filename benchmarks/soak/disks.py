"""G7: disks of several sizes, each too small for the run: what it says, what stays, what a resume comes to.

A disk is a tmpfs of that size; where nothing may be mounted, a limit on the size of one file stands in.
"""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.soak import forks
from benchmarks.soak.found import Found, evenly, until
from training.loop import worker
from training.runs import Run, checkpoints
from vlm.errors import UserError

# Of all that the run's workspace holds in the end.
SHARES = tuple(share / 20 for share in range(1, 20))
STAND_IN = "nothing may be mounted here: a limit on files' sizes stands in"


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path | None]:
    """A disk of so many bytes at this folder while it is open; None where nothing may be mounted."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def unmount_below(folder: Path) -> None:
    """Unmounts what a part has left that was killed."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        if (place := line.split()[1]).startswith(f"{folder}/"):
            subprocess.run(["umount", "-l", place], check=True)


def limited(size: int) -> Callable[[], None]:
    """Returns what keeps the files of the process that calls it below so many bytes."""
    import resource  # tests of other things have a disk from here, and not every system has this

    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def disk_sizes(room: Path, budget_s: float, settings: dict[str, Any]) -> Found:
    """Returns what was found on disks of each size."""
    ends = time.monotonic() + budget_s
    forks.warm_up(room, settings)
    settings = settings | {"save_steps": 1, "checkpoints_kept": 10}
    whole = forks.prepared(settings, room / "whole", "whole")
    if (code := forks.worked(whole)) != worker.DONE:
        return Found(faults=[f"the run with room ended with {code}"])
    files = [file.stat().st_size for file in whole.workspace.rglob("*") if file.is_file()]
    found = Found(of=len(SHARES), figures={"the whole workspace, MB": round(sum(files) / 1e6, 2)})
    found.figures["a real disk"] = True
    for share in until(ends, evenly(SHARES)):
        with small_disk(room / f"disk-{share}", int(share * sum(files))) as disk:
            limit = None if disk else limited(int(share * max(files)))
            workspace = disk or room / f"limited-{share}"
            found.wrong(f"{share:.0%} of the room", on_disk(settings, workspace, limit, forks.weights(whole)))
        found.tried += 1
        if disk is None:
            found.figures["a real disk"] = STAND_IN
    return found


def on_disk(
    settings: dict[str, Any], workspace: Path, limit: Callable[[], None] | None, expected: bytes
) -> list[str]:
    """Returns what is wrong with how a run ends that has too little room, and goes on where there is more."""
    try:
        run = forks.prepared(settings, workspace, "demo")
    except UserError as error:
        code, words = worker.EXIT_CODES.get(error.code), str(error.problem)
        return [] if code == worker.DISK_FULL and "MB are free" in words else [f"not prepared: {words}"]
    code = forks.worked(run, limit=limit or (lambda: None))
    status, words = run.status(), str(run.status().problem)
    faults = []
    if code != worker.DISK_FULL:
        faults.append(f"exit code {code}: {words}")
    if (status.state, status.resumable) != ("failed", True):
        faults.append(f"told as {status.state}")
    if str(workspace) not in words or "MB are free" not in words:
        faults.append(f"no path or no room in its words: {words}")
    sealed, newest = run.events({"checkpoint"}), checkpoints.newest(run.checkpoints_path)
    if (sealed[-1]["step"] if sealed else None) != (newest.step if newest else None):
        faults.append(f"{sealed[-1:]} was told last, and {newest} is the newest")
    if any("torn" in each.name for each in run.path.rglob("*")):
        faults.append("half a checkpoint was left")
    roomy = workspace.with_name(f"{workspace.name}-with-room")
    shutil.copytree(workspace, roomy)
    again = Run(roomy / "runs" / "demo")
    code = forks.resumed(again)
    if code != worker.DONE or forks.weights(again) != expected:
        faults.append(f"with room it ended with {code}, or came to another adapter: {again.status().problem}")
    shutil.rmtree(roomy)
    return faults
