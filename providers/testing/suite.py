"""The checks of a contract as a class of tests, for pytest and hypothesis."""

import os
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ..base import Webhook
from ..errors import Malformed
from . import mutations
from .contract import FEATURES, Contract
from .messages import KINDS
from .samples import DocumentedError, FlowCase, WebhookCase

# How often a test makes up its input.
EXAMPLES = int(os.environ.get("CONTRACT_EXAMPLES", "300"))

_made_up = settings(
    max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
# There are a dozen operations, which share the examples.
_shared = settings(_made_up, max_examples=max(EXAMPLES // 10, 50))
_choices = st.randoms(use_true_random=False)
_WORDS = ["text", "image", "failed", "group", "message", "15550002222", "+15005550100", "1793801400", "1e9999", "\0"]
_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(_WORDS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


class ProviderContract(Contract):
    """Subclass it as `class TestMine(ProviderContract)`, with ``provider``, ``samples`` and `sign`."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        cases: dict[str, list[Any]] = {
            "webhook": self.samples.webhooks,
            "genuine": self.genuine(),
            "flow": self.samples.flows,
            "documented": self.samples.errors,
            "kind": KINDS,
            "limit": self.limits(),
            "limited": list(self.provider.info.limits),
            "feature": list(FEATURES),
            "operation": list(self.operations()),
        }
        for name in cases.keys() & set(metafunc.fixturenames):
            metafunc.parametrize(name, cases[name], ids=str)

    def test_the_registry_finds_it(self) -> None:
        """Under its name, and every method is there."""
        self.check_registered()

    def test_it_describes_itself(self) -> None:
        """What people and forms need, and capabilities that mean something."""
        self.check_description()

    # ------------------------------------------------------------ webhooks

    def test_a_webhook_gives_what_it_says(self, webhook: WebhookCase) -> None:
        """Its events, its answer or its error."""
        self.check_webhook(webhook)

    def test_the_same_webhook_has_the_same_keys(self, genuine: WebhookCase) -> None:
        """The fact delivered again is the same fact."""
        self.check_stable(genuine)

    def test_another_number_is_not_ours(self, genuine: WebhookCase) -> None:
        """One secret may sign for many."""
        self.check_ownership(genuine)

    def test_no_event_shows_what_a_person_wrote(self, genuine: WebhookCase) -> None:
        """A repr ends up in logs."""
        self.check_private(genuine)

    def test_a_probe_is_verified_and_says_nothing(self) -> None:
        """It is posted through the public address, to see that it arrives."""
        self.check_probe()

    @_made_up
    @given(random=_choices)
    def test_a_changed_byte_is_unverified(self, random: Random) -> None:
        """Of the body or of the signature: another, one more or one less."""
        self.check_forged(self._any(random), random)

    @_made_up
    @given(random=_choices, method=st.sampled_from(["GET", "POST"]), url=st.text(max_size=30), value=st.text())
    def test_whatever_comes_is_verified_or_not(self, random: Random, method: str, url: str, value: str) -> None:
        """A malformed header or address is a mismatch, never a crash."""
        case = self._any(random)
        hook = mutations.damaged(case.hook, random)
        headers = {name: random.choice([held, value]) for name, held in self.sign(case.hook).headers.items()}
        self.verifies(msgspec.structs.replace(hook, method=method, url=random.choice([hook.url, url]), headers=headers))

    @_made_up
    @given(random=_choices)
    def test_a_damaged_webhook_is_events_or_malformed(self, random: Random) -> None:
        """Any value may be anything, be missing or be repeated: each event can be stored, under a key of its own."""
        self._read(mutations.damaged(self._any(random).hook, random))

    @_made_up
    @given(random=_choices, body=st.binary(max_size=200) | _values.map(msgspec.json.encode))
    def test_any_bytes_are_events_or_malformed(self, random: Random, body: bytes) -> None:
        """Whatever the bytes."""
        self._read(msgspec.structs.replace(self._any(random).hook, body=body))

    # ------------------------------------------------------------ operations

    def test_a_flow_asks_and_ends_as_it_says(self, flow: FlowCase) -> None:
        """Its requests, and its result or error."""
        self.check_flow(flow)

    def test_the_same_call_makes_the_same_requests(self, flow: FlowCase) -> None:
        """Nothing random, no order by chance."""
        self.check_repeatable(flow)

    def test_a_documented_error_has_its_class(self, documented: DocumentedError) -> None:
        """What a caller does about it depends on nothing else."""
        self.check_documented_error(documented)

    def test_capabilities_say_what_can_be_sent(self, kind: str) -> None:
        """The one is a request, the other Unsupported before any."""
        self.check_kind(kind)

    def test_what_is_above_a_limit_is_unsupported(self, limit: tuple[str, str]) -> None:
        """Before any request, and with the number, so that another provider is asked and people see why."""
        self.check_limit(*limit)

    def test_no_other_headers_and_files_are_sent(self, limited: str) -> None:
        """Unsupported before any request, too."""
        self.check_headers_and_types(limited)

    def test_capabilities_say_what_can_be_asked_for(self, feature: str) -> None:
        """Reading, typing, pairing, media, groups, lost messages."""
        self.check_feature(feature)

    def test_no_secret_is_shown(self) -> None:
        """Neither by a repr, nor in an address, nor by an error that quotes the provider's answer."""
        self.check_secrets()

    @_shared
    @given(random=_choices)
    def test_an_operation_ends_whatever_the_answers(self, operation: str, random: Random) -> None:
        """With a result or a SendError, after a bounded number of calls."""
        self.check_ending(operation, random)

    # ------------------------------------------------------------ made-up input

    def _any(self, random: Random) -> WebhookCase:
        """One of the genuine samples."""
        genuine = self.genuine()
        if not genuine:
            # Nothing to damage: the author of a plug-in may begin with sends, and reads here what is missing.
            pytest.skip("there is no sample of a webhook")
        return genuine[random.randrange(len(genuine))]

    def _read(self, hook: Webhook) -> None:
        try:
            self.read(hook)
        except Malformed:
            return
