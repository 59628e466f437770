"""CapFilt with its input and output in object stores: real server processes, two workers, the bytes of a run on local files.

Then the same through a proxy that fails at every request, and what is said where a store refuses.

usage: stores.py QUERN     (quern-worker beside it)
"""

import concurrent.futures
import io
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time

import pyarrow.parquet
import secure
from cluster import ROOT, corpus
from faults import FAULTS, Faulty
from servers import BUCKET, S3, Azure, Google

# A name in which every step that encodes or decodes once too often shows.
ODD = "a b+c&d=e%25 ü#1.parquet"
# The part of a report that tells how long shards took.
SLOWEST = rb"(?s)<section><h2>Slowest shards</h2>.*?</section>"
# S3 lists a thousand at a time.
NOTES = 1100


class Milled:
    """`quern` at work in a folder of its own, with nothing of the caller's credentials."""

    def __init__(self, quern: str, folder: pathlib.Path, variables: dict = {}):
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "GOOGLE_", "AZURE_"))}
        # The folder is another one than where a relative path was meant.
        self.quern, self.folder, self.environment = str(pathlib.Path(quern).resolve()), folder, kept | variables
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess:
        command = [self.quern, *arguments]
        return subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=300)

    def run(self, data: str, output: str) -> subprocess.CompletedProcess:
        models = ["--captioner", f"{ROOT}/zoo/blip", "--ranker", f"{ROOT}/zoo/clip", "--device", "cpu", "--workers", "2"]
        return self("capfilt", "run", "--input", data, "--output", output, *models)

    def mill(self, data: str, output: str, code: int):
        """A run that ends with `code`, and what people do with its output."""
        ended = self.run(data, output)
        assert ended.returncode == code, f"{output}: {ended.returncode}\n{ended.stderr}\n{self.logs()}"
        checked = self("capfilt", "verify", output)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        rows = self("capfilt", "inspect", output, "-o", "json")
        assert rows.returncode == 0 and rows.stdout.count("\n") > 0, rows.stdout + rows.stderr
        report = self("capfilt", "report", output)
        assert report.returncode == 0, report.stdout + report.stderr

    def logs(self) -> str:
        return "\n".join(f"{log}:\n{log.read_text()[-1500:]}" for log in self.folder.rglob("worker-*.log"))


def files(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def same(what: str, expected: dict[str, bytes], found: dict[str, bytes], local: str, place: str):
    """The same files with the same bytes; `place` stands where a local run says `local`."""
    assert sorted(found) == sorted(expected), f"{what}: {sorted(found)} instead of {sorted(expected)}"
    for name, content in found.items():
        if not name.startswith(("data/", "quarantine/")):
            content = content.replace(place.encode(), local.encode())
        if name == "README.md":
            # YAML quotes what has a colon.
            content = re.sub(rb'"(%s[^"]*)"' % re.escape(local.encode()), rb"\1", content)
        wanted = expected[name]
        if name == "report.html":
            # How long shards took is another thing in every run; that it is said there is not.
            (content, times), (wanted, _) = (re.subn(SLOWEST, b"", text) for text in (content, wanted))
            assert times == 1, f"{what}: {name} has no section on the slowest shards"
        other = [line for line in content.splitlines() if line not in wanted.splitlines()]
        assert content == wanted, f"{what}: {name} has other bytes: {other[:5]}"


def tars(parquet: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """The rows of a parquet file as WebDataset."""
    folder.mkdir()
    for number, batch in enumerate(pyarrow.parquet.ParquetFile(parquet).iter_batches(20, columns=["jpg", "caption"])):
        with tarfile.open(folder / f"{number:05}.tar", "w") as tar:
            for row, sample in enumerate(batch.to_pylist()):
                for extension, content in (("jpg", sample["jpg"]), ("txt", sample["caption"].encode())):
                    member = tarfile.TarInfo(f"{row:05}.{extension}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return folder


class Reference:
    """What is milled, and what comes of it on local files."""

    def __init__(self, folder: pathlib.Path, quern: str):
        self.quern = quern
        self.web = corpus(folder / "web", quern, 60)
        shutil.move(self.web / "00001.parquet", self.web / ODD)
        self.tars = tars(self.web / ODD, folder / "tars")
        self.folder = folder
        local = Milled(quern, folder)
        # One file is no parquet.
        local.mill(str(self.web), f"{folder}/captions", 3)
        local.mill(str(self.tars), f"{folder}/tar-captions", 0)
        self.captions, self.tar_captions = files(folder / "captions"), files(folder / "tar-captions")


def mills(store, reference: Reference, url: str | None = None, under: str = "milled"):
    """The same bytes as on local files, from parquet files and from tar files; `url`: where the store is asked."""
    place, local = f"{store.scheme}://{BUCKET}/{under}", str(reference.folder)
    store.upload(reference.web, f"{under}/web")
    store.upload(reference.tars, f"{under}/tars")
    milled = Milled(reference.quern, reference.folder / f"{store.scheme}-{under}", store.variables(url or store.url))
    milled.mill(f"{place}/web", f"{place}/captions", 3)
    same(f"{place}, parquet", reference.captions, store.objects(f"{under}/captions"), local, place)
    milled.mill(f"{place}/tars", f"{place}/tar-captions", 0)
    same(f"{place}, tar files", reference.tar_captions, store.objects(f"{under}/tar-captions"), local, place)
    beside = store.objects(f"{under}/captions.coordinators")
    assert "incarnations/00000001" in beside, sorted(beside)


def many_keys(store: S3):
    """More than a page of keys between the input's first file and its last."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda note: store.put(f"milled/web/notes/{note:04}.txt", b"a note"), range(NOTES)))


def refused(milled: Milled, data: str, output: str, code: int, *said: str):
    """One sentence that holds all of `said`, soon, and the exit code."""
    began = time.monotonic()
    ended = milled.run(data, output)
    took = time.monotonic() - began
    assert ended.returncode == code, f"{data} to {output}: {ended.returncode}\n{ended.stderr}"
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("quern: ") and all(part in last for part in said), f"{said} in:\n{last}"
    assert took < 20, f"{data} to {output}: refused after {took:.0f} s"


def refusals(store, reference: Reference, wrong: dict):
    """`wrong`: variables with a credential that the store does not know."""
    place = f"{store.scheme}://{BUCKET}/milled"
    milled = Milled(reference.quern, reference.folder / f"{store.scheme}-refused", store.variables(store.url))
    nowhere = f"{store.scheme}://no-such-bucket/web"
    refused(milled, nowhere, f"{place}/never", 2, "no-such-bucket", "check the path")
    refused(milled, f"{place}/tars", f"{store.scheme}://no-such-bucket/captions", 2, "no-such-bucket", "does not exist")
    milled.environment |= wrong
    refused(milled, f"{place}/tars", f"{place}/never", 2, f"cannot list {place}/tars", "permission denied", "credentials")


def read_only(reference: Reference):
    """S3 that looks at who asks: somebody who may read, somebody who may do all, somebody whom nobody knows."""
    with S3() as store:
        store.upload(reference.tars, "milled/tars")
        reader = store.variables(store.url) | store.user("reader", ["s3:Get*", "s3:List*"])
        writer = store.variables(store.url) | store.user("writer", ["s3:*"])
        store.look_at_users()
        place = f"s3://{BUCKET}/milled"
        milled = Milled(reference.quern, reference.folder / "s3-users", reader)
        refused(milled, f"{place}/tars", f"{place}/tar-captions", 2, f"{place}/tar-captions", "permission denied")
        milled.environment |= {"AWS_ACCESS_KEY_ID": "AKIAUNKNOWN"}
        refused(milled, f"{place}/tars", f"{place}/tar-captions", 2, f"{place}/tars", "permission denied")
        Milled(reference.quern, reference.folder / "s3-writer", writer).mill(f"{place}/tars", f"{place}/tar-captions", 0)


def over_tls(reference: Reference):
    """Images and S3 by https, with an authority that the environment names."""
    folder = reference.folder / "tls"
    folder.mkdir()
    ours = secure.Authority(folder, "ours")
    image = pyarrow.parquet.read_table(reference.web / ODD)["jpg"][0].as_py()
    secure.images_by_https(Milled(reference.quern, folder), folder, ours, image)
    with S3(ours.of_host("s3")) as store:
        mills(store, reference, under="by-https")


def main(quern: str):
    with tempfile.TemporaryDirectory() as folder:
        reference = Reference(pathlib.Path(folder) / "local", quern)
        with S3() as store:
            many_keys(store)
            mills(store, reference)
            with Faulty(store.url) as proxy:
                mills(store, reference, proxy.url, "through-faults")
            assert proxy.done == {None, *FAULTS["GET"], *FAULTS["PUT"]}, f"some fault never came: {proxy.done}"
        read_only(reference)
        over_tls(reference)
        with Azure() as store:
            mills(store, reference)
            refusals(store, reference, {"AZURE_STORAGE_ACCOUNT_KEY": "bm90IHRoZSBrZXk="})
        with Google() as store:
            mills(store, reference)
            refusals(store, reference, {"GOOGLE_BEARER_TOKEN": "another"})
    print("s3://, az:// and gs:// hold the bytes of local files")


if __name__ == "__main__":
    main(*sys.argv[1:])
