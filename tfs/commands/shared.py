"""What the sub-commands share: their parser, the way to a server, and the one door for errors.

Owns: exit statuses of sub-commands (0 well, 1 failed, 2 misused), the flags that name a server. Must not know: what a command does.
"""

from __future__ import annotations

import argparse
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn
from urllib.parse import unquote

from tfs.client import TLS, AsyncClient, Client, _channel
from tfs.client.rest import RestClient
from tfs.errors import InvalidArgument, TfsError, Unimplemented

if TYPE_CHECKING:
    import grpc

    from tfs.messages import ModelServerConfig

FAILED: Final = 1
MISUSED: Final = 2
INTERRUPTED: Final = 130
MOST_SECONDS: Final = 1e6


class MisuseError(Exception):
    """The command line is wrong; the text says how."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        raise MisuseError(f"{message}; {self.prog} --help says more")


def parser(name: str, purpose: str, *, server: bool = True) -> Parser:
    """The parser of `tfs NAME`, with the flags that every command has, and those of connections where `server`."""
    made = Parser(prog=f"tfs {name}", description=purpose)
    made.add_argument("--json", action="store_true", help="print JSON")
    if server:
        add_server_flags(made)
    return made


def positive(text: str) -> float:
    """The value of a flag that is a number above 0, small enough for every clock."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"expected a number above 0, at most {MOST_SECONDS:g}, got '{text}'")
    return value


def add_server_flags(made: argparse.ArgumentParser) -> None:
    """How to reach a server."""
    made.add_argument(
        "--timeout", type=positive, default=60, metavar="S", help="seconds to wait for an answer (60)"
    )
    made.add_argument("--tls", action="store_true", help="gRPC over TLS with the system's authorities")
    made.add_argument("--tls-root", metavar="PEM", help="gRPC over TLS: who signed the server's certificate")
    made.add_argument("--tls-cert", metavar="PEM", help="our certificate, for mutual TLS")
    made.add_argument("--tls-key", metavar="PEM", help="its key")
    made.add_argument("--tls-server-name", metavar="NAME", help="the name the server's certificate bears")


def run(name: str, work: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Does `work`; what goes wrong becomes one line on stderr and an exit status."""
    status = FAILED
    try:
        return work(arguments)
    except SystemExit as done:  # argparse, after --help
        return int(done.code or 0)
    except KeyboardInterrupt:
        return INTERRUPTED
    except MisuseError as error:
        status, text = MISUSED, str(error)
    except TfsError as error:
        text = error.status_text
    except UnicodeEncodeError as error:  # bytes of a terminal or file system with another encoding
        text = f"text that is no UTF-8: {error.object!a:.60}"
    except OSError as error:
        text = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    print(f"tfs {name}: {' '.join(text.split())}", file=sys.stderr)
    return status


def is_rest(server: str) -> bool:
    return server.startswith(("http://", "https://"))


def connect(server: str, given: argparse.Namespace) -> Client | RestClient:
    """The client for `host:8500` or `http://host:8501`."""
    if is_rest(server):
        return RestClient(_origin(server), tls=_context(given), timeout=given.timeout)
    return Client(_target(server), tls=_tls(given), timeout=given.timeout)


def connect_async(server: str, given: argparse.Namespace) -> AsyncClient:
    """The asyncio client for `host:8500`."""
    return AsyncClient(_target(server), tls=_tls(given), timeout=given.timeout, retries=0)


def open_channel(server: str, given: argparse.Namespace) -> grpc.Channel:
    """A bare channel to `host:8500`."""
    return _channel.open_channel(_target(server), _tls(given), None, 0, ())


def model_of(server: str) -> str | None:
    """The model that a REST address names after /v1/models/."""
    _, found, rest = server.partition("/v1/models/")
    return unquote(rest.partition("/")[0].partition(":")[0]) if found and rest else None


def model_name(given: argparse.Namespace) -> str:
    """The model of the command line, or the one in the server's address."""
    name = given.model or model_of(given.server)
    if name is None:
        raise MisuseError(f"which model of {given.server}?")
    return str(name)


def read_config(path: Path) -> ModelServerConfig:
    """A model configuration file in text form. Raises InvalidArgument with the line that is wrong, Unimplemented without protobuf."""
    try:
        from google.protobuf import text_format

        from tfs import messages
    except ImportError:
        raise Unimplemented(
            "reading configuration files needs protobuf: pip install 'tfs[runtime]'"
        ) from None
    try:
        return text_format.Parse(
            path.read_text(), messages.ModelServerConfig(), descriptor_pool=messages.pool()
        )
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise InvalidArgument(f"{path}: {error}") from None


def _origin(server: str) -> str:
    return server.partition("/v1")[0]


def _target(server: str) -> str:
    server = server.removeprefix("grpc://")
    if is_rest(server):
        raise InvalidArgument(f"'{server}' is a REST address; this needs the gRPC port: host:8500")
    if ":" not in server:
        raise InvalidArgument(
            f"'{server}' is no server: write host:8500 for gRPC or http://host:8501 for REST"
        )
    return server


def _tls(given: argparse.Namespace) -> TLS | bool:
    _check_pair(given)
    if given.tls_root or given.tls_cert or given.tls_server_name:
        return TLS(given.tls_root, given.tls_cert, given.tls_key, given.tls_server_name)
    return bool(given.tls)


def _check_pair(given: argparse.Namespace) -> None:
    if (given.tls_cert is None) != (given.tls_key is None):
        raise MisuseError("--tls-cert and --tls-key belong together")


def _context(given: argparse.Namespace) -> ssl.SSLContext | None:
    _check_pair(given)
    if not (given.tls_root or given.tls_cert):
        return None
    for path in filter(None, (given.tls_root, given.tls_cert, given.tls_key)):
        _channel.pem(path)  # an OSError that names the file, which those of ssl do not
    try:
        context = ssl.create_default_context(cafile=given.tls_root)
        if given.tls_cert:
            context.load_cert_chain(given.tls_cert, given.tls_key)
    except ssl.SSLError as error:
        raise InvalidArgument(f"--tls-root, --tls-cert or --tls-key is no PEM as expected: {error}") from None
    return context
