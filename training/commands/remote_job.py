"""What a job on Hugging Face does: train in its own workspace, print each event, push the adapter. No torch.

`training.commands.submit` starts it there with `python -m training.commands.remote_job FOLDER`. The outcome
is printed last, when the adapter is where it says: whoever follows may fetch it then.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from training import config, runs
from training.commands import parser
from training.runs import events
from training.runs.events import FINAL

MARK = "@lora-lens "
"""Before each event, on a line of its own: everything else in a job's log is for people."""


def main(folder: Path) -> int:
    """Train with the settings in this folder. The worker's exit code."""
    settings = config.read_file(folder / "config.yaml") | {"workspace": parser.default_workspace()}
    run = runs.start(config.build(settings))
    final: dict[str, Any] | None = None
    for event in events.follow(run.events_path, until=lambda: not run.status().live):
        if event["kind"] in FINAL:
            final = event
        else:
            tell(event)
    code = exit_code(run)
    sys.stdout.write("\n".join(events.tail(run.output_log, 200)) + "\n")
    if final is None:
        status = run.status()
        final = failed(status.problem or "The worker died.", status.remedy or "Read the log.")
    elif final["kind"] != "failed":
        try:
            push(run.adapter_path, os.environ["LORA_LENS_RESULT"])
        except Exception as error:
            problem = f"The adapter could not be pushed: {str(error).splitlines()[0]}"
            final = failed(problem, "Give the token write access, and submit again.")
            code = code or 1
    tell(final | {"exit_code": code})
    return code


def tell(event: dict[str, Any]) -> None:
    sys.stdout.write(f"{MARK}{json.dumps(event)}\n")
    sys.stdout.flush()


def failed(problem: str, remedy: str) -> dict[str, Any]:
    return {"kind": "failed", "problem": problem, "remedy": remedy, "elapsed_s": 0.0}


def push(adapter: Path, repository: str) -> None:
    """The adapter's folder, into the private model repository that `training.commands.submit` made."""
    HfApi().upload_folder(repo_id=repository, folder_path=adapter)


def exit_code(run: runs.Run) -> int:
    """How the worker ended; its starter writes that a moment after its last event."""
    deadline = time.monotonic() + 30
    while not run.exit_code_path.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    return int(run.exit_code_path.read_text()) if run.exit_code_path.exists() else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
