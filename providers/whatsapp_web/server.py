"""Calls to a WAHA server, and what their answers mean.

Source: https://waha.devlike.pro/docs/how-to/security, https://waha.devlike.pro/swagger.
"""

from typing import Any

from .._calls import JsonApi
from ..base import Flow, Request, Response
from .errors import answer, call_error


class Server(JsonApi, frozen=True, kw_only=True):
    def call(self, request: Request) -> Flow[Any]:
        """One call that may be repeated freely, and its answer; many of them are empty."""
        return self.answered((yield request))

    def answered(self, response: Response) -> Any:
        if not 200 <= response.status < 300:
            raise call_error(response, secrets=self.secrets)
        return answer(response)
