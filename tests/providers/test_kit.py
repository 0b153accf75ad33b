"""The provider kit itself: it finds what is wrong, says so, and needs no test runner."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Annotated, Any, ClassVar

import msgspec
import pytest

from ingress.cli.main import main
from ingress.dev.sandbox.examples import examples
from providers import (
    Event,
    Flow,
    Limits,
    Message,
    MessageData,
    MessageResult,
    OutboundContent,
    Rejected,
    Request,
    Status,
    Text,
    Unsupported,
    Unverified,
    Webhook,
)
from providers.meta_business import MetaBusiness
from providers.signing import same_secret
from providers.testing import Contract, ContractBroken, SampleError, Samples, WebhookCase, report

from .cloud_api.samples import ACCOUNT, compact, signed

CASE = WebhookCase(name="text", hook=signed(compact("in_text_basic")))
HOOK = {"url": "https://gw.example.org/x", "body": json.loads(compact("in_text_basic"))}


def contract(kind: type[MetaBusiness] = MetaBusiness, samples: Samples | None = None) -> Contract:
    held = Contract()
    held.provider = msgspec.convert(msgspec.to_builtins(ACCOUNT), kind)
    held.samples = samples or Samples(webhooks=[CASE])
    return held


# ---------------------------------------------------------------- what is wrong with a provider


class Trusting(MetaBusiness, frozen=True, kw_only=True):
    def verify(self, hook: Webhook) -> None:
        if "x-hub-signature-256" not in hook.headers:
            raise Unverified


class Unsigned(MetaBusiness, frozen=True, kw_only=True):
    def verify(self, hook: Webhook) -> None:
        return


class Crashing(MetaBusiness, frozen=True, kw_only=True):
    def parse(self, hook: Webhook) -> list[Event]:
        return [Event(**item) for item in json.loads(hook.body)["entry"]]

    def verify(self, hook: Webhook) -> None:
        assert hook.headers["x-hub-signature-256"].startswith("sha256=")


class Forgetful(MetaBusiness, frozen=True, kw_only=True):
    counted: ClassVar[list[int]] = []

    def parse(self, hook: Webhook) -> list[Event]:
        self.counted.append(1)
        return [msgspec.structs.replace(event, key=str(len(self.counted))) for event in super().parse(hook)]


class Repeating(MetaBusiness, frozen=True, kw_only=True):
    def parse(self, hook: Webhook) -> list[Event]:
        return super().parse(hook) * 2


class Discreet(MetaBusiness, frozen=True, kw_only=True):
    def parse(self, hook: Webhook) -> list[Event]:
        return [msgspec.structs.replace(event, type="message.deleted") for event in super().parse(hook)]


class Confused(MetaBusiness, frozen=True, kw_only=True):
    def event_key(self, event: Event, message_id: str) -> str | None:
        return message_id


class Blank(MetaBusiness, frozen=True, kw_only=True):
    def message_key(self, message_id: str) -> str:
        return ""


class Anonymous(MetaBusiness, frozen=True, kw_only=True):
    def parse(self, hook: Webhook) -> list[Event]:
        return [msgspec.structs.replace(event, type="message.echo", message=Message()) for event in super().parse(hook)]


class Nameless(MetaBusiness, frozen=True, kw_only=True):
    def parse(self, hook: Webhook) -> list[Event]:
        return [
            msgspec.structs.replace(event, status=event.status and Status(value=event.status.value))
            for event in super().parse(hook)
        ]


class Renaming(MetaBusiness, frozen=True, kw_only=True):
    def send_message(self, message: MessageData) -> Flow[MessageResult]:
        result = yield from super().send_message(message)
        return msgspec.structs.replace(result, provider_message_id=f"sent-{result.provider_message_id}")


class Greedy(MetaBusiness, frozen=True, kw_only=True):
    def owns(self, event: Event) -> bool:
        return True


class Leaking(MetaBusiness, frozen=True, kw_only=True):
    def send_message(self, message: MessageData) -> Flow[MessageResult]:
        response = yield Request(method="POST", url=f"https://x/?token={self.access_token}")
        raise Rejected(f"it answered {response.body!r}")


class Quoting(MetaBusiness, frozen=True, kw_only=True):
    def send_message(self, message: MessageData) -> Flow[MessageResult]:
        response = yield Request(method="POST", url="https://x/")
        raise Rejected(f"it answered {response.body!r}")


class Endless(MetaBusiness, frozen=True, kw_only=True):
    def get_status(self) -> Flow[Any]:
        while True:
            yield self._graph.get("x")


class Clumsy(MetaBusiness, frozen=True, kw_only=True):
    def get_status(self) -> Flow[Any]:
        response = yield self._graph.get("x")
        return json.loads(response.body)["state"]


class Boasting(MetaBusiness, frozen=True, kw_only=True):
    info = msgspec.structs.replace(MetaBusiness.info, capabilities=MetaBusiness.info.capabilities | {"pairing"})


class Modest(MetaBusiness, frozen=True, kw_only=True):
    info = msgspec.structs.replace(MetaBusiness.info, capabilities=frozenset({"texts", "image"}))


class Careless(MetaBusiness, frozen=True, kw_only=True):
    def check_limits(self, content: OutboundContent) -> None:
        return


class Vague(MetaBusiness, frozen=True, kw_only=True):
    def check_limits(self, content: OutboundContent) -> None:
        try:
            super().check_limits(content)
        except Unsupported as error:
            raise Unsupported("too much", code=error.code) from None


class Stingy(MetaBusiness, frozen=True, kw_only=True):
    info = msgspec.structs.replace(
        MetaBusiness.info, limits=MetaBusiness.info.limits | {"poll": Limits(source="https://x")}
    )

    def check_limits(self, content: OutboundContent) -> None:
        if isinstance(content, Text) and len(content.body) >= 4096:
            raise Unsupported("text: at most 4,096", code="text_too_long")


class Boundless(MetaBusiness, frozen=True, kw_only=True):
    note: Annotated[str, msgspec.Meta(title="Note")] = ""


class Slow(MetaBusiness, frozen=True, kw_only=True):
    note: Annotated[str, msgspec.Meta(title="Note", max_length=99, pattern=r"^\s*[\s.]*[0-9]$")] = ""


def often(check: Callable[[Random], object]) -> None:
    random = Random(1)
    for _ in range(300):
        check(random)


@pytest.mark.parametrize(
    ("kind", "check", "reason"),
    [
        (Trusting, lambda held: often(lambda random: held.check_forged(CASE, random)), "with a byte changed"),
        (Unsigned, lambda held: held.check_forged(CASE, Random(1)), "what in it proves who sent it"),
        (Crashing, lambda held: held.check_reading(CASE), "nothing but Malformed"),
        (Crashing, lambda held: held.verifies(msgspec.structs.replace(CASE.hook, headers={})), "but Unverified"),
        (Forgetful, lambda held: held.check_stable(CASE), "other keys"),
        (Repeating, lambda held: held.check_reading(CASE), "the same key"),
        (Confused, lambda held: held.check_reading(CASE), "event_key of the id"),
        (Blank, lambda held: held.check_reading(CASE), "message_key gives ''"),
        (Discreet, lambda held: held.check_reading(CASE), "say who did it"),
        (Anonymous, lambda held: held.check_reading(CASE), "a message.echo names no message"),
        (Greedy, lambda held: held.check_ownership(CASE), "about another number"),
        (Leaking, lambda held: held.check_secrets(), "a secret is in an address"),
        (Quoting, lambda held: held.check_secrets(), "an error quotes a secret"),
        (Endless, lambda held: often(lambda random: held.check_ending("get_status", random)), "it still asks"),
        (Clumsy, lambda held: held.check_ending("get_status", Random(1)), "which is no SendError"),
        (Boasting, lambda held: held.check_feature("pairing"), "is among the capabilities"),
        (Modest, lambda held: held.check_kind("text"), "is not among the capabilities"),
        (Modest, lambda held: held.check_description(), "mean nothing: .'texts'"),
        (Careless, lambda held: held.check_limit("text", "text_characters"), "one more must raise Unsupported"),
        (Careless, lambda held: held.check_headers_and_types("image"), "mime_type.* beyond info.limits"),
        (Careless, lambda held: held.check_headers_and_types("list"), "header.* beyond info.limits"),
        (Vague, lambda held: held.check_limit("list", "rows"), "name the limit"),
        (Stingy, lambda held: held.check_limit("text", "text_characters"), "a message of just that size"),
        (Stingy, lambda held: held.check_description(), "not among the capabilities: .'poll'"),
        (Boundless, lambda held: held.check_description(), "of any length.*note"),
        (Slow, lambda held: held.check_description(), "take seconds.*note"),
        (Modest, lambda held: held.check_registered(), "has another class"),
    ],
)
def test_what_is_wrong_is_found(kind: type[MetaBusiness], check: Callable[[Contract], None], reason: str) -> None:
    """And the words name it; the same check passes the provider as it is."""
    check(contract())
    with pytest.raises(ContractBroken, match=reason):
        check(contract(kind))


class Tokened(MetaBusiness, frozen=True, kw_only=True):
    def verify(self, hook: Webhook) -> None:
        if not same_secret(hook.headers.get("x-token", ""), self.verify_token):
            raise Unverified


def test_a_token_alone_can_prove_who_sent_a_webhook() -> None:
    """Where the author says so: then only the token is changed."""
    held = contract(Tokened)
    case = WebhookCase(name="text", hook=msgspec.structs.replace(CASE.hook, headers={"x-token": "my-verify-token"}))
    with pytest.raises(ContractBroken, match="at byte"):
        often(lambda random: held.check_forged(case, random))
    held.signs_body = False
    often(lambda random: held.check_forged(case, random))


def test_a_provider_that_is_not_installed_gets_advice() -> None:
    """The entry point to write, letter by letter."""

    class Elsewhere(MetaBusiness, frozen=True, kw_only=True):
        info = msgspec.structs.replace(MetaBusiness.info, name="elsewhere")

    with pytest.raises(ContractBroken, match=r'elsewhere = "tests.providers.test_kit:Elsewhere"'):
        contract(Elsewhere).check_registered()


# ---------------------------------------------------------------- what is wrong with a sample


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Samples]:
    def written(**files: Any) -> Samples:
        for name, value in files.items():
            (tmp_path / f"{name}.json").write_text(value if isinstance(value, str) else json.dumps(value))
        return Samples(tmp_path)

    return written


SEND = {"message": {"to": {"phone": "+5511987654321"}, "content": {"type": "text", "body": "Hi"}}}


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("{", "bad.json: "),
        ({"request": {}}, "bad.json: Object missing required field `url`"),
        ({"request": HOOK, "event": []}, "bad.json: Object contains unknown field `event`"),
        ({"message": {"to": {"phone": "1"}, "content": {"type": "text", "body": "x"}}}, "bad.json: .*phone"),
        ({"operation": "mark_read", "arguments": {"id": "1"}}, "bad.json: mark_read takes no id"),
        ({"operation": "fly"}, "bad.json: .*fly"),
        ({**SEND, "exchanges": [{"answer": {"error": "Bang"}}]}, "bad.json: there is no error 'Bang'"),
    ],
)
def test_a_file_that_is_no_sample_is_named(folder: Callable[..., Samples], file: Any, reason: str) -> None:
    """With what is wrong in it."""
    with pytest.raises(SampleError, match=reason):
        folder(bad=file)


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ({"request": HOOK, "events": []}, "not as expected"),
        (
            {"request": HOOK, "events": [{"message": {"content": {"body": "Bye"}}}]},
            r"content.body: 'Hello, .*not 'Bye'",
        ),
        ({"request": HOOK, "events": [{}], "owned": False}, r"owns\(\) says"),
        ({"request": HOOK, "error": "Malformed"}, "was to raise Malformed"),
        ({"request": HOOK, "about": "send"}, "no sample of that name"),
    ],
)
def test_a_webhook_that_gives_something_else_is_named(folder: Callable[..., Samples], file: Any, reason: str) -> None:
    """By the place in the event."""
    held = contract(samples=folder(case=file))
    with pytest.raises(ContractBroken, match=reason):
        held.check_reading(held.samples.webhooks[0])


REQUEST = {"method": "POST", "url": "https://graph.facebook.com/v25.0/109876543210987/messages"}
REFUSED = {"status": 400, "body": {"error": {"code": 131026}}}


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        ({}, "it makes another one: the request POST"),
        ({"exchanges": [{"request": REQUEST, "answer": REFUSED}]}, r"\$.body"),
        ({"exchanges": [{"request": {**REQUEST, "url": "https://x"}, "answer": REFUSED}]}, r"\$.url"),
        ({"exchanges": [{"answer": REFUSED}]}, "it ends with Rejected .131026"),
        ({"exchanges": [{"answer": REFUSED}], "error": {"class": "Throttled"}}, "not with Throttled"),
        ({"exchanges": [{"answer": REFUSED}], "error": {"class": "Rejected", "code": "1"}}, "code of the error"),
        ({"exchanges": [{"answer": {"error": "Uncertain"}}], "error": {"class": "Rejected"}}, "with Uncertain"),
        ({"exchanges": [{"answer": REFUSED}, {"answer": REFUSED}]}, "makes 1 requests, not 2"),
    ],
)
def test_a_flow_that_does_something_else_is_reported(folder: Callable[..., Samples], rest: Any, reason: str) -> None:
    """By the number of the request and the place in it, or by its end."""
    held = contract(samples=folder(case={**SEND, **rest}))
    with pytest.raises(ContractBroken, match=reason):
        held.check_flow(held.samples.flows[0])


# ---------------------------------------------------------------- without a test runner


def test_a_good_provider_has_a_table_without_faults(folder: Callable[..., Samples], tmp_path: Path) -> None:
    """Samples in files, an account in a file, errors in a file."""
    accepted = {"status": 200, "body": {"messages": [{"id": "wamid.1"}]}}
    folder(
        account=msgspec.to_builtins(ACCOUNT),
        text={"request": HOOK, "events": [{"type": "message.received"}]},
        forged={"request": HOOK, "error": "Unverified"},
        send={**SEND, "exchanges": [{"answer": accepted}], "result": {"provider_message_id": "wamid.1"}},
        errors=[{"answer": REFUSED, "error": {"class": "Rejected", "code": "131026"}}],
    )
    rows = report.check(MetaBusiness, tmp_path)
    assert [row for row in rows if row.broken] == []
    # Nothing here is signed.
    assert [row.title for row in rows if row.skipped] == ["a changed byte is unverified"]


@pytest.mark.parametrize("name", ["meta_business", "twilio_whatsapp", "whatsapp_web"])
def test_the_command_checks_a_provider(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 0 and a table. Of a built-in one nothing is left out: the sandbox has samples of it."""
    monkeypatch.setattr(sys, "argv", ["ingress", "providers", "check", name])
    with pytest.raises(SystemExit) as ended:
        main()
    output = capsys.readouterr().out
    assert ended.value.code == 0
    assert {line.split()[-1] for line in output.splitlines()} == {"ok"}
    assert "capabilities say what can be sent" in output


@pytest.mark.parametrize(
    ("kind", "title"),
    [
        (Trusting, "a changed byte is unverified"),
        (Trusting, "handshakes are answered, forgeries refused"),
        (Repeating, "webhooks give what they say"),
        (Forgetful, "the same webhook has the same keys"),
        (Greedy, "another number is not ours"),
        (Quoting, "flows ask and end as they say"),
    ],
)
def test_the_sandbox_samples_find_what_is_wrong(kind: type[MetaBusiness], title: str) -> None:
    [row] = [row for row in report.check(kind, None, examples("meta_business")) if row.title == title]
    assert row.broken


@pytest.mark.parametrize(("kind", "reason"), [(Nameless, "names no message"), (Renaming, "'text' sent 'sent-wamid.A'")])
def test_a_status_that_does_not_name_what_was_sent_is_found(kind: type[MetaBusiness], reason: str) -> None:
    """The service would never find the message that it is about."""
    rows = report.check(kind, None, examples("meta_business"))
    assert reason in next(row for row in rows if row.title == "webhooks give what they say").broken[0]


def test_a_provider_that_refuses_what_is_genuine_is_found() -> None:
    """Else there would be nothing signed to change a byte of."""
    account, samples = examples("meta_business") or ({}, Samples())
    rows = report.check(MetaBusiness, None, ({**account, "app_secret": "another"}, samples))
    assert "Unverified" in next(row for row in rows if row.title == "webhooks give what they say").broken[0]


def test_what_needs_samples_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a provider that the sandbox does not know."""
    monkeypatch.setattr("ingress.dev.sandbox.examples.examples", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["ingress", "providers", "check", "meta_business"])
    with pytest.raises(SystemExit) as ended:
        main()
    output = capsys.readouterr().out
    assert ended.value.code == 0
    assert "webhooks give what they say                        skipped: needs --samples" in output
    assert "docs/writing-a-provider.md" in output


def test_the_command_tells_what_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 1, and the line below says what."""
    (tmp_path / "account.json").write_bytes(msgspec.json.encode(ACCOUNT))
    (tmp_path / "text.json").write_text(json.dumps({"request": HOOK, "events": []}))
    monkeypatch.setattr(sys, "argv", ["ingress", "providers", "check", "meta_business", "--samples", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    output = capsys.readouterr().out
    assert ended.value.code == 1
    assert "FAILED\n    text: what parse gives, is not as expected" in output


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [(["carrier_pigeon"], "no provider 'carrier_pigeon'"), (["meta_business", "--samples", "/nowhere"], "no folder")],
)
def test_the_command_tells_what_it_cannot_check(
    arguments: list[str], reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line."""
    monkeypatch.setattr(sys, "argv", ["ingress", "providers", "check", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert reason in capsys.readouterr().err


def test_checking_needs_no_test_runner() -> None:
    """A server has none."""
    program = (
        "import sys\n"
        "sys.modules['pytest'] = sys.modules['hypothesis'] = None\n"
        "from providers import Registry\n"
        "from providers.testing import report\n"
        "assert not [row for row in report.check(Registry().get('meta_business'), None) if row.broken]\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
