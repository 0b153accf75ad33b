"""Lists as Twilio gives them, a page at a time. A page's number is the client's own affair: a token leads on.

Source: https://www.twilio.com/docs/usage/twilios-response,
    https://github.com/twilio/twilio-oai (`Page`: "simply for client state"; `PageToken`: "provided by the API")
"""

import re
from typing import Any
from urllib.parse import urlencode

from .bodies import Body
from .errors import TwilioError

PARAMETERS = {"PageSize", "Page", "PageToken"}
_MAX_PAGE = 1000
_TOKEN = re.compile(r"P[AB]([0-9]{1,9})")  # judgement: nobody needs to read one


class Page:
    """The part of *found* that *query* asks for, and the addresses of the others, which begin with *address*."""

    def __init__(self, found: list[Any], query: dict[str, str], address: str, *, default_size: int = 50) -> None:
        number, size = query.get("Page", "0"), query.get("PageSize", str(default_size))
        if not (number.isdecimal() and size.isdecimal() and 1 <= int(size) <= _MAX_PAGE):
            raise TwilioError(20422, "Invalid Parameter: PageSize")
        token = _TOKEN.fullmatch(query.get("PageToken", "PA0"))
        if token is None:
            raise TwilioError(20422, "Invalid Parameter: PageToken")
        self.number, self.size, self.start = int(number), int(size), int(token[1])
        self.items = found[self.start : self.start + self.size]
        self._filters = {name: value for name, value in query.items() if name not in PARAMETERS}
        self._address = address
        end = self.start + self.size
        self.first = self._link(0)
        self.here = self._link(self.number, query.get("PageToken"))
        self.next = self._link(self.number + 1, f"PA{end}") if len(found) > end else None
        back = max(self.start - self.size, 0)
        self.previous = self._link(max(self.number - 1, 0), f"PB{back}") if self.start else None

    def _link(self, number: int, token: str | None = None) -> str:
        paging = {"PageSize": self.size, "Page": number, **({"PageToken": token} if token else {})}
        return f"{self._address}?{urlencode({**self._filters, **paging})}"

    def classic(self, key: str) -> Body:
        """As the API of 2010 lists."""
        return {
            key: self.items,
            "page": self.number,
            "page_size": self.size,
            "start": self.start,
            "end": max(self.start + len(self.items) - 1, 0),
            "first_page_uri": self.first,
            "next_page_uri": self.next,
            "previous_page_uri": self.previous,
            "uri": self.here,
        }

    def newer(self, key: str) -> Body:
        """As the APIs since list."""
        meta = {
            "page": self.number,
            "page_size": self.size,
            "first_page_url": self.first,
            "previous_page_url": self.previous,
            "url": self.here,
            "next_page_url": self.next,
            "key": key,
        }
        return {key: self.items, "meta": meta}
