"""Certificates by openssl: one authority for the cluster, one for the front proxy, and kubeconfigs from what they sign."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import Fault, Refused

_DAYS = "365"
_EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_CONFIG = "[req]\ndistinguished_name = name\n[name]\n"  # the system's own configuration would add extensions
_BAD_IN_NAME = frozenset('/\\"\n')


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key, as files."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Certificates:
    """What openssl makes in `folder`. Each thing is made once and then found again."""

    folder: Path

    @property
    def authority(self) -> Pair:
        """The authority of servers and clients."""
        return self._authority("ca")

    @property
    def front_proxy(self) -> Pair:
        """The authority of the API server's word about who asks, towards the servers behind it."""
        return self._authority("front-proxy-ca")

    def issue(self, name: str, user: str, *, groups: Sequence[str] = (), hosts: Sequence[str] = (), signer: str = "ca") -> Pair:
        """Issue a certificate for client and server use. `hosts` are DNS names and addresses (those begin with a digit)."""
        if _BAD_IN_NAME & set("".join((user, *groups))):
            raise Refused(f"{user!r} in {list(groups)!r} cannot be a name in a certificate", hint="leave out slashes, quotes and line ends")
        pair, by = self._pair(name), self._authority(signer)
        if not pair.certificate.exists():
            subject = "".join(f"/O={group}" for group in groups) + f"/CN={user}"
            names = ",".join(f"{'IP' if host[0].isdigit() else 'DNS'}:{host}" for host in hosts)
            extensions = ["basicConstraints=critical,CA:FALSE", "extendedKeyUsage=clientAuth,serverAuth"]
            extensions += [f"subjectAltName={names}"] if names else []
            self._request(pair, subject, extensions, "-CA", str(by.certificate), "-CAkey", str(by.key))
        return pair

    def signing_key(self) -> tuple[Path, Path]:
        """Return the private and public key of ServiceAccount tokens."""
        private, public = self.folder / "service-accounts.key", self.folder / "service-accounts.pub"
        if not public.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            _openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(private))
            _openssl("pkey", "-in", str(private), "-pubout", "-out", str(public))
        return private, public

    def _authority(self, name: str) -> Pair:
        pair = self._pair(name)
        if not pair.certificate.exists():
            extensions = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign", "subjectKeyIdentifier=hash")
            self._request(pair, f"/CN=seatrial test cluster {name}", extensions)
        return pair

    def _pair(self, name: str) -> Pair:
        return Pair(self.folder / f"{name}.crt", self.folder / f"{name}.key")

    def _request(self, pair: Pair, subject: str, extensions: Sequence[str], *more: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "openssl.cnf"
        config.write_text(_CONFIG, encoding="ascii")
        added = [part for extension in extensions for part in ("-addext", extension)]
        unfinished = pair.certificate.with_suffix(".new")
        _openssl(
            *("req", "-x509", "-config", str(config), *_EC, "-keyout", str(pair.key), "-out", str(unfinished), "-days", _DAYS),
            *("-subj", subject, *added, *more),
        )
        unfinished.rename(pair.certificate)


def write_kubeconfig(path: Path, server: str, authority: Path, *, pair: Pair | None = None, token: str = "") -> Path:
    """Write a kubeconfig (JSON is YAML) that carries a certificate's paths or a token; readable by its owner only."""
    user = {"token": token} if pair is None else {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}
    body = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "seatrial", "cluster": {"server": server, "certificate-authority": str(authority)}}],
        "users": [{"name": "user", "user": user}],
        "contexts": [{"name": "seatrial", "context": {"cluster": "seatrial", "user": "user"}}],
        "current-context": "seatrial",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps(body, indent=1), encoding="utf-8")
    return path


def _openssl(*arguments: str) -> None:
    program = shutil.which("openssl")
    if program is None:
        raise Fault(
            "openssl is not on the PATH; the cluster's certificates are made with it", hint="run infra/bin/install-cluster-equipment"
        )
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise Fault(f"openssl {arguments[0]} failed: {done.stderr.strip()[-400:]}", hint="openssl 3.0 or newer is needed")
