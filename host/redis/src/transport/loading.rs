//! How far a server has come with reading its data, which it does before it serves anybody.

use std::time::Duration;

use super::{Failure, Link, Reply};

/// Bytes of what a server tells about its data: some thirty short lines.
const INFO_BYTES_MAX: usize = 64 << 10;

/// Whether a server that was started serves already.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Startup {
    /// It serves.
    Ready,
    /// It still reads its data.
    Loading {
        /// How much of it is read, in percent; none if the server does not say.
        percent: Option<f64>,
        /// How long that still takes, in the server's own estimate.
        left: Option<Duration>,
    },
}

/// Asks a server how far it is.
pub(crate) async fn ask(link: &Link) -> Result<Startup, Failure> {
    match link.call(&[b"INFO", b"persistence"], INFO_BYTES_MAX).await {
        Ok(reply) => Ok(parse(&text(&reply))),
        Err(failure) if failure.code() == Some("LOADING") => Ok(Startup::Loading { percent: None, left: None }),
        Err(failure) => Err(failure),
    }
}

/// What `INFO` answers, as text.
pub(super) fn text(reply: &Reply) -> String {
    match reply {
        Reply::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        _ => String::new(),
    }
}

/// What `INFO persistence` says.
pub(super) fn parse(info: &str) -> Startup {
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    if field("loading") != Some("1") {
        return Startup::Ready;
    }
    let percent = field("loading_loaded_perc").and_then(|text| text.parse().ok());
    // The server counts up to -1 where it knows nothing.
    let left = field("loading_eta_seconds").and_then(|text| text.parse().ok()).map(Duration::from_secs);
    Startup::Loading { percent, left }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_tells_of_its_start_is_understood() {
        let loading = "# Persistence\r\nloading:1\r\nasync_loading:0\r\nloading_start_time:1700000000\r\n\
            loading_total_bytes:1000\r\nloading_loaded_bytes:431\r\nloading_loaded_perc:43.10\r\nloading_eta_seconds:12\r\n";
        let left = Some(Duration::from_secs(12));
        assert_eq!(parse(loading), Startup::Loading { percent: Some(43.1), left });
        let unknown = loading.replace("43.10", "nan?").replace(":12", ":-1");
        assert_eq!(parse(&unknown), Startup::Loading { percent: None, left: None });
        assert_eq!(parse("# Persistence\r\nloading:0\r\nasync_loading:0\r\n"), Startup::Ready);
        assert_eq!(parse(""), Startup::Ready);
    }
}
