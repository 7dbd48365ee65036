"""``medperf auth``: who I am at the profile's server, and at the stores and registries that files come from."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from medperf_core.cli.output import Format, next_step, note, print_data, print_list
from medperf_core.cli.params import format_option
from medperf_core.cli.prompts import ask_text
from medperf_core.cli.session import Session, pass_session
from medperf_core.cli.text import printable
from medperf_core.entities.codec import to_data
from medperf_core.errors import UsageError
from medperf_core.journeys import account

MAX_FILE = 1 << 20


@click.group()
def auth() -> None:
    """Log in to the profile's server and out of it; keep credentials."""


@auth.command()
@click.option("--user", "-u", "--email", "-e", "user", metavar="NAME", help="User name or e-mail address.")
@pass_session
def login(session: Session, /, user: str | None) -> None:
    """Log in to the server of the profile."""
    with session.opened() as site:
        who = account.login(site, user, partial(ask_text, advice="Write: medperf auth login --user NAME"))
    note(f"Logged in as {who.username}.")
    next_step("medperf benchmark ls")


@auth.command()
@pass_session
def logout(session: Session) -> None:
    """Log out and forget the credentials."""
    with session.opened() as site:
        account.logout(site)
    note("Logged out.")


@auth.command()
@format_option
@pass_session
def status(session: Session, /, output: Format) -> None:
    """Show who is logged in, and where."""
    with session.opened() as site:
        who = account.status(site)
        where = {"profile": site.profile_name, "server": site.profile.server}
        kept = account.where(site)
    if output is not Format.TABLE:
        user = to_data(who) if who else None
        print_data({"logged_in": who is not None, **where, "user": user, "login": kept}, output)
    elif who is None:
        click.echo(f"Nobody is logged in at {where['server']} (profile {where['profile']}).")
        note(printable(f"A login was looked for {kept}."))
        next_step("medperf auth login")
    else:
        mail = f" ({who.email})" if who.email else ""
        click.echo(printable(f"Logged in at {where['server']} as {who.username}{mail} (profile {where['profile']})."))
        note(printable(f"The login is kept {kept}."))


@auth.command()
@click.argument("name", metavar="NAME")
@click.argument("fields", nargs=-1, metavar="[FIELD]...")
@click.option("--from", "files", multiple=True, metavar="FIELD=FILE", help="Take a field's value from a file.")
@pass_session
def store(session: Session, /, name: str, fields: tuple[str, ...], files: tuple[str, ...]) -> None:
    """Store credentials of a bucket (s3://BUCKET), of a whole store (s3), or of an image registry (HOST:PORT).

    Every field is asked for and not shown as typed; Enter leaves one out. Fields need to be named only where no
    installed store says them: "username password" for a registry.
    """
    given = dict(_from_file(each) for each in files)
    with session.opened() as site:
        account.check_name(site, name)
        site.credentials.check()
        asked = fields or (() if given else account.fields_for(site, name))
        if not asked and not given:
            raise UsageError(
                f"No store that is installed says what credentials for {name} consist of.",
                hint=f"Name the fields, such as: medperf auth store {name} username password",
            )
        for field in asked:
            question = printable(f"{field} (Enter leaves it out)")
            given[field] = ask_text(question, secret=True, optional=True)
        advice = account.store(site, name, given)
        kept = site.credentials.where(name)
    note(printable(f"The credentials for {name} are kept {kept}."))
    if advice:
        note(printable(advice))


def _from_file(words: str) -> tuple[str, str]:
    field, equals, path = words.partition("=")
    if not equals or not path:
        raise UsageError(f"--from {words} names no file.", hint="Write --from service_account=key.json.")
    try:
        with Path(path).expanduser().open("rb") as stream:
            text = stream.read(MAX_FILE + 1).decode().strip()
    except (OSError, UnicodeDecodeError, RuntimeError) as error:
        raise UsageError(f"{path} cannot be read as a text: {error}.") from None
    if not text or len(text) > MAX_FILE:
        raise UsageError(f"{path} is empty, or too large for credentials.")
    return field, text


@auth.command()
@format_option
@pass_session
def stored(session: Session, /, output: Format) -> None:
    """List for what credentials are stored; the credentials themselves are not shown."""
    with session.opened() as site:
        found = [{"name": name, "kept": site.credentials.where(name)} for name in account.stored(site)]
    columns = (("Name", lambda item: item["name"]), ("Kept", lambda item: item["kept"]))
    print_list(found, columns, output, empty="No credentials are stored.")


@auth.command()
@click.argument("name", metavar="NAME")
@pass_session
def forget(session: Session, /, name: str) -> None:
    """Forget stored credentials."""
    with session.opened() as site:
        account.forget(site, name)
    note(printable(f"The credentials for {name} are forgotten."))
