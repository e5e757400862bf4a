"""The Hub as somebody's own: their token, what it may do, what the Hub refuses, and trying again. No torch.

Called by push, pull and `submit`. What a base model is refused for is told by vlm.models.hub_errors.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

from vlm.errors import Phrase, UserError

Done = TypeVar("Done")
logger = logging.getLogger(__name__)

# What to do by the status that the Hub refuses with.
AFTER_A_REFUSAL = {
    401: Phrase(
        "Log in again: hf auth login, or set HF_TOKEN to a token that is still valid.", "job-log-in-again"
    ),
    402: Phrase("Jobs are paid: add credit at https://huggingface.co/settings/billing", "job-add-credit"),
    403: Phrase(
        "Give the token write access, and for jobs the right to start them:"
        " https://huggingface.co/settings/tokens",
        "job-token-rights",
    ),
    409: Phrase("Choose another --name.", "job-name-taken"),
}
LATER = Phrase("Try again later.", "job-try-later")
# What the Hub's client raises where the Hub refuses or is not reached.
HUB_ERRORS = (HfHubHTTPError, OfflineModeIsEnabled, HTTPError)
# Seconds between two attempts to upload.
PAUSES_S = (1.0, 4.0, 15.0)


@dataclass(frozen=True, slots=True)
class Account:
    """Who a token belongs to. `role` is the token's: read, write, or fineGrained, which tells no more."""

    name: str
    organizations: tuple[str, ...]
    role: str


def account(api: HfApi) -> Account:
    """Returns whose token this machine has.

    Raises:
        UserError: there is none, it is not valid, or the Hub is not reached.
    """
    # Written to no file, and named in no message.
    if get_token() is None:
        raise UserError(
            "The Hub needs a token for this, and there is none.",
            "Log in: hf auth login, or set HF_TOKEN.",
            "hub-without-token",
        )
    with hub_errors():
        facts = api.whoami()
    role = facts.get("auth", {}).get("accessToken", {}).get("role", "write")
    return Account(facts["name"], tuple(each["name"] for each in facts.get("orgs", ())), role)


@contextmanager
def hub_errors() -> Iterator[None]:
    """Turns what the Hub refuses into a `UserError`."""
    # Other words than vlm.models.hub has: here it is the token or the account that is refused, not a model.
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise UserError(
            "HF_HUB_OFFLINE is set, and this needs the Hub.", "Unset it: unset HF_HUB_OFFLINE", "job-offline"
        ) from error
    except HfHubHTTPError as error:
        raise UserError(
            "The Hub refused: {reason}",
            "{remedy}",
            "job-refused",
            reason=str(error).splitlines()[0],
            remedy=AFTER_A_REFUSAL.get(error.response.status_code, LATER),
        ) from error
    except HTTPError as error:
        raise UserError(
            "The Hub can't be reached: {reason}",
            "Check the network, then try again.",
            "job-hub-not-reached",
            reason=error,
        ) from error


def try_again(attempt: Callable[[], Done], pauses_s: Sequence[float] | None = None) -> Done:
    """Returns what an attempt returns; where the Hub or the network fails it is made again.

    The last failure is raised, and what the Hub refuses at once. What an attempt has uploaded is not sent
    twice: the Hub's client asks for the hashes of large files first.
    """
    for pause_s in (*(PAUSES_S if pauses_s is None else pauses_s), None):
        try:
            return attempt()
        except (HfHubHTTPError, HTTPError, RuntimeError) as error:
            # Of a large file the client wraps what has gone wrong.
            failed = error if isinstance(error, HTTPError | HfHubHTTPError) else error.__cause__
            if not isinstance(failed, HTTPError | HfHubHTTPError):
                raise
            refused = isinstance(failed, HfHubHTTPError) and failed.response.status_code < 500
            if refused or pause_s is None:
                raise failed from error
            logger.info("The Hub did not take it (%s): again in %g s.", type(failed).__name__, pause_s)
            time.sleep(pause_s)
    raise AssertionError("the last attempt returns or raises")
