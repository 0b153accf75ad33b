"""The public address, asked from here as a provider asks it: does it lead to this service, by a valid certificate."""

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from urllib.parse import urlsplit

from providers import Check, Flow, Request, Response, SendError

from ..accounts.accounts import Accounts
from ..calls.driver import Caller
from ..calls.egress import Egress
from ..receiving.answers import NOT_FOUND
from ..storage.connections import WORKER
from ..storage.statements import configs
from ..storage.vault import VaultError, new_webhook_token
from .findings import DoctorCheck, Examined, Findings, error, judged, ok, warning
from .outgoing import tls_failure
from .postgres import NOT_CONNECTED

# The operator's own address may be a private one, seen from inside.
ANYWHERE = [ip_network("0.0.0.0/0"), ip_network("::/0")]
EXPIRES_SOON, EXPIRES_VERY_SOON = timedelta(days=21), timedelta(days=7)
ASK_TIMEOUT_S = 5.0
NOT_KNOWN: tuple[type[BaseException], ...] = (*NOT_CONNECTED, VaultError)
LEAD_HERE = (
    "have {0} (INGRESS_PUBLIC_URL) lead to INGRESS_PORT, by DNS, certificate and proxy (examples/nginx.conf), and"
    " nothing on the way change an address, a header or a body: curl -i {0}/webhooks/x/y answers 404 not_found"
)


async def certificate(examined: Examined) -> Findings:
    """As this machine trusts it: providers trust what public authorities signed."""
    parts = urlsplit(examined.settings.origin)
    if parts.scheme != "https" or parts.hostname is None:
        yield ok(f"{examined.settings.origin} has none: no https://")
        return
    try:
        until = await Egress(ANYWHERE).certificate(parts.hostname, parts.port or 443)
    except OSError as failure:
        means = "providers do not connect to it: no webhook arrives"
        fix = f"have the name {parts.hostname} lead to the proxy, and let everybody reach its port {parts.port or 443}"
        if isinstance(failure, ssl.SSLCertVerificationError):
            fix = f"renew it, with its whole chain, for this name; look: openssl s_client -connect {parts.hostname}:443"
        yield error(f"{parts.hostname}: {tls_failure(failure)}", means, fix)
        return
    left = until - datetime.now(UTC)
    found = f"the certificate of {parts.hostname} is valid, and for {left.days} days more"
    fix = "renew it, and find out why nothing did: certbot renew"
    wrong = {"is_wrong": left < EXPIRES_SOON, "is_bad": left < EXPIRES_VERY_SOON}
    yield judged(found, "after that no webhook arrives", fix, **wrong)


async def answers(examined: Examined) -> Findings:
    """By a webhook that only who has an account's secrets takes; without one, by how a wrong address is answered."""
    origin = examined.settings.origin
    async with Caller(Egress(ANYWHERE)) as caller:
        check = await _signed(examined, caller)
        if check is not None and check.passed and check.checkable:
            yield ok(f"{origin} leads here: {check.detail}")
            return
        if await _is_like_ours(examined, caller, origin):
            if check is None or not check.checkable:
                yield ok(f"{origin} answers as this service does; no account is there whose signature would prove more")
            else:
                means = "another installation answers, or something on the way changes webhooks: each is refused"
                fix = f"{LEAD_HERE.format(origin)}; and INGRESS_ENCRYPTION_KEYS and DATABASE_URL be the service's"
                yield error(f"{origin} is such a service, but {check.detail}", means, fix)
        elif await _is_like_ours(examined, caller, examined.settings.address):
            means = "no webhook of a provider arrives"
            yield error(f"the service runs here, and {origin} does not lead to it", means, LEAD_HERE.format(origin))
        else:
            means = "where it should serve by now no webhook arrives; before it serves this is so"
            fix = "start it (ingress serve), then run `ingress doctor` again"
            yield warning(f"nothing of ours answers at {origin}, nor at {examined.settings.address}", means, fix)


async def _signed(examined: Examined, caller: Caller) -> Check | None:
    """What a signed webhook of the newest account was answered with; None: no account can be tried."""
    try:
        async with examined.role(WORKER) as connection:
            row = await configs.newest(connection)
        if row is None:
            return None
        await examined.entries()
        accounts = Accounts(examined.registry, examined.vault, caller, Egress(ANYWHERE), examined.settings.origin)
        config = accounts.open(row)
        return await accounts.probe(config.provider, config.callback_url) if config else None
    except NOT_KNOWN:
        return None


async def _is_like_ours(examined: Examined, caller: Caller, origin: str) -> bool:
    """Whether what asks for a webhook address that nobody has is answered there as we answer it."""
    url = f"{origin}/webhooks/{examined.registry.names()[0]}/{new_webhook_token()}"
    try:
        answer = await caller.run(_asked(url), ASK_TIMEOUT_S)
    except SendError:
        return False
    return (answer.status, answer.body) == (NOT_FOUND.status, NOT_FOUND.body)


def _asked(url: str) -> Flow[Response]:
    return (yield Request(method="POST", url=url, body=b"{}"))


CHECKS = (
    DoctorCheck("public.certificate", certificate),
    DoctorCheck("public.answers", answers, limit_s=25.0),
)
