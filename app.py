"""The entry: read the flags, build the page, launch it. `make run`, a Space and a container start here.

`lora-lens`, which an installed copy gives, does too; it takes the commands of `python -m training` as well.
"""

import argparse
import logging
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn
from urllib.parse import SplitResult, urlsplit

from training.program import COMMAND_VARIABLE, VERSION
from training.serving.door import LOCAL_HOSTS, is_local

LARGEST_UPLOAD = "2gb"
# Below the grace period of the compose file, after which all is killed.
HOST_GRACE_S = 110.0
# Where a Space's proxy stands.
PRIVATE_NETWORKS = "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,127.0.0.1"
OPEN_TO_ALL = """\
Whoever reaches this page could train and delete here: it has a public address, and no password.
Set LORA_LENS_PASSWORD, or say --no_auth to mean it."""
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
    workspace, password = Path(flags.workspace), os.environ.get("LORA_LENS_PASSWORD")
    on_space = bool(os.environ.get("SPACE_ID"))
    public = not is_local(flags.host) or bool(flags.public_host)
    if public and not (password or flags.no_auth or on_space):
        raise SystemExit(OPEN_TO_ALL)
    keep_to_itself(workspace)
    # Gradio reads its settings from the environment as it is imported, so it comes after them.
    from ui.login import checks
    from ui.page import STYLES, build_page, head
    from ui.security import VISITORS_FILE, guarded
    from ui.theme import build_theme

    user = os.environ.get("LORA_LENS_USER", "owner")
    can_train = bool(password) or not on_space
    warn(flags, public, bool(password), can_train)
    known = public_addresses(flags.public_host)
    # Of whom uvicorn believes who has asked: without a proxy of nobody, also where that is this machine.
    # Never of "*": it takes the first address of the header then, which whoever asks has written.
    proxies = PRIVATE_NETWORKS if on_space else "127.0.0.1" if known else ""
    os.environ.setdefault("FORWARDED_ALLOW_IPS", proxies)
    if os.environ.get("LORA_LENS_STOP_RUNS", str(int(on_space))) == "1":
        go_with_the_host(workspace)
    page = build_page(workspace, can_train=can_train)
    page.launch(
        server_name=flags.host,
        server_port=flags.port,
        auth=checks(user, password) if password else None,
        theme=build_theme(),
        css_paths=STYLES,
        head=head(visitors=not can_train),
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        max_file_size=LARGEST_UPLOAD if can_train else VISITORS_FILE,
        blocked_paths=[str(workspace / folder) for folder in ("runs", "datasets", "adapters", "trash")],
        root_path=next((address.path.rstrip("/") for address in known if address.path.strip("/")), None),
        app_kwargs=guarded(
            [*LOCAL_HOSTS, flags.host] if is_local(flags.host) else ["*"],
            [each.netloc for each in known],
            visitors=not can_train,
        ),
        ssr_mode=False,
        share=False,
        pwa=False,
        quiet=True,
    )


def go_with_the_host(workspace: Path) -> None:
    """Where the machine ends with the page, a container or a Space: SIGTERM saves what trains, and ends.

    Those runs go on at the next start.
    """
    from training import runs

    def end(*_: object) -> NoReturn:
        for run in runs.stop_for_host(workspace, within_s=HOST_GRACE_S):
            logger.warning("%s had not saved when the host went", run.name)
        # At once: the server's threads would be waited for.
        logging.shutdown()
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    for run in runs.resume_after_host(workspace):
        logger.info("%s goes on: the host had interrupted it", run.name)


def page_flags() -> argparse.ArgumentParser:
    on_space = bool(os.environ.get("SPACE_ID"))
    parser = argparse.ArgumentParser(description="The LoRA Lens page.")
    parser.add_argument("--version", action="version", version=f"lora-lens {VERSION}")
    parser.add_argument("--host", default="0.0.0.0" if on_space else "127.0.0.1", help="address to listen on")
    parser.add_argument(
        "--public_host",
        default=os.environ.get("LORA_LENS_HOST"),
        help="what browsers know the page by behind a proxy: lens.example.org, or example.org/lens",
    )
    parser.add_argument(
        "--no_auth",
        action="store_true",
        default=os.environ.get("LORA_LENS_NO_AUTH") == "1",
        help="listen on a public address without a password: all may train",
    )
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


def public_addresses(named: str | None) -> list[SplitResult]:
    """What browsers know the page by, of a flag; a Space has its own name."""
    words = [word.strip().lower() for word in [*(named or "").split(","), os.environ.get("SPACE_HOST", "")]]
    # A browser leaves out the port that its scheme has anyway.
    addresses = [urlsplit(f"https://{word.rpartition('://')[2]}") for word in words if word]
    return [each._replace(netloc=each.netloc.removesuffix(":443").removesuffix(":80")) for each in addresses]


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
