"""Log in to the profile's server, log out, and see who is logged in; keep credentials for stores and registries."""

from __future__ import annotations

import re
from collections.abc import Mapping

from medperf_core.entities import User
from medperf_core.errors import AuthenticationError, NotFoundError, UsageError
from medperf_core.plugin.descriptors import StoragePlugin
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


def fields_for(site: Site, name: str) -> tuple[str, ...]:
    """The fields that the store of a name, such as ``s3`` or ``s3://BUCKET``, can use; () if no store says any."""
    found = _store_of(site, name)
    return found.credentials if found is not None else ()


def _store_of(site: Site, name: str) -> StoragePlugin | None:
    scheme, _, rest = name.partition(":")
    stores = site.plugins.all(StoragePlugin) if not rest or rest.startswith("//") else []
    return next((each for each in stores if scheme in each.schemes), None)


def store(site: Site, name: str, credentials: Mapping[str, str]) -> str:
    """Keep credentials where the profile says, in place of those of that name, for all profiles of this home.

    Args:
        name: as the backend looks for them: ``s3``, ``s3://BUCKET``, or a registry such as ``registry.example:5000``.
        credentials: by field; empty ones are left out.

    Returns:
        what the person should know of them; "" for nothing.

    Raises:
        UsageError: the name or a field is not one that can be stored, or there is nothing to store, or its backend says
            that it can be of no use.
        ConfigurationError: the keyring cannot be used.
    """
    check_name(site, name)
    given = {field: value for field, value in credentials.items() if value}
    if not given:
        raise UsageError("There is nothing to store.", hint="Give at least one of the fields.")
    known = fields_for(site, name)
    for field in given:
        if (known and field not in known) or not re.fullmatch("[a-z][a-z0-9_]{0,63}", field):
            raise UsageError(
                f"{field!r} is not a field of credentials for {name}.",
                hint=f"Known fields: {', '.join(known)}." if known else "Write it like access_key.",
            )
    found = _store_of(site, name)
    said = found.check_credentials(given) if found is not None and found.check_credentials is not None else ""
    site.credentials.put(name, given)
    return said


def stored(site: Site) -> list[str]:
    """The names of what ``store`` keeps; logins at servers are not among them."""
    return [name for name in site.credentials.names() if not re.search(r"\s", name)]


def forget(site: Site, name: str) -> None:
    """Forget what ``store`` keeps under a name.

    Raises:
        NotFoundError: there is nothing of that name.
        ConfigurationError: it is in the system keyring, which cannot be used; it is still there.
    """
    known = stored(site)
    if name not in known:
        raise NotFoundError(
            f"Nothing is stored as {name!r}.", hint=f"Stored are: {', '.join(known)}." if known else "Nothing is."
        )
    site.credentials.delete(name)


def check_name(site: Site, name: str) -> None:
    """Whether somebody may look for credentials under a name: an installed backend, or whoever asks a registry.

    Raises:
        UsageError: nobody does.
    """
    if not re.fullmatch(r"[!-~]{1,300}", name) or name.endswith("/"):
        raise UsageError(
            f"{name!r} is not a name that credentials are looked for under.",
            hint="Write s3://BUCKET, s3, gs://BUCKET, gs, or a registry's host and port.",
        )
    if _store_of(site, name) is not None or name in {each.name for each in site.plugins.descriptors()}:
        return
    if "://" in name or not (re.search("[.:]", name) or name == "localhost"):
        known = sorted({scheme for each in site.plugins.all(StoragePlugin) for scheme in each.schemes})
        scheme = name.partition(":")[0]
        raise UsageError(
            f"No store that is installed is called {scheme!r}, so nobody would use credentials for {name}.",
            hint=f"Installed stores: {', '.join(known)}. A registry is named by its host, as in registry.example:5000.",
        )
