"""What goes wrong between here and the Hub, as `UserError`s: its answers, the network, the disk of its cache.

Called by vlm.models.hub around each request.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from vlm.errors import Phrase, UserError

# Seconds that the Hub may take to answer.
TIMEOUT_S = 10.0
_LOG_IN = Phrase("set HF_TOKEN to a token of your account, or run: hf auth login", "log-in")


@contextmanager
def errors_explained(model: str, revision: str | None) -> Iterator[None]:
    """Turns what goes wrong between here and the Hub into a `UserError`."""
    try:
        yield
    except HFValidationError as error:
        raise UserError(
            "{model} is no Hub id.", "Write it as `organisation/name`.", "no-hub-id", model=model
        ) from error
    except (HfHubHTTPError, HTTPError, OSError) as error:
        if answered := _explained(error, model, revision):
            raise answered from error
        match error:
            case OSError(errno=errno.ENOSPC):
                raise UserError(
                    "The disk is full: {model} does not fit in {folder}.",
                    "Make room, or set HF_HOME to a folder on a larger disk.",
                    "hub-disk-full",
                    model=model,
                    folder=constants.HF_HUB_CACHE,
                ) from error
            case OSError(errno=errno.EACCES | errno.EPERM | errno.EROFS):
                raise UserError(
                    "{folder} can't be written.",
                    "Set HF_HOME to a folder that is yours.",
                    "hub-cache-unwritable",
                    folder=constants.HF_HUB_CACHE,
                ) from error
        if constants.is_offline_mode():
            raise UserError(
                "{model} is not on this machine, or not all of it, and HF_HUB_OFFLINE forbids to ask the "
                "Hub.",
                "Unset HF_HUB_OFFLINE, or choose a folder.",
                "hub-offline",
                model=model,
            ) from error
        if isinstance(error, OSError) and "Consistency check" in str(error):
            raise UserError(
                "The download of {model} broke off.",
                "Start again: whole files are not downloaded twice.",
                "download-broke-off",
                model=model,
            ) from error
        raise UserError(
            "The Hub ({hub}) can't be reached for {model}: {error}.",
            "Check the network and start again: whole files are not downloaded twice. Or choose a folder.",
            "hub-unreachable",
            hub=constants.ENDPOINT,
            model=model,
            error=type(error).__name__,
        ) from error


def _explained(error: Exception, model: str, revision: str | None) -> UserError | None:
    """Returns what an answer of the Hub means; None where there was no answer."""
    # In this order: the client's classes derive from each other. A gated repository is a missing one, and
    # most are errors of HTTP, or of the operating system where there is no network.
    match error:
        case GatedRepoError():
            return UserError(
                "{model} is gated: its licence has to be accepted first.",
                "Accept it at {hub}/{model}, then {log_in}",
                "model-gated",
                model=model,
                hub=constants.ENDPOINT,
                log_in=_LOG_IN,
            )
        case RepositoryNotFoundError():
            with suppress(HfHubHTTPError, HTTPError):
                HfApi().dataset_info(model, timeout=TIMEOUT_S)
                return UserError(
                    "{model} is a dataset, not a model.",
                    "Give it as --dataset, or choose a model.",
                    "model-is-dataset",
                    model=model,
                )
            return UserError(
                "{model} was not found on the Hub, or it is private, and there is no such folder here.",
                "Check the spelling. For a private model {log_in}",
                "model-not-found",
                model=model,
                log_in=_LOG_IN,
            )
        case RevisionNotFoundError():
            return UserError(
                "{model} has no revision {revision}.",
                "Check --revision, or leave it out.",
                "model-no-revision",
                model=model,
                revision=revision,
            )
        case EntryNotFoundError() if not isinstance(error, LocalEntryNotFoundError):
            return UserError(
                "{model} has changed on the Hub meanwhile.", "Start again.", "model-changed", model=model
            )
        case HfHubHTTPError() if error.response.status_code in (401, 403):
            return UserError(
                "The Hub refuses the token for {model}.",
                "To mend it, {log_in}",
                "hub-token",
                model=model,
                log_in=_LOG_IN,
            )
        case HfHubHTTPError():
            return UserError(
                "The Hub answered {status} when asked for {model}.",
                "Try again in a few minutes.",
                "hub-answered",
                status=error.response.status_code,
                model=model,
            )
    return None
