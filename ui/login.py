"""The login: passwords are compared in constant time, and guesses are answered later and later."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from training.serving.door import is_same

# From one address attempts wait one behind the other: so long, and after a wrong one a second, two, four, …
APART_S, LONGEST_S = 0.25, 30.0
# More wrong passwords than this in a minute, from wherever: attempts from everywhere stand in one line, too.
MOST_A_MINUTE, ALL_APART_S = 100, 0.6
ADDRESSES_KEPT = 10_000
# What an address did is forgotten after this.
FORGOTTEN_S = 3600.0


def checks(user: str, password: str) -> Callable[[str, str], bool]:
    """For `launch(auth=…)`: whether user and password are these, in the same time wherever they differ."""

    def is_right(given_user: str, given_password: str) -> bool:
        return all([is_same(given_user, user), is_same(given_password, password)])

    return is_right


@dataclass
class Guesses:
    """Wrong passwords by address, and when each may try again. `now` is in seconds."""

    now: Callable[[], float] = time.monotonic
    _by_address: OrderedDict[str, tuple[int, float]] = field(default_factory=OrderedDict)
    _latest: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_A_MINUTE))
    _all_free_at: float = float("-inf")

    def wait_s(self, address: str) -> float:
        """Returns how long an attempt from this address waits before it is looked at, and takes its place.

        A right password waits as a wrong one does, and is never refused.
        """
        now = self.now()
        wrong, free_at = self._known(address)
        wait = max(0.0, free_at - now)
        self._keep(address, wrong, max(free_at, now) + max(APART_S, self._step_s(wrong)))
        if len(self._latest) == MOST_A_MINUTE and now - self._latest[0] < 60:
            # Bounded: the owner, from wherever, must get in while others guess.
            self._all_free_at = min(max(self._all_free_at, now) + ALL_APART_S, now + LONGEST_S)
            wait = max(wait, self._all_free_at - now)
        return wait

    def was_wrong(self, address: str) -> None:
        """Takes note of a wrong password."""
        now = self.now()
        wrong, free_at = self._known(address)
        self._keep(address, wrong + 1, max(free_at, now + self._step_s(wrong + 1)))
        self._latest.append(now)

    def was_right(self, address: str) -> None:
        """Forgets what the address did wrong."""
        self._by_address.pop(address, None)

    def _known(self, address: str) -> tuple[int, float]:
        wrong, free_at = self._by_address.get(address, (0, float("-inf")))
        return (0, float("-inf")) if self.now() - free_at > FORGOTTEN_S else (wrong, free_at)

    def _step_s(self, wrong: int) -> float:
        return min(LONGEST_S, 2.0 ** min(wrong - 1, 10)) if wrong else 0.0

    def _keep(self, address: str, wrong: int, free_at: float) -> None:
        self._by_address[address] = wrong, free_at
        self._by_address.move_to_end(address)
        while len(self._by_address) > ADDRESSES_KEPT:
            self._by_address.popitem(last=False)


class LoginGuard:
    """Lets attempts to log in wait, as `Guesses` says; whoever has logged in is not touched.

    The address is the one that the server knows: that of the connection, or what a proxy says that it trusts.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.guesses = app, Guesses()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_login = scope["type"] == "http" and scope["path"].rstrip("/").endswith("/login")
        if not (is_login and scope["method"] == "POST"):
            await self.app(scope, receive, send)
            return
        address = (scope.get("client") or ("",))[0]
        await asyncio.sleep(self.guesses.wait_s(address))

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                right = message["status"] < 400
                (self.guesses.was_right if right else self.guesses.was_wrong)(address)
            await send(message)

        await self.app(scope, receive, answer)
