"""Servers that stand in for S3, Azure and Google Cloud Storage, each a process of its own on a port that the system chose."""

import json
import pathlib
import re
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
import xml.etree.ElementTree as tree

import google

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUCKET = "quern"
START_S = 60
# Azurite's well-known account.
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class Server:
    """`with Server(...)`: a process, from its first word of where it listens to its end."""

    def __init__(self, command: list, url: str):
        """`url`: what finds the server's in what it says."""
        self.command, self.pattern = [str(part) for part in command], url

    def __enter__(self):
        self.process = subprocess.Popen(
            self.command, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        watchdog = threading.Timer(START_S, self.process.kill)
        watchdog.start()
        said = []
        for line in self.process.stdout:
            said.append(line)
            if found := re.search(self.pattern, line):
                break
        else:
            raise AssertionError(f"{self.command[0]} did not start:\n{''.join(said)[-2000:]}")
        watchdog.cancel()
        # It must not wait for somebody who reads its log.
        threading.Thread(target=lambda: [None for _ in self.process.stdout], daemon=True).start()
        self.url = found.group(0)
        self.begin()
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(10)

    def begin(self):
        """Makes the bucket."""

    def upload(self, folder: pathlib.Path, under: str):
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                self.put(f"{under}/{file.relative_to(folder)}", file.read_bytes())


class S3(Server):
    """moto's server."""

    scheme = "s3"

    def __init__(self, certificate=None):
        """With a certificate of secure.py's it speaks TLS."""
        super().__init__([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"], r"https?://127\.0\.0\.1:\d+")
        self.authority = None
        if certificate:
            self.command += ["-c", str(certificate.certificate), "-k", str(certificate.key)]
            self.authority = str(certificate.authority)

    def client(self, service: str = "s3"):
        import boto3

        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        return boto3.client(service, endpoint_url=self.url, verify=self.authority, **keys)

    def begin(self):
        self.s3 = self.client()
        self.s3.create_bucket(Bucket=BUCKET)

    def variables(self, url: str) -> dict:
        """What `quern` is to find in its environment to talk to this store at `url`."""
        trusted = {"SSL_CERT_FILE": self.authority} if self.authority else {}
        return {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"} | trusted

    def user(self, name: str, actions: list[str]) -> dict:
        """A new user who may do that much, as variables."""
        users = self.client("iam")
        users.create_user(UserName=name)
        policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": "*"}]}
        users.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=json.dumps(policy))
        key = users.create_access_key(UserName=name)["AccessKey"]
        return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}

    def look_at_users(self):
        """From now on only users get anything, and what they may do."""
        headers = {"content-type": "application/octet-stream"}
        request = urllib.request.Request(f"{self.url}/moto-api/reset-auth", b"0", headers)
        urllib.request.urlopen(request, timeout=20).close()

    def put(self, name: str, content: bytes):
        self.s3.put_object(Bucket=BUCKET, Key=name, Body=content)

    def objects(self, under: str) -> dict[str, bytes]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{under}/")
        names = [found["Key"] for page in pages for found in page.get("Contents", [])]
        read = lambda name: self.s3.get_object(Bucket=BUCKET, Key=name)["Body"].read()
        return {name.removeprefix(f"{under}/"): read(name) for name in names}


class Azure(Server):
    """Azurite."""

    scheme = "az"

    def __init__(self):
        azurite = ROOT / ".deps/azurite/node_modules/.bin/azurite-blob"
        # The client of Azure's own that the test reads with is newer than it.
        flags = ["--blobPort", "0", "--inMemoryPersistence", "--silent", "--disableTelemetry", "--skipApiVersionCheck"]
        super().__init__([azurite, *flags], r"(?<=listens on )http://127\.0\.0\.1:\d+")

    def begin(self):
        from azure.storage.blob import BlobServiceClient

        account = {"account_name": "devstoreaccount1", "account_key": AZURE_KEY}
        service = BlobServiceClient(f"{self.url}/devstoreaccount1", credential=account)
        self.container = service.create_container(BUCKET)

    def variables(self, url: str) -> dict:
        names = {"AZURE_STORAGE_ACCOUNT_NAME": "devstoreaccount1", "AZURE_STORAGE_ACCOUNT_KEY": AZURE_KEY}
        return names | {"AZURE_ENDPOINT": f"{url}/devstoreaccount1"}

    def put(self, name: str, content: bytes):
        self.container.upload_blob(name, content)

    def objects(self, under: str) -> dict[str, bytes]:
        names = list(self.container.list_blob_names(name_starts_with=f"{under}/"))
        return {name.removeprefix(f"{under}/"): self.container.download_blob(name).readall() for name in names}


class Google(Server):
    """The double of google.py."""

    scheme = "gs"

    def __init__(self):
        super().__init__([sys.executable, pathlib.Path(__file__).with_name("google.py")], r"http://127\.0\.0\.1:\d+")

    def variables(self, url: str) -> dict:
        return {"GOOGLE_BASE_URL": url, "GOOGLE_BEARER_TOKEN": google.TOKEN}

    def ask(self, method: str, place: str, content: bytes | None = None) -> bytes:
        headers = {"authorization": f"Bearer {google.TOKEN}"}
        request = urllib.request.Request(f"{self.url}/{BUCKET}{place}", content, headers, method=method)
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.read()

    def put(self, name: str, content: bytes):
        self.ask("PUT", f"/{urllib.parse.quote(name)}", content)

    def objects(self, under: str) -> dict[str, bytes]:
        names, after = [], ""
        while True:
            query = urllib.parse.urlencode({"prefix": f"{under}/", "continuation-token": after})
            page = tree.fromstring(self.ask("GET", f"?{query}"))
            names += [key.text for key in page.iter("Key")]
            if page.find("NextContinuationToken") is None:
                break
            after = page.find("NextContinuationToken").text
        read = lambda name: self.ask("GET", f"/{urllib.parse.quote(name)}")
        return {name.removeprefix(f"{under}/"): read(name) for name in names}
