"""What a check found, on the right of the Data tab: verdict, findings, the histogram of lengths."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ui.data import check_html
from ui.data.check_card import Checked, key_of
from ui.data.check_html import StateOf
from ui.data.gallery import TELL_ACT
from ui.i18n import Language, number, say
from ui.train import form_html
from ui.train.model_card import model_name
from ui.widgets import drawn, link, title


@dataclass(frozen=True)
class FoundCard:
    """`opened` are the numbers of the kinds of findings that a person wants to see whole."""

    box: gr.Column
    verdict: gr.HTML
    findings: gr.HTML
    leave_all: gr.Button
    opened: gr.State
    lengths_box: gr.Column
    lengths: gr.HTML
    apply: gr.Button

    @property
    def drawn(self) -> list[gr.blocks.Block]:
        """What `drawings` updates."""
        return [
            self.box,
            self.verdict,
            self.findings,
            self.leave_all,
            self.lengths_box,
            self.lengths,
            self.apply,
        ]


def build_found_card(words: Language) -> FoundCard:
    with gr.Column(visible=False, elem_classes="story") as box:
        with gr.Column(elem_classes="card"):
            title(words, "findings_title")
            verdict = drawn(words)
            with gr.Row(elem_classes="links"):
                leave_all = link(words, "leave_all", visible=False, elem_id="leave-all")
            findings = drawn(words, elem_classes="found", js_on_load=TELL_ACT, elem_id="findings")
        with gr.Column(visible=False, elem_classes="card") as lengths_box:
            title(words, "lengths_title")
            lengths = drawn(words)
            with gr.Row(elem_classes="links"):
                apply = gr.Button(visible=False, size="sm", elem_classes="link", elem_id="apply-safe")
    return FoundCard(box, verdict, findings, leave_all, gr.State([]), lengths_box, lengths, apply)


def drawings(
    language: Language,
    checked: Checked | None,
    values: Mapping[str, Any],
    opened: Collection[int],
    state_of: StateOf,
) -> list[Any]:
    """For `FoundCard.drawn`. A check of another dataset, or of none, is not shown."""
    if checked is None or checked.key[:4] != key_of(values)[:4]:
        return [gr.update(visible=False), *[gr.skip()] * 6]
    report = checked.report
    verdict = check_html.verdict(
        language,
        report,
        skips=bool(values["skip_bad_rows"]),
        model=checked.model and model_name(checked.model),
        elapsed_s=checked.elapsed_s,
        cancelled=checked.cancelled,
    )
    if checked.key != key_of(values):
        verdict += form_html.small(say(language, "check_stale"))
    if checked.trouble:
        verdict += form_html.small(say(language, "model_not_asked"))
        verdict += form_html.error(language, checked.trouble)
    safe = safe_value(checked)
    return [
        gr.update(visible=True),
        verdict,
        check_html.findings(language, report, opened, state_of),
        gr.update(visible=any(state_of(finding) == "open" for finding in report.faults)),
        gr.update(visible=report.lengths is not None),
        check_html.lengths(language, report.lengths) if report.lengths else "",
        gr.update(
            visible=safe is not None,
            value=say(language, "apply_safe", value=number(language, safe or 0)),
        ),
    ]


def safe_value(checked: Checked | None) -> int | None:
    """The `max_length` that loses nothing, where the one that was checked loses something it need not."""
    lengths = checked.report.lengths if checked else None
    if lengths is None or not lengths.lost or lengths.safe_max_length <= lengths.limit:
        return None
    return lengths.safe_max_length
