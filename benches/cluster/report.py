"""Records of runs, and the table that is made of them."""

import json
import os
import platform
import statistics
import subprocess
import time

from .projects import PROJECTS

# Runs during which others burnt more than this many processors are marked.
FOREIGN = 0.15


class Report:
    def __init__(self, settings, units, output):
        self.settings, self.units = settings, units
        self.records = []
        self.file = open(output, "a") if output else None
        self.note(kind="settings", when=time.strftime("%Y-%m-%d %H:%M"), built=units, **vars(settings))

    def note(self, **record):
        if self.file:
            print(json.dumps(record, default=str), file=self.file, flush=True)

    def add(self, helpers, round_, variant, figures):
        record = {"kind": "run", "project": self.settings.project, "helpers": helpers, "round": round_,
                  "variant": variant, **figures}
        self.records.append(record)
        self.note(**record)
        unit = f"{figures['client_cpu'] / self.units * 1e3:8.1f} ms/unit" if figures.get("units") else " " * 16
        print(f"  {variant:22} {figures['wall']:8.2f} s  client {figures['client_cpu']:6.2f} s {unit}  helpers "
              f"{figures['helpers_cpu']:7.2f} s  differing {figures.get('differing', '–'):>3}  foreign "
              f"{figures['foreign']:.2f}", flush=True)

    def of(self, helpers, variant):
        return [record for record in self.records if (record["helpers"], record["variant"]) == (helpers, variant)]

    def ratio(self, record):
        """To the yardstick of the same round."""
        yard = [other["wall"] for other in self.of(record["helpers"], "yardstick") if other["round"] == record["round"]]
        return record["wall"] / yard[0] if yard else None

    def row(self, helpers, variant):
        runs = self.of(helpers, variant)
        whole = bool(runs[0].get("units"))

        def spread(pick, digits=1):
            values = [value for value in map(pick, runs) if value is not None]
            if not values:
                return "–"
            middle = f"{statistics.median(values):.{digits}f}"
            return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f}–{max(values):.{digits}f})"

        def per_unit(key, factor):
            return spread(lambda r: r[key] / self.units * factor) if whole else "–"

        marked = sum(r["foreign"] > FOREIGN for r in runs)
        cells = [
            variant, spread(lambda r: r["wall"]), spread(self.ratio, 2) if whole else "–",
            per_unit("client_cpu", 1e3) if whole else f"{spread(lambda r: r['client_cpu'])} s",
            spread(lambda r: r["helpers_cpu"] + r["aux_cpu"]),
            per_unit("sent", 1e-3) if whole else f"{spread(lambda r: r['sent'] / 1e6)} MB",
            per_unit("received", 1e-3) if whole else f"{spread(lambda r: r['received'] / 1e6)} MB",
            spread(lambda r: r["client_peak"] / 2**20, 0),
            spread(lambda r: r["initiator_peak"] / 2**20 if r.get("initiator_peak") else None, 0),
            spread(lambda r: r.get("differing"), 0),
            f"{len(runs)}" + (f", {marked} disturbed" if marked else ""),
        ]
        return "| " + " | ".join(cells) + " |"

    def less_make(self, helpers, variant):
        """Wall and client's CPU of a run without what make and the links take themselves."""
        runs, links = self.of(helpers, variant), {r["round"]: r for r in self.of(helpers, "make and links alone")}
        pairs = [(run, links[run["round"]]) for run in runs if run["round"] in links]
        if not pairs:
            return None
        wall = statistics.median(run["wall"] - link["wall"] for run, link in pairs)
        cpu = statistics.median(run["client_cpu"] - link["client_cpu"] for run, link in pairs) / self.units * 1e3
        return f"{variant}, without make and links: {wall:.1f} s, {cpu:.1f} ms of client CPU per unit."

    def table(self):
        settings = self.settings
        gcc = subprocess.run(["gcc", "-dumpfullversion"], stdout=subprocess.PIPE).stdout.decode().strip()
        name = PROJECTS[settings.project][0]
        lines = [f"{name}: {self.units} units, gcc {gcc}; hosts of {settings.cpu} processors each, links of "
                 f"{settings.rate or 'no limit'}, {settings.slots} slots per helper; {os.cpu_count()} cores, "
                 f"{platform.system()} {platform.release().split('-')[0]}, {platform.machine()}; "
                 f"{time.strftime('%Y-%m-%d')}; medians (min–max)"]
        for helpers in settings.helpers:
            variants = list(dict.fromkeys(r["variant"] for r in self.records if r["helpers"] == helpers))
            lines += ["", f"{helpers} helper{'s' * (helpers > 1)}:", "",
                      "| variant | wall, s | of the yardstick | client CPU, ms per unit | CPU of the others, s | sent, "
                      "kB per unit | received, kB per unit | client's memory, MiB | initiator's, MiB | objects that "
                      "differ | n |", "|" + "---|" * 11]
            lines += [self.row(helpers, variant) for variant in variants]
            hits = [self.less_make(helpers, v) for v in variants if v in ("dbuild again", "dbuild shared")]
            lines += ["", *filter(None, hits)]
        return "\n".join(lines) + "\n"

    def close(self):
        if self.file:
            self.file.close()
