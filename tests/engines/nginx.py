"""nginx on loopback: the same document root over http and over https with a private authority."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from . import certificates, state
from .engine import Engine, Launch, need
from .probes import http_status

HTTP, HTTPS, ROOT, CA = (f"MEDPERF_TEST_NGINX_{part}" for part in ("HTTP", "HTTPS", "ROOT", "CA"))
# Workers run as root so that a test's files need no special modes; only root, or who called sudo, can put files there.
SETTINGS = """\
daemon off;
user root;
worker_processes 2;
pid "{home}/nginx.pid";
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
  types {{ application/json json; text/plain txt; text/html html; application/gzip gz; }}
  default_type application/octet-stream;
  access_log "{log}";
  sendfile on;
  client_body_temp_path "{home}/tmp/body";
  proxy_temp_path "{home}/tmp/proxy";
  fastcgi_temp_path "{home}/tmp/fastcgi";
  uwsgi_temp_path "{home}/tmp/uwsgi";
  scgi_temp_path "{home}/tmp/scgi";
  server {{
    listen 127.0.0.1:{http};
    listen 127.0.0.1:{https} ssl;
    server_name localhost;
    ssl_certificate "{home}/tls/server.pem";
    ssl_certificate_key "{home}/tls/server.key";
    ssl_protocols TLSv1.2 TLSv1.3;
    root "{home}/www";
    # Below each of these is the same root again, served in another way.
    location /throttled/ {{ alias "{home}/www/"; limit_rate 8m; sendfile_max_chunk 128k; }}
    location /whole-only/ {{ alias "{home}/www/"; max_ranges 0; }}
    location /compressed/ {{ alias "{home}/www/"; add_header Content-Encoding gzip; }}
    location /same-etag/ {{ alias "{home}/www/"; etag off; add_header ETag '"always-the-same"'; }}
    location /no-etag/ {{ alias "{home}/www/"; etag off; }}
    location /login/ {{ alias "{home}/www/"; auth_basic "files"; auth_basic_user_file "{home}/users"; }}
    location /to-a-file/ {{ return 302 "file:///etc/passwd"; }}
    location /to-another-host/ {{ return 302 "https://files.invalid/file.bin"; }}
  }}
}}
"""
LOGIN = ("medperf", "local-only")


class Nginx(Engine):
    """Serves files, with ranges; see ``SETTINGS`` for where it is slow, takes no ranges, asks for a login and so on."""

    name = "nginx"
    title = "nginx (http and https)"
    programs = (("nginx", "nginx"), ("openssl", "openssl"))
    units = ("nginx.service",)
    keys = (HTTP, HTTPS, ROOT, CA)
    port_names = ("http", "https")

    def prepare(self, ports: Mapping[str, int]) -> Launch:
        for folder in (self.home, self.home / "tmp", self.home / "www"):
            folder.mkdir(mode=0o755, exist_ok=True)
        if caller := os.environ.get("SUDO_UID"):
            os.chown(self.home / "www", int(caller), int(os.environ.get("SUDO_GID", "-1")))
        certificates.ensure(self.home / "tls")
        state.write(self.home / "users", f"{LOGIN[0]}:{{PLAIN}}{LOGIN[1]}\n")
        config, log = self.home / "nginx.conf", state.log("nginx.access")
        state.write(config, SETTINGS.format(home=self.home, log=log, **ports))
        values = {
            HTTP: f"http://127.0.0.1:{ports['http']}",
            HTTPS: f"https://127.0.0.1:{ports['https']}",
            ROOT: str(self.home / "www"),
            CA: str(self.home / "tls" / "ca.pem"),
        }
        return Launch([need("nginx"), "-p", str(self.home), "-e", "stderr", "-c", str(config)], values)

    def answers(self, values: Mapping[str, str]) -> bool:
        return http_status(values[HTTP]) is not None and http_status(values[HTTPS], ca=Path(values[CA])) is not None


ENGINES = (Nginx(),)
