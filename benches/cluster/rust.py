"""Cargo on a cluster: environments, and sccache's distribution as a competent user would set it up."""

import os
import shutil
import subprocess
from pathlib import Path

from .hosts import HOME, wait_until
from .tools import Dbuild, Plain, environment


def toolchain():
    """The directory of rustc itself, without a proxy before it."""
    asked = subprocess.run(["rustc", "--print", "sysroot"], stdout=subprocess.PIPE, check=True, text=True)
    return Path(asked.stdout.strip()) / "bin"


def cargo_environment(**more):
    home = Path.home()
    return environment(PATH=f"{toolchain()}:{os.environ['PATH']}", CARGO_INCREMENTAL="0", CARGO_NET_OFFLINE="true",
                       CARGO_HOME=os.environ.get("CARGO_HOME", str(home / ".cargo")), **more)


class PlainCargo(Plain):
    def env(self, cluster):
        return cargo_environment()


class DbuildCargo(Dbuild):
    def env(self, cluster):
        return {**cargo_environment(), **{name: value for name, value in super().env(cluster).items()
                                          if name.startswith("DBUILD_")}}


class Sccache(Plain):
    """sccache-dist: a scheduler on the extra host, servers with bubblewrap and overlays, the client's server warm."""

    name = "sccache"
    needs = ("sccache", "sccache-dist", "bwrap")

    def __init__(self, settings, place):
        self.place = place
        self.bin = settings.sccache

    def jobs(self, cluster):
        # More than it has slots: what is on its way keeps no server busy.
        return len(cluster.helpers) * 2 + 2

    def conf(self, cluster, name):
        return cluster.client.home / "sccache" / name

    def env(self, cluster):
        return cargo_environment(SCCACHE_CONF=f"{HOME}/sccache/client.toml", SCCACHE_IDLE_TIMEOUT="0",
                                 RUSTC_WRAPPER=str(self.bin / "sccache"))

    def start(self, cluster):
        dist = self.bin / "sccache-dist"
        scheduler = f"http://{cluster.aux.address}:10600"
        ask = lambda *words: subprocess.run([dist, "auth", *words], stdout=subprocess.PIPE, check=True, text=True).stdout.strip()
        key = ask("generate-jwt-hs256-key")
        alone = {**environment(), "SCCACHE_NO_DAEMON": "1", "SCCACHE_LOG": "info"}
        (cluster.aux.home / "scheduler.toml").write_text(
            f'public_addr = "{cluster.aux.address}:10600"\n[client_auth]\ntype = "token"\ntoken = "lab"\n'
            f'[server_auth]\ntype = "jwt_hs256"\nsecret_key = "{key}"\n')
        cluster.aux.start("scheduler", [dist, "scheduler", "--config", f"{HOME}/scheduler.toml"], alone)
        wait_until("sccache's scheduler", lambda: cluster.aux.listens(10600))
        for host in cluster.helpers:
            token = ask("generate-jwt-hs256-server-token", "--secret-key", key, "--server", f"{host.address}:10501")
            (host.home / "server.toml").write_text(
                f'cache_dir = "{HOME}/toolchains"\npublic_addr = "{host.address}:10501"\nscheduler_url = "{scheduler}"\n'
                f'[builder]\ntype = "overlay"\nbuild_dir = "{HOME}/build"\nbwrap_path = "{shutil.which("bwrap")}"\n'
                f'[scheduler_auth]\ntype = "jwt_token"\ntoken = "{token}"\n')
            for place in ("toolchains", "build"):
                (host.home / place).mkdir()
            host.start("server", [dist, "server", "--config", f"{HOME}/server.toml"], alone)
        (cluster.client.home / "sccache").mkdir()
        self.conf(cluster, "client.toml").write_text(
            f'[cache.disk]\ndir = "{HOME}/sccache/cache"\nsize = 10737418240\n[dist]\nscheduler_url = "{scheduler}"\n'
            f'toolchains = []\ncache_dir = "{HOME}/sccache/dist"\ntoolchain_cache_size = 5368709120\n'
            f'[dist.auth]\ntype = "token"\ntoken = "lab"\n')
        wait_until("sccache's servers", lambda: all(host.listens(10501) for host in cluster.helpers))
        env = {**self.env(cluster), "SCCACHE_START_SERVER": "1", "SCCACHE_NO_DAEMON": "1", "SCCACHE_LOG": "warn"}
        env.pop("RUSTC_WRAPPER")
        cluster.client.start("sccache", [self.bin / "sccache"], env)
        wait_until("sccache's own server", lambda: cluster.client.listens(4226))
        wanted = f'"num_servers":{len(cluster.helpers)}'
        status = [self.bin / "sccache", "--dist-status"]
        wait_until("all of sccache's servers", lambda: wanted in cluster.client.run(status, self.env(cluster), check=False)[1])

    def extra(self, cluster):
        _, text = cluster.client.run([self.bin / "sccache", "--show-stats"], self.env(cluster), check=False)
        return {"stats": text}
