"""The command `ingress`."""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import asyncpg
import msgspec
import uvloop
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_delay, wait_fixed

from providers import Registry, RegistryEntry, UnknownProvider

from .. import __version__, log
from ..doctor.environment import insecure, unfit_to_serve
from ..processes.cores import cores
from ..processes.parent import NoneStarts, Parent
from ..server import PortTaken, listen, serve
from ..settings import Settings, SettingsError, load, login_of, variable
from ..storage.database import Database, SchemaError, StoreUnavailable
from ..storage.listener import require_room
from ..storage.migration import migrate, prepare
from ..storage.upgrades import Post
from ..storage.vault import generate_key
from . import doctor, encryption_keys, remote, retention
from .matrix import limits_matrix, matrix
from .reference import reference
from .upgrade_report import show, summary

logger = logging.getLogger("ingress.cli.main")

FATAL = (SettingsError, SchemaError, PortTaken, NoneStarts)
DATABASE_RETRY_S = 0.5
# As a shell has it.
INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM


SAMPLES_HINT = "\nHow samples are written: `pydoc providers.testing.samples`, docs/writing-a-provider.md.\n"
# Of `run`, unless the environment says otherwise: who tries things out on one machine is no stranger.
UNLIMITED = {"INGRESS_REQUESTS_PER_KEY": "0", "INGRESS_CONNECTION_TESTS_PER_MINUTE": "0"}


def parser() -> argparse.ArgumentParser:
    """Of every command and its options."""
    parser = argparse.ArgumentParser(prog="ingress", description="One gateway between a CRM and any WhatsApp provider.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True)
    sandbox = "serve with the sandbox on: everything on this machine, nothing to set up"
    commands.add_parser("run", help=sandbox).set_defaults(processes=1)
    _add_serve(commands)
    _add_migrate(commands)
    retention.add_command(commands)
    doctor.add_command(commands)
    encryption_keys.add_command(commands)
    remote.add_commands(commands, _add_providers(commands))
    commands.add_parser("schema", help="print the JSON Schema of an event")
    commands.add_parser("settings", help="print the reference of all settings, in Markdown")
    commands.add_parser("generate-key", help="print a new entry for INGRESS_ENCRYPTION_KEYS")
    _add_demo(commands)
    return parser


def _add_serve(commands: Any) -> None:
    serving = commands.add_parser("serve", help="serve")
    serving.add_argument(
        "--processes",
        type=_processes,
        default=1,
        metavar="N",
        help="how many processes serve, below one that looks after them; auto: as many as there are cores",
    )


def _processes(text: str) -> int:
    """Raises `ValueError`."""
    if text == "auto":
        return cores()
    if (wanted := int(text)) < 1:
        raise ValueError
    return wanted


def _add_migrate(commands: Any) -> None:
    migration = commands.add_parser("migrate", help="bring the database to this release's schema")
    migration.add_argument("--login", help="the login of `ingress serve`; without it the one of DATABASE_URL")
    migration.add_argument(
        "--post", action="store_true", help="also what the former release cannot serve with; refused while it runs"
    )
    migration.add_argument(
        "--restored",
        action="store_true",
        help="the database is a backup, or has lost its last transactions: no event gets the number of a lost one",
    )


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser("demo", help="play a scene on a throw-away database, and check it")
    demo.add_argument("--webhooks", type=int, default=2_000)
    demo.add_argument("--sends", type=int, default=200)


def _add_providers(commands: Any) -> Any:
    """`ingress providers`; what it gets further actions from is given back."""
    providers = commands.add_parser("providers", help="list the provider plug-ins, or check one")
    providers.add_argument(
        "--matrix", action="store_true", help="print who can do what, and how much, as tables in Markdown"
    )
    actions = providers.add_subparsers(dest="action")
    check = actions.add_parser("check", help="hold a plug-in to the contract")
    check.add_argument("name")
    check.add_argument("--samples", type=Path, help="a folder of samples, with an account.json")
    return actions


def main() -> None:
    """Run the command line; mistakes of the operator end with a clear line each, and status 1."""
    options = parser().parse_args()
    with _reporting_mistakes(_source(options)):
        if hasattr(options, "run"):
            sys.exit(remote.run(options))
        if options.command == "doctor":  # which says of wrong settings what it says of everything
            doctor.run(os.environ, options)
        sys.exit(COMMANDS[options.command](_settings_of(options.command), options))


def _settings_of(command: str) -> Settings:
    unless_set = UNLIMITED if command == "run" else {}
    return load({**unless_set, **os.environ}, CHECKS.get(command, lambda _: ()))


@contextlib.contextmanager
def _reporting_mistakes(source: str) -> Iterator[None]:
    """*source*: the setting that says where the database is."""
    try:
        yield
    except StoreUnavailable as error:
        _fail(f"the database does not answer ({_cause(error)}): check {source}, and that it runs")
    except asyncpg.PostgresError as error:
        _fail(f"the database refuses what {source} says: {error.args[0]}")
    except asyncpg.ClientConfigurationError as error:
        _fail(f"the database cannot be reached by what {source} says: {error}")
    except FATAL as error:
        _fail(str(error))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except asyncio.CancelledError:
        sys.exit(TERMINATED)


def _cause(error: BaseException | None) -> str:
    """In the words of the server or the system, where it has any."""
    cause = error and error.__cause__
    if isinstance(cause, asyncpg.PostgresError):
        return str(cause.args[0])
    return str(getattr(cause, "strerror", None) or error)


def _source(options: argparse.Namespace) -> str:
    """Where the address of the database came from."""
    is_owner = options.command == "migrate" and os.environ.get("DATABASE_OWNER_URL")
    return "DATABASE_OWNER_URL" if is_owner else "DATABASE_URL"


def _fail(message: str) -> NoReturn:
    sys.stderr.writelines(f"ingress: {line}\n" for line in message.split("\n"))
    sys.exit(1)


@contextlib.contextmanager
def _from_dev(what: str, instead: str = "") -> Iterator[None]:
    """Around an import from `dev`, which a production install does not contain: ends with what to install."""
    try:
        yield
    except ModuleNotFoundError:
        _fail(f'{what} not installed: pip install "whatsapp-ingress[dev]"{instead}')


def _run(settings: Settings, options: argparse.Namespace) -> int | None:
    return _serve(msgspec.structs.replace(settings, sandbox=True), options)


def _migrate(settings: Settings, options: argparse.Namespace) -> None:
    """As the owner, who gives the login of the service what it needs, where there is one."""
    login, service_url = _who_serves(settings, options.login)
    post = Post.REQUIRED if options.post else Post.NEVER
    with _stores(_as_owner(settings)) as stored:
        found = asyncio.run(
            migrate(stored.database_url, login, service_url, post=post, report=show, is_restored=options.restored)
        )
    sys.stdout.write(summary(found))


def _who_serves(settings: Settings, login: str | None) -> tuple[str | None, str]:
    """The login, and the address, of the service; *login*: the one that the operator names."""
    if not settings.database_owner_url:
        return login, ""
    return login or _login_to_serve(settings.database_url), settings.database_url


def _as_owner(settings: Settings) -> Settings:
    # Redis has no part in it: none is started.
    url, redis_url = getattr(settings, _migrated_by(settings)), settings.redis_url or "redis://unused"
    return msgspec.structs.replace(settings, database_url=url, redis_url=redis_url)


def _login_to_serve(database_url: str) -> str:
    login = login_of(database_url)
    if login is None:
        raise SettingsError("DATABASE_URL: it names no login to serve with; name it by `ingress migrate --login`")
    return login


def _in_database(run: Callable[[Settings, argparse.Namespace], int]) -> Callable[[Settings, argparse.Namespace], int]:
    """Run it as the service's login, or else as the owner: both may look, and change what the service does."""

    def run_there(settings: Settings, options: argparse.Namespace) -> int:
        with _stores(settings if settings.database_url else _as_owner(settings)) as stored:
            return run(stored, options)

    return run_there


def _serve(settings: Settings, options: argparse.Namespace) -> int | None:
    log.setup(settings.log_level)
    if settings.sandbox:
        with _from_dev("the simulators are"):
            from ..dev.sandbox.development import Development
        if not settings.egress_allow:
            settings = msgspec.structs.replace(settings, egress_allow="127.0.0.0/8", trusted_hosts="127.0.0.1")
    with (
        contextlib.closing(listen(settings.host, settings.port)) as listening,
        contextlib.closing(listen(settings.host, settings.metrics_port, variable("metrics_port"))) as operations,
    ):
        port, metrics_port = listening.getsockname()[1], operations.getsockname()[1]
        # From the main thread: embedded servers end with the thread that started them.
        with (
            _stores(msgspec.structs.replace(settings, port=port, metrics_port=metrics_port)) as stored,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            if runner.run(_prepared(stored)) and settings.database_url:
                logger.warning(
                    "the login of DATABASE_URL owns the schema: for development only, see DATABASE_OWNER_URL"
                )
            beside = Development(stored).running if stored.sandbox else None
            if options.processes == 1:
                return runner.run(serve(stored, listening, operations, beside))
            database = Database(stored.database_url, stored.database_connections, stored.database_direct_url)
            runner.run(require_room(database, options.processes))
            listening.close()  # it has shown that the port is free: workers have sockets of their own
            return runner.run(Parent(stored, options.processes).run(operations, beside))


async def _prepared(settings: Settings) -> bool:
    """As `prepare`, once the database answers: it may start at the same time, or be away for a moment."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    # The first process of a container gets no signal that it does not handle.
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    retrying = _retrying(settings.database_wait_s)
    try:
        owns_schema: bool = await retrying(prepare, settings.database_url, settings.database_direct_url)
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
    if retrying.statistics["attempt_number"] > 1:
        logger.warning("the database answers")
    return owns_schema


def _retrying(wait_s: float) -> AsyncRetrying:
    def log_first(state: RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome is not None:
            logger.warning(
                "the database does not answer (%s): check DATABASE_URL, and that it runs; waiting up to %g s for it",
                *(_cause(state.outcome.exception()), wait_s),
            )

    return AsyncRetrying(
        retry=retry_if_exception_type(StoreUnavailable),
        wait=wait_fixed(DATABASE_RETRY_S),
        stop=stop_after_delay(wait_s),
        before_sleep=log_first,
        reraise=True,
    )


def _migrated_by(settings: Settings) -> str:
    """The setting that says where the schema's owner logs in."""
    owners = ("database_owner_url", "database_direct_url")
    return next((field for field in owners if getattr(settings, field)), "database_url")


# What a command wants of the settings, beyond what each must be.
CHECKS: dict[str, Callable[[Settings], list[str]]] = {
    "run": unfit_to_serve,
    "serve": unfit_to_serve,
    "migrate": lambda settings: insecure(settings, _migrated_by(settings)),
}


@contextlib.contextmanager
def _stores(settings: Settings) -> Iterator[Settings]:
    """*settings* with a database, a Redis and secrets: embedded ones and generated ones where none are given."""
    with contextlib.ExitStack() as stack:
        if not (settings.database_url and settings.redis_url):
            missing = variable("redis_url" if settings.database_url else "database_url")
            with _from_dev("embedded servers are", f" or set {missing}"):
                from ..dev.embedded.folder import ServersError
                from ..dev.embedded.stores import embedded
            try:
                settings = stack.enter_context(embedded(settings))
            except ServersError as error:
                _fail(str(error))
        yield settings


def _providers(settings: Settings, options: argparse.Namespace) -> int:
    registry = Registry(canary=settings.canary)
    if options.action == "check":
        return _check_provider(registry, options.name, options.samples)
    if options.matrix:
        sys.stdout.write(f"{matrix(registry)}\n{limits_matrix(registry)}")
    else:
        sys.stdout.writelines(map(_line_of, registry.entries()))
    return 0


def _line_of(entry: RegistryEntry) -> str:
    about = entry.info.display_name if entry.info else entry.reason or ""
    return f"{entry.name:24} {entry.state:12} {entry.origin:40} {about}\n"


def _check_provider(registry: Registry, name: str, samples: Path | None) -> int:
    """The exit status: 1 where the provider is none, or breaks the contract."""
    from providers.testing import SampleError, report  # a server checks nothing

    try:
        rows = report.check(registry.get(name), samples, None if samples else _examples(name))
    except (UnknownProvider, SampleError) as error:
        _fail(str(error))
    hint = SAMPLES_HINT if samples is None and any(row.skipped for row in rows) else ""
    sys.stdout.write(report.table(rows) + hint)
    return int(any(row.broken for row in rows))


def _examples(name: str) -> Any:
    """Of what the provider's simulator exchanges; None where there is none."""
    if not find_spec("ingress.dev"):
        return None
    from ..dev.sandbox.examples import examples

    return examples(name)


def _schema(_: Settings, __: argparse.Namespace) -> None:
    from ..envelope import envelope_schema  # what it imports, no other command needs

    sys.stdout.write(json.dumps(envelope_schema(), indent=2) + "\n")


def _reference(_: Settings, __: argparse.Namespace) -> None:
    sys.stdout.write(reference())


def _generate_key(_: Settings, __: argparse.Namespace) -> None:
    sys.stdout.write(generate_key() + "\n")


def _demo(_: Settings, options: argparse.Namespace) -> int:
    with _from_dev("the demo is"):
        from ..dev.demo.scene import play
    return play(options.webhooks, options.sends)


# What each command does; it ends with the status that is given back.
COMMANDS: dict[str, Callable[[Settings, argparse.Namespace], int | None]] = {
    "run": _run,
    "serve": _serve,
    "migrate": _migrate,
    "retention": _in_database(retention.run),
    "keys": _in_database(encryption_keys.run),
    "providers": _providers,
    "schema": _schema,
    "settings": _reference,
    "generate-key": _generate_key,
    "demo": _demo,
}
