"""How long a provider may take over each kind of call."""

import pytest

from ingress.health import prober
from ingress.sending import outbound
from ingress.storage.connections import EXCLUSIVE_IDLE_S, STATEMENT_TIMEOUT_S
from ingress.switching import switch
from providers import Audio, Document, Image, Sticker, Text, TimeLimits, Video
from providers.meta_business import MetaBusiness
from providers.twilio_whatsapp import TwilioWhatsApp
from providers.whatsapp_web import WhatsAppWeb


def test_a_file_may_take_as_long_as_its_size_needs() -> None:
    """A size that nobody says is the largest that WhatsApp takes of the kind; a text has none."""
    limits = TimeLimits(call_s=15, mib_per_s=1)
    contents = [Text(body="Olá"), Sticker(), Image(), Audio(), Video(), Document()]
    assert [limits.send_s(content) for content in contents] == [15, 16, 31, 31, 79, 115]
    mib = 1024 * 1024
    sizes = [-5, 0, 2 * mib, 50 * mib, 10**18]
    assert [limits.send_s(Image(size_bytes=size)) for size in sizes] == [15, 15, 17, 65, 115]


def test_who_fetches_files_after_the_answer_takes_no_longer_for_one() -> None:
    assert TimeLimits().send_s(Video()) == TimeLimits().send_s(Text(body="Olá")) == 10


@pytest.mark.parametrize("wrong", [{"call_s": 31}, {"test_s": 0}, {"set_up_s": 16}, {"mib_per_s": 0.1}])
def test_limits_have_limits(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a provider"):
        TimeLimits(**wrong)


@pytest.mark.parametrize("kind", [MetaBusiness, TwilioWhatsApp, WhatsAppWeb])
def test_what_rests_on_the_limits_holds(kind: type[MetaBusiness | TwilioWhatsApp | WhatsAppWeb]) -> None:
    """Who stops waits for texts; a look at an account ends before its lease, a change before its lock is taken away."""
    limits = kind.info.time_limits
    assert limits.call_s <= outbound.DRAIN_S
    assert limits.test_s < prober.LEASE_S
    assert limits.test_s + limits.set_up_s < switch.TESTED_WITHIN_S
    assert switch.TESTED_WITHIN_S < EXCLUSIVE_IDLE_S - STATEMENT_TIMEOUT_S
