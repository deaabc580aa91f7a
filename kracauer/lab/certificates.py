"""A certificate authority for the lab and the certificates it issues to origins."""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kracauer.errors import LabError


@dataclass(frozen=True, slots=True)
class Credentials:
    """A server's certificate chain and its private key, as PEM files."""

    certificate: Path
    key: Path


class Authority:
    """A root that only the lab trusts; `root` is its certificate as a PEM file."""

    def __init__(self, directory: Path) -> None:
        try:
            import trustme  # noqa: PLC0415 - an extra: the rest of the lab does without it
        except ImportError as error:
            raise LabError("the lab issues its certificates with trustme, which is missing", _REMEDY) from error
        self._directory = directory
        self._authority = trustme.CA(organization_name="Kracauer lab")
        self.root = directory / "root.pem"
        self._authority.cert_pem.write_to_path(str(self.root))

    def issue(self, owner: str, names: Sequence[str]) -> Credentials:
        """Return a certificate for `names`, wildcards included, its subject's organizational unit being `owner`."""
        leaf = self._authority.issue_cert(
            *names, common_name=names[0], organization_name="Kracauer lab", organization_unit_name=owner
        )
        credentials = Credentials(self._directory / f"{owner}.pem", self._directory / f"{owner}.key")
        credentials.certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        leaf.private_key_pem.write_to_path(str(credentials.key))
        return credentials

    def client_context(self) -> ssl.SSLContext:
        """Return a context that verifies servers, names included, against this authority alone."""
        return ssl.create_default_context(cafile=str(self.root))


_REMEDY = "install it with: pip install 'kracauer[demo]', or from a clone: pip install '.[demo]'"
