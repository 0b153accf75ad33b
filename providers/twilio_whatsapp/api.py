"""Calls to Twilio's API as one account: where they go, what authorizes them, what their answers are.

Source: https://www.twilio.com/docs/usage/api, https://www.twilio.com/docs/global-infrastructure.
"""

import re
from base64 import b64encode
from typing import Any
from urllib.parse import urlencode

import msgspec

from .._values import Object
from .._verdicts import unexpected_answer
from ..base import Flow, Request, Response
from .errors import answer, call_error
from .outbound import Form

_FORM = "application/x-www-form-urlencoded"
_JSON = "application/json"


class Api(msgspec.Struct, frozen=True, kw_only=True):
    """``key`` is the SID and secret of an API key, None where there is none: then the Auth Token authorizes."""

    base_url: str
    account_sid: str
    auth_token: str
    key: tuple[str, str] | None
    other_secrets: tuple[str | None, ...]  # that an answer might repeat

    def __repr__(self) -> str:
        return "Api(…)"

    # msgspec gives a struct with its own __rich_repr__.
    def __rich_repr__(self) -> Any:
        yield from ()

    def host(self, product: str) -> str:
        """Twilio has a host for each product, `api` among them. Any other address serves all of them."""
        base = self.base_url.rstrip("/")
        return re.sub(r"^(https?://)api\.((?:[a-z0-9-]+\.){0,2}twilio\.com)$", rf"\g<1>{product}.\g<2>", base)

    @property
    def root(self) -> str:
        """The address under which the account's resources are found."""
        return f"{self.host('api')}/2010-04-01/Accounts/{self.account_sid}"

    @property
    def authorization(self) -> dict[str, str]:
        """Only ever a header: credentials in a URL land in logs."""
        return {"authorization": _basic(*self.key)} if self.key else self.token_authorization

    @property
    def token_authorization(self) -> dict[str, str]:
        return {"authorization": _basic(self.account_sid, self.auth_token)}

    @property
    def secrets(self) -> tuple[str | None, ...]:
        """What no error may quote."""
        headers = (self.authorization["authorization"], self.token_authorization["authorization"])
        key_secret = self.key[1] if self.key else None
        return (
            self.auth_token,
            key_secret,
            *self.other_secrets,
            *(header.removeprefix("Basic ") for header in headers),
        )

    @property
    def messages(self) -> str:
        return f"{self.root}/Messages.json"

    def account(self) -> Flow[Object]:
        """Asked for with the Auth Token: API keys may not, and this way the token is tested, too."""
        headers = {**self.token_authorization, "accept": _JSON}
        return self.call(Request(method="GET", url=f"{self.root}.json", headers=headers))

    def get(self, url: str, query: str = "") -> Request:
        headers = {**self.authorization, "accept": _JSON}
        return Request(method="GET", url=f"{url}?{query}" if query else url, headers=headers)

    def post_form(self, url: str, fields: Form) -> Request:
        return self._post(url, _FORM, urlencode(fields).encode())

    def post_json(self, url: str, body: Object) -> Request:
        return self._post(url, _JSON, msgspec.json.encode(body))

    def _post(self, url: str, content_type: str, body: bytes) -> Request:
        headers = {**self.authorization, "accept": _JSON, "content-type": content_type}
        return Request(method="POST", url=url, headers=headers, body=body)

    def call(self, request: Request) -> Flow[Object]:
        """One call that may be repeated freely, and its answer."""
        return self.answered((yield request))

    def answered(self, response: Response) -> Object:
        if not 200 <= response.status < 300:
            raise call_error(response, secrets=self.secrets)
        body = answer(response)
        if not body:
            raise unexpected_answer()
        return body


def _basic(user: str, password: str) -> str:
    return f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"
