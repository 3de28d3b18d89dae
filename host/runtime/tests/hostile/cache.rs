//! Compiled functions on disk of which one bit has changed: their components are compiled anew.

use std::fs;
use std::path::PathBuf;

use super::components::{self, IMPORTS};
use super::driver::{BOUNDS, Expected, LONG_MS, Place, Process, aggregation};

pub(crate) fn one_bit() {
    let place = Place::new();
    let path = place.component("cached", &components::aggregation(IMPORTS, "", "(call $drop-sink (local.get $sink))"));
    let request = aggregation(&path, BOUNDS);
    let called = Expected::Error { kind: "bad output", words: "value 0 of the aggregate was not written" };
    let is_cached = |process: &mut Process, case: &str| {
        let outcome = process.call(&request).outcomes.remove(0);
        assert!(called.is_met(&outcome), "{case}: {outcome:?}");
        process.check_good(case);
        outcome.cached
    };
    let artifact = |case: &str| {
        let files = fs::read_dir(place.cache()).expect("the cache").map(|entry| entry.expect("a file").path());
        let mut artifacts: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|e| e == "cwasm")).collect();
        artifacts.sort_by_key(|path| fs::metadata(path).expect("a file").len());
        assert_eq!(artifacts.len(), 2, "{case}: those of the function and of the good one");
        artifacts.remove(0)
    };
    let change = |path: &PathBuf, at: usize| {
        let mut bytes = fs::read(path).expect("a file");
        bytes[at] ^= 1;
        fs::write(path, bytes).expect("the cache is writable");
    };

    let mut process = Process::start(&place, LONG_MS);
    assert!(!is_cached(&mut process, "the first load") && is_cached(&mut process, "the second load"));
    let len = fs::metadata(artifact("the start")).expect("a file").len() as usize;
    for round in 0..3 {
        for at in [0, len / 2, len - 1] {
            let case = format!("byte {at} of {len} changed, time {round}");
            change(&artifact(&case), at);
            assert!(!is_cached(&mut process, &case), "{case}: it was loaded");
            assert!(is_cached(&mut process, &case), "{case}: the new one is good");
        }
        let case = format!("one letter of the name changed, time {round}");
        let old = artifact(&case);
        let name = old.file_name().and_then(|name| name.to_str()).expect("a name");
        let last = name.len() - ".cwasm".len() - 1;
        let other = if &name[last..=last] == "0" { "1" } else { "0" };
        fs::rename(&old, old.with_file_name(format!("{}{other}.cwasm", &name[..last]))).expect("a file");
        assert!(!is_cached(&mut process, &case), "{case}: it was loaded");

        drop(process);
        let case = format!("the key changed, time {round}");
        change(&place.cache().join("key"), 7);
        process = Process::start(&place, LONG_MS);
        assert!(!is_cached(&mut process, &case), "{case}: it was loaded");
        assert!(is_cached(&mut process, &case), "{case}: the new one is good");
    }
}
