"""What the fields of configurations have in common: the types of most, and how each is described to people."""

from typing import Annotated, Any

from msgspec import Meta

# In Python, unlike in a browser, `$` alone would let a line break pass at the end, and into a header.
NO_SPACES = r"^\S+(?!\s)$"
DIGITS = r"^[0-9]+(?!\s)$"

Secret = Annotated[str, Meta(max_length=512, pattern=NO_SPACES)]  # far longer than what providers give out
E164 = Annotated[str, Meta(max_length=16, pattern=r"^\+[1-9][0-9]{6,14}(?!\s)$")]
Url = Annotated[str, Meta(max_length=1024, pattern=r"^https?://[^\s?#]+(?!\s)$")]
Rate = Annotated[int, Meta(ge=0, le=1_000_000)]


NOT_EMPTY = Meta(min_length=1)


def about(
    title: str, help: str | None = None, placeholder: str | None = None, *, link: str | None = None, **marks: bool
) -> Meta:
    """What a form shows of a field; *link*: the provider's page on which its value is found.

    *marks*: ``secret``, ``own``, ``usual``, ``signs`` and ``app``, as `WhatsAppProvider` has them.
    """
    texts = {"placeholder": placeholder, "link": link}
    extra: dict[str, Any] = {**marks, **{name: text for name, text in texts.items() if text}}
    return Meta(title=title, description=help, extra=extra)


def secret(
    title: str, help: str | None = None, placeholder: str | None = None, *, link: str | None = None, **marks: bool
) -> Meta:
    return about(title, help, placeholder, link=link, secret=True, **marks)
