//! A control group of this test, in either version of the kernel's interface, that bounds memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The names that a version of the interface has for what the suite uses.
#[derive(Debug)]
struct Version {
    name: &'static str,
    limit: &'static str,
    peak: &'static str,
    /// The file that counts processes that the kernel has killed, in a line `oom_kill N`.
    events: &'static str,
}

const ONE: Version = Version {
    name: "control group (version 1)",
    limit: "memory.limit_in_bytes",
    peak: "memory.max_usage_in_bytes",
    events: "memory.oom_control",
};
const TWO: Version =
    Version { name: "control group (version 2)", limit: "memory.max", peak: "memory.peak", events: "memory.events" };

/// A control group, which is removed when it is dropped.
#[derive(Debug)]
pub(crate) struct Cgroup {
    folder: PathBuf,
    version: &'static Version,
}

impl Cgroup {
    /// A new group below that of this process; `None` if the machine has none, or does not let this user create one.
    pub(crate) fn new(memory_bytes: u64) -> Option<Cgroup> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let path = |controller: &str| {
            let mut fields = own.lines().map(|line| line.splitn(3, ':').skip(1));
            let path = fields.find_map(|mut fields| (fields.next()? == controller).then(|| fields.next()).flatten());
            path.map(|path| path.trim_start_matches('/'))
        };
        let one = path("memory").map(|own| (&ONE, Path::new("/sys/fs/cgroup/memory").join(own)));
        let two = path("").map(|own| (&TWO, Path::new("/sys/fs/cgroup").join(own)));
        for (version, parent) in [one, two].into_iter().flatten() {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let folder = parent.join(format!("skein-hostile-{}-{count}", std::process::id()));
            if fs::create_dir(&folder).is_err() {
                continue;
            }
            let group = Cgroup { folder, version };
            // Only a control group that can bound memory has this file.
            let has_limit = group.folder.join(version.limit).exists();
            if has_limit && fs::write(group.folder.join(version.limit), memory_bytes.to_string()).is_ok() {
                return Some(group);
            }
        }
        None
    }

    /// The folder through which a process joins.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The version of the interface, in words.
    pub(crate) fn name(&self) -> &'static str {
        self.version.name
    }

    /// Most memory that the group has used at a time, if the kernel tells it.
    pub(crate) fn peak_bytes(&self) -> Option<u64> {
        fs::read_to_string(self.folder.join(self.version.peak)).ok()?.trim().parse().ok()
    }

    /// Processes that the kernel has killed for memory.
    pub(crate) fn killed(&self) -> u64 {
        let events = fs::read_to_string(self.folder.join(self.version.events)).unwrap_or_default();
        let count = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or_default()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that has just ended may still be leaving.
        for _ in 0..1000 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::yield_now();
        }
    }
}
