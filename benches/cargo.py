#!/usr/bin/env python3
"""Times whole builds of a Rust program: plain cargo, through dbuild, and through sccache beside it; and one hit of `syn`.

    benches/cargo.py [--rounds N] [--project ripgrep|mini-redis] [--sccache FILE] [--output FILE] [--hits N]

One round builds every variant once, in turn; ratios are taken within a round and their median is printed. Every file
that a build leaves (but cargo's own notes) is compared with the plain build's. All variants but the last two have
`CARGO_INCREMENTAL=0`, which sccache needs.

    plain               cargo build, no target directory
    dbuild cold         the same through dbuild, nothing is known
    dbuild warm         once more, everything is known
    dbuild elsewhere    another checkout, with another target directory
    dbuild any-path     the same with share = "any-path", after a build at the first place
    sccache cold, warm  cargo build with RUSTC_WRAPPER=sccache
    plain kept          the target directory is there, one file of the program has changed
    dbuild kept         the same through dbuild

CPU is that of the build's processes and of the daemon that serves them. sccache 0.19 is looked for on PATH
(`cargo install sccache --version ^0.19 --no-default-features`) and left out, loudly, if it is not there.
"""

import argparse
import hashlib
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Not in this workspace: cargo would take what is built for members of it.
WORK = Path(tempfile.gettempdir()) / f"dbuild-bench-cargo-{os.getuid()}"
PROGRAMS = ROOT / "tests" / "programs" / "Cargo.toml"
CHANGED = {"ripgrep": "crates/core/main.rs", "mini-redis": "src/lib.rs"}
# Cargo's own notes, some of which have times or random order.
NOTES = {".rustc_info.json", "invoked.timestamp", ".cargo-lock", ".cargo-build-lock", ".cargo-artifact-lock"}


def unpack(name, to):
    """A fresh copy of the sources of a crate, with its dependencies fetched."""
    subprocess.run(["cargo", "fetch", "--quiet", "--locked", "--manifest-path", PROGRAMS], check=True)
    metadata = subprocess.run(
        ["cargo", "metadata", "--quiet", "--format-version", "1", "--locked", "--manifest-path", PROGRAMS],
        check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    # A program without a library is fetched, and no package to cargo: it lies beside the others.
    locked = tomllib.loads(PROGRAMS.with_name("Cargo.lock").read_text())["package"]
    version = next(p["version"] for p in locked if p["name"] == name)
    beside = next(Path(p["manifest_path"]).parent for p in json.loads(metadata)["packages"] if p["source"])
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(beside.with_name(f"{name}-{version}"), to, ignore=shutil.ignore_patterns(".cargo-ok", ".cargo_vcs_info.json"))
    subprocess.run(["cargo", "fetch", "--quiet", "--manifest-path", to / "Cargo.toml"], check=True)


def cpu_of(pids):
    """CPU seconds that living processes have used."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def daemons(word):
    """Processes with `word` among their arguments or in their environment, but for this one."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            said = (entry / "cmdline").read_bytes() + b"\0" + (entry / "environ").read_bytes()
        except OSError:
            continue
        if word.encode() in said:
            found.append(int(entry.name))
    return found


def tree(target):
    """A digest of every file of a target directory, but for cargo's notes. Build scripts that compile several files at a time
    say so in another order each time."""
    files = {}
    for path in sorted(target.rglob("*")):
        if path.is_file() and path.name not in NOTES and ".fingerprint" not in path.parts:
            content = path.read_bytes()
            if path.name == "output" and path.parent.parent.name == "build":
                content = b"\n".join(sorted(content.splitlines()))
            files[str(path.relative_to(target))] = hashlib.blake2b(content).hexdigest()
    return files


class Bench:
    def __init__(self, args):
        self.args = args
        self.dbuild = Path(args.dbuild).resolve()
        self.clean = {k: v for k, v in os.environ.items() if not k.startswith(("DBUILD_", "SCCACHE_", "CARGO_", "RUSTC"))}
        self.clean["CARGO_INCREMENTAL"] = "0"
        if "CARGO_HOME" in os.environ:
            self.clean["CARGO_HOME"] = os.environ["CARGO_HOME"]
        self.data = WORK / "data"
        self.alone = {**self.clean, "DBUILD_DATA_DIR": str(self.data)}
        self.peer = {**self.clean, "SCCACHE_DIR": str(WORK / "sccache"), "SCCACHE_SERVER_PORT": "4399",
                     "RUSTC_WRAPPER": str(args.sccache), "SCCACHE_IDLE_TIMEOUT": "0"}
        self.times, self.plain, self.hits = {}, None, {}

    def run(self, label, cwd, words, env, daemon):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        served = cpu_of(daemons(daemon)) if daemon else 0
        start = time.monotonic()
        ran = subprocess.run(words, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        wall = time.monotonic() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if ran.returncode != 0:
            sys.exit(f"failed: {words}\n{ran.stdout.decode(errors='replace')[-4000:]}")
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        if daemon:
            cpu += cpu_of(daemons(daemon)) - served
        self.times.setdefault(label, []).append((wall, cpu))
        print(f"  {label:18} {wall:8.2f} s wall {cpu:8.2f} s cpu", flush=True)
        return ran.stdout.decode(errors="replace")

    def build(self, label, place, word, env, daemon=None, kept=False, same=True):
        if not kept:
            shutil.rmtree(place / "target", ignore_errors=True)
        said = self.run(label, place, [*word, "cargo", "build"], env, daemon)
        for line in said.splitlines():
            if line.startswith("dbuild: ") and "tasks:" in line:
                self.hits[label] = line.removeprefix("dbuild: ").split(";")[0]
        if same:
            made = tree(place / "target")
            if label == "plain":
                self.plain = made
            elif made != self.plain:
                unlike = [name for name in {*made, *self.plain} if made.get(name) != self.plain.get(name)]
                sys.exit(f"{label}: files differ from the plain build: {sorted(unlike)[:5]}")

    def fresh(self):
        subprocess.run([self.dbuild, "stop"], env=self.alone, stdout=subprocess.DEVNULL)
        shutil.rmtree(self.data, ignore_errors=True)

    def round(self):
        here, there = WORK / "here", WORK / "another" / "checkout"
        for place in (here, there):
            unpack(self.args.project, place)
        word = [self.dbuild]
        self.fresh()
        self.build("plain", here, [], self.clean)
        self.build("dbuild cold", here, word, self.alone, str(self.data))
        self.build("dbuild warm", here, word, self.alone, str(self.data))
        self.build("dbuild elsewhere", there, word, self.alone, str(self.data), same=False)
        anywhere = {**self.alone, "DBUILD_SHARE": "any-path"}
        self.build("(any-path, first)", here, word, anywhere, str(self.data), same=False)
        self.build("dbuild any-path", there, word, anywhere, str(self.data), same=False)
        if self.args.sccache:
            shutil.rmtree(WORK / "sccache", ignore_errors=True)
            stop = [self.args.sccache, "--stop-server"]
            subprocess.run(stop, env=self.peer, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            self.build("sccache cold", here, [], self.peer, "SCCACHE_SERVER_PORT=4399", same=False)
            self.build("sccache warm", here, [], self.peer, "SCCACHE_SERVER_PORT=4399", same=False)
            subprocess.run(stop, env=self.peer, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        changed = here / CHANGED[self.args.project]
        for label, word, env, daemon in (("plain kept", [], self.clean, None),
                                         ("dbuild kept", word, self.alone, str(self.data))):
            incremental = {k: v for k, v in env.items() if k != "CARGO_INCREMENTAL"}
            shutil.rmtree(here / "target", ignore_errors=True)
            subprocess.run([*word, "cargo", "build", "--quiet"], cwd=here, env=incremental, check=True)
            text = changed.read_text()
            changed.write_text(text + f"// {time.monotonic()}\n")
            self.build(label, here, word, incremental, daemon, kept=True, same=False)
            changed.write_text(text)
        self.fresh()

    def syn(self):
        """CPU and wall milliseconds of one rustc call for `syn`, as a derive macro needs it, answered from the cache."""
        place = WORK / "syn"
        shutil.rmtree(place, ignore_errors=True)
        (place / "src").mkdir(parents=True)
        (place / "Cargo.toml").write_text('[package]\nname = "one"\nversion = "0.1.0"\nedition = "2021"\n'
                                          '[dependencies]\nserde = { version = "1", features = ["derive"] }\n[workspace]\n')
        (place / "src" / "lib.rs").write_text("")
        note = place / "wrapper.py"
        note.write_text('#!/usr/bin/env python3\nimport json, os, sys\n'
                        'if "syn" in sys.argv and "--crate-name" in sys.argv:\n'
                        f'    json.dump([sys.argv[1:], os.getcwd(), dict(os.environ)], open({str(place / "call.json")!r}, "w"))\n'
                        'os.execv(sys.argv[1], sys.argv[1:])\n')
        note.chmod(0o755)
        subprocess.run(["cargo", "build", "--quiet"], cwd=place, env={**self.clean, "RUSTC_WRAPPER": str(note)}, check=True)
        argv, cwd, env = json.loads((place / "call.json").read_text())
        env = {k: v for k, v in env.items() if k not in ("RUSTC_WRAPPER", "CARGO_MAKEFLAGS", "MAKEFLAGS", "MFLAGS")}
        env["DBUILD_DATA_DIR"] = str(self.data)
        # A static loop without a shell between: what it costs with a program that does nothing is taken off.
        loop = place / "loop.py"
        loop.write_text("import json, subprocess, sys\nargv, count = json.loads(sys.argv[1]), int(sys.argv[2])\n"
                        "for _ in range(count):\n    subprocess.run(argv, check=True, stderr=subprocess.DEVNULL)\n")
        def cost(argv):
            before, served = resource.getrusage(resource.RUSAGE_CHILDREN), cpu_of(daemons(str(self.data)))
            start = time.monotonic()
            subprocess.run([self.dbuild, sys.executable, loop, json.dumps(argv), str(self.args.hits)],
                           cwd=cwd, env=env, check=True, stderr=subprocess.DEVNULL)
            wall = time.monotonic() - start
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            return cpu + cpu_of(daemons(str(self.data))) - served, wall
        self.fresh()
        cost(argv)
        each = []
        for _ in range(max(3, self.args.rounds)):
            nothing, call = cost(["/bin/true"]), cost(argv)
            each.append([(c - n) * 1000 / self.args.hits for c, n in zip(call, nothing)])
        self.fresh()
        size = sum(p.stat().st_size for p in (place / "target" / "debug" / "deps").glob("libsyn-*"))
        cpu, wall = zip(*each)
        return (f"A hit of syn (outputs of {size / 1e6:.1f} MB), more than a program that does nothing costs: CPU of all "
                f"processes {spread(cpu, 2)} ms, wall {spread(wall, 2)} ms; n = {len(each)} × {self.args.hits}.")

    def table(self):
        version = subprocess.run(["rustc", "--version"], stdout=subprocess.PIPE).stdout.decode().strip()
        machine = f"{os.cpu_count()} cores, {platform.system()} {platform.release().split('-')[0]}, {platform.machine()}"
        lines = [f"{self.args.project}: cargo build, {version}; {machine}; {time.strftime('%Y-%m-%d')}; "
                 f"n = {self.args.rounds}, medians (min–max)", "",
                 "| variant | wall, s | of plain | of sccache's | CPU, s | answered |", "|---|---|---|---|---|---|"]
        peers = {"dbuild cold": "sccache cold", "dbuild warm": "sccache warm"}
        for label, runs in self.times.items():
            base = "plain kept" if label.endswith("kept") else "plain"
            peer = peers.get(label)
            ratio = self.ratio(label, peer) if peer in self.times else "–"
            lines.append(f"| {label} | {spread([w for w, _ in runs], 2)} | {self.ratio(label, base)} | {ratio} | "
                         f"{spread([c for _, c in runs], 2)} | {self.hits.get(label, '–')} |")
        return "\n".join(lines) + "\n"

    def ratio(self, label, base):
        ratios = [a[0] / b[0] for a, b in zip(self.times[label], self.times[base])]
        return spread(ratios, 3)


def spread(values, digits):
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--project", choices=sorted(CHANGED), default="ripgrep")
    parser.add_argument("--sccache", default=shutil.which("sccache"), help="the program to compare with")
    parser.add_argument("--dbuild", help="instead of building it")
    parser.add_argument("--hits", type=int, default=100, help="calls per measurement of a hit")
    parser.add_argument("--output", help="also write the table to this file")
    args = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    if not args.dbuild:
        subprocess.run(["cargo", "build", "--release", "--locked", "--quiet", "-p", "dbuild"], cwd=ROOT, check=True)
        args.dbuild = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "dbuild"
    if not args.sccache:
        print("NOT MEASURED: sccache is not on PATH", flush=True)
    bench = Bench(args)
    for number in range(1, args.rounds + 1):
        print(f"round {number} of {args.rounds}", flush=True)
        bench.round()
    text = bench.table() + "\n" + (bench.syn() if args.hits else "") + "\n"
    print("\n" + text)
    if args.output:
        Path(args.output).write_text(text)


if __name__ == "__main__":
    main()
