"""The refinement's own stack as its documentation teaches it: FastAPI, pydantic, SQLAlchemy, httpx.

One session and one commit per webhook; a send commits twice, before and after the call. It does less than the
service (no fallback, no fence against a switch, no relay, the app secret in memory), so it is no straw man.
"""

import hashlib
import hmac
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any

import asyncpg
import httpx
from fastapi import Depends, FastAPI, Header, HTTPException, Request
from pydantic import BaseModel, Field, ValidationError
from sqlalchemy import ForeignKey, UniqueConstraint, func, select
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

DATABASE_URL = os.environ["DATABASE_URL"]
PROVIDER_URL = os.environ["BENCH_PROVIDER_URL"]
APP_SECRET = os.environ["BENCH_APP_SECRET"].encode()
ORGANIZATION = uuid.UUID(int=1)  # the one tenant; a real one would come from the key and the X-Org-Id header


class Base(DeclarativeBase):
    type_annotation_map = {dict[str, Any]: JSONB}  # noqa: RUF012 (SQLAlchemy's own spelling)


class ProviderConfig(Base):
    __tablename__ = "whatsapp_provider_configs"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    organization_id: Mapped[uuid.UUID] = mapped_column(index=True)
    provider_type: Mapped[str]
    config_data: Mapped[dict[str, Any]]
    is_active: Mapped[bool] = mapped_column(default=True)


class Received(Base):
    __tablename__ = "received_messages"
    __table_args__ = (UniqueConstraint("organization_id", "provider_message_id"),)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    organization_id: Mapped[uuid.UUID]
    provider_message_id: Mapped[str]
    sender: Mapped[str]
    content: Mapped[dict[str, Any]]
    raw: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Sent(Base):
    __tablename__ = "sent_messages"
    __table_args__ = (UniqueConstraint("organization_id", "idempotency_key"),)
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    organization_id: Mapped[uuid.UUID]
    config_id: Mapped[uuid.UUID] = mapped_column(ForeignKey(ProviderConfig.id))
    idempotency_key: Mapped[str]
    recipient: Mapped[str]
    content: Mapped[dict[str, Any]]
    status: Mapped[str] = mapped_column(default="accepted")
    provider_message_id: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class WebhookMessage(BaseModel, extra="allow"):
    sender: str = Field(alias="from")
    id: str
    timestamp: str
    type: str


class Value(BaseModel):
    messaging_product: str
    metadata: dict[str, str]
    contacts: list[dict[str, Any]] = []
    messages: list[WebhookMessage] = []


class Change(BaseModel):
    field: str
    value: Value


class Entry(BaseModel):
    id: str
    changes: list[Change]


class Webhook(BaseModel):
    object: str
    entry: list[Entry]


class Content(BaseModel):
    type: str
    body: str


class MessageData(BaseModel):
    to: str
    content: Content
    lead_id: str | None = None


class MessageResult(BaseModel):
    id: uuid.UUID
    status: str
    provider: str
    provider_message_id: str


async def connect() -> asyncpg.Connection:
    return await asyncpg.connect(DATABASE_URL)  # SQLAlchemy's own URLs do not know every parameter of libpq's


# Of 5, 10, 20 and 40 the best for sends on two cores, by a little; webhooks do not care. No overflow: opening
# connections under load loses time.
engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, pool_size=40, max_overflow=0)
sessions = async_sessionmaker(engine, expire_on_commit=False)


async def open_session() -> AsyncIterator[AsyncSession]:
    async with sessions() as session:
        yield session


Session = Annotated[AsyncSession, Depends(open_session)]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with sessions.begin() as session:
        data = {"access_token": "bench", "phone_number_id": "109876543210987"}
        session.add(ProviderConfig(organization_id=ORGANIZATION, provider_type="meta_business", config_data=data))
    async with httpx.AsyncClient(base_url=PROVIDER_URL) as app.state.client:
        yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


@app.post("/webhook")
async def webhook(request: Request, session: Session, x_hub_signature_256: Annotated[str, Header()]) -> dict[str, bool]:
    body = await request.body()
    expected = "sha256=" + hmac.new(APP_SECRET, body, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected, x_hub_signature_256):
        raise HTTPException(401)
    try:
        hook = Webhook.model_validate_json(body)
    except ValidationError as error:
        raise HTTPException(422) from error
    messages = [message for entry in hook.entry for change in entry.changes for message in change.value.messages]
    rows = [
        {
            "organization_id": ORGANIZATION,
            "provider_message_id": message.id,
            "sender": message.sender,
            "content": message.model_extra,
            "raw": message.model_dump(by_alias=True),
        }
        for message in messages
    ]
    if rows:
        # Rows as parameters: a statement with the rows inside it would be compiled anew each time.
        await session.execute(insert(Received).on_conflict_do_nothing(), rows)
        await session.commit()
    return {"received": True}


@app.post("/send")
async def send(
    message: MessageData, request: Request, session: Session, idempotency_key: Annotated[str, Header()]
) -> MessageResult:
    active = select(ProviderConfig).where(ProviderConfig.organization_id == ORGANIZATION, ProviderConfig.is_active)
    config = (await session.scalars(active)).one()
    sent = Sent(
        organization_id=ORGANIZATION,
        config_id=config.id,
        idempotency_key=idempotency_key,
        recipient=message.to,
        content=message.content.model_dump(),
    )
    session.add(sent)
    await session.commit()
    response = await request.app.state.client.post(
        f"/v25.0/{config.config_data['phone_number_id']}/messages",
        headers={"Authorization": f"Bearer {config.config_data['access_token']}"},
        json={
            "messaging_product": "whatsapp",
            "recipient_type": "individual",
            "to": message.to,
            "type": "text",
            "text": {"body": message.content.body},
            "biz_opaque_callback_data": str(sent.id),
        },
    )
    response.raise_for_status()
    sent.status, sent.provider_message_id = "sent", response.json()["messages"][0]["id"]
    await session.commit()
    return MessageResult(
        id=sent.id, status="sent", provider=config.provider_type, provider_message_id=sent.provider_message_id
    )
