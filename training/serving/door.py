"""Who may come in: local hosts, the page that asks, keys; of the page and of the endpoint. No torch."""

import hmac
import ipaddress
from collections.abc import Collection, Mapping
from urllib.parse import SplitResult, urlsplit

LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
SAFE_METHODS = ("GET", "HEAD")


def is_local(host: str) -> bool:
    """Returns whether a server that listens on `host` is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def name_of(host: str) -> str:
    """Returns a host without its port."""
    name, _, port = host.rpartition(":")
    return name if port.isdecimal() and name else host


def is_foreign(headers: Mapping[str, str], public_hosts: Collection[str]) -> bool:
    """Returns whether a browser says that another page asks; who is no browser sends no origin.

    `headers` are found by names in lower case.
    """
    origin, own = headers.get("origin"), {headers.get("host", "").lower(), *public_hosts} - {""}
    return origin is not None and split(origin.lower()).netloc not in own


def split(address: str) -> SplitResult:
    """Returns the parts of an address that somebody has sent; none where it is no address."""
    try:
        return urlsplit(address)
    except ValueError:
        return urlsplit("")


def is_same(given: str, secret: str) -> bool:
    """Returns whether somebody knows a secret, in the same time wherever what he gives differs."""
    return hmac.compare_digest(*(text.encode("utf-8", "replace") for text in (given, secret)))
