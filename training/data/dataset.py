"""Dataset: what opening one gives, examples and findings, without knowing how it is opened. No torch."""

from dataclasses import dataclass, field
from pathlib import Path

from training.data.row import Issue
from training.data.safe_paths import quoted
from vlm.errors import Phrase, UserError
from vlm.example import Example

FINDINGS_SHOWN = 100
BAD_ROWS = "Dataset {dataset} has bad rows:\n{rows:\n}"


@dataclass(frozen=True, slots=True)
class Dataset:
    """The good rows as `examples`, what is wrong with the others as `findings`; `root` holds every image.

    `warnings` are findings that refuse nothing. `kind` says how the file is written ("JSON Lines", "VQAv2"),
    `layouts` how most rows are, `columns` which column was taken for what, `ignored` which say nothing.

    Where a dataset has a split of its own, `held_out` are the ids of the examples it holds out, and `parts`
    counts the examples of each split that was read. `offered` is what else settings may say: the splits that
    are there, or the datasets beside this one. `places` is where each example stands, by id.
    """

    name: str
    root: Path
    examples: list[Example]
    findings: list[Issue]
    # sha256 of the row file and of each image's relative path and size: it changes with a row, a name or an
    # image saved again, and costs no reading of pixels. An image changed in place to the same size in bytes
    # is not noticed.
    fingerprint: str
    kind: str = ""
    warnings: list[Issue] = field(default_factory=list)
    layouts: tuple[str, ...] = ()
    columns: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    held_out: frozenset[str] = frozenset()
    parts: dict[str, int] = field(default_factory=dict)
    offered: dict[str, list[str]] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)

    @property
    def layout(self) -> str:
        return " and ".join(self.layouts)

    @property
    def unreadable(self) -> set[str]:
        """The places of the rows that are no examples."""
        return {place for finding in self.findings for place in finding.row_ids}

    @property
    def lost(self) -> int:
        """How many rows are no examples; a file of which none can be told counts as one."""
        return len(self.unreadable) + sum(not finding.row_ids for finding in self.findings)

    @property
    def row_ids(self) -> set[str]:
        """What all rows are called: the examples' ids, and the places of those that are none."""
        return self.unreadable.union(example.id for example in self.examples)

    def place_of(self, example: Example) -> str:
        """Returns where the example stands, as findings name it: "train.jsonl:8"."""
        return self.places.get(example.id, example.id)


def usable_examples(dataset: Dataset, *, skip_bad_rows: bool) -> list[Example]:
    """Returns the examples to train on.

    Raises:
        UserError: There are none, or rows are bad and may not be skipped.
    """
    if dataset.findings and not (skip_bad_rows and dataset.examples):
        listed = [finding.line for finding in dataset.findings[:FINDINGS_SHOWN]]
        if more := len(dataset.findings) - len(listed):
            listed.append(Phrase("and {more} more", "and-more", more=more))
        rows = {"dataset": quoted(dataset.name), "rows": listed}
        image = next((finding.image for finding in dataset.findings if finding.image), None)
        if not dataset.examples:
            raise UserError(BAD_ROWS, "Correct these rows", "all-rows-bad", about_image=image, **rows)
        raise UserError(
            BAD_ROWS,
            "Correct these rows, or leave them out with --skip_bad_rows ({good} {good:is|are} good)",
            "some-rows-bad",
            change={"skip_bad_rows": True},
            about_image=image,
            good=len(dataset.examples),
            **rows,
        )
    return dataset.examples


def image_relpath(dataset: Dataset, example: Example) -> str | None:
    """Returns the example's first image as a path relative to the dataset's folder; None for text alone."""
    return example.images[0].relative_to(dataset.root).as_posix() if example.images else None
