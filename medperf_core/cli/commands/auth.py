"""``medperf auth``: who I am at the profile's server."""

from __future__ import annotations

from functools import partial

import click

from medperf_core.cli.output import Format, next_step, note, print_data
from medperf_core.cli.params import format_option
from medperf_core.cli.prompts import ask_text
from medperf_core.cli.session import Session, pass_session
from medperf_core.cli.text import printable
from medperf_core.entities.codec import to_data
from medperf_core.journeys import account


@click.group()
def auth() -> None:
    """Log in to the profile's server and out of it."""


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
