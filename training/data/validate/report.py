"""A check's report as lines of text and as JSON, for the command `check`. No torch."""

from typing import Any

from training.data.validate.dataset_check import Report

FIRST_FINDINGS = 3
BAR = 40  # characters of the histogram's longest bar


def describe_report(report: Report, *, every: bool) -> str:
    """Returns the dataset as read, then the findings by code: their count, the first of them or all."""
    dataset, lengths = report.dataset, report.lengths
    lines = [
        f"{dataset.name}: {dataset.kind}, {len(dataset.examples):,} examples, {len(report.facts):,} images"
    ]
    # What was taken for what, as the options that would change it.
    if dataset.columns:
        columns = ",".join(f"{kind}={column}" for kind, column in dataset.columns.items())
        lines.append(f"  read as {' and '.join(dataset.layouts)}: --columns {columns}")
    if dataset.parts:
        parts = ", ".join(f"{name} {count:,}" for name, count in dataset.parts.items())
        lines.append(f"  its own split: {parts}")
    for heading, found in report.groups():
        level = "warning" if found[0].warning else "error"
        if len(found) == 1:
            lines.append(f"{level}  {found[0]}")
            continue
        shown = found if every else found[:FIRST_FINDINGS]
        lines.append(f"{level}, {len(found):,} x {heading}")
        lines += [f"  {finding}" for finding in shown]
        if len(shown) < len(found):
            lines.append(f"  and {len(found) - len(shown):,} more (--all lists them)")
    if lengths is not None and lengths.tokens:
        lines.append(
            f"tokens: median {lengths.median:,}, longest {lengths.longest:,}, limit {lengths.limit:,}; "
            f"{lengths.lost:,} of {len(lengths.tokens):,} are too long"
        )
        bins = lengths.bins()
        most = max(found.count for found in bins)
        for found in bins:
            bar = "#" * round(BAR * found.count / most)
            lines.append(f"  {found.low:>7,} to {found.high:>7,}  {found.count:>7,}  {bar}".rstrip())
        if lengths.safe_max_length > lengths.limit:
            lines.append(f"  a safe value: --max_length {lengths.safe_max_length}")
    lines.append("A run would be refused." if report.refuses else "A run can start.")
    return "\n".join(lines)


def report_facts(report: Report) -> dict[str, Any]:
    """Returns the same for JSON, with every finding."""
    names = ("name", "kind", "layout", "columns", "ignored", "parts")
    return {name: getattr(report.dataset, name) for name in names} | {
        "examples": len(report.dataset.examples),
        "usable": len(report.cleaned().examples),
        "images": len(report.facts),
        "fingerprint": report.dataset.fingerprint,
        "refuses": report.refuses,
        "lengths": None if report.lengths is None else report.lengths.facts(),
        "findings": [finding.as_json() for finding in report.findings],
    }
