"""Bounds the steps of a bench, and says what was cut.

A step is a process with all that it starts, in a process group of its own. It is ended when its time is over, its row says
`cut after N s`, and the bench goes on: STEP_SECONDS is what a step may take (0: as long as it likes); without it each bench has a
limit of its own. A step may cut parts of itself before they begin (`Budget`): it says so in a line `cut: WHAT` of its standard
error. Needs nothing but Python.

From a shell script:

    steps.py run FOLDER NAME COMMAND...   one step: what it prints is FOLDER/NAME, once it is complete
    steps.py said FOLDER                  how many steps were cut, and which
"""

import atexit
import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

STARTED = time.monotonic()
# Between asking a step to end and ending it.
GRACE = 10.0
# In FOLDER: what was cut, a JSON object a line.
CUTS = "cuts.jsonl"


def limit(default=600):
    """Seconds that a step may take; None for no limit."""
    return float(os.environ.get("STEP_SECONDS") or default) or None


class Cut(Exception):
    """A step's time was over."""

    def __init__(self, seconds):
        super().__init__(f"cut after {seconds:g} s")


class Step:
    """A process that leads a group of its own and is ended after `seconds`; without a limit it stays in this process's group."""

    def __init__(self, command, seconds, **given):
        self.seconds, self.over, self.usage, self.timers = seconds, False, None, []
        self.process = subprocess.Popen(command, start_new_session=bool(seconds), **given)
        if seconds:
            self._after(seconds, self.end)
        # A bench that is ended itself ends its steps.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        atexit.register(self.close)

    def _after(self, seconds, call, *arguments):
        timer = threading.Timer(seconds, call, arguments)
        timer.daemon = True
        timer.start()
        self.timers.append(timer)

    def _signal(self, number):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            (os.killpg if self.seconds else os.kill)(self.process.pid, number)

    def _reap(self):
        if self.process.returncode is None:
            _, status, self.usage = os.wait4(self.process.pid, 0)
            self.process.returncode = os.waitstatus_to_exitcode(status)

    def end(self):
        """Asks the group to end, and kills it where it does not; `wait` waits for that."""
        self.over = True
        self._signal(signal.SIGTERM)
        self._after(GRACE, self._signal, signal.SIGKILL)

    def close(self):
        """Ends what still runs: a step must not outlive its bench."""
        if self.process.returncode is None:
            self.end()
            self._reap()
        for timer in self.timers:
            timer.cancel()
        if self.over and self.seconds:
            # Whatever the first process left behind.
            self._signal(signal.SIGKILL)

    def wait(self):
        """The exit code; raises `Cut` where the step was ended."""
        try:
            self._reap()
        finally:
            self.close()
        if self.over:
            raise Cut(self.seconds)
        return self.process.returncode


class Budget:
    """The time of the step that this process is, for parts that are cut before they begin."""

    def __init__(self, default=600):
        self.limit = limit(default)

    def left(self):
        """Seconds, with something to spare for what is not foreseen."""
        return float("inf") if self.limit is None else 0.9 * self.limit - (time.monotonic() - STARTED)

    def allows(self, what, seconds, share=1.0):
        """Whether a part that is expected to take this long may begin, given a share of what is left; says what is cut where not."""
        left = share * self.left()
        if seconds <= left:
            return True
        print(f"cut: {what}: some {seconds:,.0f} s expected, {max(left, 0):,.0f} s are left for it", file=sys.stderr, flush=True)
        return False


def fastest(run, most, seconds):
    """The seconds of the fastest of up to `most` runs; after `seconds` no further one begins."""
    best, end = float("inf"), time.monotonic() + seconds
    for _ in range(most):
        begun = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - begun)
        if time.monotonic() > end:
            break
    return best


def turn_of(name):
    """The name of a step without the number of its round: `torch.2.json` is `torch.json`."""
    return re.sub(r"\.\d+(?=\.|$)", "", name)


def cuts(folder):
    """What was cut in a folder: [(step, what)]."""
    path = pathlib.Path(folder, CUTS)
    return [tuple(json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def said(found):
    """The line that ends a bench: how many steps were cut, whole or in part."""
    names = list(dict.fromkeys(name for name, _ in found))
    return f"steps cut: {len(names)}" + (f" ({', '.join(names)}); STEP_SECONDS allows more time" if names else "")


def run(folder, name, command):
    """One step of a shell script: the exit code of what failed; 0 where it was cut, too."""
    folder = pathlib.Path(folder)
    out, part, log = folder / name, folder / f"{name}.part", folder / f"{name}.log"

    def note(what):
        print(f"{name}: {what}", file=sys.stderr, flush=True)
        with open(folder / CUTS, "a") as file:
            file.write(json.dumps([name, what]) + "\n")

    if any(turn_of(other) == turn_of(name) and what.startswith("cut after") for other, what in cuts(folder)):
        return 0
    code, over = 0, None
    with open(part, "w") as stdout, open(log, "w") as stderr:
        try:
            code = Step(command, limit(), stdout=stdout, stderr=stderr).wait()
        except Cut as cut:
            over = str(cut)
    lines = log.read_text(errors="replace").splitlines()
    for line in lines:
        if line.startswith("cut: "):
            note(line)
    if over:
        note(over)
    elif code:
        print("\n".join(lines), file=sys.stderr)
    else:
        os.replace(part, out)
    return code


if __name__ == "__main__":
    command, folder, *rest = sys.argv[1:]
    if command == "run":
        sys.exit(run(folder, rest[0], rest[1:]))
    print(said(cuts(folder)))
