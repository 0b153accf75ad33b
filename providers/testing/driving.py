"""Driving flows with answers from a script, and holding them to what every flow promises."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from ..base import Check, ChecksFlow, Request, Response
from ..errors import SendError
from .comparing import ContractBroken, ask

Start = Callable[[], ChecksFlow[Any]]

# More calls than any operation needs; whatever asks for more would ask for ever.
_MAX_CALLS = 100


class Unanswered(msgspec.Struct, frozen=True):
    """A flow asked for more than there were answers."""

    request: Request


class Run(msgspec.Struct, frozen=True):
    """What a flow asked for and was answered, and how it ended: with its result, a SendError, or `Unanswered`."""

    asked: list[Request]
    end: Any

    @property
    def requests(self) -> list[Request]:
        """Those without an answer too."""
        return [*self.asked, self.end.request] if isinstance(self.end, Unanswered) else self.asked

    @property
    def first(self) -> Any:
        """The first request, or how it ended without one."""
        return self.requests[0] if self.requests else self.end


def run(start: Start, answers: Iterable[Response | SendError] = ()) -> Run:
    """Start an operation and give it *answers*; an error among them is thrown, as the driver does on a dead line."""
    asked: list[Request] = []
    try:
        flow = start()
        ask(inspect.isgenerator(flow), f"an operation returns {type(flow).__name__}, no generator: does it yield?")
        request = _request(flow, next(flow))
        for answer in answers:
            asked.append(request)
            ask(len(asked) <= _MAX_CALLS, f"after {_MAX_CALLS} answers it still asks")
            request = _request(flow, flow.throw(answer) if isinstance(answer, SendError) else flow.send(answer))
        return Run(asked, Unanswered(request))
    except StopIteration as done:
        return Run(asked, done.value)
    except SendError as error:
        return Run(asked, error)
    except ContractBroken:
        raise
    except Exception as error:
        raise ContractBroken(f"it raises {type(error).__name__} ({error}), which is no SendError") from error


def _request(flow: ChecksFlow[Any], request: Any) -> Request:
    """*request*, or the next one of *flow* where it is a check that is reported."""
    while isinstance(request, Check):
        request = next(flow)
    if not isinstance(request, Request):
        raise ContractBroken(f"a flow yields {type(request).__name__}, no Request")
    wrong = [name for name in request.headers if name != name.lower()]
    ask(not wrong, f"header names are written in lower case: {wrong}")
    ask(request.url.startswith(("https://", "http://")), "the address of a request is not http")
    return request
