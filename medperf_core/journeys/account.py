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
    scheme = name.partition(":")[0]
    return next((each.credentials for each in site.plugins.all(StoragePlugin) if scheme in each.schemes), ())


def store(site: Site, name: str, credentials: Mapping[str, str]) -> None:
    """Keep credentials where the profile says, in place of those of that name, for all profiles of this home.

    Args:
        name: as the backend looks for them: ``s3``, ``s3://BUCKET``, or a registry such as ``registry.example:5000``.
        credentials: by field; empty ones are left out.

    Raises:
        UsageError: the name or a field is not one that can be stored, or there is nothing to store.
        ConfigurationError: the keyring cannot be used.
    """
    _check_name(name)
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
    site.credentials.put(name, given)


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


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[!-~]{1,300}", name) or name.endswith("/"):
        raise UsageError(
            f"{name!r} is not a name that credentials are looked for under.",
            hint="Write s3://BUCKET, s3, gs://BUCKET, gs, or a registry's host and port.",
        )
