"""The sources' tests against real servers: PostgreSQL and MariaDB of this machine, on free loopback ports.

    sources.py -- COMMAND...     (`make test-sources`)

Starts those of the two that are installed (Debian, Ubuntu: apt install postgresql mariadb-server-core mariadb-client-core) on an empty folder and
runs COMMAND with SCALINGNOTE_TEST_POSTGRES and SCALINGNOTE_TEST_MYSQL, and with a user and a password, in its environment. Ends
with COMMAND's exit code. What is not installed is said; SCALINGNOTE_REQUIRE_DATABASES=1 makes that an error.
"""

import glob
import os
import pathlib
import pwd
import secrets
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from stores import end, end_on_signals, end_with_parent, free_port, start, stop  # noqa: E402


def missing(what, package):
    if os.environ.get("SCALINGNOTE_REQUIRE_DATABASES"):
        stop(f"{what} is not installed (Debian, Ubuntu: apt install {package})")
    print(f"skipped: no {what} (Debian, Ubuntu: apt install {package})", flush=True)


def as_nobody():
    """In the child: neither server runs as root, and a killed parent ends it too."""
    end_with_parent()
    if os.geteuid() == 0:
        user = pwd.getpwnam("nobody")
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
        end_with_parent()  # a change of user undoes it


def run(line, log):
    with open(log, "ab") as out:
        made = subprocess.run(line, stdin=subprocess.DEVNULL, stdout=out, stderr=out, preexec_fn=as_nobody)
    if made.returncode != 0:
        stop(f"{line[0]} failed: {log.read_text(errors='replace')[-2000:]}")


def postgres(work, password):
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/postgres"))
    own = shutil.which("postgres")
    binary = pathlib.Path(own or found[-1]) if own or found else None
    if binary is None or not binary.with_name("initdb").exists():
        return missing("PostgreSQL", "postgresql"), {}
    data, log, port = work / "postgres", work / "postgres.log", free_port()
    word = work / "password"
    word.write_text(password)
    word.chmod(0o644)  # in a folder that nobody else enters
    run([binary.with_name("initdb"), "-D", data, "-U", "reader", "--auth=scram-sha-256", f"--pwfile={word}",
         "--encoding=UTF8", "--locale=C", "--no-sync"], log)
    line = [binary, "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", work, "-F", "-c", "log_statement=all"]
    server = start(line[0], line, port, log, as_nobody)
    return server, {
        "SCALINGNOTE_TEST_POSTGRES": f"postgres://127.0.0.1:{port}/postgres",
        "SCALINGNOTE_TEST_POSTGRES_LOG": str(log),
        "PGUSER": "reader",
        "PGPASSWORD": password,
    }


def mariadb(work, password):
    binary = shutil.which("mariadbd") or shutil.which("mariadbd", path="/usr/sbin:/usr/libexec")
    install = shutil.which("mariadb-install-db")
    if binary is None or install is None:
        return missing("MariaDB", "mariadb-server-core mariadb-client-core"), {}
    data, log, port = work / "mariadb", work / "mariadb.log", free_port()
    data.mkdir()
    if os.geteuid() == 0:
        shutil.chown(data, "nobody")
    run([install, "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal", "--skip-test-db"], log)
    first = work / "first.sql"
    first.write_text(
        "CREATE DATABASE notes CHARACTER SET utf8mb4;\n"
        f"CREATE USER 'reader'@'%' IDENTIFIED BY '{password}';\n"
        "GRANT ALL ON notes.* TO 'reader'@'%';\n")
    line = [binary, "--no-defaults", f"--datadir={data}", f"--port={port}", "--bind-address=127.0.0.1",
            f"--socket={work}/mariadb.sock", f"--pid-file={work}/mariadb.pid", f"--init-file={first}", "--skip-name-resolve"]
    server = start(line[0], line, port, log, as_nobody)
    return server, {
        "SCALINGNOTE_TEST_MYSQL": f"mysql://127.0.0.1:{port}/notes",
        "MYSQL_USER": "reader",
        "MYSQL_PASSWORD": password,
    }


def main():
    if len(sys.argv) < 3 or sys.argv[1] != "--":
        stop("usage: sources.py -- COMMAND...")
    end_on_signals()
    password, servers, environment = secrets.token_hex(12), [], dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="sources-") as folder:
        work = pathlib.Path(folder)
        work.chmod(0o777)
        try:
            for make in (postgres, mariadb):
                server, told = make(work, password)
                servers += [server] if server else []
                environment |= told
            # A proxy of the machine has no way to its loopback.
            environment["NO_PROXY"] = "127.0.0.1,localhost"
            return subprocess.run(sys.argv[2:], env=environment).returncode
        finally:
            end(servers)


if __name__ == "__main__":
    sys.exit(main())
