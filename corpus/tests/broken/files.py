"""Writes files/: whole and broken tar and parquet files, each named with what must happen to it.

A file is called WHAT.VERDICT.ENDING. The verdicts: `N-rows`, so many rows are planned and read; `unreadable`, the plan
leaves the file out and says why; `file_unreadable`, the plan can't know, and reading ends with that reason. Every caption that may be
read is "caption", and every image begins with "image".
Run in this folder with the project's .venv, and pyarrow: python files.py
"""

import io
import pathlib
import struct
import tarfile

import pyarrow
from pyarrow import parquet

BLOCK = 512


def patched(data, at, new):
    assert at >= 0, "what is to be patched is there"
    return data[:at] + new + data[at + len(new):]


def member(name, content=b"", kind=tarfile.REGTYPE, size=None, form=tarfile.USTAR_FORMAT, pax=None):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content) if size is None else size
    info.pax_headers = pax or {}
    return info.tobuf(form) + content + bytes(-len(content) % BLOCK)


def summed(header):
    """A header with its checksum made right."""
    header = header[:148] + b" " * 8 + header[156:]
    return header[:148] + b"%06o\0 " % sum(header[:BLOCK]) + header[156:]


def sample(key, form=tarfile.USTAR_FORMAT):
    return member(f"{key}.jpg", b"image " + key.encode(), form=form) + member(f"{key}.txt", b"caption", form=form)


def pax_block(records, kind=tarfile.XHDTYPE):
    return member("PaxHeaders/x", records, kind)


def record(key, value):
    """A line of a pax header, which begins with its own length."""
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + 1
    while len(str(length)) + len(body) != length:
        length += 1
    return str(length).encode() + body


def tars():
    end = bytes(2 * BLOCK)
    two = sample("a") + sample("b")
    image = member("a.jpg", b"image")
    text = member("a.txt", b"caption")
    yield "tar", "2-rows", two + end
    yield "tar-end-of-one-block", "2-rows", two + bytes(BLOCK)
    yield "tar-garbage-after-end", "2-rows", two + end + b"garbage" * 100
    yield "tar-names-leave-the-folder", "3-rows", sample("../../etc/passwd") + sample("/etc/passwd") + sample("a/../../b") + end
    yield "tar-member-twice", "1-rows", image + text + member("a.jpg", b"wrong") + member("a.txt", b"wrong") + end
    yield "tar-key-in-two-places", "3-rows", two + sample("a") + end
    yield "tar-400-members-of-one-key", "1-rows", b"".join(member(f"a.{n}") for n in range(400)) + image + text + end
    yield "tar-names-in-latin-1", "1-rows", b"".join(
        summed(patched(member(f"xx.{kind}", data), 0, b"\xe9\xe8")) for kind, data in (("jpg", b"image"), ("txt", b"caption"))) + end
    yield "tar-long-name-gnu", "1-rows", sample("k" * 200, tarfile.GNU_FORMAT) + end
    yield "tar-long-name-pax", "1-rows", sample("k" * 200, tarfile.PAX_FORMAT) + end
    yield "tar-links-and-devices", "2-rows", two + b"".join(
        member(f"c{n}.jpg", kind=kind) for n, kind in enumerate((b"1", b"2", b"3", b"4", b"5", b"6"))) + end
    yield "tar-link-with-a-size", "2-rows", two + member("c.jpg", kind=tarfile.SYMTYPE, size=1 << 30) + end
    yield "tar-unknown-type", "2-rows", two + member("c.jpg", b"wrong", kind=b"Z") + end
    yield "tar-sparse-pax", "2-rows", two + pax_block(record(b"GNU.sparse.major", b"1")) + member("c.jpg", b"wrong") + end
    yield "tar-empty", "0-rows", end
    yield "tar-no-samples", "0-rows", member("README", b"text") + end
    for place, keep in (("header", 100), ("content", BLOCK + 3), ("padding", BLOCK + 100), ("second-header", 2 * BLOCK + 9)):
        yield f"tar-cut-in-{place}", "unreadable", two[:keep]
    yield "tar-without-end", "unreadable", two
    yield "tar-no-bytes", "unreadable", b""
    yield "tar-gzip", "unreadable", b"\x1f\x8b\x08\0" + bytes(600)
    yield "tar-zip", "unreadable", b"PK\3\4" + bytes(600)
    yield "tar-html", "unreadable", b"<html>not found</html>".ljust(1024)
    yield "tar-checksum-wrong", "unreadable", patched(two, 148, b"000000") + end
    yield "tar-checksum-no-number", "unreadable", patched(two, 148, b"99zz99\0 ") + end
    yield "tar-size-no-number", "unreadable", summed(patched(two, 124, b"9z9z9z9z9z9\0")) + end
    yield "tar-size-beyond-end", "unreadable", summed(patched(two, 124, b"77777777777\0")) + end
    yield "tar-size-of-2-to-the-63", "unreadable", summed(patched(two, 124, b"\x80" + b"\0\0\0\x7f" + b"\xff" * 7)) + end
    yield "tar-size-negative", "unreadable", summed(patched(two, 124, b"\xff" * 12)) + end
    yield "tar-pax-size-beyond-end", "unreadable", pax_block(record(b"size", b"18446744073709551615")) + two + end
    yield "tar-pax-size-no-number", "unreadable", pax_block(record(b"size", b"many")) + two + end
    yield "tar-pax-length-wrong", "unreadable", pax_block(b"999 path=a.jpg\n") + two + end
    yield "tar-pax-no-line", "unreadable", pax_block(b"nonsense") + two + end
    yield "tar-pax-not-utf8", "2-rows", pax_block(record(b"comment", b"\xff\xfe")) + two + end
    yield "tar-name-of-2-gigabytes", "unreadable", summed(
        patched(member("././@LongLink", b"x", b"L"), 124, b"20000000000\0")) + two + end
    yield "tar-long-name-without-member", "2-rows", two + member("././@LongLink", b"k" * 200, b"L") + end
    sparse = summed(patched(member("c.jpg", kind=b"S", form=tarfile.GNU_FORMAT), 482, b"\1"))
    yield "tar-sparse-map-without-end", "unreadable", two + sparse + (b"\1" * BLOCK)


def varint(value):
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def parquets():
    def table(rows):
        images = pyarrow.array([b"image %d" % row for row in range(rows)], pyarrow.binary())
        return pyarrow.table({"jpg": images, "caption": pyarrow.array(["caption"] * rows, pyarrow.string())})

    def written(table, **options):
        sink = io.BytesIO()
        parquet.write_table(table, sink, **options)
        return sink.getvalue()

    def footer_of(data):
        length = struct.unpack("<I", data[-8:-4])[0]
        return data[:-8 - length], data[-8 - length:-8]

    def with_footer(body, footer):
        return body + footer + struct.pack("<I", len(footer)) + b"PAR1"

    whole = written(table(183), row_group_size=61, compression="none", use_dictionary=False, store_schema=False)
    body, footer = footer_of(whole)
    rows = b"\x16" + varint(61 * 2) + b"\x26"  # a group's rows, then its place in the file
    assert footer.count(rows) == 3

    def claiming(*counts):
        """Groups that say they have so many rows."""
        parts = footer.split(rows)
        claims = [b"\x16" + varint(count * 2) + b"\x26" for count in counts]
        return with_footer(body, b"".join(part + claim for part, claim in zip(parts, [*claims, b""])))

    most = (1 << 63) - 1
    yield "parquet", "183-rows", whole
    yield "parquet-zstd", "20-rows", written(table(20), compression="zstd")
    yield "parquet-no-rows", "0-rows", written(table(0))
    yield "parquet-groups-claim-more", "file_unreadable", claiming(61, 62, 61)
    yield "parquet-group-claims-a-million", "file_unreadable", claiming(1_000_000, 61, 61)
    yield "parquet-group-claims-2-to-the-63", "unreadable", claiming(most, 61, 61)
    yield "parquet-groups-claim-more-than-64-bits-count", "unreadable", claiming(most, most, 12)
    # A column's first page, as a number that may be negative: 4 is written as 8, -4 as 7.
    for place, new in (("negative", varint(7)), ("far", varint(2 << 40))):
        assert b"\x26\x08" in footer
        moved = footer.replace(b"\x26\x08", b"\x26" + new, 1)
        yield f"parquet-column-at-a-{place}-place", "unreadable", with_footer(body, moved)
    for place, keep in (("first-byte", 1), ("half", len(whole) // 2), ("footer", len(whole) - 30),
                        ("magic", len(whole) - 4), ("last-byte", len(whole) - 1)):
        yield f"parquet-cut-in-{place}", "unreadable", whole[:keep]
    yield "parquet-no-bytes", "unreadable", b""
    yield "parquet-magic-alone", "unreadable", b"PAR1PAR1"
    yield "parquet-html", "unreadable", b"<html>not found</html>"
    yield "parquet-magic-wrong", "unreadable", whole[:-4] + b"PAR2"
    yield "parquet-encrypted", "unreadable", whole[:-4] + b"PARE"
    yield "parquet-footer-of-0-bytes", "unreadable", patched(whole, len(whole) - 8, bytes(4))
    yield "parquet-footer-of-4-gigabytes", "unreadable", patched(whole, len(whole) - 8, b"\xff" * 4)
    yield "parquet-footer-shorter-than-it-is", "unreadable", patched(whole, len(whole) - 8, struct.pack("<I", 20))
    yield "parquet-footer-of-zeros", "unreadable", with_footer(body, bytes(len(footer)))
    yield "parquet-footer-of-ones", "unreadable", with_footer(body, b"\xff" * len(footer))
    yield "parquet-pages-gone", "unreadable", with_footer(b"PAR1", footer)
    yield "parquet-pages-of-zeros", "file_unreadable", with_footer(b"PAR1" + bytes(len(body) - 4), footer)
    yield "parquet-pages-of-ones", "file_unreadable", with_footer(b"PAR1" + b"\xff" * (len(body) - 4), footer)


def main():
    folder = pathlib.Path("files")
    for old in folder.iterdir():
        old.unlink()
    for ending, makers in (("tar", tars()), ("parquet", parquets())):
        for name, verdict, data in makers:
            path = folder / f"{name}.{verdict}.{ending}"
            assert not path.exists(), f"{name} twice"
            path.write_bytes(data)
    print(f"{len(list(folder.iterdir()))} files")


if __name__ == "__main__":
    main()
