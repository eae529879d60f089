#!/usr/bin/env python3
"""Times a cold release build, crate by crate, and the way from a changed line to a running unit test.

    build.py [--compare REV] [--inner-loop] [--json FILE] [--top 10]
    build.py --timings FILE.html [--wall SECONDS] [--json FILE] [--top 10]

A copy of this tree is built by `cargo build --release --locked --timings` in new folders, everything fetched before the clock starts.
--compare builds another commit the same way afterwards, and prints ratios and which crates differ. --inner-loop puts a line into a
file of src/stage, runs one of that file's unit tests (--test, default: the first there is) and says how long that took, the median
of three: as `make test` compiles, and as `make unit` does. --profile and --compare-profile say with which profile (release, as `make test` has it).
--timings reads a report that cargo has written (target/cargo-timings/*.html) and builds nothing.

Each command of cargo may take STEP_SECONDS (10800) and is cut then (steps.py). Folders are in TMPDIR, a few GB each. Needs git, cargo
and Python.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import runs
import steps

REPOSITORY = runs.HERE.parent
CARGO = os.environ.get("CARGO") or "cargo"
# By the beginnings of crates' names.
FAMILIES = {
    "datafusion": ("datafusion",), "arrow, parquet": ("arrow", "parquet"), "candle, gemm": ("candle", "gemm"),
    "sqlparser": ("sqlparser",), "tokenizers": ("tokenizers",), "object_store": ("object_store",), "ours": ("scalingnote",),
}
REST = "the rest"
# A crate's seconds: checked up to its metadata, turned into code, and taken by its build script (compiling C, say).
PARTS = ("front_end_s", "codegen_s", "build_script_s")
DIFFERENCES = 10
# How a changed line gets to its test: what cargo is told before its command. The second is UNOPTIMISED of the Makefile.
LOOPS = {
    "optimised": lambda profile: (),
    "unoptimised": lambda profile: ("--config", f"profile.{profile}.incremental=true",
                                    "--config", f"profile.{profile}.package.scalingnote.opt-level=0"),
}


# --- cargo's report ---------------------------------------------------------------------------------------------


def units(html):
    """What cargo built, a dict each, by its report."""
    found = re.search(r"\bUNIT_DATA\s*=\s*", html)
    if not found:
        raise ValueError("no report of cargo's timings: it has no UNIT_DATA")
    return json.JSONDecoder().raw_decode(html, found.end())[0]


def parts(unit):
    """What a unit's seconds went to, as far as the report tells."""
    if "build-script" in unit["target"] or "build script" in unit["target"]:
        return {"build_script_s": unit["duration"]}
    if unit.get("sections"):
        seconds = {name: span["end"] - span["start"] for name, span in unit["sections"]}
        return {"front_end_s": seconds.get("frontend", 0.0), "codegen_s": seconds.get("codegen", 0.0)}
    if unit.get("rmeta_time") is not None:
        # Cargo before 1.91.
        return {"front_end_s": unit["rmeta_time"], "codegen_s": unit["duration"] - unit["rmeta_time"]}
    return {}


def family(name):
    return next((label for label, starts in FAMILIES.items() if name.startswith(starts)), REST)


def analysed(html, wall=None):
    """Seconds in total, by crate (all its units: library, build script, program) and by family."""
    crates, end = {}, 0.0
    for unit in units(html):
        end = max(end, unit["start"] + unit["duration"])
        crate = crates.setdefault((unit["name"], unit["version"]), {"seconds": 0.0, **dict.fromkeys(PARTS, 0.0)})
        crate["seconds"] += unit["duration"]
        for key, seconds in parts(unit).items():
            crate[key] += seconds
    rows = [{"name": name, "version": version, **crate} for (name, version), crate in crates.items()]
    rows.sort(key=lambda row: (-row["seconds"], row["name"], row["version"]))
    families = {label: {"crates": 0, "seconds": 0.0} for label in [*FAMILIES, REST]}
    for row in rows:
        one = families[family(row["name"])]
        one["crates"] += 1
        one["seconds"] += row["seconds"]
    return {"wall_s": end if wall is None else wall, "units_s": sum(row["seconds"] for row in rows), "crates": rows, "families": families}


def by_name(crates):
    """Seconds by crate; two versions of one count together."""
    found = {}
    for row in crates:
        found[row["name"]] = found.get(row["name"], 0.0) + row["seconds"]
    return found


def differences(ours, theirs):
    """[(crate, seconds here, seconds there)], the greatest differences first."""
    here, there = by_name(ours["crates"]), by_name(theirs["crates"])
    rows = [(name, here.get(name, 0.0), there.get(name, 0.0)) for name in {**here, **there}]
    return sorted(rows, key=lambda row: (-abs(row[1] - row[2]), row[0]))


# --- Building ---------------------------------------------------------------------------------------------------


def git(*arguments, **given):
    return subprocess.run(["git", "-C", str(REPOSITORY), *arguments], check=True, capture_output=True, **given).stdout


def copy(folder, revision):
    """The tree of a commit, or this one as it lies here."""
    folder.mkdir()
    if revision:
        subprocess.run(["tar", "-x", "-C", str(folder)], input=git("archive", revision), check=True)
        return
    for name in git("ls-files", "-z", "--cached", "--others", "--exclude-standard", text=True).split("\0"):
        source, target = REPOSITORY / name, folder / name
        if name and (source.is_symlink() or source.is_file()):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)


class Tree:
    """A copy of a commit's files, with a folder of its own for what is built."""

    def __init__(self, folder, revision):
        self.sources, self.target, self.log = folder / "tree", folder / "target", folder / "log"
        folder.mkdir()
        copy(self.sources, revision)
        # A wrapper would answer with what it has compiled before.
        self.environment = {**os.environ, "CARGO_TARGET_DIR": str(self.target), "RUSTC_WRAPPER": "", "CARGO_TERM_COLOR": "never"}
        self.cargo("fetch", "--locked")

    def cargo(self, *arguments):
        """One command of cargo: its step, wall seconds and standard output; leaves Python where it fails."""
        begun = time.monotonic()
        with open(self.log, "w+") as log, tempfile.TemporaryFile("w+") as out:
            command = [CARGO, *arguments]
            step = steps.Step(command, steps.limit(10_800), cwd=self.sources, env=self.environment, stdout=out, stderr=log)
            code, seconds = step.wait(), time.monotonic() - begun
            if code:
                log.seek(0)
                sys.exit(f"{' '.join(command)} ended with {code}\n{log.read()[-3000:]}")
            out.seek(0)
            return step, seconds, out.read()

    def build(self):
        """The cold build; the program's size is in bytes."""
        step, wall, _ = self.cargo("build", "--release", "--locked", "--offline", "--timings")
        report = max((self.target / "cargo-timings").glob("*.html"), key=lambda path: path.stat().st_mtime)
        found = analysed(report.read_text(), wall)
        found["cpu_s"] = step.usage.ru_utime + step.usage.ru_stime
        found["program_bytes"] = (self.target / "release" / "scalingnote").stat().st_size
        return found

    def inner_loop(self, profile, test, set_options=()):
        """Seconds from a line in a file of src/stage to the end of a unit test of it, as `cargo test` takes them."""
        command = [*set_options, "test", "--profile", profile, "--locked", "--offline", "--lib"]
        _, first, _ = self.cargo(*command, "--no-run")
        listed = self.cargo(*command, "--", "--list")[2]
        test, changed = chosen(listed, test, lambda name: (self.sources / name).is_file())
        changed, turns = self.sources / changed, []
        for turn in range(3):
            changed.write_text(f"// Turn {turn}.\n{changed.read_text()}")
            _, seconds, said = self.cargo(*command, test, "--", "--exact")
            if "1 passed" not in said:
                sys.exit(f"{test} did not run:\n{said}")
            turns.append(seconds)
        where = changed.relative_to(self.sources).as_posix()
        return {"profile": profile, "test": test, "file": where, "tests_built_s": first, "turns_s": turns, "median_s": statistics.median(turns)}


def chosen(listed, wanted, exists):
    """A unit test of src/stage by `cargo test -- --list`, and the file of its module."""
    names = sorted(line.removesuffix(": test") for line in listed.splitlines() if line.startswith("stage::") and line.endswith(": test"))
    for name in names:
        path = "src/" + name.rpartition("::")[0].removesuffix("::tests").replace("::", "/")
        for file in (f"{path}.rs", f"{path}/mod.rs"):
            if exists(file) and wanted in ("", name):
                return name, file
    sys.exit(f"no unit test of src/stage{f' is named {wanted}' if wanted else ''}")


# --- Report -----------------------------------------------------------------------------------------------------


def clock(seconds):
    return f"{seconds:,.1f} s" + (f" ({int(seconds) // 60} m {int(seconds) % 60:02} s)" if seconds >= 60 else "")


def told(title, found, top):
    """The tables of one build."""
    total = found["units_s"]
    lines = [f"## {title}", "", f"{clock(found['wall_s'])} of wall time; {len(found['crates'])} crates, whose units add up to {clock(total)}, "
             f"{total / found['wall_s']:.2f} at once" + (f"; {clock(found['cpu_s'])} of processor time" if "cpu_s" in found else "")
             + (f"; the program has {found['program_bytes'] / 1e6:.1f} MB" if "program_bytes" in found else ""), ""]
    lines += ["| crate | seconds | share | front end | code | build script |", "|---|--:|--:|--:|--:|--:|"]
    for row in found["crates"][:top]:
        cells = [f"{row['name']} {row['version']}", f"{row['seconds']:.1f}", f"{row['seconds'] / total:.1%}"]
        lines.append("| " + " | ".join(cells + [f"{row[part]:.1f}" for part in PARTS]) + " |")
    lines += ["", "| family | crates | seconds | share |", "|---|--:|--:|--:|"]
    for label, one in found["families"].items():
        lines.append(f"| {label} | {one['crates']} | {one['seconds']:.1f} | {one['seconds'] / total:.1%} |")
    return lines + [""]


def compared(revision, ours, theirs):
    """What differs between two builds of one run."""
    ratio = lambda key: f"{ours[key] / theirs[key]:.2f}"
    lines = [f"## This tree to {revision}", "", f"wall time {ratio('wall_s')}, units {ratio('units_s')}, processor time {ratio('cpu_s')}, "
             f"program {ratio('program_bytes')}", "", f"| crate | seconds | at {revision} | difference |", "|---|--:|--:|--:|"]
    for name, here, there in differences(ours, theirs)[:DIFFERENCES]:
        lines.append(f"| {name} | {here:.1f} | {there:.1f} | {here - there:+.1f} |")
    for label, one in ours["families"].items():
        there = theirs["families"][label]["seconds"]
        lines.append(f"| {label}, all | {one['seconds']:.1f} | {there:.1f} | {one['seconds'] - there:+.1f} |")
    return lines + [""]


def told_loop(title, loop):
    turns = ", ".join(f"{seconds:.1f}" for seconds in loop["turns_s"])
    return [f"{title}: a line in {loop['file']} to the end of `{loop['test']}`, profile {loop['profile']}: {loop['median_s']:.1f} s "
            f"(median of {turns}; the tests' first build {clock(loop['tests_built_s'])})", ""]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compare", metavar="REV")
    parser.add_argument("--inner-loop", action="store_true")
    parser.add_argument("--profile", default="release")
    parser.add_argument("--compare-profile", default="release")
    parser.add_argument("--test", default="")
    parser.add_argument("--timings", type=pathlib.Path)
    parser.add_argument("--wall", type=float)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--top", type=int, default=10)
    args = parser.parse_args()
    found, cuts = {"provenance": runs.provenance().splitlines()}, []
    print("\n".join(found["provenance"]) + "\n", flush=True)
    if args.timings:
        found["here"] = analysed(args.timings.read_text(), args.wall)
        print("\n".join(told(args.timings.name, found["here"], args.top)))
    else:
        measured(args, found, cuts)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    print(steps.said(cuts))


def measured(args, found, cuts):
    """Builds this tree and the one it is compared with; what is known is printed at once."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="scalingnote-build-"))
    trees = [("here", "This tree", None, args.profile)]
    if args.compare:
        trees.append(("compared", args.compare, args.compare, args.compare_profile))
    try:
        for key, title, revision, profile in trees:
            try:
                tree = Tree(folder / key, revision)
                found[key] = tree.build()
                print("\n".join(told(title, found[key], args.top)), flush=True)
                for name, options in LOOPS.items() if args.inner_loop else ():
                    found[key][name] = tree.inner_loop(profile, args.test, options(profile))
                    print("\n".join(told_loop(f"{title}, {name}", found[key][name])), flush=True)
            except steps.Cut as cut:
                cuts.append((f"{title}, {'the inner loop' if key in found else 'cold build'}", cut))
                print(f"{cuts[-1][0]}: {cut}\n", flush=True)
            shutil.rmtree(folder / key, ignore_errors=True)
        if "here" in found and "compared" in found:
            print("\n".join(compared(args.compare, found["here"], found["compared"])))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
