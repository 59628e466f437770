"""A real cluster for the page and Prometheus to look at: a corpus with rows that fail, a coordinator with tokens, workers, two recipes."""

import json
import pathlib
import shutil
import socket
import subprocess
import time
import urllib.request

import pyarrow
import pyarrow.parquet

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOKENS = {role: f"{role}-token-of-the-page-test" for role in ("viewer", "operator", "worker")}
SCRIPT = "<script>window.pwned = 1</script><img src=x onerror='window.pwned = 1'>"
PATIENCE_S = 300


def free_address() -> str:
    """An address that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


class Cluster:
    """`with Cluster(folder, ...)` starts the coordinator, and ends everything."""

    def __init__(self, folder: pathlib.Path, quern: str, quern_worker: str):
        self.folder, self.quern, self.quern_worker, self.children = folder, quern, quern_worker, []
        for role, token in TOKENS.items():
            (folder / role).write_text(token)
        (folder / "tokens").write_text("".join(f"{role} {token} {role}\n" for role, token in TOKENS.items()))
        self.url = f"http://{free_address()}"

    def __enter__(self):
        listen = self.url.removeprefix("http://")
        arguments = ["coordinator", "--state", str(self.folder / "state"), "--listen", listen]
        self.start("coordinator", [self.quern, *arguments, "--tokens", str(self.folder / "tokens")])
        self.until("the coordinator", lambda: self.get("api/runs") == [])
        return self

    def __exit__(self, *_):
        for _, child in reversed(self.children):
            child.terminate()
        for _, child in self.children:
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()

    def start(self, name: str, command: list[str]):
        log = open(self.folder / f"{name}.log", "wb")
        self.children.append((name, subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)))

    def end_of(self, name: str) -> int:
        """Waits for a process that is to end; its exit code."""
        child = next(child for known, child in self.children if known == name)
        code = child.wait(PATIENCE_S)
        self.children.remove((name, child))
        return code

    def worker(self, name: str):
        token = str(self.folder / "worker")
        arguments = ["run", "--coordinator", self.url, "--device", "cpu", "--name", name, "--token-file", token]
        self.start(name, [self.quern_worker, *arguments])

    def submit(self, recipe: str) -> str:
        file = self.folder / "recipe.yaml"
        file.write_text(recipe)
        command = [self.quern, "submit", str(file), "--to", self.url, "--token-file", str(self.folder / "operator")]
        reply = subprocess.run([*command, "-o", "json"], capture_output=True, text=True)
        assert reply.returncode == 0, reply.stderr
        return json.loads(reply.stdout)["run_id"]

    def request(self, path: str, role: str = "viewer", method: str = "GET", headers: dict = {}, body: str | None = None):
        headers = {"authorization": f"Bearer {TOKENS[role]}", **headers}
        data = body.encode() if body is not None else None
        return urllib.request.Request(f"{self.url}/{path}", method=method, headers=headers, data=data)

    def get(self, path: str):
        with urllib.request.urlopen(self.request(path), timeout=20) as reply:
            return json.load(reply)

    def status(self, run: str) -> dict:
        return self.get(f"api/runs/{run}/status")

    def until(self, what: str, holds):
        """Other processes tell of themselves only when they are asked."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            gone = [name for name, child in self.children if child.poll() is not None]
            if gone:
                raise AssertionError(f"{gone[0]} has ended:\n{(self.folder / f'{gone[0]}.log').read_text()[-4000:]}")
            try:
                if holds():
                    return
            except OSError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"{what}: not within {PATIENCE_S} s")


def corpus(folder: pathlib.Path, quern: str, rows: int) -> pathlib.Path:
    """Scenes; in the first file an image that is cut short, one that is missing, a caption that is missing, and captions
    that are markup; and a file that is no parquet."""
    arguments = ["corpus", "synth", "--rows", str(rows), "--rows-per-file", "40", "--junk", "0.5", "--seed", "77"]
    subprocess.run([quern, *arguments, "--out", str(folder)], check=True, capture_output=True)
    first = folder / "00000.parquet"
    table = pyarrow.parquet.read_table(first)
    images, captions = table["jpg"].to_pylist(), table["caption"].to_pylist()
    images[3], images[13], images[10] = images[3][: len(images[3]) // 2], images[13][:200], None
    captions[17] = None
    for row in (0, 5, 12, 21, 39):
        captions[row] = SCRIPT
    for name, column in (("jpg", images), ("caption", captions)):
        place = table.column_names.index(name)
        table = table.set_column(place, name, pyarrow.array(column, table.schema.field(name).type))
    pyarrow.parquet.write_table(table, first)
    (folder / "zz-broken.parquet").write_bytes(b"these bytes are no parquet file")
    return folder


def filtered(data: pathlib.Path) -> str:
    """The sections of a recipe that has the scenes captioned, and the same scenes as they are."""
    zoo = ROOT / "zoo"
    return f"""datasets:
  - {{ name: scenes, path: {data} }}
  - {{ name: as-they-are, path: {data}, capfilt: false }}
capfilt:
  captioner: {zoo}/blip
  ranker: {zoo}/clip
  candidates: 4
  batch_images: 4
  sampling: {{ max_length: 12 }}
"""


def captioned(folder: pathlib.Path, data: pathlib.Path, output: str = "captioned", seed: int = 5) -> str:
    """CapFilt on the scenes, and a second data set that is passed through; then stage 1."""
    zoo = ROOT / "zoo"
    return f"""
name: scenes, captioned and trained on
seed: {seed}
output: {folder / output}
shard_rows: 8
{filtered(data)}stage1:
  image_encoder: {zoo}/clip
  tokenizer: {zoo}/blip
  batch: 12
  steps: 40
  ranks: 2
  checkpoint_every: 20
  max_text_length: 24
  optimiser: {{ peak_lr: 1.0e-3, warmup_steps: 5 }}
  qformer: {{ hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, intermediate_size: 64, max_position_embeddings: 64, num_query_token: 4, embed_dim: 16 }}
cluster: {{ lease_ms: 3000, heartbeat_ms: 200 }}
"""


def passed(folder: pathlib.Path, data: pathlib.Path) -> str:
    """Captions as they are."""
    return f"name: captions as they are\noutput: {folder / 'passed'}\nshard_rows: 10\ndatasets:\n  - {{ name: web, path: {data}, capfilt: false }}\n"


def milled(folder: pathlib.Path, data: pathlib.Path, quern: str, output: str = "milled", more: str = "") -> pathlib.Path:
    """The output of a run that is carried out here, without a cluster: the scenes with captions of the zoo's models, and the
    same as they are. `more`: lines of its `capfilt` section."""
    recipe = folder / f"{output}.yaml"
    recipe.write_text(f"""
name: "an output: for | other `readers`"
output: {folder / output}
shard_rows: 16
{filtered(data)}{more}
""")
    ended = subprocess.run([quern, "run", str(recipe)], capture_output=True, text=True)
    assert ended.returncode == 3, f"one file is no parquet, so the run ends with 3, not {ended.returncode}\n{ended.stderr}"
    checked = subprocess.run([quern, "capfilt", "verify", str(folder / output)], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    return folder / output


def emptied(folder: pathlib.Path) -> pathlib.Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
