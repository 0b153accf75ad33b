"""The message templates of a WhatsApp Business Account.

Source: https://developers.facebook.com/docs/graph-api/reference/whats-app-business-account/message_templates.
"""

from .._values import Object, mapping, objects, text, word
from ..messages import TemplateDefinition, TemplatePage
from .graph import next_cursor

QUERY = {"fields": "id,name,status,category,language,components,quality_score,parameter_format", "limit": "100"}


def template_page(answer: Object) -> TemplatePage:
    """One page of the list. What has no name, or no language, cannot be sent, and is left out."""
    found = [_definition(item) for item in objects(answer, "data")]
    return TemplatePage(templates=[one for one in found if one], next=next_cursor(answer))


def _definition(item: Object) -> TemplateDefinition | None:
    name, language = word(item, "name"), word(item, "language")
    if name is None or language is None:
        return None
    return TemplateDefinition(
        id=word(item, "id"),
        name=name,
        language=language,
        status=word(item, "status"),
        category=word(item, "category"),
        parameter_format=word(item, "parameter_format"),
        quality=text(mapping(item, "quality_score"), "score"),
        components=objects(item, "components"),
    )
