"""The login: who guesses waits, who knows the password gets in, and nobody else waits for them."""

import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from app import main, public_addresses
from support.page_driver import served, status
from ui.login import ADDRESSES_KEPT, LONGEST_S, MOST_A_MINUTE, Guesses, checks


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def attempt(guesses: Guesses, clock: Clock, address: str = "a", *, right: bool = False) -> float:
    """How long the attempt waited."""
    wait = guesses.wait_s(address)
    clock.seconds += wait
    (guesses.was_right if right else guesses.was_wrong)(address)
    return wait


def test_wrong_passwords_are_answered_later_and_later_up_to_half_a_minute() -> None:
    guesses = Guesses(clock := Clock())
    waits = [attempt(guesses, clock) for _ in range(10)]
    assert waits[:6] == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0]
    assert waits[6:] == [LONGEST_S] * 4
    assert attempt(guesses, clock, "b") == 0.0  # from elsewhere nobody waits


def test_a_right_password_is_never_refused_and_ends_the_waiting() -> None:
    guesses = Guesses(clock := Clock())
    for _ in range(4):
        attempt(guesses, clock)
    assert attempt(guesses, clock, right=True) <= LONGEST_S
    assert attempt(guesses, clock) == 0.0


def test_attempts_that_are_sent_at_once_wait_one_behind_the_other() -> None:
    guesses = Guesses(Clock())
    assert [guesses.wait_s("a") for _ in range(3)] == [0.0, 0.25, 0.5]  # before one was wrong, too
    guesses.was_wrong("b")
    assert [guesses.wait_s("b") for _ in range(100)] == [float(1 + number) for number in range(100)]


def test_after_a_hundred_wrong_ones_a_minute_all_wait() -> None:
    guesses = Guesses(clock := Clock())
    for number in range(MOST_A_MINUTE):
        guesses.was_wrong(f"address {number}")
    waits = [guesses.wait_s(f"another {number}") for number in range(100)]
    assert waits[:2] == pytest.approx([0.6, 1.2])  # one line for all, and the owner gets in at last
    assert waits[-1] == LONGEST_S
    clock.seconds += 61
    assert guesses.wait_s("another") == 0.0


def test_what_is_kept_of_addresses_is_bounded_and_forgotten() -> None:
    guesses = Guesses(clock := Clock())
    for number in range(ADDRESSES_KEPT + 100):
        guesses.was_wrong(str(number))
    assert len(guesses._by_address) == ADDRESSES_KEPT
    clock.seconds += 4000
    assert guesses.wait_s(str(ADDRESSES_KEPT)) == 0.0
    guesses.was_wrong("7")
    assert guesses.wait_s("7") == 1.0


@pytest.mark.parametrize(
    ("user", "password", "right"),
    [
        ("owner", "öpen", True),
        ("owner", "open", False),
        ("Owner", "öpen", False),
        ("owner", "", False),
        ("owner", "\ud800", False),
    ],
)
def test_user_and_password_are_compared_whole(user: str, password: str, right: bool) -> None:
    assert checks("owner", "öpen")(user, password) is right


def logged_in(url: str, password: str, **headers: str) -> tuple[int | None, float]:
    """The status, and the seconds that it took."""
    form = urllib.parse.urlencode({"username": "owner", "password": password}).encode()
    began = time.monotonic()
    return status(f"{url}/login", form, **headers), time.monotonic() - began


@pytest.mark.slow
def test_a_guesser_waits_while_the_owner_works_on(tmp_path: Path) -> None:
    with served(tmp_path, LORA_LENS_PASSWORD="open sesame") as app:
        form = urllib.parse.urlencode({"username": "owner", "password": "open sesame"}).encode()
        with urllib.request.urlopen(f"{app.url}/login", form, timeout=30) as answer:
            cookie = answer.headers["set-cookie"].partition(";")[0]
        assert [logged_in(app.url, "guess")[0] for _ in range(3)] == [400, 400, 400]
        waited: list[float] = []
        # A forwarded address is believed where a proxy is known, and here there is none.
        forged = {"X-Forwarded-For": "9.9.9.9"}
        guesser = threading.Thread(target=lambda: waited.append(logged_in(app.url, "guess", **forged)[1]))
        guesser.start()
        began = time.monotonic()
        assert status(f"{app.url}/config", Cookie=cookie) == 200
        assert time.monotonic() - began < 2
        guesser.join()
        assert waited[0] > 2
        assert logged_in(app.url, "open sesame")[0] == 200


@pytest.mark.parametrize("flag", ["--host=0.0.0.0", "--public_host=lens.example.org"])
def test_a_public_address_without_a_password_is_refused_unless_it_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    for name in ("LORA_LENS_PASSWORD", "SPACE_ID", "LORA_LENS_NO_AUTH"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit, match="Set LORA_LENS_PASSWORD, or say --no_auth"):
        main([flag, "--workspace", str(tmp_path / "new")])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("named", "host", "path"),
    [
        ("lens.example.org", "lens.example.org", ""),
        (" Lens.Example.org:443 , ", "lens.example.org", ""),
        ("https://example.org/lens/", "example.org", "/lens/"),
        ("example.org:8443/a", "example.org:8443", "/a"),
    ],
)
def test_what_browsers_know_the_page_by(
    monkeypatch: pytest.MonkeyPatch, named: str, host: str, path: str
) -> None:
    monkeypatch.delenv("SPACE_HOST", raising=False)
    (address,) = public_addresses(named)
    assert (address.netloc, address.path) == (host, path)
