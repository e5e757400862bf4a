"""What a run shows, part by part, as HTML: each part has its template; what that can't say by itself is here.

Every value from a run or a dataset is escaped by the templates.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

from markupsafe import Markup

from training.config.fields import BestMetric
from training.evaluation import compare
from training.evaluation.forgetting import Forgetting
from training.evaluation.metrics import LabelMetric, is_right, tell_fields
from training.evaluation.paired import Paired
from training.runs.events import Event, error_of, skipped_reasons
from training.runs.failure import TITLES, class_of
from training.runs.status import Status
from ui.html import render
from ui.i18n import TEXTS, Language, duration, number, percent, remedy_of, say, sentence, told
from ui.run.loss_chart import plotted
from ui.run.summary import Summary, rate_of

ANSWERS_SHOWN = 4
"""Of the evaluations' scores the base's and the newest ones."""
FILM_SHOWN = 12
"""Of the film's evaluations the base's and the newest ones."""

STEPS_BEFORE_ETA = 5
LOG_LINES = 60

ImageOf = Callable[[str], str | None]
"""From an image's path within the dataset to something an <img> can show."""
AnswersOf = Callable[[int], Mapping[str, Mapping[str, Any]]]
"""From a step to what its evaluation was answered, by the example's id; nothing where no file has it."""


def where_it_is(language: Language, status: Status, summary: Summary) -> list[str]:
    """Such as: step 37 of 200; evaluating 40 of 200; 21 s left."""
    words = []
    if status.place:
        place, of = number(language, status.place.number), number(language, status.place.of)
        key = "queue_place" if status.place.running else "queue_next"
        return [say(language, key, place=place, of=of, running=status.place.running)]
    if status.stalled_s is not None:
        words.append(say(language, "stalled", time=duration(language, status.stalled_s)))
    if status.total and status.step:
        step, total = number(language, status.step), number(language, status.total)
        words.append(say(language, "step_of", step=step, total=total))
    if not status.live:
        return [*words, say(language, "took", time=duration(language, status.elapsed_s))]
    if summary.phase and not (words and summary.phase["name"] == "training"):
        words.append(phase_words(language, summary.phase))
    if status.eta_s is not None and status.step >= STEPS_BEFORE_ETA:
        words.append(say(language, "time_left", time=duration(language, status.eta_s)))
    return words


def phase_words(language: Language, phase: Event) -> str:
    name = named(language, "phase_" + phase["name"].replace(" ", "_"), phase["name"])
    if phase["total"] <= 1:
        return name
    done, total = number(language, phase["done"]), number(language, phase["total"])
    return say(language, "phase_count", phase=name, done=done, total=total)


def named(language: Language, key: str, otherwise: str) -> str:
    """The text of a key; of a name that this page doesn't know, the name as it stands in the log."""
    return say(language, key) if key in TEXTS else otherwise


def share(status: Status) -> float:
    """How far the run is, in percent."""
    return 100 * status.step / status.total if status.total else 0.0


def tiles(language: Language, summary: Summary) -> Markup:
    """Trainable counts, what is right before and after, speed, memory; a dash for what is not known yet."""
    newest = summary.steps[-1] if summary.steps else {}
    trainable = {tower: number(language, counts["trainable"]) for tower, counts in summary.towers.items()}
    speed, memory = newest.get("examples_per_s"), newest.get("memory_gib")
    size = None if memory is None else say(language, "gigabytes", size=number(language, memory, 1))
    facts = {
        say(language, "tile_vision"): trainable.get("vision"),
        say(language, "tile_text"): trainable.get("text"),
        metric_name(language, summary.metric): before_after(language, summary),
        say(language, "tile_speed"): None if speed is None else number(language, speed),
        say(language, "tile_memory"): size,
    }
    return render("run_tiles", language, facts=facts)


def before_after(language: Language, summary: Summary) -> str | None:
    """Such as: 3 % → 71 %. None where nothing was evaluated yet."""
    rates = [rate for rate in (summary.base_score, summary.score) if rate is not None]
    shown = [percent(language, rate) for rate in rates]
    if len(shown) < 2:
        return next(iter(shown), None)
    return say(language, "before_after", before=shown[0], after=shown[1])


def failure(language: Language, status: Status) -> tuple[str, str, str] | None:
    """Title, problem and remedy of a run that ended before its time, or without an adapter; else None."""
    if status.problem is None or status.live:
        return None
    kind = class_of(status)
    title = sentence(language, TITLES[kind]) if kind else say(language, "stopped_title")
    remedy = remedy_of(language, status.problem, status.remedy or "")
    if status.state == "interrupted":
        remedy = say(language, "can_resume")
    return title, sentence(language, status.problem), remedy


def charts(language: Language, status: Status, summary: Summary) -> Markup:
    """The loss curve, and beside it the share of right answers at each evaluation."""
    training = [(step["step"], step["loss"]) for step in summary.steps if step["loss"] is not None]
    held_out = [(seen["step"], seen["loss"]) for seen in summary.evaluations if seen["loss"] is not None]
    seen = summary.evaluations
    shown = seen if len(seen) <= ANSWERS_SHOWN else [seen[0], *seen[1 - ANSWERS_SHOWN :]]
    note = ""
    if seen:
        metric = metric_name(language, summary.metric)
        note = say(language, "scores_note", count=seen[-1]["examples"], metric=metric)
        if interval := seen[-1].get("intervals", {}).get(summary.metric):
            low, high = (number(language, 100 * bound) for bound in interval)
            note += " " + say(language, "scores_interval", low=low, high=high)
    return render(
        "run_charts",
        language,
        plot=plotted(language, training, held_out, status.total or 0),
        scores=[(at_step(language, one["step"]), rate_of(one)) for one in shown],
        note=note,
    )


def at_step(language: Language, step: int) -> str:
    return say(language, "base") if step == 0 else say(language, "step_n", step=number(language, step))


def film(
    language: Language, summary: Summary, image_of: ImageOf, answers_of: AnswersOf = lambda step: {}
) -> Markup:
    """A row for each example, a column for each evaluation; the base's comes first."""
    steps = sorted({one["step"] for answers in summary.samples.values() for one in answers})
    shown = steps if len(steps) <= FILM_SHOWN else [steps[0], *steps[1 - FILM_SHOWN :]]
    written = {step: answers_of(step) for step in shown}
    strips = []
    for name, answers in summary.samples.items():
        first, logged = answers[0], {one["step"]: one for one in answers}
        accepted = first.get("references") or [first["answer"]]
        said = {}
        for step in shown:
            # An evaluation by an older version has in the log alone what it was answered.
            if (one := written[step].get(name) or logged.get(step)) is not None:
                text = one["prediction"].strip()
                right = one["right"] if "right" in one else is_right(text, accepted, summary.metric)
                said[step] = (text, right, one.get("cut", False), tell_fields(text, accepted))
        image = image_of(first["image"]) if first["image"] else None
        right = " / ".join(dict.fromkeys(accepted))
        strips.append({"first": first, "image": image, "right": right, "said": said})
    return render(
        "run_film", language, strips=strips, steps={step: at_step(language, step) for step in shown}
    )


def results(
    language: Language, status: Status, summary: Summary, verdict: Paired | None = None
) -> Markup | str:
    """The table of an ended run, and what its numbers are to be taken for; empty before."""
    before, after = compare.base_and_kept(summary.evaluations, summary.best_step)
    if status.live or before is None or after is None:
        return ""
    is_last = after["step"] == (summary.best_step or status.step)
    notes = [say(language, "results_note", count=after["examples"])]
    who = compare.ADAPTER if is_last else at_step(language, after["step"])
    if (common := compare.commonest_note(after)) is not None:
        notes.append(sentence(language, common))
    if reason := LabelMetric(**after.get("by_labels", {})).reason:
        notes.append(sentence(language, reason))
    if several := after.get("several"):
        notes.append(say(language, "several_note", count=several))
    if cut := after.get("cut"):
        notes.append(say(language, "cut_note", count=cut))
    if summary.best_step is not None:
        key = "ended_early" if summary.ended_early else "best_kept"
        metric = metric_name(language, summary.best_metric)
        notes.append(say(language, key, step=number(language, summary.best_step), metric=metric))
        if choice := after.get("choice"):
            notes.append(say(language, "choice_note", count=choice["examples"]))
    if summary.blindfold is not None:
        notes.append(blindfold_words(language, summary.blindfold))
    if summary.forgetting is not None and (words := forgetting_words(language, summary.forgetting)):
        notes.append(words)
    return render(
        "run_results",
        language,
        rows=[(row_name(language, row), row) for row in compare.comparisons(before, after)],
        kept=say(language, "adapter") if is_last else at_step(language, after["step"]),
        verdict=verdict and f"{sentence(language, verdict.words(who, compare.BASE))}.",
        notes=notes,
    )


def row_name(language: Language, row: compare.Comparison) -> str:
    """The metric of a row, or the type of question with how many there are."""
    if row.group is None:
        return metric_name(language, row.metric)
    group = row.group if row.metric == "field" else named(language, f"type_{row.group}", row.group)
    return say(language, "group_count", group=group, count=number(language, row.examples))


def metric_name(language: Language, metric: BestMetric | str) -> str:
    return named(language, f"metric_{metric}", metric)


def blindfold_words(language: Language, found: Event) -> str:
    """What the blindfold test found, in a sentence or three; older logs tell less."""
    if found["verdict"] == "untestable":
        return say(language, "blindfold_untestable")
    rates = {key: percent(language, found[key]) for key in ("own", "blind")}
    words = [say(language, f"blindfold_{found['verdict']}", count=found["examples"], **rates)]
    if gap := found.get("gap_interval"):
        low, high = (number(language, 100 * bound) for bound in gap)
        words.append(say(language, "blindfold_gap", low=low, high=high))
    if found["verdict"] == "unclear" and "needed" in found:
        key = "blindfold_needed" if found["needed"] else "blindfold_few_right"
        words.append(say(language, key, needed=number(language, found["needed"] or 0)))
    return " ".join(words)


def forgetting_words(language: Language, event: Event) -> str | None:
    """What the forgetting test found; None of what the base alone has right."""
    found = Forgetting.from_event(event)
    if found is None:
        return None
    figures = {"before": percent(language, found.before), "after": percent(language, found.after)}
    figures |= {"lost": number(language, found.lost), "gained": number(language, found.gained)}
    words = say(language, f"forgetting_{found.verdict}", count=found.questions, **figures)
    if found.verdict == "forgets" or found.findable is None:
        return words
    points = number(language, 100 * found.findable)
    return f"{words} {say(language, 'forgetting_findable', points=points)}"


def hardest(language: Language, status: Status, summary: Summary, image_of: ImageOf) -> Markup | str:
    """The training examples with the highest loss, as cards in a row, from the first epoch's end on."""
    if summary.hard is None:
        return render("run_hardest", language, cards=[]) if status.live else ""
    samples = summary.hard["samples"]
    cards = [(one, image_of(one["image"]) if one["image"] else None) for one in samples]
    return render("run_hardest", language, cards=cards, epoch=max(1, round(summary.hard["epoch"])))


def log(language: Language, summary: Summary) -> Markup:
    """The events that matter, a line each, newest last."""
    newest = islice(summary.log, max(0, len(summary.log) - LOG_LINES), None)
    lines = [line for event in newest for line in log_lines(language, event)]
    return render("run_log", language, text="\n".join(lines) or say(language, "log_waiting"))


def log_lines(language: Language, event: Event) -> list[str]:
    clock = time.strftime("%H:%M:%S", time.localtime(event["time"]))
    return [f"{clock}  {words}" for words in _log_words(language, event)]


def _log_words(language: Language, event: Event) -> Sequence[str]:
    match event["kind"]:
        case "started":
            facts = {key: event[key] for key in ("base_model", "device", "precision")}
            towers = (item for item in event["towers"].items() if item[1]["trainable"])
            return [
                say(language, "log_started", **facts),
                *(_tower_words(language, tower, counts) for tower, counts in towers),
            ]
        case "data":
            counts = {key: event[key] for key in ("train", "images")}
            words = say(language, "log_data", held_out=number(language, event["held_out"]), **counts)
            if not (reasons := [sentence(language, reason) for reason in skipped_reasons(event)[:3]]):
                return [words]
            return [words, say(language, "log_skipped", skipped=event["skipped"], reasons="; ".join(reasons))]
        case "evaluated":
            loss = "–" if event["loss"] is None else number(language, event["loss"], 3)
            facts = {"step": number(language, event["step"]), "loss": loss}
            facts["metric"] = metric_name(language, compare.chosen_metric(event))
            return [say(language, "log_evaluated", rate=percent(language, rate_of(event), 1), **facts)]
        case "drill":
            facts: dict[str, Any] = {"memory": number(language, event["memory_gib"], 1)}
            facts |= {"step_s": number(language, event["step_s"], 2), "size": event["batch_size"]}
            return [say(language, "log_drill", time=duration(language, event["eta_s"]), **facts)]
        case "blindfold":
            return [blindfold_words(language, event)]
        case "forgetting":
            return [words] if (words := forgetting_words(language, event)) else []
        case "finished" | "stopped" as kind:
            took = duration(language, event["elapsed_s"])
            return [say(language, f"log_{kind}", step=event["step"], time=took)]
        case "warning" | "failed" as kind:
            problem, remedy = told(language, error_of(event))
            return [say(language, f"log_{kind}", problem=problem, remedy=remedy)]
        case "checkpoint" | "queued" as kind:
            return [say(language, f"log_{kind}", **event)]
    return []


def _tower_words(language: Language, tower: str, counts: Mapping[str, int]) -> str:
    part = number(language, 100 * counts["trainable"] / max(1, counts["total"]), 2)
    figures = {key: number(language, counts[key]) for key in ("trainable", "total")}
    return say(language, "log_tower", tower=say(language, tower), share=part, **figures)
