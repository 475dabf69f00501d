"""``openfl-aio pki``: a certificate authority for one federation, and certificates from it."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from openfl_aio import pki
from openfl_aio.errors import ConfigurationError
from openfl_aio.pki.requests import load_request, request_common_name
from openfl_aio.storage.keys import read_pem
from openfl_aio.storage.pki_folder import PKIFolder

__all__ = ["app"]

app = typer.Typer(help="Make and sign the certificates of a federation.", no_args_is_help=True)


class Role(StrEnum):
    """What a certificate may be used for."""

    SERVER = "server"
    CLIENT = "client"


Folder = Annotated[Path, typer.Option("--folder", "-f", help="Folder of certificates and keys (OpenFL's layout).")]
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]
Days = Annotated[int, typer.Option("--days", min=1, max=366, help="Lifetime of the certificate.")]
Hosts = Annotated[list[str] | None, typer.Option("--host", help="DNS name or address of a server; repeatable.")]
DEFAULT_FOLDER = Path("cert")


@app.command()
def init(
    folder: Folder = DEFAULT_FOLDER,
    name: Annotated[str, typer.Option(help="Common name of the authority.")] = "openfl_aio federation CA",
    days: Annotated[int, typer.Option("--days", min=1, max=3650, help="Lifetime of the authority.")] = 365,
    force: Force = False,
) -> None:
    """Make the federation's certificate authority."""
    kept = PKIFolder(folder)
    kept.save_authority(pki.create_ca(name, days), force=force)
    typer.echo(f"authority in {kept.ca_certificate} (give it to everybody) and {kept.ca_key} (give it to nobody)")


@app.command()
def rotate(
    folder: Folder = DEFAULT_FOLDER,
    name: Annotated[str, typer.Option(help="Common name of the new authority.")] = "openfl_aio federation CA",
    days: Annotated[int, typer.Option("--days", min=1, max=3650, help="Lifetime of the new authority.")] = 365,
) -> None:
    """Make a new authority, which signs from now on, and believe the old one beside it until 'retire'."""
    kept = PKIFolder(folder)
    kept.rotate_authority(pki.create_ca(name, days))
    typer.echo(
        f"{kept.ca_certificate} has both authorities: give it to everybody, then issue every certificate anew, "
        "then believe the new one alone: openfl-aio pki retire"
    )


@app.command()
def retire(folder: Folder = DEFAULT_FOLDER) -> None:
    """Believe the newest authority alone: certificates of the others are worth nothing any more."""
    kept = PKIFolder(folder)
    kept.retire_authorities()
    typer.echo(f"{kept.ca_certificate} has one authority: give it to everybody")


@app.command()
def revoke(
    what: Annotated[
        list[str] | None,
        typer.Argument(help="Certificate files, serial numbers, SHA-256 fingerprints, or CN=NAME for all of a name."),
    ] = None,
    folder: Folder = DEFAULT_FOLDER,
    deny_list: Annotated[
        Path | None, typer.Option(help="Deny list to add to; FOLDER/deny_list.txt if neither list is given.")
    ] = None,
    crl: Annotated[Path | None, typer.Option(help="Revocation list to sign anew with the authority's key.")] = None,
    days: Annotated[int, typer.Option("--days", min=1, max=366, help="When the next --crl is due.")] = 30,
) -> None:
    """Revoke certificates: add them to a deny list, or to the authority's revocation list, or both.

    Servers that were started with the file notice by themselves. With --crl alone the list is signed anew as it is.
    """
    if not what and crl is None:
        raise ConfigurationError("nothing to revoke; expected certificate files, serial numbers or CN=NAME")
    kept = PKIFolder(folder)
    today = datetime.now(UTC).date()
    lines: list[str] = []
    numbers: list[int] = []
    for text in what or ():
        pem = read_pem(Path(text)) if Path(text).is_file() else None
        info = None if pem is None else pki.describe(pem)
        comment = f"revoked {today}" if info is None else f"{info.common_name!r}, revoked {today}"
        lines.append(pki.deny_line(text if info is None else f"{info.serial_number:x}", comment=comment))
        if crl is not None:
            numbers.append(pki.revocable(kept.load_authority(), pem or text))
    if deny_list is not None or crl is None:
        path = deny_list or folder / "deny_list.txt"
        typer.echo(f"{kept.deny(path, lines)} added to {path}")
    if crl is not None:
        kept.revoke(crl, numbers, days=days)
        typer.echo(
            f"{len(numbers)} revoked in {crl}; the next is due in {days} days: openfl-aio pki revoke --crl {crl}"
        )


@app.command()
def issue(
    role: Role, name: str, folder: Folder = DEFAULT_FOLDER, host: Hosts = None, days: Days = 90, force: Force = False
) -> None:
    """Make a key and a certificate for NAME, where the authority's key is at hand."""
    kept = PKIFolder(folder)
    authority = kept.load_authority()
    if role is Role.SERVER:
        credentials = pki.issue_server(authority, name, hosts=host or (), days=days)
    else:
        _refuse_hosts(host)
        credentials = pki.issue_client(authority, name, days=days)
    kept.save_credentials(role.value, name, credentials, force=force)
    typer.echo(f"certificate in {kept.certificate(role.value, name)}, key in {kept.key(role.value, name)}")


@app.command()
def request(role: Role, name: str, folder: Folder = DEFAULT_FOLDER, host: Hosts = None, force: Force = False) -> None:
    """Make a key and a request for NAME; send the request to whoever has the authority, never the key."""
    if role is Role.CLIENT:
        _refuse_hosts(host)
    kept = PKIFolder(folder)
    made = pki.create_request(name, hosts=host or ())
    kept.save_request(role.value, name, request_pem=made.request_pem, key_pem=made.key_pem, force=force)
    typer.echo(
        f"request in {kept.request(role.value, name)}; have it signed with: openfl-aio pki sign {role.value} FILE"
    )


@app.command()
def sign(
    role: Role, file: Path, folder: Folder = DEFAULT_FOLDER, host: Hosts = None, days: Days = 90, force: Force = False
) -> None:
    """Sign the request in FILE. Only its name, key and, for a server, host names are taken; check them first."""
    if role is Role.CLIENT:
        _refuse_hosts(host)
    kept = PKIFolder(folder)
    pem = read_pem(file)
    certificate = pki.sign(kept.load_authority(), pem, usage=role.value, hosts=host, days=days)
    path = kept.save_certificate(role.value, request_common_name(load_request(pem)), certificate, force=force)
    typer.echo(f"certificate in {path}; send it back with {kept.ca_certificate}")


@app.command()
def show(file: Path, as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Say what the certificate in FILE is for, for whom and until when."""
    info: dict[str, Any] = asdict(pki.describe(read_pem(file)))
    info["serial_number"] = f"{info['serial_number']:x}"
    info |= {key: info[key].isoformat() for key in ("not_before", "not_after")}
    if as_json:
        typer.echo(json.dumps(info))
        return
    for key, value in info.items():
        typer.echo(f"{key.replace('_', ' '):14} {', '.join(value) if isinstance(value, tuple) else value}")


def _refuse_hosts(hosts: list[str] | None) -> None:
    if hosts:
        raise ConfigurationError("--host is for servers; a client is known by its name only")
