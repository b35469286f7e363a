//! What only gcc has, or has in its own way. Read together with `args/gcc_style.rs`.

use crate::Reason;
use crate::args::row::{Effect::*, Kind::*, Row, row};

#[rustfmt::skip]
pub(crate) static ROWS: &[Row] = &[
    // Overall options
    row("-specs=", Joined, Pass),       // read by the driver itself, so by a -M run, too
    row("-specs", Separate, Pass),
    row("--specs=", Joined, Pass),
    row("-aux-info", Separate, Local(Reason::Dumps)),
    row("-no-canonical-prefixes", Alone, Pass),
    row("-pass-exit-codes", Alone, Pass),
    row("-fcanon-prefix-map", Alone, Pass),
    row("-fworking-directory", Alone, Pass),

    // C dialect and preprocessor
    row("-A", Either, Pass),
    row("-I-", Alone, Pass),
    row("-remap", Alone, Pass),
    row("-imultilib", Separate, Pass),
    row("-Xpreprocessor", Separate, Unknown),
    row("-no-integrated-cpp", Alone, Pass),
    row("-fpreprocessed", Alone, Local(Reason::Contradiction)),
    row("-fdirectives-only", Alone, Pass),
    row("-fdeps-", Joined, Local(Reason::Modules)),
    row("-frepo", Alone, Local(Reason::ReportFile)),
    row("-fplan9-extensions", Alone, Pass),

    // Link. The modes stay in tasks: specs files of distributions derive code generation from them.
    row("-shared", Alone, Pass),
    row("-static-pie", Alone, Pass),
    row("-pie", Alone, Pass),
    row("-no-pie", Alone, Pass),
    row("-nopie", Alone, Pass),
    row("-r", Alone, Pass),
    row("-symbolic", Alone, Link),
    row("-e", Either, Link),
    row("-N", Alone, Link),
    row("-n", Alone, Link),
    row("-t", Alone, Link),
    row("-fuse-ld=", Joined, Pass),
    row("-framework", Separate, Link),

    // Debug information and records of options
    row("-frecord-gcc-switches", Alone, RecordsOptions { all: false }),
    row("-gno-record-gcc-switches", Alone, Pass),

    // Profiles: the data files are found by names derived from the output's
    row("-fbranch-probabilities", Alone, Profile),
    row("-fprofile-note=", Joined, Local(Reason::ReportFile)),

    // Further outputs
    row("-fcallgraph-info", Family, CallGraph),
    row("-fopt-info", Joined, ValueNamesOutput),
    row("-fmem-report", Joined, Local(Reason::Volatile)),
    row("-fpre-ipa-mem-report", Alone, Local(Reason::Volatile)),
    row("-fpost-ipa-mem-report", Alone, Local(Reason::Volatile)),
    row("-fstats", Alone, Local(Reason::Volatile)),
    row("-fcompare-debug", Joined, Local(Reason::CompareDebug)),
    row("-fsel-sched-dump-cfg", Joined, Local(Reason::Dumps)),
    row("-gen-decls", Alone, Local(Reason::Dumps)),
    row("-gnat", Joined, Unknown),
    row("-fvtv-counts", Alone, Local(Reason::ReportFile)),
    row("-fvtv-debug", Alone, Local(Reason::ReportFile)),
    row("-fprofile-report", Alone, Local(Reason::Volatile)),
    row("-freport-bug", Alone, Local(Reason::ReportFile)),
    row("-fprofile-prefix-path=", Joined, Pass),
    row("-fself-test", Joined, Local(Reason::Query)),
    row("-fmultiflags", Alone, Pass),
    row("-fdiagnostics-add-output=", Joined, Local(Reason::ReportFile)),
    row("-fdiagnostics-set-output=", Joined, Local(Reason::ReportFile)),
    row("-fcoarray", Joined, Local(Reason::UnknownLanguage)),

    // LTO's back ends, as lto-wrapper calls them
    row("-fwpa", Joined, Local(Reason::LtoBackend)),
    row("-fltrans", Joined, Local(Reason::LtoBackend)),
    row("-fresolution=", Joined, Local(Reason::LtoBackend)),

    // Diagnostics ("Options to Control Diagnostic Messages Formatting")
    row("-fdiagnostics-urls", Joined, Urls),
    row("-fdiagnostics-plain-output", Alone, Colour { auto: false }),
    row("-fdiagnostics-format=", Joined, Colour { auto: false }),
    row("-fdiagnostics-format=text", Alone, Pass),

    // Plug-ins
    row("-iplugindir=", Joined, Local(Reason::Plugin)),
];
