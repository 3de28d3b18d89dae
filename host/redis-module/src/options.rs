//! The arguments with which the module is loaded.

use std::ffi::CString;
use std::str::FromStr;
use std::thread::available_parallelism;

use crate::arguments::Arguments;
use crate::pool::{QUEUE_LENGTH, QUEUE_LENGTH_MAX, THREADS_MAX};

/// The module's settings, which the server passes when it loads the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    /// Threads that compute, 1 to [`THREADS_MAX`].
    pub(crate) threads: usize,
    /// Commands that may wait for a thread, 1 to [`QUEUE_LENGTH_MAX`].
    pub(crate) queue: usize,
    /// Whether to register `SKEIN.PANIC`, for tests.
    pub(crate) panic_command: bool,
}

impl Default for Options {
    fn default() -> Options {
        let threads = available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        Options { threads, queue: QUEUE_LENGTH, panic_command: false }
    }
}

impl Options {
    /// Reads the arguments of the module's entry point, which do not begin with a name.
    ///
    /// # Errors
    /// A message for the server's log.
    pub(crate) fn read(arguments: Arguments<'_>) -> Result<Options, CString> {
        let texts = (0..arguments.len()).map(|index| String::from_utf8_lossy(arguments.get(index)).into_owned());
        Options::parse(&texts.collect::<Vec<_>>())
            .map_err(|reason| CString::new(reason.replace('\0', " ")).unwrap_or_default())
    }

    fn parse(arguments: &[String]) -> Result<Options, String> {
        let mut options = Options::default();
        for pair in arguments.chunks(2) {
            match pair {
                [name, value] if name == "threads" => options.threads = number(name, value, THREADS_MAX)?,
                [name, value] if name == "queue" => options.queue = number(name, value, QUEUE_LENGTH_MAX)?,
                [name, value] if name == "panic-command" && value == "yes" => options.panic_command = true,
                _ => {
                    let given = pair.join(" ");
                    return Err(format!("`{given}` is not an option: use `threads N` or `queue N`"));
                }
            }
        }
        Ok(options)
    }
}

fn number(name: &str, value: &str, most: usize) -> Result<usize, String> {
    let number = usize::from_str(value).ok().filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| format!("`{name}` must be between 1 and {most}, got `{value}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(arguments: &str, expected: Result<(usize, usize), &str>) {
        let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        let parsed = Options::parse(&arguments).map(|options| (options.threads, options.queue));
        assert_eq!(parsed, expected.map_err(str::to_owned));
    }

    #[test]
    fn options_are_read() {
        let default = Options::default();
        check("", Ok((default.threads, QUEUE_LENGTH)));
        check("threads 3", Ok((3, QUEUE_LENGTH)));
        check("queue 9 threads 64", Ok((64, 9)));
        check("threads 0", Err("`threads` must be between 1 and 64, got `0`"));
        check("threads 65", Err("`threads` must be between 1 and 64, got `65`"));
        check("threads", Err("`threads` is not an option: use `threads N` or `queue N`"));
        check("speed 9", Err("`speed 9` is not an option: use `threads N` or `queue N`"));
        check("panic-command no", Err("`panic-command no` is not an option: use `threads N` or `queue N`"));
    }
}
