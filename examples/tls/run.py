"""HTTPS, gRPC over TLS, and mutual TLS: certificates, the server's file, the clients.

    python -m examples.tls.run --model=BASE_PATH [--name=NAME] [--work=DIRECTORY]

Makes an authority, a server's and a client's certificate with the command `openssl`, serves a model over TLS on both ports, and asks
as somebody with a certificate and as somebody without.
"""

from __future__ import annotations

import argparse
import ssl
import subprocess
import tempfile
from pathlib import Path

from examples.serving import serving
from tfs.client import TLS, Client, RestClient, TfsError


def openssl(*arguments: str, directory: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)


def certificates(directory: Path) -> None:
    """ca.pem, and server and client .pem and .key that it signed; the server's is for localhost and 127.0.0.1."""
    directory.mkdir(parents=True, exist_ok=True)
    new_key = ["-newkey", "rsa:2048", "-nodes", "-days", "30"]
    openssl(
        "req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=example authority",
        directory=directory,
    )  # fmt: skip
    for name, extension in (
        ("server", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ("client", "subjectAltName=DNS:client"),
    ):
        openssl(
            "req", "-x509", *new_key, "-CA", "ca.pem", "-CAkey", "ca.key", "-keyout", f"{name}.key", "-out", f"{name}.pem",
            "-subj", f"/CN={name}", "-addext", extension, "-addext", "basicConstraints=critical,CA:FALSE",
            directory=directory,
        )  # fmt: skip


def ssl_config(directory: Path, client_verify: bool) -> Path:
    """The file that --ssl_config_file names: PEM texts, as the reference wants them."""
    texts = {"server_key": "server.key", "server_cert": "server.pem", "custom_ca": "ca.pem"}
    lines = []
    for field, name in texts.items():
        escaped = (directory / name).read_text().replace("\n", "\\n")
        lines.append(f'{field}: "{escaped}"')
    lines.append(f"client_verify: {str(client_verify).lower()}")
    path = directory / f"ssl_{'mutual' if client_verify else 'server'}.config"
    path.write_text("\n".join(lines) + "\n")
    return path


def context(directory: Path, with_certificate: bool) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=directory / "ca.pem")
    if with_certificate:
        made.load_cert_chain(directory / "client.pem", directory / "client.key")
    return made


def ask(who: str, client: Client | RestClient, name: str) -> None:
    with client:
        try:
            print(f"{who}: {client.status(name, timeout=20)[0].state.name}")
        except TfsError as error:
            print(f"{who}: refused ({error.code.name})")


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve over TLS.")
    parser.add_argument("--model", type=Path, required=True, help="the base path of a model to serve")
    parser.add_argument("--name", default="mnist")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "tfs-tls")
    given = parser.parse_args()
    work = given.work.absolute()
    certificates(work)
    anonymous = TLS(work / "ca.pem")
    known = TLS(work / "ca.pem", work / "client.pem", work / "client.key")
    for mutual in (False, True):
        print("\n== mutual TLS" if mutual else "\n== TLS")
        config = ssl_config(work, mutual)
        flags = [f"--model_name={given.name}", f"--model_base_path={given.model.absolute()}"]
        flags += [f"--ssl_config_file={config}", f"--rest_ssl_config_file={config}"]
        with serving(*flags, scheme="https") as server:
            ask("gRPC with a certificate   ", Client(server.grpc, tls=known), given.name)
            ask("gRPC without one          ", Client(server.grpc, tls=anonymous, retries=0), given.name)
            ask("HTTPS with a certificate  ", RestClient(server.rest, tls=context(work, True)), given.name)
            ask("HTTPS without one         ", RestClient(server.rest, tls=context(work, False)), given.name)


if __name__ == "__main__":
    main()
