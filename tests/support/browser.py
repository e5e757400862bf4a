"""Find a Chromium for the tests; as a program (`make test` runs it), install one where there is none.

Debian's Chromium or Google's Chrome on PATH come first, then the one that Playwright keeps for itself.
"""

import os
import shutil
import subprocess
import sys

from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
REMEDY = (
    "No Chromium was found, and none could be installed.\n"
    "Install one, then try again: apt-get install chromium (Debian), or\n"
    ".venv/bin/python -m playwright install --with-deps chromium."
)


def find_browser() -> str | None:
    """The path of a Chromium that runs, or None. Ubuntu's `chromium-browser` may only ask for snap."""
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    for path in [*map(shutil.which, NAMES), own]:
        if path and os.path.exists(path) and _succeeds(path, "--version", capture_output=True):
            return path
    return None


def install_browser() -> None:
    """Install Chromium with apt where that is possible, else with Playwright."""
    if shutil.which("apt-get") and os.geteuid() == 0:
        _succeeds("apt-get", "update")
        _succeeds("apt-get", "install", "-y", "chromium")
    if find_browser() is None:
        _succeeds(sys.executable, "-m", "playwright", "install", "chromium")


def _succeeds(*command: str, **options) -> bool:
    return subprocess.run(command, check=False, **options).returncode == 0


if __name__ == "__main__":
    if find_browser() is None:
        print("The tests need a Chromium and found none: installing one.", flush=True)
        install_browser()
    if find_browser() is None:
        sys.exit(REMEDY)
