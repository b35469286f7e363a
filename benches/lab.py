#!/usr/bin/env python3
"""A cluster of slow machines on this one: builds a project on a client with helpers, through dbuild, distcc, icecream.

    benches/lab.py [--project NAME] [--helpers 1,2,4,8] [--cpu CORES] [--rate RATE] [--rounds N] [--peers NAMES]
                   [--units N] [--slots N] [--dbuild BIN] [--traces DIR] [--output FILE] [--keep] [--plain]

Every host is a set of namespaces with a quota of processor and a link of limited rate; every run begins with new
hosts. What distribution gains is then to be seen on a machine with two cores. The yardstick is one machine that has
the processors of all hosts together: nothing that distributes can beat it. Ratios are taken within a round. The extra
host on which icecream's scheduler and dbuild's coordinator run is not part of the sum.

Variants, for each number of helpers and in each round:

    yardstick             make on the client, which has the quota of client and helpers together
    plain                 make on the client alone (with --plain)
    make and links alone  make on the client when only the links are to be done
    handed out            no distributor at all: every host, the client too, takes the next unit from a list and compiles
                          it from the project's own directory, with compilers of its own. What the yardstick does in one
                          place costs more on many small hosts; so this is what a distributor without any cost would need
                          (links are not in it)
    dbuild cold           nothing is known to anybody: caches empty, the toolchain nowhere
    dbuild toolchain      one trivial unit for each slot and a few more: what it costs to bring the toolchain there
    dbuild                after that; nothing of the project is known
    dbuild again          after that: everything in the client's cache
    dbuild shared         after that, with an emptied client: what helpers compiled is in the pool's cache, and what
                          the client itself compiled because they were busy is not (the counts are in --output)
    distcc                the toolchain is on every host, as it demands
    icecc toolchain       as for dbuild; making the tarball is not in it
    icecc                 after that

Needs root, util-linux, iproute2, cargo (it fetches the sources), cmake, make, gcc, and for the peers the packages
distcc and icecc. Every object of every build is compared with the plain build's. Raw figures go to --output, one JSON
object a line.
"""

import argparse
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

from builds import ROOT, WORK
from cluster.cgroups import Tree
from cluster.hosts import HOME, Cluster
from cluster.measure import measure, watch
from cluster.projects import PROJECTS, Project
from cluster.report import Report
from cluster.tools import Dbuild, Distcc, Icecc, Plain, tool as find_tool


# What a round consists of: yardstick and plain build, nothing but compilers, dbuild from nothing, dbuild with the toolchain there, peers.
PARTS = ["alone", "floor", "cold", "known", "others"]


class Lab:
    def __init__(self, args, place):
        self.args, self.place = args, place
        self.tree = None
        self.peers = [peer for peer in (Distcc(args), Icecc(args, place / "icecc")) if peer.name in args.peers]
        for peer in self.peers:
            missing = [name for name in peer.needs if not find_tool(name)]
            if missing:
                raise SystemExit(f"{peer.name} needs {', '.join(missing)}: install it, or name other --peers")
        self.dbuild = Dbuild(args, args.dbuild)
        self.project = Project(args.project, place / "project", args.units, os.cpu_count())
        self.report = Report(args, self.project.units, args.output)

    def cluster(self, helpers):
        return Cluster(self.tree, helpers, self.args, self.place / "hosts", self.project.place)

    def build(self, cluster, tool, variant, jobs=None):
        """Measures one build from clean."""
        self.project.clean()
        words = self.project.make(jobs or tool.jobs(cluster), tool.word)
        traced = tool is self.dbuild and self.args.traces
        words = ["--trace", f"{HOME}/trace.json", *words] if traced else words
        figures, start, text = measure(cluster, tool, words, self.project.build)
        if traced:
            self.args.traces.mkdir(parents=True, exist_ok=True)
            name = f"{variant.replace(' ', '-')}-{len(cluster.helpers)}-{self.round}.json"
            shutil.copy(cluster.client.home / "trace.json", self.args.traces / name)
        figures |= {"units": self.project.units, "differing": self.project.differing(), "printed": text[-500:],
                    "finished": self.project.finished(start), **tool.extra(cluster)}
        self.add(cluster, variant, figures)
        if figures["helpers_cpu"] == 0 and variant in ("dbuild cold", "dbuild", "distcc", "icecc"):
            raise SystemExit(f"{variant}: nothing reached the helpers\n{text[-2000:]}")
        if figures["differing"] and variant.startswith(("dbuild", "yardstick", "plain")):
            raise SystemExit(f"{variant}: {figures['differing']} objects differ from the plain build's")

    def warm_up(self, cluster, tool):
        """Brings the toolchain to every helper."""
        slots = len(cluster.helpers) * self.args.slots
        self.project.warm_up.generate(slots * 3, tool.warm_up_words(cluster))
        words = self.project.warm_up.make(slots * 2)
        figures, _, _ = measure(cluster, tool, words, self.project.warm_up.build)
        self.add(cluster, f"{tool.name} toolchain", {**figures, **tool.extra(cluster)})
        if min(figures["each_helper"]) < 0.02:
            raise SystemExit(f"{tool.name}: the toolchain did not reach every helper: {figures['each_helper']}")

    def add(self, cluster, variant, figures):
        self.report.add(len(cluster.helpers), self.round, variant, figures)

    def alone(self, helpers):
        """What the client does without anybody, and the yardstick."""
        total = (helpers + 1) * self.args.cpu
        with self.cluster(helpers) as cluster:
            plain = Plain()
            cluster.client.group.quota(total)
            self.build(cluster, plain, "yardstick", jobs=int(total) + 2)
            cluster.client.group.quota(self.args.cpu)
            if self.args.plain:
                self.build(cluster, plain, "plain")
            self.project.clean(links_only=True)
            figures, _, _ = measure(cluster, plain, self.project.make(1), self.project.build)
            self.add(cluster, "make and links alone", figures)

    def floor(self, helpers):
        with Cluster(self.tree, helpers, self.args, self.place / "hosts", hide="") as cluster:
            self.project.clean()
            hosts = [cluster.client, *cluster.helpers]
            for host in hosts:
                self.project.give_compilers(host)
            units = iter([name.relative_to(self.project.build) for name in self.project.objects])
            turn = threading.Lock()

            def take():
                with turn:
                    return next(units, None)

            def work(host):
                for unit in iter(take, None):
                    host.run(self.project.make(1) + [unit], Plain().env(cluster), self.project.build)

            def all_work():
                threads = [threading.Thread(target=work, args=[host]) for host in hosts for _ in range(self.args.slots)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()

            figures, start, _ = watch(cluster, all_work)
            self.add(cluster, "handed out", {**figures, "units": self.project.units, "differing": self.project.differing(),
                                             "finished": self.project.finished(start)})

    def cold(self, helpers):
        with self.cluster(helpers) as cluster:
            self.dbuild.start(cluster)
            self.build(cluster, self.dbuild, "dbuild cold")

    def known(self, helpers):
        with self.cluster(helpers) as cluster:
            self.dbuild.start(cluster)
            self.warm_up(cluster, self.dbuild)
            self.build(cluster, self.dbuild, "dbuild")
            self.build(cluster, self.dbuild, "dbuild again")
            self.dbuild.forget(cluster)
            self.build(cluster, self.dbuild, "dbuild shared")

    def others(self, helpers):
        for peer in self.peers:
            with self.cluster(helpers) as cluster:
                peer.start(cluster)
                if isinstance(peer, Icecc):
                    self.warm_up(cluster, peer)
                self.build(cluster, peer, peer.name)

    def run(self):
        self.tree = Tree()
        try:
            for helpers in self.args.helpers:
                for self.round in range(1, self.args.rounds + 1):
                    print(f"{helpers} helpers, round {self.round} of {self.args.rounds}", flush=True)
                    for part in self.args.parts:
                        getattr(self, part)(helpers)
        finally:
            self.tree.close()

    def close(self):
        self.report.close()


def words(text):
    return [word for word in text.split(",") if word]


def numbers(text):
    return [int(word) for word in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", choices=list(PROJECTS), default="libgit2")
    parser.add_argument("--helpers", type=numbers, default=[8], help="numbers of helpers, one after the other")
    parser.add_argument("--cpu", type=float, default=0.2, help="processors of each host")
    parser.add_argument("--rate", default="200mbit", help="of each link, as tc takes it; empty: no limit")
    parser.add_argument("--period", type=int, default=20000, help="of the quota, in microseconds")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", type=words, default=["distcc", "icecc"])
    parser.add_argument("--parts", type=words, default=PARTS, help=f"of a round: {','.join(PARTS)}")
    parser.add_argument("--units", type=int, default=0, help="only about so many of the project")
    parser.add_argument("--slots", type=int, default=2, help="of each helper, for every distributor")
    parser.add_argument("--local-slots", type=int, help="DBUILD_LOCAL_SLOTS (default: not set)")
    parser.add_argument("--ahead", type=int, default=2, help="jobs beyond the slots, for dbuild")
    parser.add_argument("--plain", action="store_true", help="build on the client alone, too")
    parser.add_argument("--dbuild", type=Path,
                        default=Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "dbuild")
    parser.add_argument("--traces", type=Path, help="a directory for dbuild's traces of its builds; see utilisation.py")
    parser.add_argument("--output", help="raw figures are appended to this file; the table is only printed")
    parser.add_argument("--keep", action="store_true", help="leave sources and the last hosts' files in target/bench")
    args = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("the lab makes namespaces and control groups: it takes root")
    if not args.dbuild.exists():
        sys.exit(f"{args.dbuild} is not there: cargo build --release -p dbuild, or name one with --dbuild")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit("interrupted"))
    for old in WORK.glob("lab-*"):
        if not args.keep and not Path("/proc", old.name.removeprefix("lab-")).exists():
            shutil.rmtree(old, ignore_errors=True)
    place = WORK / f"lab-{os.getpid()}"
    try:
        lab = Lab(args, place)
        try:
            lab.run()
        finally:
            if lab.report.records:
                print("\n" + lab.report.table())
            lab.close()
    finally:
        if not args.keep:
            shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
