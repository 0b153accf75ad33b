"""The console as a browser meets it: without JavaScript over plain HTTP, and in Chromium."""

import re
from collections.abc import Mapping
from html import unescape
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode

from ..gateway import Answer, Gateway, Organization

SAME_SITE = {"sec-fetch-site": "same-origin"}


class Page:
    """An answer of the console."""

    def __init__(self, answer: Answer) -> None:
        self.status = answer.status
        self.headers = answer.headers
        self.html = answer.raw.decode()
        found = _Elements()
        found.feed(self.html)
        self.elements = found.elements
        self.text = " ".join(unescape(found.text).split())

    @property
    def location(self) -> str:
        return str(self.headers["location"])

    def all(self, tag: str, **attributes: str) -> list[dict[str, str]]:
        """The attributes of every such element: of a name `class_` is `class`, `http_equiv` is `http-equiv`."""
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [
            has for name, has in self.elements if name == tag and all(has.get(key) == wanted[key] for key in wanted)
        ]

    def one(self, tag: str, **attributes: str) -> dict[str, str]:
        [found] = self.all(tag, **attributes)
        return found


class _Elements(HTMLParser):
    """Every element with its attributes, and all text that is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._silent = 0

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attributes}))
        self._silent += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._silent -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._silent:
            self.text += " " + data


class Console:
    """Somebody's browser without JavaScript: it keeps cookies, and posts forms with the token of the last page."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.cookies: dict[str, str] = {}
        self.token = ""

    async def get(self, path: str, **headers: str) -> Page:
        return await self.ask("GET", path, **headers)

    async def post(self, path: str, form: Mapping[str, Any] | None = None, **headers: str) -> Page:
        """Lists are several of one name. The token is that of the session, unless *form* has another."""
        fields: dict[str, Any] = {"csrf": self.token, **(form or {})}
        return await self.ask("POST", path, urlencode(fields, doseq=True).encode(), **headers)

    async def ask(self, method: str, path: str, raw: bytes | None = None, **headers: str) -> Page:
        sent = {"sec_fetch_site": "same-origin", **headers}
        if raw is not None:
            sent.setdefault("content_type", "application/x-www-form-urlencoded")
        if self.cookies:
            sent["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        page = Page(await self.gateway.call(method, path, raw=raw, **{k: v for k, v in sent.items() if v}))
        for line in page.headers.getall("set-cookie", ()):
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value.strip('"')
        if found := re.search('name="csrf" value="([0-9a-f]+)"', page.html):
            self.token = found[1]
        return page

    async def sign_in(self, key: str, organization: str = "") -> "Console":
        page = await self.post("/console/sign-in", {"key": key, "organization": organization})
        assert page.status == 303, page.text
        await self.get("/console/_components")
        return self


async def signed_in(organization: Organization, *scopes: str) -> Console:
    """Somebody of the organization, with a key of these scopes; none: all of them."""
    key = organization.key
    if scopes:
        key = (await organization.call("POST", "/keys", {"scopes": list(scopes)})).json["key"]
    return await Console(organization.gateway).sign_in(key)
