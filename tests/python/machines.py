"""Runs on three machines that share a bucket and nothing else.

    machines.py PROGRAM STORES     (`make test-machines`)

Each machine is a set of Linux namespaces: a network of its own on a bridge, a host name, a disk (tmpfs) and, by
tests/it/fixture/machine.c, a clock minutes away from the others'. The bucket is moto's S3 server behind a relay that
takes 50 ms each way and holds 2% of what passes up for a quarter of a second more, as a lost packet would. A machine
is cut off for two minutes in the middle of its work: its link goes down, and what it sent is answered by nobody.

What must hold: the indexes and vectors of a snapshot are byte for byte those of one process on a local folder; every snapshot that
can be seen is whole at that moment; and no command waits for ever. STORES is where tests/python/stores.py installed moto.
Where namespaces cannot be made the test says that it was skipped.
"""

import asyncio
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import stores  # noqa: E402

SEED = int(os.environ.get("SCALINGNOTE_SEED", "1"))
CUT = 120  # seconds
DELAY, LOST, AGAIN = 0.05, 0.02, 0.25
BRIDGE = f"sn{os.getpid() % 100000}"
NET = "10.213.7"
BUCKET_PORT = 9000
NOTES = 600
CLOCKS = {"ada": 7 * 60, "bob": 0, "cyd": -6 * 60}
# A command may wait for the network to come back and then do its work.
LONGEST = CUT + 400
AGAIN_CODE = 75


def fail(message):
    print(f"FAILED: {message} (SCALINGNOTE_SEED={SEED})", file=sys.stderr)
    sys.exit(1)


def sh(*line, check=True):
    done = subprocess.run([str(part) for part in line], capture_output=True, text=True)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, line))}: {done.stderr.strip()}")
    return done


class Relay(threading.Thread):
    """TCP from the bridge to moto, slowly; sees which keys are put from which address."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port, self.random = port, random.Random(SEED)
        self.watched, self.ready = {}, threading.Event()

    def watch(self, address, key, count):
        """An event that is set when `address` has put so many keys that hold `key`."""
        event = threading.Event()
        self.watched[address] = [key.encode(), count, event]
        return event

    def run(self):
        asyncio.run(self.serve())

    async def serve(self):
        server = await asyncio.start_server(self.accept, f"{NET}.1", BUCKET_PORT)
        self.ready.set()
        async with server:
            await server.serve_forever()

    async def accept(self, reader, writer):
        address = writer.get_extra_info("peername")[0]
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self.pump(reader, back, address), self.pump(there, writer, None))

    async def pump(self, source, sink, address):
        """Bytes keep their order and their distance; only the way is long."""
        queue = asyncio.Queue(64)

        async def deliver():
            while (item := await queue.get()) is not None:
                due, data = item
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                sink.write(data)
                await sink.drain()

        delivering = asyncio.create_task(deliver())
        try:
            while data := await source.read(16384):
                if address:
                    self.look(address, data)
                lost = self.random.random() < LOST
                await queue.put((time.monotonic() + DELAY + (AGAIN if lost else 0), data))
            await queue.put(None)
            await delivering
        except (OSError, asyncio.CancelledError):
            delivering.cancel()
        finally:
            sink.close()

    def look(self, address, data):
        watched = self.watched.get(address)
        if watched and data.startswith(b"PUT ") and watched[0] in data.split(b"\r\n", 1)[0]:
            watched[1] -= 1
            if watched[1] <= 0:
                watched[2].set()


class Machine:
    def __init__(self, name, number, work, program, preload):
        self.name, self.program, self.preload = name, program, preload
        self.address, self.host_side = f"{NET}.{10 + number}", f"{BRIDGE}v{number}"
        self.disk = work / "disk"
        self.logs, self.count = work / "logs", 0
        line = ["unshare", "--net", "--uts", "--mount", "--kill-child", "sleep", "infinity"]
        self.holder = subprocess.Popen(line, preexec_fn=stores.end_with_parent)
        # Until it stands in namespaces of its own.
        mine, until = os.readlink("/proc/self/ns/net"), time.monotonic() + 10
        while os.readlink(f"/proc/{self.holder.pid}/ns/net") == mine:
            if time.monotonic() > until or self.holder.poll() is not None:
                raise RuntimeError("no namespaces")
            time.sleep(0.01)
        pid, inside = self.holder.pid, f"{BRIDGE}n{number}"
        sh("ip", "link", "add", self.host_side, "type", "veth", "peer", "name", inside, "netns", pid)
        sh("ip", "link", "set", self.host_side, "master", BRIDGE, "up")
        self.inside("ip", "addr", "add", f"{self.address}/24", "dev", inside)
        self.inside("ip", "link", "set", inside, "up")
        self.inside("ip", "link", "set", "lo", "up")
        self.inside("hostname", name)
        self.inside("mount", "--make-rprivate", "/")
        self.inside("mount", "-t", "tmpfs", name, self.disk)
        for folder in ("home", "tmp"):
            self.inside("mkdir", self.disk / folder)

    def inside(self, *line):
        sh(*self.enter(), *line)

    def enter(self):
        return ["nsenter", "-t", str(self.holder.pid), "--net", "--uts", "--mount"]

    def write(self, name, text):
        line = [*self.enter(), "sh", "-c", f"cat > {self.disk}/{name}"]
        subprocess.run(line, input=text, text=True, check=True)

    def start(self, *line):
        self.count += 1
        log = open(self.logs / f"{self.name}-{self.count}-{line[0]}.log", "wb")
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.disk / "home"),
            "TMPDIR": str(self.disk / "tmp"),
            "LD_PRELOAD": str(self.preload),
            "MACHINE_AHEAD": str(CLOCKS[self.name]),
            **stores.s3_environment(f"http://{NET}.1:{BUCKET_PORT}"),
        }
        # `env` sets the library for the program alone.
        settings = [f"{key}={value}" for key, value in environment.items()]
        line = [*self.enter(), "env", "-i", "-C", str(self.disk), *settings, self.program, *line]
        return subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
                                preexec_fn=stores.end_with_parent)

    def link(self, state):
        sh("ip", "link", "set", self.host_side, state)

    def end(self):
        self.holder.kill()
        self.holder.wait()


def result(process, what, codes=(0,)):
    """Its stdout, once it has ended with one of `codes`, in time."""
    try:
        out, _ = process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        process.kill()
        fail(f"{what} did not end within {LONGEST} s")
    if process.returncode not in codes:
        fail(f"{what} ended with {process.returncode}, not one of {codes}")
    return process.returncode, out


def insist(machine, *line):
    """As a scheduler does: again while it ends with 75. Gives stdout and how often it took."""
    for attempt in range(1, 9):
        code, out = result(machine.start(*line), f"{machine.name}: {' '.join(line)}", (0, AGAIN_CODE))
        if code == 0:
            return out, attempt
        time.sleep(2)
    fail(f"{machine.name}: {' '.join(line)} ended with {AGAIN_CODE} eight times")


def cut_off(machine, event, what):
    """Takes the link away for two minutes, once the event has come; a thread."""

    def work():
        if not event.wait(LONGEST):
            return
        machine.link("down")
        print(f"  {machine.name} is cut off while it {what}", flush=True)
        time.sleep(CUT)
        machine.link("up")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


FILES = 6


def notes(day):
    """The files of a day. A note's text changes on the days that its number tells."""
    rng = random.Random(SEED * 1000)
    words = ["cable", "bread", "kernel", "river", "index", "garden", "signal", "winter", "ledger", "copper"]
    lines = []
    for at in range(NOTES):
        version = day if at % 5 == 0 else 0
        body = " ".join(rng.choice(words) for _ in range(30))
        if at >= NOTES - 20 and day > 1:
            continue  # gone
        # What nobody reads makes the files large enough to be read in shares.
        note = {"id": at, "body": f"note {at} of day {version}: {body}", "unread": str(at) * 1500}
        lines.append(json.dumps(note) + "\n")
    return ["".join(lines[number::FILES]) for number in range(FILES)]


def pipeline(root, corpus, speed):
    return f"""version = 2
[corpus]
sql = "SELECT id AS note_id, body FROM notes"
template = "{{{{ body }}}}"
share_mib = 1
[[corpus.tables]]
name = "notes"
uri = "{corpus}*.jsonl"
[tower]
model = "fake:32{speed}"
pooling = "mean"
[encode]
devices = ["cpu"]
part_texts = 40
[index]
shards = 3
[publish]
root = "{root}"
"""


def content(manifest):
    """What may not depend on who did the work: the bytes of every index and of the vectors beside it. Parts may be cut
    elsewhere where an attempt began again."""
    files = []
    for shard in manifest["content"]["shards"]:
        for segment in [shard, *shard.get("deltas", [])]:
            files.append([shard["shard"], shard["notes"], segment["index"]["sha256"], segment["sidecar"]["sha256"]])
    return files


class Test:
    def __init__(self, work, program, machines, relay):
        self.work, self.program, self.machines, self.relay = work, program, machines, relay
        self.given = set()
        self.local = work / "local"
        self.local.mkdir()

    def expected(self, days):
        """The content of the days, by one process on a folder."""
        contents = []
        for day in range(1, days + 1):
            for number, text in enumerate(notes(day)):
                (self.local / f"{number}.jsonl").write_text(text)
            (self.local / "p.toml").write_text(pipeline("root", "", ""))
            line = [self.program, "run", "p.toml", "--quiet"]
            run = subprocess.run(line, cwd=self.local, stdout=subprocess.DEVNULL)
            if run.returncode != 0:
                fail("the reference run failed")
            shown = sh("env", "-C", self.local, self.program, "snapshot", "show", "root", "--json").stdout
            contents.append(content(json.loads(shown)))
        return contents

    def give(self, day, root, speed):
        """The notes of the day lie in the bucket, too: each machine has the pipeline file alone."""
        # Once: moto refuses to overwrite for who does not sign.
        if day not in self.given:
            self.given.add(day)
            for number, text in enumerate(notes(day)):
                headers = {"Host": f"127.0.0.1:{self.relay.port}"}
                stores.put(self.relay.port, f"/notes/corpus/{day}/{number}.jsonl", headers, text.encode())
        for machine in self.machines:
            machine.write("p.toml", pipeline(root, f"s3://notes/corpus/{day}/", speed))

    def published(self, machine, root, number):
        out, _ = insist(machine, "snapshot", "show", root, str(number), "--json")
        return content(json.loads(out))

    def tasks(self, root, expected):
        """A scheduler's steps, each on another machine; one of them is cut off while it encodes."""
        ada, bob, cyd = self.machines
        self.give(1, root, "?tokens_per_second=900")
        shares = json.loads(insist(ada, "plan", "p.toml", "--shares")[0])
        plan = shares["shares_key"]
        if plan is None:
            fail(f"the corpus is not read in shares: {shares}")
        attempts = {}

        def share(stage, number, machine):
            line = ("task", "p.toml", "--plan", plan, "--stage", stage, "--share", f"{number}/3")
            attempts[stage, machine.name] = insist(machine, *line)[1]

        def stage(name, order):
            threads = [threading.Thread(target=share, args=(name, *of)) for of in enumerate(order)]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
            if len([key for key in attempts if key[0] == name]) != 3:
                sys.exit(1)

        cut = cut_off(cyd, self.relay.watch(cyd.address, "/prepared/", 1), "reads the corpus")
        stage("prepare", [bob, cyd, ada])
        stage("gather", [cyd, ada, bob])
        cut.join()
        plan = json.loads(insist(bob, "plan", "p.toml", "--brief", "--gathered", plan)[0])["plan_key"]
        cut = cut_off(bob, self.relay.watch(bob.address, "/embeddings/", 2), "encodes")
        stage("encode", [ada, bob, cyd])
        cut.join()
        insist(cyd, "task", "p.toml", "--plan", plan, "--stage", "calibrate")
        stage("build", [cyd, ada, bob])
        insist(bob, "publish", "p.toml", "--plan", plan)
        if self.published(cyd, root, 1) != expected:
            fail("tasks on three machines made other content than one process")
        again = [f"{name} {stage} {count}" for (stage, name), count in attempts.items() if count > 1]
        print(f"tasks on three machines: the same content as one process; more than one attempt: {again}", flush=True)

    def runs(self, root, expected):
        """Three machines are told to run at once. The first is cut off while it works: for longer than it waits for an answer."""
        ada, bob, cyd = self.machines
        self.give(2, root, "?tokens_per_second=300")
        cut = cut_off(ada, self.relay.watch(ada.address, "/embeddings/", 2), "runs")
        first = ada.start("run", "p.toml", "--quiet")
        time.sleep(3)
        others = [machine.start("run", "p.toml", "--quiet", "--wait", "5m") for machine in (bob, cyd)]
        seen = self.look_while(root, [first, *others])
        codes = [result(process, "a run", (0, AGAIN_CODE))[0] for process in (first, *others)]
        cut.join()
        if 0 not in codes:
            fail("three runs, and none went through")
        for machine in self.machines:
            insist(machine, "run", "p.toml", "--quiet")
        listed = json.loads(insist(bob, "snapshot", "list", root, "--json")[0])
        numbers = [snapshot["number"] for snapshot in listed]
        if sorted(numbers) != [1, 2]:
            fail(f"one day made the snapshots {numbers}")
        if self.published(cyd, root, 2) != expected:
            fail("runs on three machines made other content than one process")
        print(f"three runs at once: exit codes {codes}, one snapshot; looked at {seen} times meanwhile", flush=True)

    def look_while(self, root, processes):
        """Whatever can be seen is whole: verified from the bucket's own side, without the relay."""
        environment = {
            **{key: value for key, value in os.environ.items() if "proxy" not in key.lower()},
            **stores.s3_environment(f"http://127.0.0.1:{self.relay.port}"),
            "XDG_CACHE_HOME": str(self.work / "looker"),
        }
        looks, until = 0, time.monotonic() + LONGEST
        while any(process.poll() is None for process in processes) and time.monotonic() < until:
            line = [self.program, "snapshot", "verify", root, "--quiet"]
            done = subprocess.run(line, env=environment, capture_output=True, text=True, cwd=self.work)
            if done.returncode != 0:
                fail(f"a snapshot that can be seen is not whole: {done.stderr}")
            looks += 1
            time.sleep(1)
        return looks

    def cluster(self, root, expected):
        """Scheduler and driver on one machine, executors on the two others, one of which is cut off."""
        ada, bob, cyd = self.machines
        address = f"{ada.address}:50050"
        scheduling = ada.start("cluster", "scheduler", "--bind", address, "--closed-network", "--lost-after", "10s")
        first = scheduling.stdout.readline()
        if "scheduling" not in first:
            print("skipped: a Ballista cluster of machines (the program was built without `--features cluster`)")
            return
        executors = [machine.start("cluster", "executor", "--scheduler", address) for machine in (bob, cyd)]
        self.give(1, root, "?tokens_per_second=900")
        cut = cut_off(bob, self.relay.watch(bob.address, "/embeddings/", 2), "executes")
        out, attempts = insist(ada, "run", "p.toml", "--quiet", "--cluster", f"df://{address}")
        cut.join()
        if self.published(cyd, root, 1) != expected:
            fail("a cluster of three machines made other content than one process")
        for process in [*executors, scheduling]:
            process.send_signal(signal.SIGTERM)
            result(process, "the cluster's end")
        print(f"a cluster of three machines: the same content as one process; {attempts} attempt(s)", flush=True)


def skip(why):
    print(f"skipped: {why}")
    sys.exit(0)


def main():
    program, folder = pathlib.Path(sys.argv[1]).absolute(), pathlib.Path(sys.argv[2]).absolute()
    if sys.platform != "linux" or not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        skip("machines are Linux namespaces, made by unshare, nsenter and ip (Debian, Ubuntu: apt install iproute2)")
    if sh("unshare", "--net", "--uts", "--mount", "true", check=False).returncode != 0:
        skip("namespaces cannot be made here (run it as root, outside a restricted container)")
    stores.end_on_signals()
    _, python = stores.install(folder)
    print(f"SCALINGNOTE_SEED={SEED}", flush=True)
    machines, servers = [], []
    with tempfile.TemporaryDirectory(prefix="machines-") as temporary:
        work = pathlib.Path(temporary)
        for name in ("disk", "logs"):
            (work / name).mkdir()
        try:
            source = pathlib.Path(__file__).parents[1] / "it/fixture/machine.c"
            preload = work / "machine.so"
            sh(os.environ.get("CC", "cc"), "-shared", "-fPIC", "-O1", "-o", preload, source, "-ldl")
            try:
                sh("ip", "link", "add", BRIDGE, "type", "bridge")
            except RuntimeError as refused:
                skip(f"a bridge cannot be made here: {refused}")
            sh("ip", "addr", "add", f"{NET}.1/24", "dev", BRIDGE)
            sh("ip", "link", "set", BRIDGE, "up")
            s3 = stores.free_port()
            servers.append(stores.start_moto(python, s3, work / "logs/moto.txt"))
            relay = Relay(s3)
            relay.start()
            if not relay.ready.wait(10):
                fail("the relay does not listen")
            for number, name in enumerate(CLOCKS):
                machines.append(Machine(name, number, work, program, preload))
            test = Test(work, program, machines, relay)
            days = test.expected(2)
            test.tasks("s3://notes/one", days[0])
            test.runs("s3://notes/one", days[1])
            test.cluster("s3://notes/two", days[0])
        except SystemExit as ending:
            if ending.code not in (0, None):
                for log in sorted((work / "logs").glob("*.log")):
                    text = log.read_text(errors="replace")[-1500:]
                    print(f"--- {log.name}\n{text}", file=sys.stderr)
            raise
        finally:
            for machine in machines:
                machine.end()
            for server in servers:
                server.kill()
            sh("ip", "link", "del", BRIDGE, check=False)
    print("machines: all passed")


if __name__ == "__main__":
    main()
