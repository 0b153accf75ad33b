"""What a file is, by its first bytes, and what it is called: what others declared is not served on trust."""

import re
import unicodedata
from urllib.parse import quote

SNIFF_BYTES = 512
UNKNOWN = "application/octet-stream"
MAX_NAME_CHARACTERS = 120

# (offset, bytes, type). The first row that fits.
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (0, b"II*\x00", "image/tiff"),
    (0, b"MM\x00*", "image/tiff"),
    (4, b"ftypM4A", "audio/mp4"),
    (4, b"ftyp3g", "video/3gpp"),
    (4, b"ftypqt", "video/quicktime"),
    (4, b"ftyphe", "image/heic"),
    (4, b"ftypmif1", "image/heic"),
    (4, b"ftypavif", "image/avif"),
    (4, b"ftyp", "video/mp4"),
    (0, b"\x1aE\xdf\xa3", "video/webm"),
    (0, b"OggS", "audio/ogg"),
    (0, b"#!AMR", "audio/amr"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"\xff\xfb", "audio/mpeg"),
    (0, b"\xff\xf3", "audio/mpeg"),
    (0, b"\xff\xf2", "audio/mpeg"),
    (0, b"\xff\xf1", "audio/aac"),
    (0, b"\xff\xf9", "audio/aac"),
    (8, b"WAVE", "audio/wav"),
    (0, b"%PDF-", "application/pdf"),
    (0, b"PK\x03\x04", "application/zip"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/x-ole-storage"),
    (0, b"{\\rtf", "application/rtf"),
    (0, b"\x1f\x8b", "application/gzip"),
    (0, b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (0, b"Rar!\x1a\x07", "application/vnd.rar"),
)
# Types that share a signature: one of these, where declared, is as good as ours.
_ALIKE: dict[str, str] = {
    "audio/mp4": r"audio/(mp4|m4a|x-m4a|aac)",
    "video/mp4": r"(video|audio)/(mp4|3gpp2?|quicktime|x-m4v)|audio/(m4a|x-m4a|aac)",
    "video/3gpp": r"(video|audio)/(3gpp2?|mp4)",
    "video/webm": r"(video|audio)/(webm|x-matroska)",
    "audio/ogg": r"(video|audio|application)/ogg|audio/opus",
    "audio/mpeg": r"audio/(mpeg|mp3|aac)",
    "audio/aac": r"audio/(aac|x-aac|aacp)",
    "application/zip": r"application/(vnd\.(openxmlformats|oasis)[a-z0-9.-]+|epub\+zip|vnd\.android\.package-archive)",
    "application/x-ole-storage": r"application/(msword|vnd\.ms-[a-z]+)",
    "application/rtf": r"text/rtf",
}
# What has no signature, and is harmless as what it says.
_PLAIN = re.compile(r"text/(plain|csv|vcard|x-vcard|calendar)|application/json")
_EXTENSIONS = {
    "image/jpeg": ".jpg", "image/png": ".png", "image/gif": ".gif", "image/webp": ".webp", "image/heic": ".heic",
    "video/mp4": ".mp4", "video/3gpp": ".3gp", "video/webm": ".webm", "video/quicktime": ".mov",
    "audio/mp4": ".m4a", "audio/ogg": ".ogg", "audio/amr": ".amr", "audio/mpeg": ".mp3", "audio/aac": ".aac",
    "audio/wav": ".wav", "application/pdf": ".pdf", "application/zip": ".zip", "text/plain": ".txt", "text/csv": ".csv",
    "text/vcard": ".vcf", "text/x-vcard": ".vcf",
}  # fmt: skip
_NAMED = {
    **{extension: kind for kind, extension in _EXTENSIONS.items()},
    **{".jpeg": "image/jpeg", ".oga": "audio/ogg", ".opus": "audio/ogg", ".3gpp": "video/3gpp", ".vcf": "text/vcard"},
}
_DECLARED = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,99}/[a-z0-9][a-z0-9!#$&^_.+-]{0,99}")
_PARAMETERS = re.compile(r"(?:; ?[a-z0-9-]{1,40}=[A-Za-z0-9_.+-]{1,80})*")
# Control and format characters, which can turn a name round, line breaks, and what no file system takes.
_REFUSED_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_RESERVED = str.maketrans(dict.fromkeys('/\\:*?"<>|', "_"))


def declared_type(text: str) -> str | None:
    """*text* as a MIME type with its parameters, or None where it is none."""
    kind, semicolon, rest = text.strip().partition(";")
    kind = kind.strip().lower()
    parameters = f"; {rest.strip()}" if semicolon and rest.strip() else ""
    well_formed = _DECLARED.fullmatch(kind) and _PARAMETERS.fullmatch(parameters)
    return kind + parameters if well_formed else None


def served_type(start: bytes, declared: str | None) -> str:
    """The type to serve a file as that begins with *start*. Never one that a browser would run."""
    claimed = (declared or "").partition(";")[0].strip().lower()
    for offset, signature, kind in _SIGNATURES:
        if start.startswith(signature, offset):
            return claimed if re.fullmatch(_ALIKE.get(kind, r"(?!)"), claimed) else kind
    if _PLAIN.fullmatch(claimed) and b"\x00" not in start and not start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return claimed
    return UNKNOWN


def named_type(name: str) -> str | None:
    """What a file of that *name* is, as far as its extension says it for sure."""
    return _NAMED.get(f".{name.rpartition('.')[2].lower()}")


def safe_name(name: str | None, mime_type: str, otherwise: str) -> str:
    """*name* as a name of a file, in any file system; where nothing is left of it, *otherwise* with an extension."""
    clean = "".join(one for one in name or "" if unicodedata.category(one) not in _REFUSED_CATEGORIES)
    clean = clean.translate(_RESERVED).strip(" .")
    if not clean:
        return otherwise + _EXTENSIONS.get(mime_type.partition(";")[0], "")
    return clean if len(clean) <= MAX_NAME_CHARACTERS else _shortened(clean)


def _shortened(name: str) -> str:
    """The beginning of *name*, and its extension, if it has one."""
    stem, dot, extension = name.rpartition(".")
    tail = f".{extension}" if dot and len(extension) <= 10 else ""
    return (stem if tail else name)[: MAX_NAME_CHARACTERS - len(tail)] + tail


def attachment(name: str) -> str:
    """Content-Disposition for a file that is to be saved and not shown (RFC 6266, RFC 8187)."""
    return f"attachment; filename*=UTF-8''{quote(name, safe='')}"
