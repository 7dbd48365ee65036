"""What can be said of credentials for Google Cloud Storage when they are stored, without asking anybody."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec

from medperf_core.errors import UsageError

EXTRA = "pip install 'medperf-storage[gs]'"


def check_gs(credentials: Mapping[str, str]) -> str:
    """What the person should know; "" for nothing.

    Raises:
        UsageError: what is given for a service account is not the text of its file.
    """
    text = credentials.get("service_account")
    if not text:
        return ""
    try:
        account = json.loads(text)
    except (ValueError, RecursionError):
        account = None
    if not isinstance(account, dict) or account.get("type") != "service_account":
        raise UsageError(
            "The value of service_account is not the text of a service account's JSON file.",
            hint="Google's console gives that file when a key is made; write --from service_account=FILE.json. For a "
            "token there is the field access_token.",
        )
    try:
        there = find_spec("google.oauth2.service_account") is not None
    except ImportError:
        there = False
    return "" if there else f"A service account needs the library of Google; install it with: {EXTRA}"
