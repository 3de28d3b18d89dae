//! What the kernel forbids a child process: files, the network, other processes and most system calls.
//!
//! A child computes: it needs memory, threads, clocks and the pipes that it was started with. What it cannot do is no
//! question of its limits but of this list, so native code that a component or a graph takes over cannot leave the
//! process. Both means bind a process only; they need no privilege.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, RestrictSelfAttr, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
    path_beneath_rules,
};
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule, apply_filter_all_threads,
};

type SandboxError = Box<dyn Error + Send + Sync>;

/// Which parts of the sandbox the kernel enforces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sandbox {
    /// Landlock: no file, no port and no signal to another process. It binds the thread that entered and those that it
    /// starts, from Linux 7.0 on those of before as well.
    pub(crate) landlock: bool,
    /// seccomp: no system call beyond [`ALLOWED`] and [`restricted`]. It binds all threads.
    pub(crate) seccomp: bool,
}

impl Sandbox {
    /// Enters the sandbox for good. Kernels without one of its parts, or containers that forbid it, get the other.
    pub(crate) fn enter() -> Sandbox {
        let mut sandbox = Sandbox::begin(&[]);
        sandbox.complete(&[]);
        sandbox
    }

    /// Gives up all files but those at and below these paths, which may be read. Only threads that start later are bound as
    /// well: call this before the first one.
    pub(crate) fn begin(readable: &[PathBuf]) -> Sandbox {
        Sandbox { landlock: give_up_files(readable).unwrap_or(false), seccomp: false }
    }

    /// Gives up system calls; those that read files only stay if Landlock decides which files.
    pub(crate) fn complete(&mut self, readable: &[PathBuf]) {
        let files = if self.landlock && !readable.is_empty() { READING } else { &[] };
        self.seccomp = give_up_calls(files).is_ok();
    }

    /// Says what is missing; `None` if nothing is.
    pub(crate) fn lack(self) -> Option<&'static str> {
        match (self.landlock, self.seccomp) {
            (true, true) => None,
            (false, true) => Some("the kernel has no landlock"),
            (true, false) => Some("the kernel has no seccomp"),
            (false, false) => Some("the kernel has neither landlock nor seccomp"),
        }
    }
}

/// Returns whether the kernel forbids files; what an older kernel cannot forbid beside them is left to seccomp.
fn give_up_files(readable: &[PathBuf]) -> Result<bool, SandboxError> {
    let newest = ABI::V9;
    let ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(newest))?
        .handle_access(AccessNet::from_all(newest))?
        .scope(Scope::from_all(newest))?
        .create()?
        .add_rules(path_beneath_rules(readable, AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::Execute))?
        .all_threads(true)?;
    Ok(ruleset.restrict_self()?.ruleset != RulesetStatus::NotEnforced)
}

/// Calls that find and read files.
const READING: &[i64] = &[
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fcntl,
    libc::SYS_getdents64,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pread64,
    libc::SYS_readlinkat,
    libc::SYS_statx,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
];

/// Calls that are harmless whatever their arguments.
const ALLOWED: &[i64] = &[
    // The pipes: none of these opens a file.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_ppoll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_close,
    libc::SYS_fstat,
    // Memory, without `mmap`, which is restricted.
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    // Threads and their signals, without `clone`, which is restricted.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getcpu,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_membarrier,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    // Clocks, and what tells about the machine.
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_getrusage,
    libc::SYS_gettimeofday,
    libc::SYS_nanosleep,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

/// Calls of which one form is allowed: their number, and the arguments that it must have.
fn restricted() -> Result<[Restricted; 5], BackendError> {
    let is = |index, bits| SeccompCondition::new(index, Qword, Eq, bits);
    Ok([
        // Threads of this process, but no processes. The C library uses `clone` as soon as `clone3` is missing, whose
        // arguments cannot be seen here.
        (libc::SYS_clone, vec![SeccompCondition::new(0, Qword, MaskedEq(THREAD), THREAD)?]),
        // Private memory counts as data, which is limited; shared memory and stacks that grow do not.
        (libc::SYS_mmap, vec![SeccompCondition::new(3, Dword, MaskedEq(MAP_KIND), MAP_PRIVATE)?]),
        (libc::SYS_prctl, vec![SeccompCondition::new(0, Dword, Eq, libc::PR_SET_NAME as u64)?]),
        // Reads a limit of this process; a new one would be the third argument.
        (libc::SYS_prlimit64, vec![is(0, 0)?, is(2, 0)?]),
        // Signals to this process, such as that of `abort`.
        (libc::SYS_tgkill, vec![SeccompCondition::new(0, Dword, Eq, u64::from(std::process::id()))?]),
    ])
}

type Restricted = (i64, Vec<SeccompCondition>);

const THREAD: u64 = libc::CLONE_THREAD as u64;
const MAP_KIND: u64 = (libc::MAP_TYPE | libc::MAP_GROWSDOWN) as u64;
const MAP_PRIVATE: u64 = libc::MAP_PRIVATE as u64;

fn give_up_calls(but: &[i64]) -> Result<(), SandboxError> {
    let allowed = ALLOWED.iter().chain(but);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = allowed.map(|call| (*call, Vec::new())).collect();
    for (call, conditions) in restricted()? {
        rules.insert(call, vec![SeccompRule::new(conditions)?]);
    }
    // Libraries know how to go on without a call that the kernel lacks.
    let denied = SeccompAction::Errno(libc::ENOSYS as u32);
    let architecture = std::env::consts::ARCH.try_into()?;
    let filter: BpfProgram = SeccompFilter::new(rules, denied, SeccompAction::Allow, architecture)?.try_into()?;
    Ok(apply_filter_all_threads(&filter)?)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::ErrorKind;
    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::net::UnixStream;
    use std::path::PathBuf;
    use std::process::{Command, Stdio};

    use rustix::process::{Resource, Rlimit, Signal, getppid, getrlimit, kill_process, setrlimit};

    use super::Sandbox;

    /// Set in a process that enters the sandbox: a folder for its files.
    const INSIDE: &str = "SKEIN_TEST_SANDBOX";

    /// A test process cannot leave the sandbox again, so each case has a process of its own: this program, which runs
    /// the case's test alone. Returns the folder of that process in it, and `None` here, where the folder is removed.
    fn inside(test: &str) -> Option<PathBuf> {
        if let Some(folder) = std::env::var_os(INSIDE) {
            return Some(folder.into());
        }
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new(std::env::current_exe().expect("the path of this program"));
        command.args(["--exact", &format!("child::sandbox::tests::{test}"), "--nocapture"]).env(INSIDE, folder.path());
        let output = command.stdin(Stdio::null()).output().expect("the process starts");
        let text = String::from_utf8_lossy(&output.stdout);
        println!("{text}");
        assert!(output.status.success(), "{}: {text}{}", output.status, String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("1 passed"), "{text}");
        None
    }

    /// Whether a part of the sandbox is in force. CI runs on kernels that have both.
    fn has(part: bool, name: &str) -> bool {
        if !part {
            assert!(std::env::var_os("SKEIN_SANDBOX_REQUIRED").is_none(), "this kernel has no {name}");
            println!("skipped: this kernel has no {name}");
        }
        part
    }

    #[test]
    fn nothing_outside_of_the_process_can_be_reached() {
        let Some(folder) = inside("nothing_outside_of_the_process_can_be_reached") else { return };
        assert!(File::open("/dev/null").is_ok() && UdpSocket::bind("127.0.0.1:0").is_ok(), "before, all works");
        let parent = getppid().expect("this test started it");
        let sandbox = Sandbox::enter();
        let landlock = has(sandbox.landlock, "landlock");
        let seccomp = has(sandbox.seccomp, "seccomp");
        if landlock || seccomp {
            for path in ["/dev/null", "/proc/self/maps", "/etc/passwd", "."] {
                assert!(File::open(path).is_err(), "{path}");
            }
            assert!(File::create(folder.join("new")).is_err());
            assert!(TcpListener::bind("127.0.0.1:0").is_err());
        }
        if seccomp {
            let is_denied = |error: std::io::Error| error.kind() == ErrorKind::Unsupported;
            assert!(File::open("/dev/null").is_err_and(is_denied));
            assert!(UdpSocket::bind("127.0.0.1:0").is_err_and(is_denied));
            assert!(UnixStream::pair().is_err_and(is_denied));
            assert!(Command::new("/bin/true").status().is_err_and(is_denied));
            assert!(kill_process(parent, Signal::CONT).is_err());
            let limit = getrlimit(Resource::Core);
            assert!(setrlimit(Resource::Core, Rlimit { current: Some(0), ..limit }).is_err());
        }
    }

    #[test]
    fn only_the_files_that_were_named_can_be_read() {
        let Some(folder) = inside("only_the_files_that_were_named_can_be_read") else { return };
        let readable = folder.join("readable");
        let good = readable.join("file");
        let bad = folder.join("file");
        std::fs::create_dir(&readable).expect("it is new");
        for file in [&good, &bad] {
            std::fs::write(file, "text").expect("it can be written before");
        }
        let paths = [readable.clone()];
        let mut sandbox = Sandbox::begin(&paths);
        if has(sandbox.landlock, "landlock") {
            let check = |stage: &str| {
                let denied = |result: std::io::Result<File>, what: &str| {
                    let error = result.err().unwrap_or_else(|| panic!("{stage}: {what} can be opened"));
                    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{stage}: {what}");
                };
                assert_eq!(std::fs::read_to_string(&good).expect(stage), "text");
                assert_eq!(std::fs::read_dir(&readable).expect(stage).count(), 1);
                denied(File::open(&bad), "a file elsewhere");
                denied(File::open("/proc/self/environ"), "the environment");
                denied(File::create(readable.join("new")), "a new file");
            };
            check("after landlock");
            let error = TcpListener::bind("127.0.0.1:0").expect_err("no port can be opened");
            assert_eq!(error.kind(), ErrorKind::PermissionDenied);
            sandbox.complete(&paths);
            check("after seccomp");
        }
    }

    #[test]
    fn computing_goes_on() {
        if inside("computing_goes_on").is_none() {
            return;
        }
        let sandbox = Sandbox::enter();
        has(sandbox.landlock, "landlock");
        has(sandbox.seccomp, "seccomp");
        let sum = |count: u64| std::thread::spawn(move || vec![1u64; count as usize].iter().sum::<u64>());
        let threads: Vec<_> = [1 << 10, 1 << 24].map(sum).into_iter().collect();
        let sums: Vec<u64> = threads.into_iter().map(|thread| thread.join().expect("it ends")).collect();
        assert_eq!(sums, [1 << 10, 1 << 24]);
        assert!(std::panic::catch_unwind(|| panic!("a panic can be caught")).is_err());
    }
}
