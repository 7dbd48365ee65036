"""A keyring as on a desktop: GNOME's Secret Service on a message bus of its own, unlocked, without a screen."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping

from . import processes, state
from .engine import Engine, Launch, need

ADDRESS, PASSWORD = "MEDPERF_TEST_KEYRING_BUS", "MEDPERF_TEST_KEYRING_PASSWORD"
SECRET = "local-only"  # of a keyring that holds the tests' words only
NAME = "org.freedesktop.secrets"
# Every account may use this bus, as the tests of an unprivileged account do.
SETTINGS = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={home}/bus</listen>
  <auth>EXTERNAL</auth>
  <servicedir>{home}/services</servicedir>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"""
# The bus starts the daemon when somebody asks for it, and the daemon ends when its bus does. It is unlocked with the
# password that it reads, and makes its first keyring with it.
SERVICE = """\
[D-BUS Service]
Name={name}
Exec=/bin/sh "{home}/daemon.sh"
"""
SCRIPT = """\
exec '{program}' --foreground --components=secrets --unlock < '{home}/password' > '{log}' 2>&1
"""


class Keyring(Engine):
    """One message bus, and the keyring daemon that it starts."""

    name = "keyring"
    title = "a keyring (GNOME's Secret Service) on a message bus of its own"
    programs = (
        ("dbus-daemon", "dbus-daemon"),
        ("dbus-send", "dbus-bin"),
        ("gnome-keyring-daemon", "gnome-keyring"),
    )
    keys = (ADDRESS, PASSWORD)

    def prepare(self, ports: Mapping[str, int]) -> Launch:
        shutil.rmtree(self.home, ignore_errors=True)
        for folder in (self.home, self.home / "services"):
            folder.mkdir(mode=0o755)
        (self.home / "run").mkdir(mode=0o700)
        program, log = need("gnome-keyring-daemon"), state.log("keyring.daemon")
        state.write(self.home / "bus.conf", SETTINGS.format(home=self.home))
        state.write(self.home / "password", SECRET, 0o600)
        state.write(self.home / "daemon.sh", SCRIPT.format(program=program, home=self.home, log=log))
        state.write(self.home / "services" / f"{NAME}.service", SERVICE.format(name=NAME, home=self.home))
        argv = [need("dbus-daemon"), f"--config-file={self.home}/bus.conf", "--nofork", "--nopidfile"]
        folders = {"HOME": self.home, "XDG_RUNTIME_DIR": self.home / "run", "XDG_DATA_HOME": self.home / "data"}
        env = processes.environment(**{name: str(path) for name, path in folders.items()})
        return Launch(argv, {ADDRESS: f"unix:path={self.home}/bus", PASSWORD: SECRET}, env=env)

    def answers(self, values: Mapping[str, str]) -> bool:
        asked = ["org.freedesktop.DBus.Properties.Get", "string:org.freedesktop.Secret.Collection", "string:Locked"]
        argv = [need("dbus-send"), f"--bus={values[ADDRESS]}", "--print-reply=literal", "--reply-timeout=10000"]
        argv += [f"--dest={NAME}", "/org/freedesktop/secrets/aliases/default", *asked]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, env=processes.environment())
        return done.returncode == 0 and "false" in done.stdout


ENGINES = (Keyring(),)
