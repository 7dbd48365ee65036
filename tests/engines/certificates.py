"""A private certificate authority and one server certificate for this machine's loopback address, made by openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path

from . import state
from .engine import need
from .processes import run

DAYS = "30"
SETTINGS = """\
[req]
prompt = no
distinguished_name = name
[name]
CN = {name}
[authority]
basicConstraints = critical, CA:true, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = DNS:localhost, IP:127.0.0.1
"""


def ensure(folder: Path) -> None:
    """Make ca.pem, server.pem and server.key in `folder` unless they are there and good for another week."""
    openssl = need("openssl")
    server = folder / "server.pem"
    if server.exists() and (folder / "ca.pem").exists():
        fresh = subprocess.run([openssl, "x509", "-in", server, "-noout", "-checkend", "604800"], capture_output=True)
        if fresh.returncode == 0:
            return
    folder.mkdir(mode=0o755, exist_ok=True)
    for part, name in (("ca", "medperf-core test authority"), ("server", "localhost")):
        state.write(folder / f"{part}.cnf", SETTINGS.format(name=name))
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{folder}/{part}.key"]
        form = ["-config", f"{folder}/{part}.cnf", *key]
        if part == "ca":
            form += ["-x509", "-extensions", "authority", "-days", DAYS, "-out", f"{folder}/ca.pem"]
        else:
            form += ["-out", f"{folder}/server.csr"]
        run([openssl, "req", *form])
    sign = ["-in", f"{folder}/server.csr", "-CA", f"{folder}/ca.pem", "-CAkey", f"{folder}/ca.key", "-CAcreateserial"]
    ext = ["-extfile", f"{folder}/server.cnf", "-extensions", "server", "-days", DAYS, "-out", f"{folder}/server.pem"]
    run([openssl, "x509", "-req", *sign, *ext])
    for part in ("ca.key", "server.csr", "ca.srl"):
        (folder / part).unlink(missing_ok=True)  # nothing else is ever signed by this authority
