"""The queue: one run at a time on a device of a workspace; who waits, for whom, and in which order. No torch.

Nothing decides but locks (`training.runs.supervisor`): a queued run starts by itself when the one before it
has ended, with or without the app.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.config import TrainingConfig
from training.program import command
from training.runs import lock, supervisor
from training.runs.folder import Run
from vlm.errors import UserError
from vlm.machine import system

NO_DEVICE = ("", "-1")
# Between the numbers of two tickets, at the ends of a queue.
APART = 10**9


def devices_of(config: TrainingConfig) -> list[str]:
    """Returns the devices that a run will use: "cpu", "mps", or "cuda-0" and as many as it has processes."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    chosen = None if visible is None else [each.strip() for each in visible.split(",")]
    device = system.accelerator() if config.device == "auto" else config.device
    if device == "mps":
        return ["mps"]
    if device != "cuda" or (chosen is not None and chosen[0] in NO_DEVICE):
        return ["cpu"]
    chosen = chosen or [str(index) for index in range(config.processes)]
    return [f"cuda-{index}" for index in chosen[: config.processes]]


def is_busy(workspace: Path, config: TrainingConfig) -> bool:
    """Returns whether a run would have to wait for its devices now."""
    queues = [workspace / supervisor.QUEUE / device for device in devices_of(config)]
    return any(system.is_locked(queue / supervisor.DEVICE_LOCK) for queue in queues)


def folders_of(run: Run, config: TrainingConfig) -> list[Path]:
    """Returns the folders of the queues that the run stands in."""
    return [run.workspace / supervisor.QUEUE / device for device in devices_of(config)]


def waiting(workspace: Path) -> dict[str, list[str]]:
    """Returns device -> the names of the runs that wait for it, the next one first."""
    devices = sorted((workspace / supervisor.QUEUE).glob("*"))
    return {device.name: [name for name, _ in supervisor.tickets(device)] for device in devices}


def move(run: Run, number: int) -> supervisor.Place:
    """Puts a run that waits at this place of its queue, 1 the next, and returns where it stands.

    Raises:
        UserError: it waits nowhere.
    """
    place = supervisor.place_of(run.workspace, run.name)
    not_queued = UserError(
        "{name} waits in no queue.",
        "See where the runs stand: {command} queue",
        "run-not-queued",
        name=run.name,
        command=command(),
    )
    queues = sorted((run.workspace / supervisor.QUEUE).glob("*"))
    own = [ticket for queue in queues for name, ticket in supervisor.tickets(queue) if name == run.name]
    if place is None or not own:  # it may have started meanwhile
        raise not_queued
    # One number for all devices: by two, two runs could each be before the other.
    others = [
        int(ticket.name.split(".", 1)[0])
        for name, ticket in supervisor.tickets(own[0].parent)
        if name != run.name
    ]
    at = min(max(number, 1), len(others) + 1) - 1
    # Tickets are numbered by nanoseconds: between two there is room for another.
    after = others[at] if at < len(others) else max([time.time_ns(), *(each + APART for each in others)])
    before = others[at - 1] if at else after - 2 * APART
    try:
        for ticket in own:
            system.rename(ticket, ticket.with_name(f"{(before + after) // 2:020d}.{run.name}"))
    except FileNotFoundError:
        raise not_queued from None
    return supervisor.place_of(run.workspace, run.name) or place


@contextmanager
def turn(run: Run, config: TrainingConfig) -> Iterator[Iterator[supervisor.Place]]:
    """The devices of a run in this process, held while this is open.

    Yields the places that it waits at, each time it moves on; once these have ended it has its devices, or a
    stop is requested.
    """
    queues, alive = folders_of(run, config), supervisor.locked(run.path / supervisor.SUPERVISOR)
    taken: list[int] | None = []

    def places() -> Iterator[supervisor.Place]:
        nonlocal taken
        if (taken := supervisor.take(run.name, queues)) is not None:
            return
        last = None
        with supervisor.in_line(run.name, queues):
            while (taken := supervisor.take(run.name, queues)) is None and not run.stop_path.exists():
                place = supervisor.place_of(run.workspace, run.name)
                if place is not None and place != last:
                    yield place
                last = place
                time.sleep(supervisor.POLL_S)

    with lock.closed_in_forks(lambda: [*(taken or ()), *([] if alive is None else [alive])]):
        yield places()
