"""The command `serve`: a base and its adapters answer other programs, until it is interrupted."""

import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from training import runs
from training.commands import parser
from training.commands.adapters import base_not_named
from training.commands.flags import ServeCommand
from training.commands.output import say
from training.commands.parser import CliCommand
from training.config import TrainingConfig
from training.runs.adapters import AdapterPlace, base_called
from training.serving.door import LOCAL_HOSTS, is_local
from vlm.errors import UserError
from vlm.settings import IMAGE_SIZE, ModelSettings

KEY_VARIABLE = "LORA_LENS_KEY"
SHORTEST_KEY = 16
# Of a run's settings; the size of images is each adapter's own, and the base has the model's.
OF_MODEL = [name for name in ModelSettings.model_fields if name not in IMAGE_SIZE]
# What is on its way when the server is told to end.
GRACE_S = 5
# What `--most` takes.
MOST = 1000


def serve(command: CliCommand) -> int:
    """Answer `/v1/chat/completions`, `/v1/models` and `/health` until interrupted.

    Raises:
        UserError: there is no such adapter or base, they don't fit, the address can't be had, or it is public
            and there is no key.
    """
    values = {name: field.default for name, field in ServeCommand.model_fields.items()} | command.values
    key = _key(values)
    most, port = _number(values, "most", 1, MOST), _number(values, "port", 0, 65535)
    places = [runs.require_adapter(command.workspace, name) for name in values["adapters"]]
    config = _settings(command, places)
    base = ModelSettings(**{name: getattr(config, name) for name in OF_MODEL})
    with _listening(values["host"], port) as server:
        # With torch from here on, when nothing of what was typed can be wrong any more.
        import uvicorn

        from training.serving.api import build_app
        from training.serving.line import Line
        from training.serving.offered import Offers
        from vlm import adapters
        from vlm.inference import Engine
        from vlm.meta_model import architecture

        for place in places:  # read from headers: a misfit is told here, not to who asks first
            model = architecture(base.model, base.revision)
            adapters.check_fit(place.folder, model, base_called(base.model))
        line = Line(Engine(), base, most)
        offers = Offers(base, places, None if values["only"] else command.workspace, int(time.time()))
        host, port = server.getsockname()[:2]
        public_hosts = [name.strip().lower() for name in (values["public_host"] or "").split(",")]
        hosts = [*LOCAL_HOSTS, host] if is_local(host) else ["*"]
        app = build_app(line, offers, hosts, [*filter(None, public_hosts)], key)
        names = ", ".join(each.name for each in offers.all())
        say(f"{names}: http://{f'[{host}]' if ':' in host else host}:{port}/v1")
        settings = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=GRACE_S,
        )
        uvicorn.Server(settings).run(sockets=[server])
    return 0


def _settings(command: CliCommand, places: Sequence[AdapterPlace]) -> TrainingConfig:
    """Returns the settings of the base: what was typed, else what the first run was trained with."""
    run = next((found for place in places if (found := place.run or runs.run_of(place.folder))), None)
    known: dict[str, Any] = {"quantization": "none"}
    if run is not None:
        trained = run.config()
        known |= {name: getattr(trained, name) for name in OF_MODEL}
    named = command.values.get("base")
    if named:
        known |= {"model": named} | ({} if known.get("model") == named else {"revision": None})
    elif places and run is None:
        raise base_not_named(places[0].folder, "base")
    return parser.run_settings(command, known)


def _key(values: Mapping[str, Any]) -> str | None:
    """Returns what clients have to know; None where all may ask.

    Raises:
        UserError: it can be guessed, or there is none and others than this machine reach the server.
    """
    key = values["key"] or os.environ.get(KEY_VARIABLE) or None
    if key is not None and len(key) < SHORTEST_KEY:
        raise UserError(
            "A key of {count} characters can be guessed.",
            "Give one of {least} or more: `openssl rand -hex 24` makes one.",
            "key-too-short",
            count=len(key),
            least=SHORTEST_KEY,
        )
    if key is None and (not is_local(values["host"]) or values["public_host"]):
        raise UserError(
            "Whoever reaches this server could ask: it has a public address, and no key.",
            "Set {variable}, which clients send as their API key.",
            "served-without-key",
            variable=KEY_VARIABLE,
        )
    return key


def _number(values: Mapping[str, Any], name: str, least: int, most: int) -> int:
    typed = str(values[name])
    if not typed.isdecimal() or not least <= int(typed) <= most:
        raise UserError(
            "--{name}: {typed!r} can't be used.",
            "Give a whole number from {least} to {most}.",
            "flag-no-number",
            name=name,
            typed=typed,
            least=least,
            most=most,
        )
    return int(typed)


def _listening(host: str, port: int) -> socket.socket:
    """Returns a socket that listens. Raises `UserError` where the address can't be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise UserError(
            "{host}:{port} can't be listened on: {reason}.",
            "Choose another --port, or end what listens there.",
            "address-not-listened",
            host=host,
            port=port,
            reason=error.strerror or error,
        ) from error
