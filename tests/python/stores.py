"""The store's tests against real servers: Azurite for az://, moto for s3://, on free loopback ports.

    stores.py FOLDER -- COMMAND...     (`make test-stores`)

Installs both servers into FOLDER (once; an install that was cut off is made again), starts them on an empty folder, makes
a container and a bucket, and runs COMMAND with SCALINGNOTE_TEST_ROOTS and the credentials in its environment. Ends with
COMMAND's exit code. Both servers end with this program, also where it is killed.
"""

import base64
import ctypes
import email.utils
import fcntl
import hashlib
import hmac
import http.client
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

AZURITE = "azurite@3"
MOTO = "moto[server]>=5,<6"
# The account that every Azure emulator knows; its key is published and protects nothing.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def stop(message):
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def install(folder):
    """Paths of Azurite's script and of a Python that has moto."""
    if not shutil.which("node"):
        stop("node is missing: Azurite, the Azure emulator, needs Node.js 20 or newer")
    if not shutil.which("npm"):
        stop("npm is missing: it installs Azurite, the Azure emulator (Debian, Ubuntu: apt install npm)")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs at once: the second finds it installed
        npm, venv = folder / "azurite", folder / "moto"
        once(npm, AZURITE, lambda: install_azurite(npm))
        once(venv, MOTO, lambda: install_moto(venv))
    return npm / "node_modules/azurite/dist/src/blob/main.js", venv / "bin/python"


def once(folder, package, make):
    """`installed` is written last: without it an install was cut off, with another package in it it is an old one."""
    mark = folder / "installed"
    if mark.exists() and mark.read_text() == package:
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    print(f"installing {package} into {folder}", flush=True)
    make()
    mark.write_text(package)


def install_azurite(folder):
    (folder / "package.json").write_text('{"private": true}\n')
    quiet = ["--no-audit", "--no-fund", "--loglevel=error"]
    if subprocess.run(["npm", "install", "--prefix", str(folder), *quiet, AZURITE]).returncode != 0:
        stop(f"{AZURITE} could not be installed from the npm registry; see above")


def install_moto(folder):
    made = subprocess.run([sys.executable, "-m", "venv", str(folder)])
    pip = [folder / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", MOTO]
    if made.returncode != 0 or subprocess.run(pip).returncode != 0:
        stop(f"{MOTO} could not be installed from PyPI; see above")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def end_with_parent():
    """In the child: a killed parent ends it too (Linux; elsewhere only an orderly end does)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG


def start(name, line, port, log, in_child=end_with_parent):
    with open(log, "ab") as out:
        server = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=out, stderr=out, preexec_fn=in_child)
    until = time.monotonic() + 120
    while time.monotonic() < until and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return server
        except OSError:
            time.sleep(0.2)
    server.kill()
    stop(f"{name} did not start: {log.read_text(errors='replace')[-2000:]}")


def end_on_signals():
    """An end by signal runs the `finally` of who is at work."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def end(servers):
    for server in servers:
        server.terminate()
    for server in servers:
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def put(port, path, headers, body=b""):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("PUT", path, body=body, headers={"Content-Length": str(len(body)), **headers})
    reply = connection.getresponse()
    body = reply.read()
    if reply.status not in (200, 201):
        stop(f"PUT {path} was answered {reply.status}: {body[:500]!r}")


def start_moto(python, port, log):
    """moto with the bucket `notes`."""
    server = start("moto", [python, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port, log)
    put(port, "/notes", {"Host": f"127.0.0.1:{port}"})
    return server


def s3_environment(endpoint):
    """What a client of moto has to know."""
    return {
        "AWS_ENDPOINT": endpoint,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "of-an-emulator",
        "AWS_REGION": "us-east-1",
    }


def make_container(port, name):
    date, version = email.utils.formatdate(usegmt=True), "2021-08-06"
    # The emulator has the account in the path too, therefore twice.
    resource = f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    to_sign = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{version}\n{resource}"
    digest = hmac.new(base64.b64decode(KEY), to_sign.encode(), hashlib.sha256).digest()
    signed = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    headers = {"x-ms-date": date, "x-ms-version": version, "Authorization": signed}
    put(port, f"/{ACCOUNT}/{name}?restype=container", headers)


def main():
    if len(sys.argv) < 4 or sys.argv[2] != "--":
        stop("usage: stores.py FOLDER -- COMMAND...")
    azurite, python = install(pathlib.Path(sys.argv[1]).absolute())
    end_on_signals()
    servers = []
    with tempfile.TemporaryDirectory(prefix="stores-") as folder:
        work = pathlib.Path(folder)
        try:
            blob, s3 = free_port(), free_port()
            line = ["node", azurite, "--blobHost", "127.0.0.1", "--blobPort", str(blob)]
            line += ["--inMemoryPersistence", "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
            servers.append(start("Azurite", line, blob, work / "azurite.log"))
            servers.append(start_moto(python, s3, work / "moto.log"))
            make_container(blob, "notes")
            print(f"Azurite on port {blob}, moto on port {s3}", flush=True)
            environment = {
                **os.environ,
                "SCALINGNOTE_TEST_ROOTS": "az://notes/test,s3://notes/test",
                "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
                "AZURE_STORAGE_ACCOUNT_KEY": KEY,
                "AZURE_STORAGE_USE_EMULATOR": "true",
                "AZURITE_BLOB_STORAGE_URL": f"http://127.0.0.1:{blob}",
                **s3_environment(f"http://127.0.0.1:{s3}"),
                # A proxy of the machine has no way to its loopback.
                "NO_PROXY": "127.0.0.1,localhost",
            }
            return subprocess.run(sys.argv[3:], env=environment).returncode
        finally:
            end(servers)


if __name__ == "__main__":
    sys.exit(main())
