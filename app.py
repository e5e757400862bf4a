"""The entry: read the flags, build the page, launch it. `make run`, a Space and a container start here.

`lora-lens`, which an installed copy gives, does too; it takes the commands of `python -m training` as well.
"""

import argparse
import ipaddress
import logging
import os
import sys
from pathlib import Path

from training.program import COMMAND_VARIABLE, VERSION

LARGEST_UPLOAD = "2gb"
QUEUE_POLL_S = 0.05
logger = logging.getLogger("lora_lens")


def shell() -> None:
    """`lora-lens`: with a command's name that command, else the page; `--help` tells of both."""
    os.environ[COMMAND_VARIABLE], words = "lora-lens", sys.argv[1:]
    if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
        return main(words)
    from training import __main__ as commands
    from training import quiet

    if words[0].startswith("-"):
        with quiet.closed_pipe():
            sys.stdout.write(page_flags().format_help() + "\n")
    commands.shell(words)


def main(arguments: list[str] | None = None) -> None:
    """Serve the page until interrupted. Runs are processes of their own and go on after it."""
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)
    flags = page_flags().parse_args(arguments)
    workspace = Path(flags.workspace)
    keep_to_itself(workspace)
    # Gradio reads its settings from the environment as it is imported, so it comes after them.
    from ui.page import STYLES, build_page, head
    from ui.security import middleware
    from ui.theme import build_theme

    password = os.environ.get("LORA_LENS_PASSWORD")
    user = os.environ.get("LORA_LENS_USER", "owner")
    public = not is_local(flags.host)
    can_train = bool(password) or not os.environ.get("SPACE_ID")
    warn(flags, public, bool(password), can_train)
    page = build_page(workspace, can_train=can_train)
    page.queue(api_open=False, max_size=64)
    # Gradio looks for work every millisecond, which alone takes 7 % of a core from the run beside it.
    page._queue.sleep_when_free = QUEUE_POLL_S
    page.launch(
        server_name=flags.host,
        server_port=flags.port,
        auth=(user, password) if password else None,
        theme=build_theme(),
        css_paths=STYLES,
        head=head(),
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        max_file_size=LARGEST_UPLOAD,
        blocked_paths=[str(workspace / folder) for folder in ("runs", "datasets", "adapters", "trash")],
        app_kwargs={"middleware": middleware(public)},
        ssr_mode=False,
        share=False,
        pwa=False,
        quiet=True,
    )


def page_flags() -> argparse.ArgumentParser:
    on_space = bool(os.environ.get("SPACE_ID"))
    parser = argparse.ArgumentParser(description="The LoRA Lens page.")
    parser.add_argument("--version", action="version", version=f"lora-lens {VERSION}")
    parser.add_argument("--host", default="0.0.0.0" if on_space else "127.0.0.1", help="address to listen on")
    parser.add_argument(
        "--port", type=int, default=int(os.environ.get("PORT") or 7860), help="port to listen on"
    )
    parser.add_argument(
        "--workspace",
        default=os.environ.get("LORA_LENS_WORKSPACE") or "workspace",
        help="folder that holds the runs and datasets",
    )
    return parser


def keep_to_itself(workspace: Path) -> None:
    """Uploads go to a folder that only this user can read, and nothing is reported to anyone."""
    cache = workspace / "cache" / "page"
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    cache.chmod(0o700)
    os.environ["GRADIO_TEMP_DIR"] = str(cache.absolute())
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"


def is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def warn(flags: argparse.Namespace, public: bool, password: bool, can_train: bool) -> None:
    """Where the page is, and aloud whatever is open that a person may not expect."""
    logger.info("LoRA Lens: http://%s:%s", "127.0.0.1" if is_local(flags.host) else flags.host, flags.port)
    if not can_train:
        logger.warning("No LORA_LENS_PASSWORD is set: visitors can ask, and nobody can train.")
    elif public and not password:
        logger.warning(
            "WARNING: no LORA_LENS_PASSWORD is set. Everyone who reaches this page can train and delete here."
        )


if __name__ == "__main__":
    main()
