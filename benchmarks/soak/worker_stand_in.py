"""A stand-in for the worker, of the standard library alone: lock, events, stop request, and nothing trained.

    python -I -S worker_stand_in.py FOLDER TICKS FATE

It lives for so many ticks of 5 ms. FATE is how it ends then: `finishes`, `dies` without a word, or before its
first event `fails`; a stop request ends it earlier. Of a device in use beside another worker it leaves a line
in the workspace's `overlaps`.
"""

import fcntl
import os
import sys
import time

TICK_S = 0.005
STEP = (
    '"step": {step}, "total": {total}, "epoch": 0.0, "loss": 1.0, "learning_rate": 0.1, "grad_norm": 1.0,'
    ' "examples_per_s": 1.0, "memory_gib": null, "eta_s": 9.0'
)
STARTED = (
    '"base_model": "none", "device": "cpu", "precision": "fp32", "seed": 0, "versions": {},'
    ' "towers": {}, "trainable": 1, "total": 2'
)


def main(folder: str, ticks: int, fate: str) -> int:
    def tell(kind: str, fields: str) -> None:
        line = f'{{"time": {time.time()}, "kind": "{kind}", {fields}}}\n'
        log = os.open(f"{folder}/events.jsonl", os.O_WRONLY | os.O_APPEND)
        os.write(log, line.encode())
        os.close(log)

    if fate == "fails":
        return 1
    workspace = os.path.dirname(os.path.dirname(folder))
    held = os.open(f"{folder}/lock", os.O_RDWR | os.O_CREAT, 0o666)
    fcntl.flock(held, fcntl.LOCK_EX)
    os.ftruncate(held, 0)
    os.pwrite(held, f'{{"pid": {os.getpid()}}}'.encode(), 0)
    in_use = os.open(f"{workspace}/in_use", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with open(f"{workspace}/overlaps", "a") as overlaps:
            overlaps.write(f"{folder}\n")
    tell("started", STARTED)
    for step in range(1, ticks + 1):
        if step == 1:  # a longer log is read again at each look, which is not what is tried here
            tell("step", STEP.format(step=step, total=ticks))
        if os.path.exists(f"{folder}/stop"):
            tell("stopped", f'"step": {step}, "elapsed_s": 1.0')
            os.unlink(f"{folder}/stop")
            return 3
        time.sleep(TICK_S)
    if fate == "dies":
        return 1
    tell("finished", f'"step": {ticks}, "elapsed_s": 1.0, "adapter": "adapter"')
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
