//! What the store costs per call, in µs: the median and the 95th percentile of many calls on the file system
//! of `$TMPDIR`. `cargo bench -p dbuild-cache`.

use std::time::{Duration, Instant};

use dbuild_cache::{ActionKey, DigestFunction, Store, StoreConfig};

const F: DigestFunction = DigestFunction::Blake3;
const ROUNDS: u64 = 400;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let store = Store::open(StoreConfig { dir: dir.path().join("cache"), max_bytes: u64::MAX })?;
    store.settle();
    // The first blob in each of the 256 shards makes a directory; that is not what is to be timed.
    for warm in 0..3000u32 {
        store.put(F, &warm.to_le_bytes())?;
        store.put_action(&ActionKey(F.digest(&warm.to_le_bytes()).hash), b"")?;
    }
    println!("{:<28}{:>10}{:>10}   µs", "", "median", "p95");
    for (name, len) in [("20 KB", 20_000), ("2 MB", 2_000_000)] {
        blobs(&store, dir.path(), name, len)?;
    }
    let value = vec![7; 4000];
    let key = |round: u64| ActionKey(F.digest(&round.to_le_bytes()).hash);
    time("action put, 4 KB", |round| store.put_action(&key(round), &value))?;
    time("action get, 4 KB", |round| store.action(&key(round)).map(drop))?;
    time("action get, absent", |round| store.action(&key(round + ROUNDS)).map(drop))?;
    Ok(())
}

fn blobs(
    store: &Store,
    dir: &std::path::Path,
    name: &str,
    len: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    let bytes = |round: u64| {
        let mut bytes: Vec<u8> = (0..len).map(|at| ((at * 7919) >> 5) as u8).collect();
        bytes[..8].copy_from_slice(&round.to_le_bytes());
        bytes
    };
    let blobs: Vec<_> = (0..ROUNDS).map(bytes).collect();
    let digests: Vec<_> = blobs.iter().map(|blob| F.digest(blob)).collect();
    let at = |round: u64| round as usize;
    time(&format!("{name} hash alone"), |round| {
        std::hint::black_box(F.digest(&blobs[at(round)]));
        Ok::<_, std::io::Error>(())
    })?;
    time(&format!("{name} put, new"), |round| store.put(F, &blobs[at(round)]).map(drop))?;
    time(&format!("{name} put, there"), |round| store.put(F, &blobs[at(round)]).map(drop))?;
    time(&format!("{name} contains"), |round| {
        std::hint::black_box(store.contains(F, &digests[at(round)]));
        Ok::<_, std::io::Error>(())
    })?;
    time(&format!("{name} read"), |round| store.read(F, &digests[at(round)]).map(drop))?;
    let out = dir.join(format!("out-{len}"));
    std::fs::create_dir(&out)?;
    time(&format!("{name} copy_to, new"), |round| {
        store.copy_to(F, &digests[at(round)], &out.join(round.to_string()), 0o644)
    })?;
    time(&format!("{name} copy_to, replace"), |round| {
        store.copy_to(F, &digests[at(round)], &out.join(round.to_string()), 0o644)
    })?;
    time(&format!("{name} linkable, first"), |round| {
        store.linkable(F, &digests[at(round)], false).map(drop)
    })?;
    time(&format!("{name} linkable, again"), |round| {
        store.linkable(F, &digests[at(round)], false).map(drop)
    })?;
    time(&format!("{name} read_zstd, first"), |round| store.read_zstd(F, &digests[at(round)]).map(drop))?;
    time(&format!("{name} read_zstd, again"), |round| store.read_zstd(F, &digests[at(round)]).map(drop))?;
    std::fs::remove_dir_all(&out)?;
    Ok(())
}

fn time<E>(name: &str, mut call: impl FnMut(u64) -> Result<(), E>) -> Result<(), E> {
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let start = Instant::now();
        call(round)?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    let (median, p95) = (times[times.len() / 2], times[times.len() * 95 / 100]);
    println!("{name:<28}{:>10.1}{:>10.1}", micros(median), micros(p95));
    Ok(())
}
