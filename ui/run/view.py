"""A run as it goes: its story in, HTML out. Every value from a run or a dataset is escaped."""

import time
from collections.abc import Mapping, Sequence
from html import escape

from training.runs.events import error_of, skipped_reasons
from training.runs.status import Status
from ui.i18n import TEXTS, Language, duration, escaped, number, percent, remedy_of, say, sentence, told
from ui.run.loss_chart import loss_chart
from ui.run.results import blindfold_words
from ui.run.samples import at_step
from ui.run.summary import Event, Story, exact_match

ANSWERS_SHOWN = 4
"""The base's answer and the newest ones."""

STEPS_BEFORE_ETA = 5
LOG_LINES = 60


def run_head(language: Language, name: str, status: Status, story: Story) -> str:
    """Name, state, progress bar, and where the run is in words."""
    step, total = status.step, status.total or 0
    share = 100 * step / total if total else 0
    words = " · ".join(where_it_is(language, status, story))
    return (
        f'<div class="runline"><b class="name" title="{escape(name)}">{escape(name)}</b>'
        f"{state_pill(language, status.state)}"
        f'<div class="bar" role="progressbar" aria-valuenow="{share:.0f}" aria-label="{escape(words)}">'
        f'<u style="width:{share:.1f}%"></u></div>'
        f'<span class="where">{escape(words)}</span></div>'
    )


def state_pill(language: Language, state: str) -> str:
    return f'<span class="state {escape(state)}">{escaped(language, f"state_{state}")}</span>'


def where_it_is(language: Language, status: Status, story: Story) -> list[str]:
    """Such as: step 37 of 200; evaluating 40 of 200; 21 s left."""
    words = []
    if status.total and status.step:
        step, total = number(language, status.step), number(language, status.total)
        words.append(say(language, "step_of", step=step, total=total))
    if not status.live:
        return [*words, say(language, "took", time=duration(language, status.elapsed_s))]
    if story.phase and not (words and story.phase["name"] == "training"):
        words.append(phase_words(language, story.phase))
    if status.eta_s is not None and status.step >= STEPS_BEFORE_ETA:
        words.append(say(language, "time_left", time=duration(language, status.eta_s)))
    return words


def phase_words(language: Language, phase: Event) -> str:
    key = "phase_" + phase["name"].replace(" ", "_")
    name = say(language, key) if key in TEXTS else phase["name"]
    if phase["total"] <= 1:
        return name
    done, total = number(language, phase["done"]), number(language, phase["total"])
    return say(language, "phase_count", phase=name, done=done, total=total)


def tiles(language: Language, story: Story) -> str:
    """Trainable counts, exact match before and after, speed, memory; a dash for what is not known yet."""
    newest = story.steps[-1] if story.steps else {}
    trainable = {tower: number(language, counts["trainable"]) for tower, counts in story.towers.items()}
    speed, memory = newest.get("examples_per_s"), newest.get("memory_gib")
    facts = [
        ("tile_vision", trainable.get("vision")),
        ("tile_text", trainable.get("text")),
        ("tile_exact", before_after(language, story)),
        ("tile_speed", None if speed is None else number(language, speed)),
        (
            "tile_memory",
            None if memory is None else say(language, "gigabytes", size=number(language, memory, 1)),
        ),
    ]
    return (
        '<div class="tiles">'
        + "".join(
            f'<div class="tile"><span>{escaped(language, key)}</span><b>{escape(fact or "–")}</b></div>'
            for key, fact in facts
        )
        + "</div>"
    )


def before_after(language: Language, story: Story) -> str | None:
    """Such as: 3 % → 71 %. None where nothing was evaluated yet."""
    before, after = story.base_score, story.score
    if before is None:
        return None if after is None else percent(language, after)
    if after is None:
        return percent(language, before)
    return say(language, "before_after", before=percent(language, before), after=percent(language, after))


def exact_words(language: Language, story: Story) -> str | None:
    """The adapter's newest exact match."""
    return None if story.score is None else percent(language, story.score)


def failure(language: Language, status: Status) -> str:
    """What ended a run before its time, in one sentence, and what to do about it; else empty."""
    if status.state == "failed":
        remedy = remedy_of(language, status.problem, status.remedy)
        return _told(say(language, "failed_title"), sentence(language, status.problem), remedy)
    if status.state == "interrupted":
        problem, remedy = sentence(language, status.problem or ""), say(language, "can_resume")
        return _told(say(language, "interrupted_title"), problem, remedy)
    return ""


def warnings(language: Language, story: Story) -> str:
    """A card for each thing worth knowing; else empty."""
    title = say(language, "warning_title")
    return "".join(
        f'<div class="card notice">{_told(title, *told(language, error_of(warning)))}</div>'
        for warning in story.warnings
    )


def _told(title: str, problem: str, remedy: str) -> str:
    return (
        f'<div role="status"><h2>{escape(title)}</h2>'
        f"<p>{escape(problem)}</p><p class='small'>{escape(remedy)}</p></div>"
    )


def charts(language: Language, status: Status, story: Story) -> str:
    """The loss curve, and beside it the share of right answers at each evaluation."""
    training = [(step["step"], step["loss"]) for step in story.steps if step["loss"] is not None]
    held_out = [(seen["step"], seen["loss"]) for seen in story.evaluations if seen["loss"] is not None]
    curve = loss_chart(language, training, held_out, status.total or 0)
    return (
        f'<div class="two"><div class="card"><h2>{escaped(language, "loss")}</h2>{curve}</div>'
        f'<div class="card"><h2>{escaped(language, "scores")}</h2>{scores(language, story)}</div></div>'
    )


def scores(language: Language, story: Story) -> str:
    if not story.evaluations:
        return f'<p class="small waiting">{escaped(language, "scores_waiting")}</p>'
    newest = story.evaluations[-1]
    shown = (
        story.evaluations
        if len(story.evaluations) <= ANSWERS_SHOWN
        else [
            story.evaluations[0],
            *story.evaluations[1 - ANSWERS_SHOWN :],
        ]
    )
    rows = "".join(
        f"<tr><th>{escape(at_step(language, seen['step']))}</th>"
        f'<td class="wide"><div class="bar"><u style="width:{100 * exact_match(seen):.1f}%"></u></div></td>'
        f"<td>{escape(percent(language, exact_match(seen)))}</td></tr>"
        for seen in shown
    )
    note = say(language, "scores_note", count=newest["examples"])
    if interval := newest.get("intervals", {}).get("exact_match"):
        low, high = (number(language, 100 * bound) for bound in interval)
        note += " " + say(language, "scores_interval", low=low, high=high)
    return f'<table class="scores">{rows}</table><p class="small">{escape(note)}</p>'


def log(language: Language, story: Story) -> str:
    """The events that matter, a line each, newest last; the box keeps its end in sight."""
    lines = [line for event in story.log[-LOG_LINES:] for line in log_lines(language, event)]
    text = "\n".join(lines) or say(language, "log_waiting")
    return f'<div class="card log"><h2>{escaped(language, "log")}</h2>{_scrolling(text)}</div>'


def output(lines: Sequence[str]) -> str:
    """The end of what the worker printed, library chatter and tracebacks included."""
    return _scrolling("\n".join(lines))


def _scrolling(text: str) -> str:
    """A box that follows the end of its text until a person scrolls up."""
    return f'<div class="scroll" tabindex="0"><pre>{escape(text)}</pre></div>'


def log_lines(language: Language, event: Event) -> list[str]:
    clock = time.strftime("%H:%M:%S", time.localtime(event["time"]))
    return [f"{clock}  {words}" for words in _log_words(language, event)]


def _log_words(language: Language, event: Event) -> list[str]:
    kind = event["kind"]
    match kind:
        case "started":
            towers = [
                _tower_words(language, tower, counts)
                for tower, counts in event["towers"].items()
                if counts["trainable"]
            ]
            return [
                say(language, "log_started", **_taken(event, "base_model", "device", "precision")),
                *towers,
            ]
        case "data":
            counts = _taken(event, "train", "images")
            reasons = "; ".join(sentence(language, reason) for reason in skipped_reasons(event)[:3])
            skipped = {"skipped": event["skipped"], "reasons": reasons}
            words = [say(language, "log_data", held_out=number(language, event["held_out"]), **counts)]
            return [*words, say(language, "log_skipped", **skipped)] if reasons else words
        case "evaluated":
            loss = "–" if event["loss"] is None else number(language, event["loss"], 3)
            score = percent(language, exact_match(event), 1)
            return [
                say(language, "log_evaluated", step=number(language, event["step"]), loss=loss, exact=score)
            ]
        case "drill":
            figures = {"memory": number(language, event["memory_gib"], 1)}
            figures["step_s"] = number(language, event["step_s"], 2)
            figures["time"] = duration(language, event["eta_s"])
            return [say(language, "log_drill", size=event["batch_size"], **figures)]
        case "blindfold":
            return [blindfold_words(language, event)]
        case "finished" | "stopped":
            return [
                say(language, f"log_{kind}", step=event["step"], time=duration(language, event["elapsed_s"]))
            ]
        case "warning" | "failed":
            problem, remedy = told(language, error_of(event))
            return [say(language, f"log_{kind}", problem=problem, remedy=remedy)]
        case "checkpoint" | "queued":
            return [say(language, f"log_{kind}", **event)]
    return []


def _tower_words(language: Language, tower: str, counts: Mapping[str, int]) -> str:
    share = number(language, 100 * counts["trainable"] / max(1, counts["total"]), 2)
    figures = {key: number(language, counts[key]) for key in ("trainable", "total")}
    return say(language, "log_tower", tower=say(language, tower), share=share, **figures)


def _taken(event: Event, *keys: str) -> dict[str, object]:
    return {key: event[key] for key in keys}
