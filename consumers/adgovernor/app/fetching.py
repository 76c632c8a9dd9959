"""What commands that ask ad servers share: which addresses may be contacted, and whom to trust."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adgovernor.contracts.errors import BadInput

if TYPE_CHECKING:
    from adgovernor.sessions.addresses import AddressPolicy

AllowPrivate = Annotated[
    bool, typer.Option("--allow-private", help="Contact private, loopback and link-local addresses too.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--resolve", metavar="HOST=ADDRESS:PORT", help="Connect to this address for HOST; may be repeated."
    ),
]
CaFile = Annotated[
    Path | None,
    typer.Option(
        "--cacert", metavar="FILE", exists=True, dir_okay=False, help="Trust these authorities (PEM)."
    ),
]


def policy_of(allow_private: bool, overrides: Sequence[str] | None) -> AddressPolicy:
    """The policy that the options mean. Raises `BadInput` for an override that is none."""
    from adgovernor.sessions.addresses import AddressPolicy, parse_override

    try:
        return AddressPolicy(allow_private, dict(map(parse_override, overrides or ())))
    except ValueError as error:
        raise BadInput(f"--resolve: {error}") from error
