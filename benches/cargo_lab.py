#!/usr/bin/env python3
"""A cluster of slow machines on this one (see lab.py): a Rust program is built through dbuild and through sccache-dist.

    benches/cargo_lab.py [--project ripgrep|mini-redis|bat] [--helpers N] [--rounds N] [--cpu CORES] [--rate RATE]
                         [--sccache DIR] [--dbuild BIN] [--output FILE]

Variants, in each round:

    one machine         cargo -j1 on the client alone (with --alone)
    yardstick           cargo on the client, which has the quota of client and helpers together
    dbuild toolchain    small crates bring the compiler to all helpers; no host is slowed down here
    dbuild              with nothing known of the program; the toolchain is there
    dbuild again        after that: everything in the client's cache
    sccache, again      the same through sccache-dist; DIR has sccache and sccache-dist 0.19
                        (cargo install sccache --no-default-features --features dist-client,dist-server)

The critical path is that of cargo's unit graph with cargo's own timings of a build with one job, which leaves each
compile one processor: of one such machine with --alone, else of an unhindered one, where each second takes 1/CORES. Files
of dbuild's builds are compared with the yardstick's. Needs root, util-linux, iproute2, cargo, and for sccache-dist bubblewrap.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from builds import ROOT
from cargo import WORK, tree, unpack
from cluster import critical
from cluster.cgroups import Tree
from cluster.hosts import Cluster
from cluster.measure import measure
from cluster.rust import DbuildCargo, PlainCargo, Sccache, cargo_environment, toolchain


def trivial(place, crates):
    """A workspace of small libraries and programs that brings compiler and linker to every helper."""
    shutil.rmtree(place, ignore_errors=True)
    names = [f"w{n}" for n in range(crates)]
    for name in names:
        (place / name / "src").mkdir(parents=True)
        (place / name / "Cargo.toml").write_text(f'[package]\nname = "{name}"\nversion = "0.1.0"\nedition = "2021"\n')
        (place / name / "src" / "lib.rs").write_text("pub fn f() {}\n")
        (place / name / "src" / "main.rs").write_text("fn main() {}\n")
    (place / "Cargo.toml").write_text(f"[workspace]\nresolver = \"2\"\nmembers = {json.dumps(names)}\n")


class Lab:
    def __init__(self, args, place):
        self.args, self.place = args, place
        self.project, self.warm_up = place / "project", place / "warm-up"
        unpack(args.project, self.project)
        trivial(self.warm_up, args.helpers * args.slots * 3)
        seconds = critical.one_by_one(self.project, cargo_environment())
        self.path = critical.length(self.project, cargo_environment(), seconds) / args.cpu
        self.whole = sum(whole for whole, _ in seconds.values()) / args.cpu
        self.measured = None
        self.records, self.made = [], None
        self.dbuild = DbuildCargo(args, args.dbuild)

    def build(self, cluster, tool, variant, words=(), compare=False):
        shutil.rmtree(self.project / "target", ignore_errors=True)
        figures, _, _ = measure(cluster, tool, ["cargo", "build", "--quiet", *words], self.project)
        made = tree(self.project / "target")
        if variant == "yardstick":
            self.made = made
        unlike = sum(made.get(name) != digest for name, digest in self.made.items())
        if compare and unlike:
            raise SystemExit(f"{variant}: {unlike} files differ from the plain build's")
        self.add(variant, {**figures, "differing": unlike, **tool.extra(cluster)})

    def bring_toolchain(self, cluster, tool, words):
        """With as much of the processors as there is: what follows is measured."""
        shutil.rmtree(self.warm_up / "target", ignore_errors=True)
        for host in cluster.hosts.values():
            host.group.quota(1)
        figures, _, _ = measure(cluster, tool, ["cargo", "build", "--quiet", *words], self.warm_up)
        for host in cluster.hosts.values():
            host.group.quota(self.args.cpu)
        self.add(f"{tool.name} toolchain", {**figures, **tool.extra(cluster)})

    def add(self, variant, figures):
        self.records.append({"variant": variant, "round": self.round, **figures})
        print(f"  {variant:20} {figures['wall']:8.2f} s  client {figures['client_cpu']:7.2f} s  helpers "
              f"{figures['helpers_cpu']:7.2f} s  differing {figures.get('differing', '–'):>3}  foreign {figures['foreign']:.2f}",
              flush=True)
        if self.args.output:
            with open(self.args.output, "a") as file:
                print(json.dumps(self.records[-1], default=str), file=file)

    def cluster(self):
        return Cluster(self.tree, self.args.helpers, self.args, self.place / "hosts", self.project)

    def alone(self):
        """One machine, slow as each of them is."""
        with self.cluster() as cluster:
            shutil.rmtree(self.project / "target", ignore_errors=True)
            figures, _, _ = measure(cluster, PlainCargo(), ["cargo", "build", "--quiet", "-j1", "--timings"], self.project)
            self.add("one machine", figures)
            seconds = critical.timings(self.project)
            self.measured = critical.length(self.project, cargo_environment(), seconds)

    def one(self):
        total = (self.args.helpers + 1) * self.args.cpu
        with self.cluster() as cluster:
            cluster.client.group.quota(total)
            self.build(cluster, PlainCargo(), "yardstick", [f"-j{int(total) + 2}"])
        with self.cluster() as cluster:
            self.dbuild.start(cluster)
            self.dbuild.local, before = 0, self.dbuild.local
            self.bring_toolchain(cluster, self.dbuild, [])
            self.dbuild.local = before
            self.build(cluster, self.dbuild, "dbuild", compare=True)
            self.build(cluster, self.dbuild, "dbuild again", compare=True)
        if self.args.sccache:
            with self.cluster() as cluster:
                peer = Sccache(self.args, self.place / "sccache")
                peer.start(cluster)
                jobs = f"-j{peer.jobs(cluster)}"
                self.bring_toolchain(cluster, peer, [jobs])
                self.build(cluster, peer, "sccache", [jobs])
                self.build(cluster, peer, "sccache again", [jobs])

    def run(self):
        self.tree = Tree()
        try:
            for self.round in range(1, self.args.rounds + 1):
                print(f"round {self.round} of {self.args.rounds}", flush=True)
                if self.args.alone and self.measured is None:
                    self.alone()
                self.one()
        finally:
            self.tree.close()

    def table(self):
        one = lambda variant, key: [r[key] for r in self.records if r["variant"] == variant]
        middle = lambda values, digits=1: f"{statistics.median(values):.{digits}f}" if values else "–"
        local = statistics.median(one("yardstick", "client_cpu") or [1])
        path = self.measured or self.path
        rustc = subprocess.run([toolchain() / "rustc", "--version"], stdout=subprocess.PIPE, text=True).stdout.strip()
        lines = [f"{self.args.project}, {self.args.helpers} helpers of {self.args.cpu} processors, links of {self.args.rate}; "
                 f"{rustc}; {os.cpu_count()} cores; {time.strftime('%Y-%m-%d')}; n = {self.args.rounds}, medians. "
                 f"Critical path {self.path:.1f} s, all units one after the other {self.whole:.0f} s (an unhindered build, times "
                 f"{1 / self.args.cpu:.0f}); measured on one such machine: {middle([self.measured] if self.measured else [])} s.", "",
                 "| variant | wall, s | of the critical path | client CPU, s | of a local build's | sent, MB | files that differ |",
                 "|---|---|---|---|---|---|---|"]
        for variant in dict.fromkeys(r["variant"] for r in self.records):
            wall, cpu, sent = (one(variant, key) for key in ("wall", "client_cpu", "sent"))
            differ = [r.get("differing", "–") for r in self.records if r["variant"] == variant][0]
            lines.append(f"| {variant} | {middle(wall)} | {statistics.median(wall) / path:.2f} | {middle(cpu)} | "
                         f"{statistics.median(cpu) / local:.2f} | {statistics.median(sent) / 1e6:.0f} | {differ} |")
        for mine, theirs in (("dbuild", "sccache"), ("dbuild again", "sccache again")):
            if one(theirs, "wall"):
                lines += ["", f"{mine} of {theirs}: {statistics.median(one(mine, 'wall')) / statistics.median(one(theirs, 'wall')):.2f}"]
        return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", choices=["ripgrep", "mini-redis", "bat"], default="ripgrep")
    parser.add_argument("--helpers", type=int, default=8)
    parser.add_argument("--cpu", type=float, default=0.2, help="processors of each host")
    parser.add_argument("--rate", default="200mbit", help="of each link, as tc takes it; empty: no limit")
    parser.add_argument("--period", type=int, default=20000, help="of the quota, in microseconds")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--slots", type=int, default=1, help="of each helper; 1 is what one takes by itself with such a quota")
    parser.add_argument("--local-slots", type=int, help="DBUILD_LOCAL_SLOTS (default: not set)")
    parser.add_argument("--ahead", type=int, default=2)
    parser.add_argument("--alone", action="store_true", help="build on one such machine, too, for its critical path")
    parser.add_argument("--sccache", type=Path, help="directory with sccache and sccache-dist")
    parser.add_argument("--dbuild", type=Path,
                        default=Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "dbuild")
    parser.add_argument("--output", help="raw figures are appended to this file")
    args = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("the lab makes namespaces and control groups: it takes root")
    if not args.dbuild.exists():
        sys.exit(f"{args.dbuild} is not there: cargo build --release -p dbuild, or name one with --dbuild")
    if not args.sccache:
        print("NOT MEASURED: sccache-dist (name its directory with --sccache)", flush=True)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit("interrupted"))
    place = WORK / f"cargo-lab-{os.getpid()}"
    place.mkdir(parents=True)
    try:
        lab = Lab(args, place)
        try:
            lab.run()
        finally:
            if lab.records:
                print("\n" + lab.table())
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
