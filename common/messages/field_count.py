"""How many fields a protobuf message has, counted before it is parsed.

Two bytes say a message that has nothing in it, and parsed it takes a hundred: a message of the length that is allowed could
take gigabytes. So the fields are counted first, those of the messages in it too, without an object for any.
"""

from typing import Any

from zowarmup.common.bounds import TooLarge

_PACKED = 4
"""Of numbers in one piece, 2^4 bytes count as a field: some take a byte there and eight where they are parsed."""


def require_few_fields(data: bytes, kind: Any, most: int, what: str) -> None:
    """Refuse a message of too many fields. What is no message is left to the parser.

    Args:
        data: a serialized message.
        kind: its descriptor.
        most: how many fields it may have.
        what: what to call it in a sentence.

    Raises:
        TooLarge: it has more.
    """
    around: list[tuple[int, Any]] = []
    at, end, count = 0, len(data), 0
    while True:
        while at >= end:
            if not around:
                return
            end, kind = around.pop()
        tag, at = _varint(data, at)
        count += 1
        form = tag & 7
        if form == 2:
            size, at = _varint(data, at)
            if at + size > end:
                return
            field = kind.fields_by_number.get(tag >> 3)
            if field is not None and field.message_type is not None:
                around.append((end, kind))
                end, kind = at + size, field.message_type
            else:
                if field is not None and field.cpp_type not in (field.CPPTYPE_STRING, field.CPPTYPE_MESSAGE):
                    count += size >> _PACKED
                at += size
        elif form == 0:
            _, at = _varint(data, at)
        else:
            at += {1: 8, 5: 4}.get(form, 0)
        if count > most:
            raise TooLarge(f"{what}: {len(data)} bytes with more than {most:,} fields, which is as many as it may have")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends; beyond the end of the data where it has none."""
    found, shift = 0, 0
    while at < len(data) and shift < 70:
        byte = data[at]
        found |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return found, at
    return 0, len(data) + 1
