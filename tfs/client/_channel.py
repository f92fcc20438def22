"""How the gRPC clients reach servers: target, TLS, keepalive, retries, and what an error becomes.

Owns: channel options and credentials. Must not know: requests. Any thread.
grpc is imported where a channel is made: it brings asyncio along, together half of what importing the client would cost, and the
REST client and commands that read from disk never need it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tfs.errors import InvalidArgument, TfsError, from_code

if TYPE_CHECKING:
    import grpc

Metadata = Sequence[tuple[str, str | bytes]]
RETRY_LIMIT: Final = 5  # gRPC's own: more attempts are cut to this
# CANCELLED is what gRPC's own server answers to calls that meet its shutdown (grpc/grpc issue 41785). A call that its caller cancels is
# over before it could be repeated.
RETRIED_CODES: Final = ("UNAVAILABLE", "CANCELLED")
# gRPC keeps a request until it is answered, to send it again, and gives that up for requests above 256 KiB unless told otherwise.
KEPT_FOR_RETRIES: Final = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class TLS:
    """Certificates as PEM: paths or bytes. `root`: who signed the server (None: the system's authorities); `certificate` and `key`:
    who we are, for mutual TLS; `server_name`: the name the server's certificate bears, when it is not the one in the address."""

    root: str | Path | bytes | None = None
    certificate: str | Path | bytes | None = None
    key: str | Path | bytes | None = None
    server_name: str | None = None


def pem(value: str | Path | bytes | None) -> bytes | None:
    """The bytes of a certificate or key. Raises OSError when its file cannot be read, InvalidArgument when it holds none."""
    if not isinstance(value, (str, Path)):
        return value
    found = Path(value).read_bytes()
    if b"-----BEGIN " not in found:
        raise InvalidArgument(f"{value} holds no certificate or key in PEM form")
    return found


def credentials(tls: TLS | bool | None) -> grpc.ChannelCredentials | None:
    """What the channel needs, or None for a plain one. Raises InvalidArgument for half a pair, OSError for files."""
    if not tls:
        return None
    import grpc

    if tls is True:
        return grpc.ssl_channel_credentials()
    if (tls.certificate is None) != (tls.key is None):  # gRPC would end the process
        raise InvalidArgument("TLS: certificate and key belong together; only one is given")
    return grpc.ssl_channel_credentials(pem(tls.root), pem(tls.key), pem(tls.certificate))


def target_of(target: str | Sequence[str]) -> str:
    """One target as gRPC wants it; several addresses `1.2.3.4:8500` become one target that is balanced."""
    if isinstance(target, str):
        return target
    return "ipv6:" + ",".join(target) if any("[" in one for one in target) else "ipv4:" + ",".join(target)


def options(
    tls: TLS | bool | None, keepalive_s: float | None, retries: int, more: Sequence[tuple[str, Any]]
) -> list[tuple[str, Any]]:
    """Channel arguments: messages of any size, all servers of the name in turn, retries of what RETRIED_CODES says."""
    config: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
    if retries > 0:
        config["methodConfig"] = [
            {
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": min(retries + 1, RETRY_LIMIT),
                    "initialBackoff": "0.1s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": RETRIED_CODES,
                },
            }
        ]
    chosen: list[tuple[str, Any]] = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.service_config", json.dumps(config)),
        ("grpc.enable_retries", int(retries > 0)),
        ("grpc.per_rpc_retry_buffer_size", KEPT_FOR_RETRIES),
    ]
    if keepalive_s is not None:
        chosen += [
            ("grpc.keepalive_time_ms", int(keepalive_s * 1000)),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
        ]
    if isinstance(tls, TLS) and tls.server_name:
        chosen.append(("grpc.ssl_target_name_override", tls.server_name))
    return [*chosen, *more]


def open_channel(
    target: str | Sequence[str],
    tls: TLS | bool | None,
    keepalive_s: float | None,
    retries: int,
    more: Sequence[tuple[str, Any]],
    *,
    aio: bool = False,
) -> Any:
    """A grpc.Channel, or with `aio` a grpc.aio.Channel for the running event loop; connects when first used."""
    import grpc

    library = grpc.aio if aio else grpc
    arguments = options(tls, keepalive_s, retries, more)
    found = credentials(tls)
    if found is None:
        return library.insecure_channel(target_of(target), arguments)
    return library.secure_channel(target_of(target), found, arguments)


def failure() -> Any:
    """grpc.RpcError, for `except _channel.failure()`: asked for only once a call over a channel has failed."""
    import grpc

    return grpc.RpcError


def error_of(error: Any) -> TfsError:
    """A grpc.RpcError as the TfsError of its code."""
    return from_code(error.code().value[0], error.details() or "")
