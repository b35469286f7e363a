//! A build as a picture: every task in Chrome's trace format (`about:tracing`, Perfetto; "Trace Event Format"), on the machine
//! where it ran.
//!
//! A row for each machine: `tasks` (this machine, from a compiler's call to its answer), and each helper, from taking an action to
//! having stored its outputs. Helpers' clocks are their own: theirs are moved so that of all answers the quickest took no time.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::TaskEnd;

/// Tasks of one build that are drawn.
const MAX_TASKS: usize = 200_000;

/// What a helper did for one action, by its own clock, in microseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phases {
    pub taken: i64,
    /// The command itself.
    pub ran: (i64, i64),
    pub stored: i64,
    /// When its answer was here, by this machine's clock.
    pub came: i64,
}

/// One task, in microseconds since 1970.
#[derive(Debug)]
struct Span {
    name: String,
    begin: i64,
    end: i64,
    reason: String,
    exit_code: i32,
    away: Option<(String, Phases)>,
}

/// What a build's trace is made of.
#[derive(Debug)]
pub struct Trace {
    file: PathBuf,
    spans: Vec<Span>,
    left_out: usize,
}

/// Microseconds since 1970.
pub fn micros(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64)
}

impl Trace {
    /// A trace that will be written to `file`.
    pub fn new(file: PathBuf) -> Trace {
        Trace { file, spans: Vec::new(), left_out: 0 }
    }

    /// Adds a task that has ended just now.
    pub fn add(&mut self, end: &TaskEnd) {
        if self.spans.len() >= MAX_TASKS {
            self.left_out += 1;
            return;
        }
        let output = end.outputs.first().and_then(|path| path.file_name());
        self.spans.push(Span {
            name: output.map_or_else(|| end.reason.clone(), |name| name.to_string_lossy().into_owned()),
            begin: micros(end.began),
            end: micros(SystemTime::now()),
            reason: end.reason.clone(),
            exit_code: end.exit_code,
            away: end.helper.clone().zip(end.phases),
        });
    }

    /// Writes the file; a build that was killed leaves none.
    pub fn write(self) -> io::Result<()> {
        let dir = self.file.parent().unwrap_or(Path::new("."));
        // As any other program would make it, less the umask.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        let mut file = tempfile::Builder::new().permissions(mode).tempfile_in(dir)?;
        let mut out = BufWriter::new(file.as_file_mut());
        out.write_all(b"[\n")?;
        for event in self.events() {
            serde_json::to_writer(&mut out, &event)?;
            out.write_all(b",\n")?;
        }
        let left_out = json!({"name": "left out", "ph": "M", "pid": 0, "args": {"tasks": self.left_out}});
        serde_json::to_writer(&mut out, &left_out)?;
        out.write_all(b"\n]\n")?;
        out.flush()?;
        drop(out);
        file.persist(&self.file)?;
        Ok(())
    }

    fn events(&self) -> Vec<serde_json::Value> {
        let mut events = Vec::new();
        let zero = self.spans.iter().map(|span| span.begin).min().unwrap_or(0);
        events.push(named(0, "tasks"));
        let mut order: Vec<&Span> = self.spans.iter().collect();
        order.sort_by_key(|span| span.begin);
        let mut lanes = Lanes::default();
        for span in &order {
            let lane = lanes.place(0, span.begin, span.end);
            let args = json!({"reason": span.reason, "exit code": span.exit_code,
                              "helper": span.away.as_ref().map(|(helper, _)| helper)});
            events.push(complete(&span.name, "task", (0, lane), (span.begin - zero, span.end - zero), args));
        }
        let mut away: BTreeMap<&str, Vec<(&Span, Phases)>> = BTreeMap::new();
        for span in order {
            if let Some((helper, phases)) = &span.away {
                away.entry(helper).or_default().push((span, *phases));
            }
        }
        for (number, (helper, mut all)) in (1..).zip(away) {
            events.push(named(number, helper));
            let ahead =
                all.iter().map(|(_, phases)| phases.came.saturating_sub(phases.stored)).min().unwrap_or(0);
            all.sort_by_key(|(_, phases)| phases.taken);
            for (span, phases) in all {
                let here = |time: i64| time.saturating_add(ahead).saturating_sub(zero);
                let lane = lanes.place(number, phases.taken, phases.stored);
                let whole = (here(phases.taken), here(phases.stored));
                events.push(complete(&span.name, "action", (number, lane), whole, json!({})));
                let ran = (here(phases.ran.0), here(phases.ran.1));
                events.push(complete("run", "run", (number, lane), ran, json!({})));
            }
        }
        events
    }
}

/// Rows in which nothing overlaps.
#[derive(Debug, Default)]
struct Lanes(BTreeMap<u32, Vec<i64>>);

impl Lanes {
    /// The first row of a process that is free from `begin` on.
    fn place(&mut self, process: u32, begin: i64, end: i64) -> usize {
        let lanes = self.0.entry(process).or_default();
        let free = lanes.iter().position(|until| *until <= begin).unwrap_or(lanes.len());
        if free == lanes.len() {
            lanes.push(end);
        } else {
            lanes[free] = end;
        }
        free
    }
}

fn named(process: u32, name: &str) -> serde_json::Value {
    json!({"name": "process_name", "ph": "M", "pid": process, "args": {"name": name}})
}

fn complete(
    name: &str,
    category: &str,
    (process, lane): (u32, usize),
    (begin, end): (i64, i64),
    args: serde_json::Value,
) -> serde_json::Value {
    let duration = end.saturating_sub(begin).max(0);
    json!({"name": name, "cat": category, "ph": "X", "pid": process, "tid": lane, "ts": begin, "dur": duration, "args": args})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(name: &str, begin: i64, end: i64, away: Option<(&str, Phases)>) -> Span {
        let away = away.map(|(helper, phases)| (helper.to_owned(), phases));
        Span { name: name.into(), begin, end, reason: "remote".into(), exit_code: 0, away }
    }

    #[test]
    fn tasks_that_overlap_have_rows_of_their_own_and_helpers_their_own_clock() {
        // A helper whose clock is an hour behind; its quickest answer took 5 µs or less.
        let phases =
            |taken: i64, came| Phases { taken, ran: (taken + 2, taken + 8), stored: taken + 10, came };
        let spans = vec![
            span("b.o", 1_020, 1_100, Some(("mars", phases(500, 1_060)))),
            span("a.o", 1_000, 1_050, Some(("mars", phases(480, 1_035)))),
        ];
        let trace = Trace { file: PathBuf::new(), spans, left_out: 0 };
        let events = trace.events();
        let of = |category: &str| -> Vec<(String, i64, i64, i64)> {
            let wanted = events.iter().filter(|event| event["cat"] == category);
            let number = |event: &serde_json::Value, field: &str| event[field].as_i64().expect("a number");
            let row = |event: &serde_json::Value| {
                (
                    event["name"].as_str().expect("a name").to_owned(),
                    number(event, "tid"),
                    number(event, "ts"),
                    number(event, "dur"),
                )
            };
            wanted.map(row).collect()
        };
        assert_eq!(of("task"), [("a.o".into(), 0, 0, 50), ("b.o".into(), 1, 20, 80)]);
        // 1,035 here is 490 there.
        assert_eq!(of("action"), [("a.o".into(), 0, 25, 10), ("b.o".into(), 0, 45, 10)]);
        assert_eq!(of("run")[0], ("run".into(), 0, 27, 6));
    }
}
