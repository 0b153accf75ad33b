"""docs/configuration.md: every setting with its default, what it may be, and the text that stands below it."""

import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterable
from itertools import pairwise

import msgspec

from ..settings import CLIENT_NAMES, Settings, variable
from ..validation import described

HEAD = """\
# Configuration

Environment variables, and nothing else. An unknown `INGRESS_...` or an ill-typed one stops the start with a message
that names it, and all others that are wrong, and says what is wanted. A changed variable needs a restart.

Written by `make reference` from `ingress/settings.py`: change it there.
"""
_GROUP = re.compile(r"    # -{10,} (.+)")
_HEADING = "| variable | default | must be | |\n|---|---|---|---|\n"


def reference() -> str:
    """The whole page, in Markdown."""
    fields = {field.name: field for field in msgspec.structs.fields(Settings)}
    groups = (
        _group(heading, (_row(fields[name], text) for name, text in texts.items()))
        for heading, texts in _texts().items()
    )
    commands = (f"| `{name}` | | | {text} |\n" for name, text in CLIENT_NAMES.items())
    return f"{HEAD}{''.join(groups)}{_group('Commands that speak to a running service', commands)}"


def _group(heading: str, rows: Iterable[str]) -> str:
    return f"\n## {heading}\n\n{_HEADING}{''.join(rows)}"


def _row(field: msgspec.structs.FieldInfo, text: str) -> str:
    default = json.dumps(field.default).strip('"')
    wanted = "" if field.type is str else described(msgspec.inspect.type_info(field.type))
    return f"| `{variable(field.name)}` | {f'`{default}`' if default else ''} | {wanted} | {text} |\n"


def _texts() -> dict[str, dict[str, str]]:
    """What stands below each field, by the heading it stands under. Python keeps neither: the source has them."""
    source = textwrap.dedent(inspect.getsource(Settings))
    [found] = ast.parse(source).body
    assert isinstance(found, ast.ClassDef)
    texts: dict[int, tuple[str, str]] = {}
    for field, below in pairwise(found.body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str() as text)):
                texts[field.lineno] = name, " ".join(text.split())
    groups: dict[str, dict[str, str]] = {}
    for number, line in enumerate(source.splitlines(), 1):
        if heading := _GROUP.match(line):
            group = groups[heading[1]] = {}
        elif number in texts:
            name, text = texts[number]
            group[name] = text
    return groups
