"""Who may speak to the server: the right host, the right page, and who was told the token.

A page of another site can make a browser open a WebSocket here (its Origin gives it away), or have
its own name resolve to this machine (its Host does). Other users and machines lack the token.
"""

from __future__ import annotations

import dataclasses
import hmac
import ipaddress
import secrets
from urllib.parse import parse_qs, urlsplit

LOOPBACK = "127.0.0.1"
_LOOPBACK_NAMES = ("localhost", LOOPBACK, "::1")
_MANY = ("0.0.0.0", "::", "")
"""Addresses that stand for all of this machine's."""


def new_token() -> str:
    """A token that cannot be guessed: 256 bits."""
    return secrets.token_urlsafe(32)


@dataclasses.dataclass(frozen=True)
class Access:
    """What a request must show to be answered.

    Attributes:
      token: of the addresses that are given out.
      host: the address that is listened on. Of addresses beside the loopback, names are refused
        unless listed, as anyone may have a name of theirs resolve to this machine.
      names: further names by which the machine is reached.
    """

    token: str
    host: str = LOOPBACK
    names: tuple[str, ...] = ()

    def wrong_address(self, host: str | None, origin: str | None, page: bool) -> str:
        """Why a request is refused for where it goes to or comes from, "" if it is not.

        Args:
          host: its Host header.
          origin: its Origin header.
          page: whether the page or a part of it is asked for, as a browser asks for addresses that
            are typed: without an Origin.
        """
        name = _name_of(f"//{host}") if host else None
        if name is None or not self._knows(name):
            return "Host: found another name than this server's"
        if origin is None and not page:
            return "Origin: found none, expected this server's page"
        if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            return "Origin: found another page, expected this server's"
        return ""

    def wrong_token(self, target: str) -> str:
        """Why a request for this path and query is refused, "" if it has the token."""
        if self.holds_token(target):
            return ""
        return "token: found another one or none, expected that of the address that was printed"

    def holds_token(self, target: str) -> bool:
        """Whether the query of a target has the token; takes as long for any wrong one."""
        try:
            query = parse_qs(urlsplit(target).query, max_num_fields=8)
        except ValueError:
            return False
        found = query.get("token", [""])[0]
        return hmac.compare_digest(found.encode(), self.token.encode())

    def _knows(self, name: str) -> bool:
        if name in (*_LOOPBACK_NAMES, self.host, *self.names):
            return True
        return self.host in _MANY and _is_address(name)


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine alone."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _name_of(url: str) -> str | None:
    """The host of an address without its port, None if there is none that can be read."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    plain = parts.username is None and not (parts.path or parts.query or parts.fragment)
    return parts.hostname if plain else None
