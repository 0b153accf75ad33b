"""Interactive messages of the WhatsApp Cloud API: everything with something to tap.

Source: https://developers.facebook.com/docs/whatsapp/cloud-api/reference/messages#interactive-object.
"""

from collections.abc import Iterable
from typing import Any

from msgspec.structs import asdict

from .._values import Object, present
from ..content import (
    Action,
    AddressRequest,
    Button,
    Buttons,
    CallPermissionRequest,
    CallToAction,
    Carousel,
    CarouselCard,
    Catalog,
    ContactRequest,
    FlowAction,
    HeaderMedia,
    Interactive,
    ListMenu,
    LocationRequest,
    MediaContent,
    OrderDetails,
    OrderStatus,
    Product,
    ProductCarousel,
    ProductList,
    ProductSection,
    VoiceCall,
)
from ..errors import Rejected


def interactive(message: Interactive) -> Object:
    """Meta's object for *message*, whose limits are checked elsewhere."""
    kind, action = _action(message.action)
    return present(
        type=kind,
        header=_header(message.header),
        body=None if message.body is None else {"text": message.body},
        footer=None if message.footer is None else {"text": message.footer},
        action=action,
    )


def _header(header: str | HeaderMedia | None) -> Object | None:
    if header is None:
        return None
    if isinstance(header, str):
        return {"type": "text", "text": header}
    medium = {**file_of(header), **present(filename=header.filename)}
    return {"type": kind_of(header), kind_of(header): medium}


def _action(action: Action) -> tuple[str, Object]:
    """Meta's type of the interactive message, and its action."""
    match action:
        case Buttons(buttons=buttons):
            return "button", _buttons("reply", buttons)
        case ListMenu():
            return "list", _list(action)
        case CallToAction(title=title, url=url):
            return "cta_url", _named("cta_url", display_text=title, url=url)
        case FlowAction():
            return "flow", _flow(action)
        case VoiceCall(title=title, ttl_minutes=minutes, payload=payload):
            return "voice_call", _named("voice_call", display_text=title, ttl_minutes=minutes, payload=payload)
        case LocationRequest() | ContactRequest() | CallPermissionRequest() | AddressRequest():
            return _request(action)
        case OrderDetails(details=details):
            return "order_details", {"name": "review_and_pay", "parameters": details}
        case OrderStatus(details=details):
            return "order_status", {"name": "review_order", "parameters": details}
        case Carousel(cards=cards):
            return "carousel", {"cards": [_card(index, card) for index, card in enumerate(cards)]}
        case _:
            return _shop(action)


def _request(action: LocationRequest | ContactRequest | CallPermissionRequest | AddressRequest) -> tuple[str, Object]:
    match action:
        case LocationRequest():
            return "location_request_message", {"name": "send_location"}
        case ContactRequest():
            return "request_contact_info", {"name": "request_contact_info"}
        case CallPermissionRequest():
            return "call_permission_request", {"name": "call_permission_request"}
        case AddressRequest():
            # Its fields have Meta's names.
            return "address_message", _named("address_message", **asdict(action))


def _shop(action: Product | ProductList | ProductCarousel | Catalog) -> tuple[str, Object]:
    match action:
        case Product(catalog_id=catalog, product_id=product):
            return "product", {"catalog_id": catalog, "product_retailer_id": product}
        case ProductList(catalog_id=catalog, sections=sections):
            return "product_list", {"catalog_id": catalog, "sections": [*map(_shelf, sections)]}
        case ProductCarousel(catalog_id=catalog, products=products):
            return "carousel", {"cards": [_product_card(*card, catalog) for card in enumerate(products)]}
        case Catalog(thumbnail_product_id=thumbnail):
            return "catalog_message", _named("catalog_message", thumbnail_product_retailer_id=thumbnail)


def _shelf(section: ProductSection) -> Object:
    products = [{"product_retailer_id": product} for product in section.products]
    return {"title": section.title, "product_items": products}


def _product_card(index: int, product: str, catalog: str) -> Object:
    action = {"product_retailer_id": product, "catalog_id": catalog}
    return {"card_index": index, "type": "product", "action": action}


def _named(name: str, **parameters: Any) -> Object:
    given = present(**parameters)
    return {"name": name, "parameters": given} if given else {"name": name}


def _buttons(kind: str, buttons: Iterable[Button]) -> Object:
    return {"buttons": [{"type": kind, kind: {"id": one.id, "title": one.title}} for one in buttons]}


def _list(menu: ListMenu) -> Object:
    sections = [
        present(
            title=section.title,
            rows=[present(id=row.id, title=row.title, description=row.description) for row in section.rows],
        )
        for section in menu.sections
    ]
    return {"button": menu.button, "sections": sections}


def _flow(flow: FlowAction) -> Object:
    start = present(screen=flow.screen, data=flow.data)
    return _named(
        "flow",
        flow_message_version="3",
        flow_id=flow.flow_id,
        flow_name=None if flow.flow_id else flow.flow_name,
        flow_cta=flow.cta,
        flow_token=flow.token,
        mode=flow.mode,
        flow_action=flow.action,
        flow_action_payload=start or None,
    )


def _card(index: int, card: CarouselCard) -> Object:
    """A card of a carousel. Its type is `cta_url` with quick replies too: so Meta's guide (UNCONFIRMED)."""
    if card.buttons:
        # Inside cards it is `quick_reply`, where a message of its own has `reply`.
        action = _buttons("quick_reply", card.buttons)
    elif card.url and card.title:
        action = _named("cta_url", display_text=card.title, url=card.url)
    else:
        raise Rejected("a card needs a link with a title, or buttons", code="card_without_action")
    return present(
        card_index=index,
        type="cta_url",
        header={"type": "image", "image": {"link": card.image_url}},
        body=None if card.text is None else {"text": card.text},
        action=action,
    )


def kind_of(content: MediaContent) -> str:
    """Meta's word for it is ours."""
    return str(content.__struct_config__.tag)


def file_of(medium: MediaContent) -> Object:
    """Exactly one of id and link. The id is faster, and refused at once where it is wrong."""
    return {"id": medium.id} if medium.id else {"link": medium.url}
