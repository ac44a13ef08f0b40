"""Write into the metadata of an image that a model has made it, in place of a signed manifest that is lost."""

from dataclasses import replace

from app.images.codec import JPEG_MAX_METADATA, DecodedImage

#: How the IPTC calls images of a model, and pictures that a model has changed in part.
#: https://cv.iptc.org/newscodes/digitalsourcetype/
GENERATED, PARTLY_GENERATED = "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"

VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"

#: The keyword of XMP in a PNG.
_PNG_XMP = "XML:com.adobe.xmp"

_DESCRIPTION = (
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'Iptc4xmpExt:DigitalSourceType="{}"/>'
)
_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">{}</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


def marked(image: DecodedImage, source_type: str, image_format: str) -> DecodedImage:
    """Return the image with this IPTC digital source type in its XMP, unless it names one already.

    XMP that cannot be read, or has no room for it in a JPEG, is replaced.
    """
    xmp = with_source_type(image.xmp or image.text.get(_PNG_XMP, "").encode("utf-8", "replace"), source_type)
    if image_format == "jpeg" and len(xmp) > JPEG_MAX_METADATA["xmp"]:
        xmp = with_source_type(b"", source_type)
    return replace(image, xmp=xmp, text={key: value for key, value in image.text.items() if key != _PNG_XMP})


def with_source_type(xmp: bytes, source_type: str) -> bytes:
    """Return an XMP packet that names a digital source type: the packet's own, or else this one."""
    if b"DigitalSourceType" in xmp:
        return xmp
    description = _DESCRIPTION.format(VOCABULARY + source_type)
    end = xmp.rfind(b"</rdf:RDF>")
    return _PACKET.format(description).encode() if end < 0 else xmp[:end] + description.encode() + xmp[end:]
