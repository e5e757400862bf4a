"""A job on Hugging Face: train in its own workspace, print each event, push the adapter. No torch.

`training.commands.submit` starts it there with `python -m training.commands.remote_job FOLDER` and reads its
lines with `parse_event`.
"""

import json
import os
import sys
import time
from pathlib import Path

from huggingface_hub import HfApi

from training import config, runs
from training.commands import parser
from training.runs import events
from training.runs.events import FINAL, Event, error_fields
from training.sharing.account import try_again
from vlm.errors import UserError

# Before each event, on a line of its own: everything else in a job's log is for people.
MARK = "@lora-lens "
# Of the worker's output that goes into the job's log, which outlives the job's disk.
LOG_LINES = 200
# The process that starts a worker writes its exit code a moment after the worker's last event.
EXIT_CODE_WITHIN_S = 30.0
# Between two attempts to push: a job's disk goes with the job, and with it what was learned.
PAUSES_S = (2.0, 10.0, 60.0, 300.0)


def main(folder: Path) -> int:
    """Train with the settings in this folder. Returns the worker's exit code."""
    settings = config.read_file(folder / "config.yaml") | {"workspace": parser.default_workspace()}
    run = runs.start(config.build(settings), beside=True)
    final: Event | None = None
    for event in events.follow(run.events_path, until=lambda: not run.status().live):
        if event["kind"] in FINAL:
            final = event
        else:
            _print_event(event)
    deadline = time.monotonic() + EXIT_CODE_WITHIN_S
    while not run.exit_code_path.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    code = int(run.exit_code_path.read_text("ascii")) if run.exit_code_path.exists() else 1
    print("\n".join(events.tail(run.output_log, LOG_LINES)))
    failed = {"kind": "failed", "elapsed_s": 0.0}
    if final is None:  # the worker was killed: a worker that ends says how
        status = run.status()
        died = UserError("The worker died.", "Read the log.", "worker-died")
        if status.problem is not None:
            died = UserError.filled(status.problem, status.remedy, status.change)
        final = failed | error_fields(died)
    elif final["kind"] != "failed":
        try:
            push(run.adapter_path, os.environ["LORA_LENS_RESULT"])
        except Exception as error:  # whatever it is, the one who submitted has to read it
            unpushed = UserError(
                "The adapter could not be pushed: {reason}",
                "Give the token write access, and submit again.",
                "adapter-not-pushed",
                reason=str(error).splitlines()[0],
            )
            final, code = failed | error_fields(unpushed), code or 1
    # The outcome comes last: who follows fetches the adapter as soon as it reads `finished`.
    _print_event(final | {"exit_code": code})
    return code


def push(adapter: Path, repository: str) -> None:
    """Uploads an adapter, again and again where the Hub or the network fails; raises what they raised last.

    What the Hub refuses is raised at once.
    """
    try_again(lambda: HfApi().upload_folder(repo_id=repository, folder_path=adapter), PAUSES_S)


def _print_event(event: Event) -> None:
    # A job's stdout is a pipe, which Python would fill before it sends anything.
    print(f"{MARK}{json.dumps(event)}", flush=True)


def parse_event(line: str) -> Event | None:
    """Returns the event on a line of a job's log; None for a line of another kind."""
    if not line.startswith(MARK):
        return None
    try:
        event = json.loads(line.removeprefix(MARK))
    except ValueError:  # half a line: the job ended while it was printed
        return None
    # The job's clock is not this machine's; an event log gives its own time.
    event.pop("time", None)
    return event


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
