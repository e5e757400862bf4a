"""What a check found, as lines of text and as JSON: for `python -m training check`. No torch."""

from dataclasses import asdict
from typing import Any

from training.data.validate.dataset_check import Report
from training.data.validate.token_lengths import Lengths

FIRST_FINDINGS = 3
BAR = 40


def describe_report(report: Report, *, every: bool) -> str:
    """The dataset as it was read, then the findings by kind: how many, and the first of them or all."""
    dataset = report.dataset
    lines = [
        f"{dataset.name}: {dataset.kind}, {len(dataset.examples):,} examples, {len(report.facts):,} images",
        *_how_it_is_read(report),
    ]
    for kind, found in report.groups():
        told = found if every else found[:FIRST_FINDINGS]
        level = "warning" if found[0].warning else "error"
        if len(found) == 1:
            lines.append(f"{level}  {found[0]}")
            continue
        lines.append(f"{level}, {len(found):,} x {kind}")
        lines += [f"  {finding}" for finding in told]
        if len(told) < len(found):
            lines.append(f"  and {len(found) - len(told):,} more (--all lists them)")
    if report.lengths is not None:
        lines += _describe_lengths(report.lengths)
    lines.append("A run would be refused." if report.refuses else "A run can start.")
    return "\n".join(lines)


def _how_it_is_read(report: Report) -> list[str]:
    """Layout, columns and splits, which `--columns`, `--dataset_split` and `--held_out_split` change."""
    dataset, lines = report.dataset, []
    if dataset.columns:
        columns = ",".join(f"{kind}={column}" for kind, column in dataset.columns.items())
        lines.append(f"  read as {dataset.layout}: --columns {columns}")
    if dataset.parts:
        parts = ", ".join(f"{name} {count:,}" for name, count in dataset.parts.items())
        lines.append(f"  its own split: {parts}")
    return lines


def _describe_lengths(lengths: Lengths) -> list[str]:
    if not lengths.tokens:
        return []
    most = max(found.count for found in lengths.bins())
    lines = [
        f"tokens: median {lengths.median:,}, longest {lengths.longest:,}, limit {lengths.limit:,}; "
        f"{lengths.lost:,} of {len(lengths.tokens):,} are too long"
    ]
    for found in lengths.bins():
        bar = "#" * round(BAR * found.count / most)
        lines.append(f"  {found.low:>7,} to {found.high:>7,}  {found.count:>7,}  {bar}".rstrip())
    if lengths.safe_max_length > lengths.limit:
        lines.append(f"  a safe value: --max_length {lengths.safe_max_length}")
    return lines


def report_facts(report: Report) -> dict[str, Any]:
    """The same as JSON takes it, with every finding."""
    dataset = report.dataset
    return {
        "name": dataset.name,
        "kind": dataset.kind,
        "layout": dataset.layout,
        "columns": dataset.columns,
        "ignored": dataset.ignored,
        "parts": dataset.parts,
        "examples": len(dataset.examples),
        "usable": len(report.cleaned().examples),
        "images": len(report.facts),
        "fingerprint": dataset.fingerprint,
        "refuses": report.refuses,
        "lengths": None if report.lengths is None else report.lengths.facts(),
        "findings": [asdict(finding) for finding in report.findings],
    }
