"""Lines are read whole or cut, in bounded memory, and never before they are complete."""

import io
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from ops.commands.lines import Line, LineReader


def read_all(data: bytes, text_bytes_max: int) -> list[Line]:
    reader = LineReader(io.BytesIO(data), 0, text_bytes_max)
    lines = []
    while line := reader.complete() or reader.rest():
        lines.append(line)
    return lines


@given(st.lists(st.binary(max_size=40).map(lambda text: text.replace(b"\n", b"")), max_size=12), st.booleans())
def test_every_byte_belongs_to_exactly_one_line(texts: list[bytes], ended: bool) -> None:
    data = b"\n".join(texts) + (b"\n" if ended and texts else b"")
    lines = read_all(data, 16)
    offset = 0
    for line in lines:
        assert line.offset == offset
        offset += line.size_bytes
        whole = data[line.offset : offset]
        text = whole.removesuffix(b"\n").removesuffix(b"\r") if line.terminated else whole
        assert (line.text, line.cut) == (text[:16], len(text) > 16)
    assert offset == len(data)
    assert all(line.terminated for line in lines[:-1])


def test_a_line_longer_than_any_buffer_is_cut_and_the_next_one_is_whole() -> None:
    lines = read_all(b"x" * 1_000_000 + b"\nnext\r\n", 100)
    assert lines == [
        Line(0, 1_000_001, b"x" * 100, cut=True, terminated=True),
        Line(1_000_001, 6, b"next", cut=False, terminated=True),
    ]


def test_a_text_of_exactly_the_greatest_size_is_not_cut() -> None:
    assert [line.cut for line in read_all(b"x" * 100 + b"\r\n" + b"y" * 101 + b"\n", 100)] == [False, True]


def test_a_line_is_not_complete_before_its_end_has_been_written(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"one\ntw")
    with log.open("rb") as file, log.open("ab", buffering=0) as writer:
        reader = LineReader(file, 0, 100)
        first = reader.complete()
        assert first is not None
        assert first.text == b"one"
        assert reader.complete() is None
        assert reader.read_bytes == 6
        writer.write(b"o\nthree")
        assert reader.complete() == Line(4, 4, b"two", cut=False, terminated=True)
        assert reader.complete() is None
        assert reader.rest() == Line(8, 5, b"three", cut=False, terminated=False)
        assert reader.rest() is None
