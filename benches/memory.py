#!/usr/bin/env python3
"""Memory of the initiator while a large C++ project is built on helpers, and of the shims that wait.

    benches/memory.py [--units N] [--headers N] [--jobs N] [--dbuild BIN]

A project is generated: every unit includes some of 60 headers of the standard library's and some of its own, others in
each. It is built by a coordinator and a helper on this machine with nothing local, so that everything is scanned and sent.
The initiator's resident memory (VmRSS) is read after each quarter, and at the end the peak (VmHWM); the shims' (VmRSS, and
that part of it which is not shared with others: RssAnon) several times a second. Needs make and g++.
"""

import argparse
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

from units import WORK, Daemon

STANDARD = """algorithm any array atomic bitset charconv chrono complex condition_variable deque exception filesystem
forward_list fstream functional future initializer_list iomanip ios iosfwd iostream istream iterator limits list locale map
memory memory_resource mutex new numeric optional ostream queue random ratio regex scoped_allocator set shared_mutex sstream
stack stdexcept streambuf string string_view system_error thread tuple type_traits typeindex typeinfo unordered_map
unordered_set utility valarray variant vector""".split()


def generate(tree, units, headers):
    shutil.rmtree(tree, ignore_errors=True)
    (tree / "include").mkdir(parents=True)
    dice = random.Random(1)
    for n in range(headers):
        below = "".join(f'#include "h{m}.h"\n' for m in dice.sample(range(n), min(n, 2)))
        (tree / "include" / f"h{n}.h").write_text(
            f"#ifndef H{n}\n#define H{n}\n{below}#include <{dice.choice(STANDARD)}>\n"
            f"template <class T> struct s{n} {{ T a[{n + 1}]; }};\n#endif\n")
    for n in range(units):
        standard = "".join(f"#include <{name}>\n" for name in dice.sample(STANDARD, 4))
        own = "".join(f'#include "h{m}.h"\n' for m in dice.sample(range(headers), min(headers, 12)))
        (tree / f"u{n}.cc").write_text(f"{standard}{own}int unit{n}(int x) {{ return x + {n}; }}\n")
    (tree / "Makefile").write_text("%.o: %.cc\n\tg++ -std=c++17 -Iinclude -c $< -o $@\n")


def shims():
    """VmRSS and RssAnon of each shim there is, in KiB."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(entry / "exe").endswith("dbuild-shim"):
                status = (entry / "status").read_text()
                yield tuple(int(status.split(f"{name}:")[1].split()[0]) for name in ("VmRSS", "RssAnon"))
        except (OSError, IndexError):
            continue


def build(args, tree, env, daemon):
    seen = []
    for quarter in range(1, 5):
        units = range(args.units * (quarter - 1) // 4, args.units * quarter // 4)
        make = subprocess.Popen([args.dbuild, "make", "-s", f"-j{args.jobs}", *(f"u{n}.o" for n in units)], cwd=tree,
                                env=env, stdout=subprocess.DEVNULL)
        while make.poll() is None:
            seen += shims()
            time.sleep(0.3)
        if make.returncode:
            sys.exit("the build failed")
        print(f"after {units.stop} units: initiator {daemon.memory():.0f} MiB", flush=True)
    peak = (daemon.pid() / "status").read_text().split("VmHWM:")[1].split()[0]
    print(f"its peak: {int(peak) / 1024:.0f} MiB")
    whole, own = ([values[i] for values in seen] for i in (0, 1))
    print(f"shims, {len(seen)} looks: {statistics.median(whole):.0f} KiB resident (most {max(whole)}), of which their own "
          f"{statistics.median(own):.0f} (most {max(own)})")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, default=1000)
    parser.add_argument("--headers", type=int, default=300)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--dbuild", type=Path, default=WORK.parent / "release" / "dbuild")
    args = parser.parse_args()
    place = WORK / f"memory-{os.getpid()}"
    tree, data = place / "tree", place / "data"
    generate(tree, args.units, args.headers)
    plain = {key: value for key, value in os.environ.items() if not key.startswith("DBUILD_")}
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    env = {**plain, "DBUILD_DATA_DIR": str(data), "DBUILD_COORDINATOR": url, "DBUILD_LOCAL_SLOTS": "0"}
    log = open(place / "log", "wb")
    start = lambda *words: subprocess.Popen([args.dbuild, *words], env=plain, stdout=log, stderr=log)
    servers = [start("coordinator", "--listen", f"127.0.0.1:{port}", "--data", place / "coordinator")]
    servers.append(start("helper", "--coordinator", url, "--name", "mars", "--slots", str(os.cpu_count()), "--data",
                         place / "helper"))
    try:
        time.sleep(3)
        build(args, tree, env, Daemon(data))
        print(subprocess.run([args.dbuild, "stats"], env=env, stdout=subprocess.PIPE, text=True).stdout)
    finally:
        subprocess.run([args.dbuild, "stop"], env=env, check=False, stdout=subprocess.DEVNULL)
        for server in reversed(servers):
            server.terminate()
        for server in servers:
            server.wait()
        log.close()
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
