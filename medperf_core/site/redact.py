"""Takes secrets out of text: those that are registered, and whatever looks like one."""

from __future__ import annotations

import base64
import json
import re
import threading
from urllib.parse import quote, quote_plus

HIDDEN = "[redacted]"
SHORTEST = 4
"""Registered values with fewer characters are left in: taking them out would tell them by the gaps."""

_WORDS = (
    r"token(?!iz)|passw(?:or)?d|passphrase|pwd|secret|signature|credentials?|api[_-]?key|access[_-]?key|private[_-]?key"
    r"|session[_-]?id|x-amz-|x-goog-|(?<![^\W_])sig(?![\w.-])"
)
_QUOTE = r"""\\{0,3}["']"""
# After the word: `: `, `=`, `%3D`, all also after a closing quote, or the comma in a quoted list.
_BETWEEN = rf"(?:{_QUOTE})?\s{{0,3}}(?:=>|[:=]|%3[Dd]|%3[Aa])\s{{0,3}}|{_QUOTE}\s{{0,3}},\s{{0,3}}(?={_QUOTE}|b['\"])"
# Quoted (also within quoted text), or else all up to the next space or quote: rather too much than too little.
_VALUE = r"""b?"(?:[^"\\\r\n]|\\.)*"?|b?'(?:[^'\\\r\n]|\\.)*'?|\\{1,3}["'][^"'\\\r\n]*|[^\s"'<>]+"""

_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)"),
        HIDDEN,
    ),
    # Headers: all of the value, up to the end of the line or of the quotes around it.
    (
        re.compile(
            rf"(?i)((?:proxy-)?authorization|(?:set-)?cookie)({_BETWEEN})"
            rf"(b?{_QUOTE}[^\r\n\"']*|[^\r\n\"']+)"
        ),
        rf"\1\2{HIDDEN}",
    ),
    (re.compile(r"(?i)\b(Bearer|Basic|Negotiate|Digest)(\s+|%20|\+)[\w.~+/=%-]{4,}"), rf"\1\2{HIDDEN}"),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{4,}(?:\.[\w-]*)?"), HIDDEN),
    (re.compile(r"""(?i)\b([a-z][a-z0-9+.-]{1,20}://)[^/\s"'<>]{1,512}@"""), rf"\1{HIDDEN}@"),
    (re.compile(rf"(?i)(--[\w-]{{0,40}}(?:{_WORDS})[\w-]{{0,40}})(\s+)[^\s-][^\s]*"), rf"\1\2{HIDDEN}"),
    (re.compile(rf"(?i)({_WORDS})([\w.-]{{0,40}})({_BETWEEN})({_VALUE})"), rf"\1\2\3{HIDDEN}"),
)


class Redactor:
    """Takes secrets out of text. One for each site; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._forms: set[str] = set()
        self._known: re.Pattern[str] | None = None

    def add(self, secret: str) -> None:
        """Register a secret: it is taken out from now on, also where it is quoted for a URL, in JSON or in base64."""
        lines = [line.strip() for line in secret.splitlines()]
        forms = set()
        for text in {secret, secret.strip(), *(line for line in lines if len(lines) == 1 or len(line) > 8)}:
            if len(text) >= SHORTEST:
                coded = base64.b64encode(text.encode("utf-8", "surrogatepass")).decode()
                forms |= {
                    text,
                    quote(text, safe="", errors="replace"),
                    quote_plus(text, errors="replace"),
                    json.dumps(text)[1:-1],
                    json.dumps(text, ensure_ascii=False)[1:-1],
                    repr(text)[1:-1],
                    coded,
                    coded.rstrip("="),
                }
        with self._lock:
            if forms - self._forms:
                self._forms |= forms
                longest_first = sorted(self._forms, key=lambda form: (-len(form), form))
                self._known = re.compile("|".join(map(re.escape, longest_first)))

    def known(self, text: str) -> str:
        """``text`` without the secrets that are registered: for a person's eyes, where other words have to stay."""
        return text if self._known is None else self._known.sub(HIDDEN, text)

    def __call__(self, text: str) -> str:
        """``text`` without secrets; what was taken out is replaced by ``[redacted]``."""
        text = self.known(text)
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text
