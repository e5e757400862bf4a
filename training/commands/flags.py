"""What may be typed: the commands and their flags, as pydantic models. No torch.

The flags of a run are `TrainingConfig`'s fields. Long because it is a table: an entry for each flag.
"""

from pathlib import Path

from pydantic import BaseModel, Field
from pydantic_settings import (
    BaseSettings,
    CliPositionalArg,
    CliSubCommand,
    CliSuppress,
    CliToggleFlag,
    CliUnknownArgs,
)

from training.config import TrainingConfig
from training.data.edit.export import Format

BESIDE = "Start at once, also while another run has the device; else it waits for its turn."


class ConfiguredCommand(TrainingConfig):
    """A run's settings, from a file and from flags."""

    auto: CliSuppress[tuple[str, ...]] = ()
    config: Path | None = Field(None, description="YAML file of settings; flags override it.")


class MemoryCommand(ConfiguredCommand):
    """Tell how much memory a run would take, by what, whether it fits, and what would help."""

    json_: CliToggleFlag[bool] = Field(False, alias="json", description="Print JSON.")


class StartCommand(ConfiguredCommand):
    """Train in the background: the run goes on when this shell is closed."""

    beside: CliToggleFlag[bool] = Field(False, description=BESIDE)


class DuplicateCommand(StartCommand):
    """Train in the background with the settings of another run; flags override them."""

    original: CliPositionalArg[str] = Field(description="The name of the run whose settings are taken.")


class RetryCommand(BaseModel):
    """Train anew, in the background, with the settings of a run that failed, changed by what helps."""

    name: CliPositionalArg[str] = Field(description="The name of the run that failed.")
    workspace: Path = TrainingConfig.model_fields["workspace"]
    beside: CliToggleFlag[bool] = Field(False, description=BESIDE)


class RunCommand(ConfiguredCommand):
    """Train in the foreground."""

    folder: Path | None = Field(
        None, description="Work on the run prepared in this folder; takes no settings."
    )
    beside: CliToggleFlag[bool] = Field(False, description=BESIDE)


class JobSettings(BaseModel):
    """What a job is beside its run: a machine and limits."""

    flavor: str = Field(
        "t4-small", description="Machine of the job; `hf jobs hardware` lists all, with prices."
    )
    image: str = Field("python:3.12", description="Docker image, or hf.co/spaces/…, with Python and pip.")
    timeout: str = Field("2h", description="The job is ended after this: 90m, 2h, 1d.")
    secrets: str | None = Field(
        None, description="Names of environment variables that the job gets as secrets: WANDB_API_KEY,…"
    )


class SubmitCommand(JobSettings, ConfiguredCommand):
    """Train on Hugging Face Jobs and follow it here: a run like any other."""


class ListCommand(BaseModel):
    """List the runs, newest first."""

    workspace: Path = TrainingConfig.model_fields["workspace"]
    json_: CliToggleFlag[bool] = Field(False, alias="json", description="Print JSON.")


class StopCommand(BaseModel):
    """Ask a run to finish its step, save and end. Asked again after 30 s, it is killed."""

    name: CliPositionalArg[str] = Field(description="The run's name.")
    workspace: Path = TrainingConfig.model_fields["workspace"]


class QueueCommand(BaseModel):
    """Show which runs wait for which device, or move one of them."""

    workspace: Path = TrainingConfig.model_fields["workspace"]
    move: str | None = Field(None, description="A run that waits: to the place that --to gives.")
    to: int = Field(1, description="Its new place; 1 is the next.")
    json_: CliToggleFlag[bool] = Field(False, alias="json", description="Print JSON.")


class DiskCommand(BaseModel):
    """Show what the workspace takes on the disk, or empty one kind of it."""

    workspace: Path = TrainingConfig.model_fields["workspace"]
    empty: str | None = Field(None, description="What to delete: trash, cache, or 'torn checkpoints'.")
    json_: CliToggleFlag[bool] = Field(False, alias="json", description="Print JSON.")


class DeleteCommand(BaseModel):
    """Move a run to the workspace's trash folder."""

    name: CliPositionalArg[str] = Field(description="The run's name.")
    workspace: Path = TrainingConfig.model_fields["workspace"]


class RestoreCommand(BaseModel):
    """Bring a run back from the trash; without a name, show what is there."""

    name: CliPositionalArg[str | None] = Field(None, description="The run's name.")
    workspace: Path = TrainingConfig.model_fields["workspace"]
    json_: CliToggleFlag[bool] = Field(False, alias="json", description="Print JSON.")


class RenameCommand(BaseModel):
    """Give a run another name."""

    name: CliPositionalArg[str] = Field(description="The run's name.")
    to: CliPositionalArg[str] = Field(description="Its new name.")
    workspace: Path = TrainingConfig.model_fields["workspace"]


class NoteCommand(BaseModel):
    """Write a note about a run, which is shown with it; an empty one deletes the note."""

    name: CliPositionalArg[str] = Field(description="The run's name.")
    text: CliPositionalArg[str] = Field(description="The note: a line.")
    workspace: Path = TrainingConfig.model_fields["workspace"]


class ShowCommand(BaseModel):
    """Show where a run stands."""

    name: CliPositionalArg[str] = Field(description="The run's name.")
    workspace: Path = TrainingConfig.model_fields["workspace"]
    log: CliToggleFlag[bool] = Field(False, description="Print the end of what the worker printed.")
    follow: CliToggleFlag[bool] = Field(False, description="Print what happens until the run ends.")
    hard: CliToggleFlag[bool] = Field(
        False, description="Print the training examples of highest loss: look for wrong labels there."
    )
    against: str | None = Field(
        None, description="Another run of this dataset: which adapter is better, on the rows both held out."
    )
    json_: CliToggleFlag[bool] = Field(False, alias="json", description="Print JSON.")


class ResumeCommand(BaseModel):
    """Go on with a run that ended early."""

    name: CliPositionalArg[str] = Field(description="The run's name.")
    workspace: Path = TrainingConfig.model_fields["workspace"]
    background: CliToggleFlag[bool] = Field(False, description="Do it in the background.")
    json_: CliToggleFlag[bool] = Field(False, alias="json", description="Print JSON.")


class CheckCommand(BaseModel):
    """Tell everything that is wrong with a dataset, before a second is trained."""

    dataset: CliPositionalArg[str] = Field(
        description="A sample's name, a folder, a file of rows or a Hub id."
    )
    workspace: Path = TrainingConfig.model_fields["workspace"]
    columns: str | None = TrainingConfig.model_fields["columns"]
    dataset_split: str = TrainingConfig.model_fields["dataset_split"]
    held_out_split: str | None = TrainingConfig.model_fields["held_out_split"]
    question: str | None = TrainingConfig.model_fields["question"]
    image_root: str | None = TrainingConfig.model_fields["image_root"]
    model: str | None = Field(None, description="Also check against this base model's processor.")
    max_length: int = TrainingConfig.model_fields["max_length"]
    image_max_pixels: int | None = TrainingConfig.model_fields["image_max_pixels"]
    image_min_pixels: int | None = TrainingConfig.model_fields["image_min_pixels"]
    image_tiles: str = TrainingConfig.model_fields["image_tiles"]
    max_new_tokens: int | None = TrainingConfig.model_fields["max_new_tokens"]
    held_out: float = TrainingConfig.model_fields["held_out"]
    seed: int = TrainingConfig.model_fields["seed"]
    skip_bad_rows: bool = TrainingConfig.model_fields["skip_bad_rows"]
    all: CliToggleFlag[bool] = Field(False, description="List every finding, not the first of each kind.")
    json_: CliToggleFlag[bool] = Field(False, alias="json", description="Print JSON.")


class ExportCommand(BaseModel):
    """Write a dataset into a new folder, as other tools read it."""

    dataset: CliPositionalArg[str] = Field(
        description="A sample's name, a folder, a file of rows or a Hub id."
    )
    out: CliPositionalArg[Path] = Field(description="The new folder.")
    format: Format = Field(
        "messages", description="Messages and images with a dataset_info.json, an ImageFolder, or a table."
    )
    workspace: Path = TrainingConfig.model_fields["workspace"]
    columns: str | None = TrainingConfig.model_fields["columns"]
    dataset_split: str = TrainingConfig.model_fields["dataset_split"]
    held_out_split: str | None = TrainingConfig.model_fields["held_out_split"]
    question: str | None = TrainingConfig.model_fields["question"]
    image_root: str | None = TrainingConfig.model_fields["image_root"]
    skip_bad_rows: bool = TrainingConfig.model_fields["skip_bad_rows"]


class AdaptersCommand(BaseModel):
    """List the adapters of the runs, and those in the workspace's `adapters` folder."""

    workspace: Path = TrainingConfig.model_fields["workspace"]
    json_: CliToggleFlag[bool] = Field(False, alias="json", description="Print JSON.")


class InspectCommand(BaseModel):
    """Tell what an adapter is, and whether it fits a base model."""

    adapter: CliPositionalArg[str] = Field(description="An adapter's folder, or the run it is of.")
    model: str | None = Field(None, description="Base model to check it against; its run's if not given.")
    revision: str | None = TrainingConfig.model_fields["revision"]
    load: CliToggleFlag[bool] = Field(
        False, description="Load both too, and compare an answer with that of the end of its run."
    )
    workspace: Path = TrainingConfig.model_fields["workspace"]
    json_: CliToggleFlag[bool] = Field(False, alias="json", description="Print JSON.")


class MergeCommand(BaseModel):
    """Merge an adapter into its base: a model folder that answers as both, and needs no PEFT."""

    adapter: CliPositionalArg[str] = Field(description="An adapter's folder, or the run it is of.")
    out: CliPositionalArg[Path] = Field(description="The new folder.")
    model: str | None = Field(None, description="Base model to merge it into; its run's if not given.")
    revision: str | None = TrainingConfig.model_fields["revision"]
    quantization: str | None = Field(None, description="none: only a full base can be merged into.")
    precision: str = TrainingConfig.model_fields["precision"]
    device: str = TrainingConfig.model_fields["device"]
    workspace: Path = TrainingConfig.model_fields["workspace"]


class TakeCommand(BaseModel):
    """Write what a finished run has for elsewhere: adapter, answers, loss chart, picture to share, Python."""

    name: CliPositionalArg[str] = Field(description="The run's name.")
    out: CliPositionalArg[Path] = Field(description="The folder; files of the same names are replaced.")
    what: str = Field(
        "all", description="adapter (zip), answers_csv, answers_jsonl, loss or share (PNG), python, or all."
    )
    workspace: Path = TrainingConfig.model_fields["workspace"]
    json_: CliToggleFlag[bool] = Field(False, alias="json", description="Print JSON.")


class PushCommand(BaseModel):
    """Push an adapter to the Hub, to a private repository unless --public is said."""

    adapter: CliPositionalArg[str] = Field(description="An adapter's folder, or the run it is of.")
    repository: CliPositionalArg[str] = Field(description="The repository: owner/name.")
    public: CliToggleFlag[bool] = Field(False, description="Show it to everybody.")
    with_pictures: CliToggleFlag[bool] = Field(
        False, description="Send four pictures of the dataset along, with the answers before and after."
    )
    language: str | None = Field(None, description="Languages of the answers, as in vi,en: for the card.")
    workspace: Path = TrainingConfig.model_fields["workspace"]
    json_: CliToggleFlag[bool] = Field(False, alias="json", description="Print JSON.")


class PullCommand(BaseModel):
    """Pull an adapter from the Hub into the workspace, checked and pinned to its commit."""

    repository: CliPositionalArg[str] = Field(description="owner/name, or owner/name@revision.")
    workspace: Path = TrainingConfig.model_fields["workspace"]
    json_: CliToggleFlag[bool] = Field(False, alias="json", description="Print JSON.")


class ExportAdapterCommand(BaseModel):
    """Write an adapter as one plain LoRA that servers read rightly: one rank, one scale, layers by name."""

    adapter: CliPositionalArg[str] = Field(description="An adapter's folder, or the run it is of.")
    out: CliPositionalArg[Path] = Field(description="The new folder.")
    for_: str = Field("servers", alias="for", description="servers: vLLM, SGLang and llama.cpp.")
    model: str | None = Field(None, description="Base model to try it on; its run's if not given.")
    revision: str | None = TrainingConfig.model_fields["revision"]
    precision: str = TrainingConfig.model_fields["precision"]
    device: str = TrainingConfig.model_fields["device"]
    workspace: Path = TrainingConfig.model_fields["workspace"]
    json_: CliToggleFlag[bool] = Field(False, alias="json", description="Print JSON.")


class BundleCommand(BaseModel):
    """Export several adapters of one base for servers into one folder, with the lines that start them."""

    adapters: CliPositionalArg[list[str]] = Field(
        description="The runs, or the adapters' folders; the new folder comes last."
    )
    model: str | None = Field(None, description="Base model of all; their runs' if not given.")
    revision: str | None = TrainingConfig.model_fields["revision"]
    precision: str = TrainingConfig.model_fields["precision"]
    device: str = TrainingConfig.model_fields["device"]
    workspace: Path = TrainingConfig.model_fields["workspace"]
    json_: CliToggleFlag[bool] = Field(False, alias="json", description="Print JSON.")


class EvaluateCommand(BaseModel):
    """Ask base and adapter about a dataset: a table of both, and every answer in a file."""

    adapter: CliPositionalArg[str] = Field(
        description="An adapter's folder, or the run it is of; `base`: none."
    )
    dataset: CliPositionalArg[str] = Field(
        description="A sample's name, a folder, a file of rows or a Hub id."
    )
    part: str = Field(
        "auto", description="held_out, all; `auto`: held_out where the adapter was trained on this dataset."
    )
    most: int | None = Field(None, description="Ask about so many examples, evenly spaced.")
    output: Path | None = Field(
        None, description="JSONL of every answer; in the workspace's evaluations if not given."
    )
    blindfold: CliToggleFlag[bool] = Field(False, description="Ask again about other examples' images.")
    against: Path | None = Field(
        None, description="File of answers of an earlier `evaluate`: which is better, on the rows of both."
    )
    json_: CliToggleFlag[bool] = Field(False, alias="json", description="Print JSON.")
    model: str | None = Field(None, description="Base model; its run's if not given.")
    revision: str | None = TrainingConfig.model_fields["revision"]
    quantization: str | None = Field(None, description="none, 8bit or 4bit; its run's if not given.")
    precision: str | None = Field(None, description="Number format; its run's if not given.")
    device: str | None = Field(None, description="Where to compute; as in its run if not given.")
    max_length: int | None = Field(None, description="Longest example in tokens; its run's if not given.")
    max_new_tokens: int | None = Field(None, description="Longest answer; its run's if not given.")
    batch_size: int | None = Field(None, description="Half of the examples that are asked about at once.")
    workspace: Path = TrainingConfig.model_fields["workspace"]
    columns: str | None = TrainingConfig.model_fields["columns"]
    dataset_split: str | None = Field(None, description="Split to ask about, where it has its own.")
    held_out_split: str | None = TrainingConfig.model_fields["held_out_split"]
    question: str | None = TrainingConfig.model_fields["question"]
    image_root: str | None = TrainingConfig.model_fields["image_root"]
    held_out: float | None = Field(None, description="Fraction held out; as in its run if not given.")
    seed: int | None = Field(None, description="Seed of the split; as in its run if not given.")
    skip_bad_rows: bool = TrainingConfig.model_fields["skip_bad_rows"]


class AskCommand(BaseModel):
    """Ask adapters about a picture, a folder or zip of pictures, or a dataset with its own questions."""

    adapters: CliPositionalArg[str] = Field(description="A run or an adapter's folder; several with commas.")
    about: CliPositionalArg[str] = Field(description="A picture, a folder or zip of them, or a dataset.")
    question: CliPositionalArg[str | None] = Field(None, description="The dataset's own if not given.")
    base: CliToggleFlag[bool] = Field(False, description="Ask the base without an adapter, too.")
    out: Path | None = Field(
        None, description="JSONL or CSV of every answer; what is there isn't asked again."
    )
    json_: CliToggleFlag[bool] = Field(False, alias="json", description="Print JSON.")
    model: str | None = Field(None, description="Base model; its run's if not given.")
    revision: str | None = TrainingConfig.model_fields["revision"]
    quantization: str | None = Field(None, description="none, 8bit or 4bit; its run's if not given.")
    precision: str | None = Field(None, description="Number format; its run's if not given.")
    device: str | None = Field(None, description="Where to compute; as in its run if not given.")
    max_new_tokens: int | None = Field(None, description="Longest answer; its run's if not given.")
    workspace: Path = TrainingConfig.model_fields["workspace"]
    columns: str | None = TrainingConfig.model_fields["columns"]
    dataset_split: str | None = Field(None, description="Split to ask about, where it has its own.")
    image_root: str | None = TrainingConfig.model_fields["image_root"]


class ServeCommand(BaseModel):
    """Serve a base and its adapters to other programs, as OpenAI's API does."""

    adapters: CliPositionalArg[list[str]] = Field(
        [], description="Runs, or adapters' folders; without any those of the workspace that fit the base."
    )
    base: str | None = Field(None, description="Base model; that of the first run if not given.")
    only: CliToggleFlag[bool] = Field(
        False, description="Serve the named ones alone, not all of the workspace that fit the base."
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, description="Port to listen on; 0: a free one.")
    public_host: str | None = Field(
        None, description="What clients know it by behind a proxy: lens.example.org; several with commas."
    )
    key: str | None = Field(
        None, description="What clients send as API key; LORA_LENS_KEY is better, as typed words are seen."
    )
    most: int = Field(32, description="Questions taken in at a time; one more is answered with status 429.")
    revision: str | None = TrainingConfig.model_fields["revision"]
    quantization: str | None = Field(None, description="none, 8bit or 4bit; its run's if not given.")
    precision: str | None = Field(None, description="Number format; its run's if not given.")
    device: str | None = Field(None, description="Where to compute; as in its run if not given.")
    workspace: Path = TrainingConfig.model_fields["workspace"]


class CommandLine(BaseSettings):
    """Teach a vision-language model your images. COMMAND --help says more."""

    run: CliSubCommand[RunCommand] = Field(description=RunCommand.__doc__)
    start: CliSubCommand[StartCommand] = Field(description=StartCommand.__doc__)
    submit: CliSubCommand[SubmitCommand] = Field(description=SubmitCommand.__doc__)
    check: CliSubCommand[CheckCommand] = Field(description=CheckCommand.__doc__)
    memory: CliSubCommand[MemoryCommand] = Field(description=MemoryCommand.__doc__)
    export: CliSubCommand[ExportCommand] = Field(description=ExportCommand.__doc__)
    stop: CliSubCommand[StopCommand] = Field(description=StopCommand.__doc__)
    resume: CliSubCommand[ResumeCommand] = Field(description=ResumeCommand.__doc__)
    retry: CliSubCommand[RetryCommand] = Field(description=RetryCommand.__doc__)
    duplicate: CliSubCommand[DuplicateCommand] = Field(description=DuplicateCommand.__doc__)
    queue: CliSubCommand[QueueCommand] = Field(description=QueueCommand.__doc__)
    disk: CliSubCommand[DiskCommand] = Field(description=DiskCommand.__doc__)
    list: CliSubCommand[ListCommand] = Field(description=ListCommand.__doc__)
    show: CliSubCommand[ShowCommand] = Field(description=ShowCommand.__doc__)
    rename: CliSubCommand[RenameCommand] = Field(description=RenameCommand.__doc__)
    note: CliSubCommand[NoteCommand] = Field(description=NoteCommand.__doc__)
    delete: CliSubCommand[DeleteCommand] = Field(description=DeleteCommand.__doc__)
    restore: CliSubCommand[RestoreCommand] = Field(description=RestoreCommand.__doc__)
    adapters: CliSubCommand[AdaptersCommand] = Field(description=AdaptersCommand.__doc__)
    inspect: CliSubCommand[InspectCommand] = Field(description=InspectCommand.__doc__)
    merge: CliSubCommand[MergeCommand] = Field(description=MergeCommand.__doc__)
    take: CliSubCommand[TakeCommand] = Field(description=TakeCommand.__doc__)
    push: CliSubCommand[PushCommand] = Field(description=PushCommand.__doc__)
    pull: CliSubCommand[PullCommand] = Field(description=PullCommand.__doc__)
    export_adapter: CliSubCommand[ExportAdapterCommand] = Field(
        alias="export-adapter", description=ExportAdapterCommand.__doc__
    )
    bundle: CliSubCommand[BundleCommand] = Field(description=BundleCommand.__doc__)
    evaluate: CliSubCommand[EvaluateCommand] = Field(description=EvaluateCommand.__doc__)
    ask: CliSubCommand[AskCommand] = Field(description=AskCommand.__doc__)
    serve: CliSubCommand[ServeCommand] = Field(description=ServeCommand.__doc__)
    unknown: CliUnknownArgs
