"""python -m training: check and export data; run, submit, stop, resume, list, show and delete runs; adapters.

No torch is imported until a run begins here, or a dataset is checked against a model.

Every way to train ends here: the page's Start button and `start` execute `run --folder`. Exit codes: 0 done,
2 bad input or not possible, 3 stopped, 4 disk full, 5 not finite, 130 interrupted.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training import distributed, runs
from training.commands import adapters, parser
from training.commands import evaluate as evaluating
from training.config import refusal
from training.data.edit.export import export_dataset
from training.data.open import open_configured, say_nothing
from training.data.validate.dataset_check import check_configured
from training.data.validate.report import describe_report, report_facts
from training.evaluation.blindfold import Blindfold
from training.runs import Run, Status, events
from vlm.errors import UserError
from vlm.settings import ModelSettings

LOG_LINES = 200


def main(words: Sequence[str]) -> int:
    """The exit code of one command; what a person did wrong is two lines on stderr."""
    try:
        typed = parser.parse(words)
        if typed.command not in ("run", "start", "submit") and typed.problems:
            raise refusal(typed.problems)
        return COMMANDS[typed.command](typed)
    except UserError as error:
        print(error.problem, error.remedy, sep="\n", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130


def run(typed: parser.Typed) -> int:
    if distributed.assists():
        return assist()
    folder = typed.values.get("folder")
    if folder is None:
        return work_on(runs.prepare(distributed.as_launched(parser.settings(typed))))
    if len(typed.values) > 1 or typed.problems:
        raise UserError(
            "--folder takes no other flag.", "A prepared run has its settings in its config.yaml."
        )
    path = Path(folder).absolute()
    return work_on(runs.find(path.parent.parent, path.name))


def work_on(run: Run) -> int:
    """Train here, in the foreground."""
    from training.loop import worker

    return worker.main(run, alone=__name__ == "__main__")


def assist() -> int:
    """Train here as one of several processes, of which another has the run."""
    from training.loop import worker

    return worker.assist()


def start(typed: parser.Typed) -> int:
    distributed.require_foreground("start")
    run = runs.prepare(parser.settings(typed))
    runs.launch(run)
    print(f"{run.name} is starting in the background, in {run.path}")
    print(f"  follow it   python -m training show {_reference(run)} --follow")
    print(f"  stop it     python -m training stop {_reference(run)}")
    return 0


def submit(typed: parser.Typed) -> int:
    distributed.require_foreground("submit")
    from training.commands.submit import submit as send

    return send(parser.settings(typed), parser.job_settings(typed), lambda line: print(line, flush=True))


def _reference(run: Run) -> str:
    """The words that name this run in a command typed in this folder."""
    is_default = run.workspace == parser.default_workspace().absolute()
    return run.name if is_default else f"{run.name} --workspace {run.workspace}"


def stop(typed: parser.Typed) -> int:
    run = _named(typed)
    status = runs.stop(run)
    if status.live:
        print(f"{run.name} will finish its step, save and end.")
    else:
        print(f"{run.name} is {status.state}: there is nothing to stop.")
    return 0


def resume(typed: parser.Typed) -> int:
    if typed.values.get("background"):
        distributed.require_foreground("resume --background")
    if distributed.assists():
        return assist()
    run = _named(typed)
    if not runs.reopen(run):
        raise UserError(
            f"{run.name} is at work.", f"Follow it: python -m training show {_reference(run)} --follow"
        )
    code = 0
    if typed.values.get("background"):
        runs.launch(run)
    else:
        code = work_on(run)
    print(_as_json(_facts(run)) if typed.values.get("json") else describe(run.name, run.status()))
    return code


def list_runs(typed: parser.Typed) -> int:
    found = runs.list_runs(_workspace(typed))
    if typed.values.get("json"):
        print(_as_json([_facts(run) for run in found]))
        return 0
    for run in found:
        print(describe(run.name, run.status()))
    if not found:
        print("There is no run yet. Start one: python -m training start")
    return 0


def show(typed: parser.Typed) -> int:
    run = _named(typed)
    if typed.values.get("json"):
        found = {kind: run.events({kind}) for kind in ("evaluated", "blindfold", "hard")}
        told = {"evaluated": found["evaluated"], **{kind: found[kind][-1:] for kind in ("blindfold", "hard")}}
        print(_as_json(_facts(run) | {"config": run.config().model_dump(mode="json")} | told))
        return 0
    if typed.values.get("follow"):
        for event in events.follow(run.events_path, until=lambda: not run.status().live):
            if line := describe_event(event):
                print(line, flush=True)
    if typed.values.get("hard"):
        print("\n".join(hardest(run.events({"hard"}))))
    if typed.values.get("log"):
        print(*events.tail(run.output_log, LOG_LINES), sep="\n")
    status = run.status()
    print(describe(run.name, status))
    if run.adapter_path.is_dir():
        print(f"  adapter: {run.adapter_path}")
    if status.problem:
        print(f"  {status.problem}\n  {status.remedy}")
    return 0


def delete(typed: parser.Typed) -> int:
    run = _named(typed)
    print(f"{run.name} was moved to {runs.delete(run)}")
    return 0


def check(typed: parser.Typed) -> int:
    """Every finding; 2 where a run would be refused."""
    config = parser.check_settings(typed)
    progress = _progress if sys.stderr.isatty() else say_nothing
    report = check_configured(config, progress)
    if typed.values.get("model"):
        from training.data.validate.model_check import check_with_model

        report = check_with_model(report, config, progress)
    if typed.values.get("json"):
        print(_as_json(report_facts(report)))
    else:
        print(describe_report(report, every=bool(typed.values.get("all"))))
    skipped = config.skip_bad_rows and bool(report.cleaned().examples)
    return 2 if report.refuses and not skipped else 0


def export(typed: parser.Typed) -> int:
    config, out = parser.check_settings(typed), Path(typed.values["out"]).expanduser()
    format = parser.export_format(typed)
    progress = _progress if sys.stderr.isatty() else say_nothing
    dataset = open_configured(config, progress)
    export_dataset(dataset, out, format, skip_bad_rows=config.skip_bad_rows, progress=progress)
    print(f"{dataset.name}: {len(dataset.examples):,} examples as {format} in {out}")
    return 0


def list_adapters(typed: parser.Typed) -> int:
    found = adapters.listed(_workspace(typed))
    if typed.values.get("json"):
        print(_as_json(found))
    else:
        print("\n".join(map(adapters.describe, found)) or "There is no adapter yet: a finished run has one.")
    return 0


def inspect(typed: parser.Typed) -> int:
    values = typed.values
    told = adapters.inspected(
        _workspace(typed), values["adapter"], values.get("model"), values.get("revision")
    )
    print(_as_json(told) if values.get("json") else adapters.describe(told))
    return 0


def merge(typed: parser.Typed) -> int:
    parser.check_settings(typed)
    settings = {key: value for key, value in typed.values.items() if key in ModelSettings.model_fields}
    given = {key: value for key, value in settings.items() if value is not None}
    out = adapters.merged(_workspace(typed), typed.values["adapter"], Path(typed.values["out"]), given)
    print(f"{typed.values['adapter']} and its base are one model in {out}")
    return 0


def evaluate(typed: parser.Typed) -> int:
    values, workspace = typed.values, _workspace(typed)
    folder, known = evaluating.known_settings(workspace, values["adapter"], values["dataset"])
    found = evaluating.evaluated(
        parser.check_settings(typed, known),
        folder,
        part=values.get("part") or "auto",
        trained_on_it="dataset" in known,
        most=parser.whole_number(values, "most"),
        blindfold=bool(values.get("blindfold")),
        output=None if values.get("output") is None else Path(values["output"]).expanduser(),
        progress=_progress if sys.stderr.isatty() else say_nothing,
    )
    print(_as_json(found.facts()) if values.get("json") else evaluating.describe(found))
    return 0


def _progress(what: str, done: int, total: int) -> None:
    """A line that is written over; how many rows a file has is not known before its end (0)."""
    if done % 100 == 0 or done == total:
        end = "\n" if done == total else "\r"
        of_all = f" of {total:,}" if total else ""
        print(f"{what}: {done:,}{of_all}", end=end, file=sys.stderr, flush=True)


def describe(name: str, status: Status) -> str:
    """A run's state on one line."""
    total = f" of {status.total}" if status.total else ""
    parts = [f"{name}: {status.state}", f"step {status.step}{total}", f"{status.elapsed_s:.0f} s"]
    if status.live and status.phase:
        parts.insert(1, status.phase)
    if status.eta_s is not None:
        parts.append(f"{status.eta_s:.0f} s left")
    return ", ".join(parts)


def describe_event(event: events.Event) -> str | None:
    """An event on one line; None for those that only a page can show well."""
    match event["kind"]:
        case "started":
            return (
                f"{event['base_model']} on {event['device']}: {event['trainable']:,} parameters are trained"
            )
        case "step":
            return f"step {event['step']} of {event['total']}: loss {_number(event['loss'])}"
        case "evaluated":
            intervals = event.get("intervals", {})
            metrics = [_rate(name, value, intervals.get(name)) for name, value in event["metrics"].items()]
            return f"evaluated at step {event['step']}: {', '.join(metrics)}"
        case "checkpoint":
            return f"checkpoint at step {event['step']}: {event['path']}"
        case "blindfold":
            return str(Blindfold.from_event(event))
        case "warning":
            return f"{event['problem']} {event['remedy']}"
    return None


def hardest(told: Sequence[events.Event]) -> list[str]:
    """The examples of highest loss in the newest epoch, a line each."""
    if not told:
        return ["No epoch has ended yet, or this model's loss can't be told apart by example."]
    newest = told[-1]
    lines = [
        f"Highest loss of {newest['seen']:,} examples in epoch {newest['epoch']:.3g}; look for wrong labels:"
    ]
    for sample in newest["samples"]:
        asked = f"{sample['question']} → " if sample["question"] else ""
        lines.append(f"  {_number(sample['loss'])}  {sample['example_id']}: {asked}{sample['answer']}")
    return lines


def _rate(name: str, value: float | None, interval: list[float] | None) -> str:
    around = f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
    return f"{name} {_number(value)}{around}"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3f}"


def _named(typed: parser.Typed) -> Run:
    return runs.find(_workspace(typed), typed.values["name"])


def _workspace(typed: parser.Typed) -> Path:
    return Path(typed.values.get("workspace") or parser.default_workspace()).expanduser()


def _facts(run: Run) -> dict[str, Any]:
    status = run.status()
    adapter = str(run.adapter_path) if run.adapter_path.is_dir() else None
    facts = {"name": run.name, "path": str(run.path), "adapter": adapter}
    return facts | asdict(status) | {"resumable": status.resumable}


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


COMMANDS = {
    "run": run,
    "start": start,
    "submit": submit,
    "check": check,
    "export": export,
    "stop": stop,
    "resume": resume,
    "list": list_runs,
    "show": show,
    "delete": delete,
    "adapters": list_adapters,
    "inspect": inspect,
    "merge": merge,
    "evaluate": evaluate,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
