"""Texts in a packet of XMP, for formats of pictures that have no chunks of text.

Source: ISO 16684-1. Knows XML; nothing of what the texts say.
"""

from __future__ import annotations

from collections.abc import Mapping

NAMESPACE = "https://scalekv.invalid/ns/1/"
"""Of our properties; a name, no address."""

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{rdf}">'
    '<rdf:Description rdf:about="" xmlns:scalekv="{namespace}">{texts}</rdf:Description>'
    '</rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
)


def packet(texts: Mapping[str, str]) -> bytes:
    """The packet for some texts by name; printable ASCII alone."""
    from xml.sax.saxutils import escape  # brings the network's libraries, for what few write

    properties = "".join(
        f"<scalekv:{name}>{escape(text)}</scalekv:{name}>" for name, text in texts.items()
    )
    return _PACKET.format(rdf=_RDF, namespace=NAMESPACE, texts=properties).encode()


def texts_of(data: bytes) -> dict[str, str]:
    """Our texts in a packet, whoever wrote it anew: as elements or as attributes. {}: none.

    A packet that declares a type of document is not read: entities can fill the memory.
    """
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        return {}
    from xml.etree import ElementTree

    try:
        root = ElementTree.fromstring(data.rstrip(b"\0 \n"))
    except (ElementTree.ParseError, ValueError):
        return {}
    mark = f"{{{NAMESPACE}}}"
    found: dict[str, str] = {}
    for element in root.iter(f"{{{_RDF}}}Description"):
        pairs = [*element.attrib.items(), *((child.tag, child.text or "") for child in element)]
        found |= {n.removeprefix(mark): text for n, text in pairs if str(n).startswith(mark)}
    return found
