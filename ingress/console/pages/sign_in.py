"""Signing in with an API key, and out; the language and the appearance, which a browser keeps."""

from starlette.responses import Response

from ... import log
from ...storage.vault import split_api_key
from ...web.auth import Principal, Unauthenticated
from ...web.bodies import RequestQuery
from ...web.limits import Limiter, per_minute
from ...web.problems import Problem, not_found, too_many
from ...web.sessions import COOKIE
from ..languages import LANGUAGES
from ..rendering import page, redirect, static_file
from ..requests import LANGUAGE_COOKIE, THEME_COOKIE, THEMES, AnyConsoleRequest, ConsoleRequest, Form

HOME = "/console/whatsapp"
YEAR_S = 365 * 24 * 3600
# Of guesses at the secret of one key, from wherever.
GUESSES_PER_MINUTE = 10
_guesses: Limiter = per_minute(GUESSES_PER_MINUTE)


class SignInQuery(RequestQuery, frozen=True):
    """``next``: the page to go to."""

    next: str = HOME


async def show(request: ConsoleRequest[SignInQuery]) -> Response:
    """The form to sign in with."""
    return page(request, "sign_in.html", next=own_page(request.query.next), works_here=_works_here(request))


async def sign_in(request: ConsoleRequest) -> Response:
    """Begin a session for whoever shows a key."""
    form = await request.posted()
    target = own_page(form.get("next"))
    try:
        token = await _begin(request, form)
    except Problem as problem:
        return _refused(request, target, problem)
    answer = redirect(target)
    answer.set_cookie(COOKIE, token, path="/", secure=True, httponly=True, samesite="strict")
    return answer


def _refused(request: AnyConsoleRequest, target: str, problem: Problem) -> Response:
    context = {"next": target, "works_here": _works_here(request), "problem": problem}
    answer = page(request, "sign_in.html", status=problem.status, **context)
    if wait := problem.headers.get("retry-after"):
        answer.headers["retry-after"] = wait
    return answer


async def _begin(request: ConsoleRequest, form: Form) -> str:
    key = form["key"]
    principal = await _shown_by(request, key, form.get("organization") or None)
    sessions = request.state["sessions"]
    if (former := await sessions.find(request.cookies.get(COOKIE, ""), used=False)) is not None:
        await sessions.end(former)
    token = await sessions.begin(principal)
    log.wide("console_sign_in", actor=principal.name, organization=principal.organization_id, address=request.address)
    return token


async def _shown_by(request: ConsoleRequest, key: str, organization: str | None) -> Principal:
    """Whose *key* is. Raises `Problem`: also where too many guessed at its secret, but for who was right before."""
    parts = split_api_key(key)
    key_id = parts[0] if parts else ""
    if parts and (wait_s := _guesses.wait_s(key_id)) > 0 and not request.state["authenticator"].was_right(key):
        raise too_many("Too many sign-ins with this key failed.", wait_s)
    try:
        return await request.state["authenticator"].principal(f"Bearer {key}", organization, lambda: request.address)
    except Unauthenticated:
        if parts:
            _guesses.take(key_id)
        raise


async def sign_out(request: ConsoleRequest) -> Response:
    """End the session; ``everywhere``: all of its key."""
    everywhere = (await request.posted()).get("everywhere") == "1"
    await request.state["sessions"].end(request.signed_in, everywhere=everywhere)
    answer = redirect("/console/sign-in", done="signed_out_everywhere" if everywhere else "signed_out")
    answer.delete_cookie(COOKIE, path="/", secure=True, httponly=True, samesite="strict")
    return answer


async def prefer(request: ConsoleRequest) -> Response:
    """Keep a language or an appearance in the browser, and come back."""
    form = await request.posted()
    back, language, theme = own_page(form.get("next")), form.get("language"), form.get("theme")
    if language in LANGUAGES:
        name, value, done = LANGUAGE_COOKIE, language, "language"
    elif theme in THEMES:
        name, value, done = THEME_COOKIE, theme, "theme"
    else:
        return redirect(back)
    answer = redirect(back, done=done)
    # Neither is a secret, and a page that is come to from elsewhere has them.
    answer.set_cookie(name, value, path="/", max_age=YEAR_S, secure=True, httponly=True, samesite="lax")
    return answer


async def home(request: ConsoleRequest) -> Response:
    """Where one begins."""
    return redirect(HOME)


async def static(request: ConsoleRequest) -> Response:
    """A static file."""
    found = static_file(request)
    if found is None:
        raise not_found()
    return found


def own_page(target: str) -> str:
    """*target* where it is a page of the console, else where one begins."""
    is_ours = target.startswith("/console/") and "\\" not in target and target.isprintable()
    return target if is_ours else HOME


def _works_here(request: AnyConsoleRequest) -> bool:
    """Whether the browser keeps the session's cookie: over TLS, or on the machine itself."""
    host = (request.url.hostname or "").lower()
    secure = request.url.scheme == "https" or request.header.get("x-forwarded-proto") == "https"
    secure = secure or request.header.get("sec-fetch-site") is not None  # sent to nobody else
    return secure or host in ("localhost", "127.0.0.1", "::1") or host.endswith(".localhost")
