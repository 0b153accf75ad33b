"""What came back, held against what was sent: where nothing but the content tells whose it is."""

from datetime import UTC, datetime
from typing import Any

import pytest

from providers import Lookalikes, MessageData, Recipient
from providers.content import (
    Audio,
    Button,
    Buttons,
    Contacts,
    Content,
    Document,
    Image,
    Interactive,
    ListMenu,
    ListRow,
    ListSection,
    Location,
    OutboundContent,
    Reaction,
    Sticker,
    Text,
    Video,
)
from providers.whatsapp_web.echoes import found_in, is_echo

AT = datetime(2026, 11, 30, 10, 0, 0, 500_000, tzinfo=UTC)
PDF = Document(url="https://x/a.pdf", mime_type="application/pdf", filename="nota.pdf", caption="Nota")
ASK = Interactive(body="Confirma?", action=Buttons(buttons=[Button(id="1", title="Sim"), Button(id="2", title="Não")]))
MENU = ListMenu(button="Ver", sections=[ListSection(rows=[ListRow(id="1", title="Sim")])])
ANA = Contacts(contacts=[{"name": {"formatted_name": "Ana"}, "phones": [{"phone": "+5511900000000"}]}])


def sent(content: OutboundContent, **more: Any) -> MessageData:
    return MessageData(
        to=Recipient(phone="+5511987654321"),
        content=content,
        organization_id="1",
        correlation_id="gw1:x:1",
        created_at=AT,
        **more,
    )


@pytest.mark.parametrize(
    ("asked", "seen"),
    [
        (Text(body="Olá 🚚"), Text(body="Olá 🚚")),
        (Text(body=" Olá\n"), Text(body="Olá")),
        (ASK, Text(body="Confirma?\n1. Sim\n2. Não")),
        (Interactive(body="Confirma?", action=MENU), Text(body="Confirma?")),
        (Interactive(header="Pedido", body="Confirma?", action=MENU), Text(body="Confirma?")),
        (Image(url="https://x/a.png", mime_type="image/png"), Image(id="https://waha/1", mime_type="image/jpeg")),
        (Video(url="https://x/a.mp4", caption="Veja"), Video(id="https://waha/1", caption="Veja")),
        (Audio(url="https://x/a.ogg", voice=True), Audio(id="https://waha/1", voice=True)),
        (Audio(url="https://x/a.mp3"), Document(id="https://waha/1", filename="a.mp3")),
        (Sticker(url="https://x/a.webp"), Sticker(id="https://waha/1")),
        (PDF, Document(id="https://waha/1", mime_type="application/pdf", filename="nota.pdf", caption="Nota")),
        (PDF, Document(id="https://waha/1", caption="Nota")),
        (Location(latitude=-23.56135, longitude=-46.65653), Location(latitude=-23.561351, longitude=-46.65653)),
        (ANA, Contacts(contacts=[{"name": {"formatted_name": "Ana"}, "vcard": "BEGIN:VCARD…"}])),
        (Reaction(message_id="3EB0A", emoji="👍"), Reaction(message_id="true_1@c.us_3EB0A", emoji="👍")),
    ],
)
def test_what_says_the_same_is_an_echo(asked: OutboundContent, seen: Content) -> None:
    assert is_echo(seen, sent(asked))


@pytest.mark.parametrize(
    ("asked", "seen"),
    [
        (Text(body="Olá"), Text(body="Olá!")),
        (Text(body="Olá"), Image(id="1", caption="Olá")),
        (Text(body="Olá"), None),
        (ASK, Text(body="Confirma?")),
        (Interactive(header="Pedido", body="Confirma?", action=MENU), Text(body="Pedido")),
        (Image(url="https://x/a.png", caption="A"), Image(id="1", caption="B")),
        (Image(url="https://x/a.png"), Video(id="1")),
        (PDF, Document(id="1", filename="outra.pdf", caption="Nota")),
        (PDF, Document(id="1", mime_type="text/plain", filename="nota.pdf", caption="Nota")),
        (Location(latitude=1, longitude=2), Location(latitude=1, longitude=2.1)),
        (ANA, Contacts(contacts=[{"name": {"formatted_name": "Eva"}}])),
        (Reaction(message_id="3EB0A", emoji="👍"), Reaction(message_id="3EB0B", emoji="👍")),
        (Reaction(message_id="3EB0A", emoji="👍"), Reaction(message_id="3EB0A")),
        (Document(id="ours"), Document(id="1")),  # cannot be sent, so it never was
    ],
)
def test_what_says_something_else_is_none(asked: OutboundContent, seen: Content | None) -> None:
    assert not is_echo(seen, sent(asked))


def listed(bare: str, **changes: Any) -> dict[str, Any]:
    chat = "5511987654321@c.us"
    shown = {
        "id": f"true_{chat}_{bare}",
        "timestamp": int(AT.timestamp()),
        "source": "api",
        "fromMe": True,
        "body": "Olá",
    }
    return {**shown, **changes}


def test_of_the_chat_what_a_program_sent_since_then_is_the_message() -> None:
    """Not what a person typed, or nobody knows who; not what was there before; none of our other messages."""
    others = [
        listed("A", source="app"),
        listed("B", source=None),
        listed("C", timestamp=int(AT.timestamp()) - 1),
        listed("D", body="Oi"),
        listed("E"),
        None,
    ]
    known = Lookalikes(known_ids=frozenset({"E"}))
    result = found_in([*others, listed("F")], sent(Text(body="Olá"), lookalikes=known))
    assert result is not None
    assert result.provider_message_id == "F"
    assert found_in(others, sent(Text(body="Olá"), lookalikes=known)) is None
    assert found_in([listed("F"), listed("G")], sent(Text(body="Olá"))) is None
    assert found_in([listed("F")], sent(Text(body="Olá"), lookalikes=None)) is None
