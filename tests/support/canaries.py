"""What an attacker plants, and what shows that it worked: files that appear, and visits that are counted."""

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

PICKLES = (
    *("pytorch_model.bin", "model.bin", "model.pt", "model.pth", "model.ckpt", "consolidated.00.pth"),
    *("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "adapter_model.bin"),
    *("tokenizer.pkl", "vocab.pkl", "processor.pkl", "data.pkl", "spiece.pkl", "embeddings.npy"),
    *("pytorch_model-00001-of-00002.bin", "diffusion_pytorch_model.bin", "flax_model.msgpack"),
)
"""The names under which models, tokenizers and trainers have kept a pickle, or something like one."""


def source_that_makes(canary: Path) -> bytes:
    """Python that makes a file when it is imported, and has whatever it is asked for."""
    return f"open({str(canary)!r}, 'w').close()\ndef __getattr__(name):\n    return object\n".encode()


class _Makes:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.canary),)


def pickle_that_makes(canary: Path) -> bytes:
    """A pickle that makes a folder when it is read."""
    return pickle.dumps({"state": _Makes(canary), "param_groups": []})


@dataclass
class Server:
    """A server on this machine that other people's files point to, and nothing may ask: `hits` are who did.

    `connected` has whatever this process looked up or connected to meanwhile, wherever that is.
    """

    port: int = 0
    hits: list[str] = field(default_factory=list)
    connected: list[object] = field(default_factory=list)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The ways to name it, and addresses of clouds that hand out keys to whoever asks from inside."""
        hosts = ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f000001", "127.1")
        clouds = ("169.254.169.254", "[::ffff:169.254.169.254]", "metadata.google.internal", "2852039166")
        return (
            *(f"http://{host}:{self.port}/x.png" for host in hosts),
            *(f"http://{host}/latest/meta-data/" for host in clouds),
            *(f"{scheme}://127.0.0.1:{self.port}/x.png" for scheme in ("https", "HTTP", "ftp", "s3", "hf")),
            f"//127.0.0.1:{self.port}/x.png",
            f"http://user:secret@127.0.0.1:{self.port}/x.png",
            f"http://huggingface.co@127.0.0.1:{self.port}/org/model",
            f"zip://x.png::http://127.0.0.1:{self.port}/x.zip",
        )


@contextmanager
def serving_nobody() -> Iterator[Server]:
    """A server that counts its visitors, and sends them on once more, to itself."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.hits.append(f"{self.command} {self.path}")
            self.send_response(302)
            self.send_header("Location", f"http://127.0.0.1:{server.port}/again")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_HEAD = do_POST = do_PUT = do_GET

        def log_message(self, *args: object) -> None:
            """Nothing: visits are in `hits`."""

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.port = running.server_port
    Thread(target=running.serve_forever, daemon=True).start()
    yield server
    running.shutdown()
    running.server_close()
