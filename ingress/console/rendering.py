"""Pages out of templates, the static files, and the headers of all of them."""

import gzip
import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import jinja2
from jinja2.runtime import Context
from markupsafe import Markup
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..validation import sentence
from ..web.problems import Problem
from . import words
from .charts import sparkline
from .languages import LANGUAGES, N_, NN_, catalogue
from .requests import BOUNCED, AnyConsoleRequest
from .words.wrong import in_words

FOLDER = Path(__file__).parent
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self';"
    " base-uri 'none'; object-src 'none'; frame-ancestors 'none'; require-trusted-types-for 'script';"
    " trusted-types console"
)
# Of every answer of the console; nosniff and no-store are the middleware's.
HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "strict-transport-security": "max-age=31536000; includeSubDomains",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
# What stands for something there, or is encoded already.
IN_ADDRESSES = ":/?#[]@!$&'()*+,;=%"
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


def page(request: AnyConsoleRequest, template: str, *, status: int = 200, **context: Any) -> Response:
    """That template with *context*, in the language of whoever asks."""
    return Response(render(request, template, **context), status, HEADERS, "text/html; charset=utf-8")


def form_page(request: AnyConsoleRequest, template: str, problem: Problem | None, **context: Any) -> Response:
    """The page of a form, with the *problem* that it made, if any: its status, and what is wrong with each field."""
    context = {"errors": by_field(request, problem)} | context
    return page(request, template, status=problem.status if problem else 200, problem=problem, **context)


def render(request: AnyConsoleRequest, template: str, **context: Any) -> str:
    """As text: a whole page, or a piece of one."""
    return _templates().get_template(template).render(_frame(request) | context)


def problem_page(request: AnyConsoleRequest, problem: Problem) -> Response:
    """What happened, and what to do about it. A 404 is the same whatever is missing."""
    answer = page(request, "problem.html", status=problem.status, problem=problem)
    answer.headers.update(problem.headers)
    return answer


def bounce(request: AnyConsoleRequest) -> Response:
    """A page that goes where *request* went: as it is ours, the browser sends the session's cookie from there."""
    target = request.target
    return page(request, "bounce.html", target=f"{target}{'&' if '?' in target else '?'}{BOUNCED}=1")


def redirect(path: str, done: str | None = None, **query: str) -> Response:
    """To a page of the console, with the code of what is *done* (`words.DONE`), which it says in a toast."""
    if done is not None:
        query["done"] = done
    if query:
        path += ("&" if "?" in path else "?") + urlencode(query)
    # A header holds no other characters: people type them, and a link has them.
    location = quote(path, safe=IN_ADDRESSES)
    return Response(status_code=303, headers=HEADERS | {"location": location})


def by_field(request: AnyConsoleRequest, problem: Problem | None) -> dict[str, str]:
    """What is wrong with each field, by its name."""
    return {path: in_words(said, request.gettext) for path, said in problem.errors} if problem else {}


def _frame(request: AnyConsoleRequest) -> dict[str, Any]:
    """What every template may use."""
    return {
        "request": request,
        "session": request.signed_in if request.is_signed_in else None,
        "language": request.language,
        "languages": LANGUAGES,
        "theme": request.theme,
        "console_links": request.state["console_links"],
        "words": words,
        "notifications": request.notifications,
        "now": datetime.now(UTC),
        "done": words.DONE.get(request.query_params.get("done", "")),
    }


# ---------------------------------------------------------------- templates


@cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        extensions=["jinja2.ext.i18n"],
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    # newstyle: values are put in by the call, escaped. The extension adds the method, which its types do not say.
    environment.install_gettext_callables(_gettext, _ngettext, newstyle=True)  # type: ignore[attr-defined]
    environment.globals |= {"static": static_url, "csrf": _csrf, "url": _url, "word": _word, "sparkline": sparkline}
    environment.filters |= {
        "ago": _ago,
        "utc": _utc,
        "iso": _iso,
        "size": _size,
        "number": _number,
        "lasted": _lasted,
        "sentence": sentence,
        "worded": _worded,
        "in_words": _in_words,
    }
    return environment


@jinja2.pass_context
def _gettext(context: Context, text: str) -> str:
    language: str = context["language"]
    return catalogue(language).gettext(text)


@jinja2.pass_context
def _ngettext(context: Context, one: str, many: str, count: int) -> str:
    language: str = context["language"]
    return catalogue(language).ngettext(one, many, count)


@jinja2.pass_context
def _in_words(context: Context, said: str) -> str:
    """What is wrong with a field, for people."""
    language: str = context["language"]
    return in_words(said, catalogue(language).gettext)


@jinja2.pass_context
def _csrf(context: Context) -> Markup:
    session = context["session"]
    return Markup('<input type="hidden" name="csrf" value="{}">').format(session.csrf if session else "")


@jinja2.pass_context
def _word(context: Context, kind: str, code: str) -> str:
    """The sentence or the name of *code*, one of `words.WORDS[kind]`; of an unknown one itself."""
    known = words.WORDS[kind].get(code)
    return _gettext(context, known) if known else code.replace("_", " ")


@jinja2.pass_context
def _worded(context: Context, code: str, kind: str) -> str:
    """As `word`, for lists: `codes | map("worded", "capability")`."""
    return _word(context, kind, code)


@jinja2.pass_context
def _url(context: Context, **changed: object) -> str:
    """The page's own address with other parameters; None takes one out."""
    given = context["request"]
    query = {key: value for key, value in given.query_params.items() if key not in ("done", BOUNCED)}
    query = {key: str(value) for key, value in {**query, **changed}.items() if value is not None}
    path: str = given.url.path
    return path + (f"?{urlencode(query)}" if query else "")


LONG_AGO_S = 30 * 86400
# The largest that fits is used: its seconds, one of them, many.
_UNITS = (
    (86400, *NN_("%(num)s day ago", "%(num)s days ago")),
    (3600, *NN_("%(num)s hour ago", "%(num)s hours ago")),
    (60, *NN_("%(num)s minute ago", "%(num)s minutes ago")),
)


@jinja2.pass_context
def _ago(context: Context, at: datetime) -> str:
    """How long ago, in words; the time itself where that is long."""
    passed_s = (context["now"] - at).total_seconds()
    if not -60 <= passed_s < LONG_AGO_S:
        return _utc(at)
    for seconds, one, many in _UNITS:
        if passed_s >= seconds:
            count = int(passed_s // seconds)
            return _ngettext(context, one, many, count) % {"num": count}
    return _gettext(context, N_("just now"))


def _utc(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _size(count: int) -> str:
    return (
        f"{count} B"
        if count < 1024
        else f"{count / 1024:.1f} KiB"
        if count < 1 << 20
        else f"{count / (1 << 20):.1f} MiB"
    )


def _lasted(time: timedelta) -> str:
    """In the largest unit that it has one of; the units are everybody's."""
    seconds = time.total_seconds()
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"


@jinja2.pass_context
def _number(context: Context, value: float) -> str:
    text = f"{value:,}"
    return text if context["language"] == "en" else text.translate(str.maketrans(",.", ".,"))


# ---------------------------------------------------------------- static files


@cache
def _files() -> Mapping[str, bytes]:
    """Every static file by its name; all of style/ is one sheet."""
    folder = FOLDER / "static"
    sheets = sorted((folder / "style").glob("*.css"))
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
    return files | {"console.css": b"\n".join(path.read_bytes() for path in sheets)}


@cache
def _version() -> str:
    """Of all of them: modules import one another, so each name holds the content of all."""
    return hashlib.sha256(b"\0".join(name.encode() + content for name, content in _files().items())).hexdigest()[:16]


@cache
def _packed(name: str) -> bytes:
    return gzip.compress(_files()[name], 9, mtime=0)


def static_url(name: str) -> str:
    """Where that file is: another place whenever one of them changes. Raises `KeyError` for none."""
    _ = _files()[name]
    return f"/console/static/{_version()}/{name}"


class StaticFile(Response):
    """A file that never changes at its address."""

    def __init__(self, name: str, *, packed: bool) -> None:
        headers = HEADERS | {"cache-control": "public, max-age=31536000, immutable", "vary": "accept-encoding"}
        if packed:
            headers["content-encoding"] = "gzip"
        content = _packed(name) if packed else _files()[name]
        super().__init__(content, headers=headers, media_type=_TYPES[Path(name).suffix])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["keeps_cache_control"] = True
        await super().__call__(scope, receive, send)


def static_file(request: AnyConsoleRequest) -> Response | None:
    """The file that *request* names, None where there is none, or where it is another version's."""
    name, version = request.path_params["name"], request.path_params["version"]
    if name not in _files() or version != _version():
        return None
    return StaticFile(name, packed="gzip" in request.header.get("accept-encoding", ""))
