"""What is built: real sources from packages, configured as their authors do, built by one flat makefile.

The makefile has the compiler calls that CMake wrote down (or make would make), with a word before each for the peers
that need one, and two links: an archive and a relocatable object. It costs the client little itself, which matters
where the client is slow.
"""

import hashlib
import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

from builds import crate

from .hosts import HOME

# Which units of a configured project are built: those of whose objects' paths one of these is a part.
LIBGIT2 = ("CMakeFiles/libgit2.dir", "CMakeFiles/util.dir", "CMakeFiles/git2_cli.dir", "CMakeFiles/xdiff.dir")
ABSEIL = ("strings", "log", "flags", "status", "synchronization", "random", "container", "hash")
PROTOBUF = ("CMakeFiles/libprotobuf-lite.dir", *(f"third_party/abseil-cpp/absl/{part}/" for part in ABSEIL))


def cmake(place, options, parts):
    """The build directory and the compiler calls of those units whose objects' paths have one of `parts`."""
    build = place / "build"
    subprocess.run(["cmake", "-S", place / "source", "-B", build, "-G", "Ninja", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON",
                    *options], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    commands = json.loads((build / "compile_commands.json").read_text())
    calls = [shlex.split(entry["command"])[1:] for entry in commands]
    return build, [call for call in calls if any(part in Project.output(call) for part in parts)]


def libgit2(place):
    shutil.copytree(crate("libgit2-sys") / "libgit2", place / "source")
    return cmake(place, ["-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DCMAKE_C_FLAGS_RELWITHDEBINFO=-O2 -g",
                         "-DBUILD_TESTS=OFF", "-DUSE_HTTPS=OFF", "-DUSE_SSH=OFF", "-DUSE_SHA256=Builtin",
                         "-DREGEX_BACKEND=builtin", "-DUSE_BUNDLED_ZLIB=ON"], LIBGIT2)


def protobuf(place):
    shutil.copytree(crate("protobuf-src") / "protobuf", place / "source")
    return cmake(place, ["-DCMAKE_BUILD_TYPE=Debug", "-Dprotobuf_BUILD_TESTS=OFF", "-Dprotobuf_WITH_ZLIB=OFF"], PROTOBUF)


def jemalloc(place):
    build = place / "build"
    shutil.copytree(crate("tikv-jemalloc-sys") / "jemalloc", build)
    shutil.copy(crate("tikv-jemalloc-sys") / "configure" / "configure", build / "configure")
    quiet = {"cwd": build, "check": True, "stderr": subprocess.DEVNULL}
    subprocess.run("chmod +x configure; CC=gcc ./configure --disable-cxx --with-version=VERSION", shell=True,
                   stdout=subprocess.DEVNULL, **quiet)
    # A header that is made of objects of its own.
    subprocess.run(["make", "-j", str(os.cpu_count()), "include/jemalloc/internal/private_namespace.h"],
                   stdout=subprocess.DEVNULL, **quiet)
    said = subprocess.run(["make", "-n", "build_lib"], stdout=subprocess.PIPE, text=True, **quiet).stdout
    calls = [shlex.split(line) for line in said.splitlines() if line.startswith("gcc ")]
    return build, [call[1:] for call in calls if "-c" in call and "-o" in call]


# What each is, its compiler, and how it is configured.
PROJECTS = {
    "libgit2": ("libgit2 (C, -O2 -g)", "gcc", libgit2),
    "jemalloc": ("jemalloc (C, -O3 -g3)", "gcc", jemalloc),
    "protobuf": ("abseil and protobuf-lite (C++, -g)", "g++", protobuf),
}


class Project:
    """A configured project at `place`, and what its plain build gives."""

    def __init__(self, name, place, units, jobs):
        self.place, self.jobs = place, jobs
        _, self.compiler, configure = PROJECTS[name]
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        self.build, calls = configure(place)
        if units:
            calls = calls[::max(1, len(calls) // units)][:units]
        self.objects = [self.build / self.output(call) for call in calls]
        self.units = len(calls)
        self.write_makefile(calls)
        self.warm_up = WarmUp(place / "warm-up", self.compiler)
        for name in self.objects:
            name.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(self.make(), cwd=self.build, check=True, stdout=subprocess.DEVNULL)
        self.plain = self.digests()

    @staticmethod
    def output(call):
        return call[call.index("-o") + 1]

    def write_makefile(self, calls):
        rules = [f"{self.output(call)}:\n\t$(WORD) {self.compiler} {shlex.join(call).replace('$', '$$')}\n"
                 for call in calls]
        lines = [f"OBJECTS := {' '.join(self.output(call) for call in calls)}",
                 "all: everything.a everything.o",
                 "everything.a: $(OBJECTS)\n\tar crs $@ $(OBJECTS)",
                 f"everything.o: $(OBJECTS)\n\t{self.compiler} -r -nostdlib -Wl,-z,muldefs -o $@ $(OBJECTS)", *rules]
        (self.build / "Makefile").write_text("\n".join(lines) + "\n")

    def make(self, jobs=None, word=""):
        return ["make", "-s", f"-j{jobs or self.jobs}", *([f"WORD={word}"] if word else [])]

    def give_compilers(self, host):
        """Gives the host programs of its own in the place of those that all hosts would share in memory."""
        for name in {"gcc": ("cc1", "as"), "g++": ("cc1plus", "as")}[self.compiler]:
            asked = subprocess.run([self.compiler, f"-print-prog-name={name}"], stdout=subprocess.PIPE, check=True, text=True)
            program = os.path.realpath(shutil.which(asked.stdout.strip()))
            shutil.copy(program, host.home / name)
            host.run(["mount", "--bind", f"{HOME}/{name}", program], os.environ)

    def clean(self, links_only=False):
        for name in [self.build / "everything.a", self.build / "everything.o", *([] if links_only else self.objects)]:
            name.unlink(missing_ok=True)

    def digests(self):
        return {name: hashlib.sha256(name.read_bytes()).digest() for name in self.objects}

    def differing(self):
        return sum(self.plain[name] != digest for name, digest in self.digests().items())

    def finished(self, start):
        """Seconds after `start` (a time of day) at which each object was written, in order."""
        return sorted(round(name.stat().st_mtime - start, 2) for name in self.objects)


class WarmUp:
    """Trivial units, enough to reach every slot of every helper: they bring the toolchain there and nothing else."""

    def __init__(self, place, compiler):
        self.build = place
        self.compiler, self.suffix = compiler, {"gcc": "c", "g++": "cc"}[compiler]

    def generate(self, units, words):
        """The units take the words before their compilers in turn."""
        shutil.rmtree(self.build, ignore_errors=True)
        self.build.mkdir()
        rules = []
        for n in range(units):
            source = f"w{n}.{self.suffix}"
            (self.build / source).write_text(f"int w{n}(void) {{ return {n}; }}\n")
            rules.append(f"w{n}.o: {source}\n\t{words[n % len(words)]} {self.compiler} -c {source} -o $@\n")
        objects = " ".join(f"w{n}.o" for n in range(units))
        (self.build / "Makefile").write_text(f"all: {objects}\n" + "".join(rules))

    def make(self, jobs):
        return ["make", "-s", f"-j{jobs}"]
