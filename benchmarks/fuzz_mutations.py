"""Ways to break a valid input, for `fuzz.py`."""

import io
import json
import random
import struct
from collections.abc import Callable

import pydicom

Mutation = Callable[[bytes, random.Random, list[bytes]], bytes]
NASTY = (
    *("", " ", "-1", "0", "1e308", "nan", "inf", "-inf", "99999999999999999999", "0x10", "true", "null", "|", "||"),
    *(
        "../../etc/passwd",
        "/etc/passwd",
        "a/../../b",
        "..\\..\\x",
        "~",
        ".",
        "..",
        "CON",
        "a\0b",
        "\u202e",
        "\ud83d\ude00",
    ),
    *(
        "A" * 5000,
        '"',
        "'",
        "\n",
        "\r\n",
        ",",
        ";",
        "=cmd()",
        "%s%n",
        "{}",
        "[]",
        "No Finding",
        "*",
        "Effusion|",
        "\ufeff",
    ),
)


def flip_bits(content: bytes, draw: random.Random, others: list[bytes]) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 2, 8, 64))):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def cut_off(content: bytes, draw: random.Random, others: list[bytes]) -> bytes:
    return content[: draw.choice((draw.randrange(len(content)), draw.randrange(min(300, len(content)))))]


def move_pieces(content: bytes, draw: random.Random, others: list[bytes]) -> bytes:
    start, length = draw.randrange(len(content)), draw.choice((1, 4, 16, 256))
    piece = content[start : start + length] if draw.random() < 0.5 else draw.randbytes(length)
    at = draw.randrange(len(content))
    return content[:at] + piece * draw.choice((1, 1, 20)) + content[at + draw.choice((0, length)) :]


def big_numbers(content: bytes, draw: random.Random, others: list[bytes]) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 3))):
        value = draw.choice((0, 1, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF))
        packed = struct.pack(draw.choice(("<I", ">I", "<H", ">H")), value & 0xFFFF if value < 0x10000 else 0xFFFF)
        packed = struct.pack(draw.choice(("<I", ">I")), value) if draw.random() < 0.5 else packed
        at = draw.randrange(max(1, min(len(changed), draw.choice((200, len(changed)))) - 4))
        changed[at : at + len(packed)] = packed
    return bytes(changed)


def splice(content: bytes, draw: random.Random, others: list[bytes]) -> bytes:
    other = draw.choice(others)
    return content[: draw.randrange(len(content))] + other[draw.randrange(len(other)) :]


def fields_of_table(content: bytes, draw: random.Random, others: list[bytes]) -> bytes:
    rows = [line.split(",") for line in content.decode().splitlines()]
    for _ in range(draw.choice((1, 1, 3, 10))):
        row = draw.choice(rows if draw.random() < 0.9 else rows[:1])
        row[draw.randrange(len(row))] = draw.choice(NASTY)
    if draw.random() < 0.2:
        draw.choice(rows).append(draw.choice(NASTY))
    if draw.random() < 0.1:
        rows.append(draw.choice(rows))
    return "\n".join(",".join(row) for row in rows).encode("utf-8", "surrogatepass")


def fields_of_json(content: bytes, draw: random.Random, others: list[bytes]) -> bytes:
    record = json.loads(content)
    for _ in range(draw.choice((1, 2, 5))):
        values = (*NASTY, None, -1, 10**30, [], {}, [1], {"a": 1}, 1.5, True)
        record[draw.choice([*record, "refused", "planned"])] = draw.choice(values)
    if draw.random() < 0.3:
        record.pop(draw.choice(list(record)))
    return json.dumps(draw.choice((record, record, record, [record], "text", None))).encode()


def dicom_elements(content: bytes, draw: random.Random, others: list[bytes]) -> bytes:
    dataset = pydicom.dcmread(io.BytesIO(content))
    numbers = (0, 1, 2, 7, 8, 12, 16, 17, 32, 255, 4096, 65535)
    texts = ("MONOCHROME1", "RGB", "PALETTE COLOR", "", "SIGMOID", "0", "-1", "1e400", "1\\2\\3", "A" * 300)
    for _ in range(draw.choice((1, 2, 4))):
        element = draw.choice([e for e in dataset if e.tag != (0x7FE0, 0x10)])
        value = draw.choice(numbers) if element.VR == "US" else draw.choice(texts)
        if draw.random() < 0.15:
            del dataset[element.tag]
            continue
        try:
            element.value = value
        except Exception:
            continue
    if draw.random() < 0.2:
        dataset.PixelData = draw.choice((b"", b"\0\0", dataset.PixelData[: draw.randrange(len(dataset.PixelData))]))
    if draw.random() < 0.2:
        names = (
            "1.2.840.10008.1.2.4.50",
            "1.2.840.10008.1.2.4.90",
            "1.2.840.10008.1.2.5",
            "1.2.840.10008.1.2.2",
            "9.9",
        )
        content_of = io.BytesIO()
        dataset.file_meta.TransferSyntaxUID = draw.choice(names)
        try:
            pydicom.dcmwrite(content_of, dataset, enforce_file_format=False)
            return content_of.getvalue()
        except Exception:
            return flip_bits(content, draw, others)
    written = io.BytesIO()
    try:
        pydicom.dcmwrite(written, dataset, enforce_file_format=False)
    except Exception:
        return big_numbers(content, draw, others)
    return written.getvalue()


BYTES: list[Mutation] = [flip_bits, cut_off, move_pieces, big_numbers, splice]
TABLE: list[Mutation] = [*BYTES, *[fields_of_table] * 5]
MUTATIONS: dict[str, list[Mutation]] = {
    **{kind: BYTES for kind in ("image", "parquet", "maps", "checkpoint", "encoder", "segmenter", "registration")},
    **{kind: TABLE for kind in ("manifest", "boxes", "masks", "splits", "plan", "requests")},
    "dicom": [*BYTES, *[dicom_elements] * 5],
    "provenance": [*BYTES, *[fields_of_json] * 5],
}
