"""One measured run on a cluster: wall time, processor time of each host, bytes on the client's wire, memory."""

import os
import threading
import time
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def machine_cpu():
    """Seconds burnt on the whole machine, and those that another guest of the same hardware took from it."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    user, nice, system, _, _, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) / TICK


class Sampler(threading.Thread):
    """Peak memory of the client, and what every kind of host burns second by second."""

    def __init__(self, cluster):
        super().__init__(daemon=True)
        self.cluster, self.over = cluster, threading.Event()
        self.peak, self.line = 0, []

    def run(self):
        start, last = time.monotonic(), (0.0, self.burnt())
        while not self.over.wait(0.25):
            self.peak = max(self.peak, self.cluster.client.group.memory())
            now = time.monotonic() - start
            if now - last[0] >= 1:
                burnt = self.burnt()
                cores = [round((b - a) / (now - last[0]), 2) for a, b in zip(last[1], burnt)]
                self.line.append([round(now, 1), *cores])
                last = (now, burnt)

    def burnt(self):
        helpers = sum(host.group.cpu() for host in self.cluster.helpers)
        return self.cluster.client.group.cpu(), helpers, self.cluster.aux.group.cpu()

    def stop(self):
        self.over.set()
        self.join()


def measure(cluster, tool, words, cwd):
    """Runs `words` on the client through `tool`; gives the figures, the time of day it began, and what was printed."""
    command = [*tool.wrapper, *words]
    run = lambda: cluster.client.run(command, tool.env(cluster), cwd, check=False)
    figures, start, (code, text) = watch(cluster, run)
    if code:
        raise SystemExit(f"{tool.name} failed: {' '.join(map(str, command))}\n{text[-4000:]}")
    return figures, start, text


def watch(cluster, work):
    """Does `work`; gives the figures, the time of day it began, and its result."""
    hosts = cluster.hosts.values()
    burnt = {host.name: host.group.cpu() for host in hosts}
    received, sent = cluster.client.wire()
    machine = machine_cpu()
    sampler = Sampler(cluster)
    sampler.start()
    try:
        of_day, start = time.time(), time.monotonic()
        result = work()
        wall = time.monotonic() - start
    finally:
        sampler.stop()
    machine = machine_cpu() - machine
    burnt = {host.name: host.group.cpu() - burnt[host.name] for host in hosts}
    after = cluster.client.wire()
    figures = {
        "wall": wall,
        "client_cpu": burnt["client"],
        "helpers_cpu": sum(cpu for name, cpu in burnt.items() if name.startswith("helper")),
        "each_helper": [round(cpu, 2) for name, cpu in burnt.items() if name.startswith("helper")],
        "aux_cpu": burnt["aux"],
        "received": after[0] - received,
        "sent": after[1] - sent,
        "client_peak": sampler.peak,
        "foreign": max(0.0, machine - sum(burnt.values())) / wall,
        "cores": sampler.line,
    }
    return figures, of_day, result
