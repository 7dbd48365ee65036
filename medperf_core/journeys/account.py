"""Log in to the profile's server, log out, and see who is logged in."""

from __future__ import annotations

from medperf_core.entities import User
from medperf_core.errors import AuthenticationError
from medperf_core.plugin.server import Ask
from medperf_core.site.site import Site


def login(site: Site, user: str | None, ask: Ask) -> User:
    """Log in; the credentials are kept where the profile says: in a file that only this user can read, or in the
    system keyring.

    Raises:
        AuthenticationError: the server does not know or accept this user.
        ConfigurationError: the keyring cannot be used; nobody was asked for anything.
    """
    site.credentials.check()
    done = site.server.login(user, ask)
    site.credentials.put(site.login_name(site.server.address), dict(done.credentials))
    return done.user


def logout(site: Site) -> None:
    """End the login and forget its credentials, even if the server cannot be told.

    Raises:
        ConfigurationError: they are in the system keyring, which cannot be used; they are still there.
    """
    try:
        site.server.logout()
    finally:
        site.credentials.delete(site.login_name(site.server.address))


def status(site: Site) -> User | None:
    """Who is logged in; None if nobody is."""
    try:
        return site.server.me()
    except AuthenticationError:
        return None


def where(site: Site) -> str:
    """Where the profile's login is kept, or was looked for, such as "in the file ..."."""
    return site.credentials.where(site.login_name(site.profile.server))
