"""QR codes as a phone can read them, in both themes: black on a white plate, with the quiet zone around."""

import segno
from markupsafe import Markup

# Modules that stay white on each side: what the standard (ISO/IEC 18004) asks for.
QUIET_ZONE = 4


def qr_code(text: str, label: str) -> Markup:
    """*text* as an inline SVG with the accessible name *label*: `{{ qr_code(pairing.qr, _("QR code …")) }}`.

    The page passes the function to its template. It is as wide as its `class="qr"` allows (style/50-switch.css).
    """
    code = segno.make(text, error="m", micro=False)
    drawn = code.svg_inline(border=QUIET_ZONE, dark="#000", light="#fff", omitsize=True, svgclass=None, lineclass=None)
    return Markup('<div class="qr" role="img" aria-label="{}">{}</div>').format(label, Markup(drawn))  # noqa: S704  (segno draws it: shapes alone)
