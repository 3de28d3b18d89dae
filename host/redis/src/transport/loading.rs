//! The progress of a server that is loading its data, before it is ready.

use std::time::Duration;

use super::{Client, Failure, Reply};

/// Largest reply to `INFO persistence`: some thirty short lines.
const INFO_BYTES_MAX: usize = 64 << 10;

/// Whether a server that was started is ready.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Startup {
    /// The server carries out commands.
    Ready,
    /// The server is still loading its data.
    Loading {
        /// How much of the data is loaded, in percent; `None` if the server does not report it.
        percent: Option<f64>,
        /// The server's estimate of the time left; `None` if it has none.
        left: Option<Duration>,
    },
}

/// Asks a server whether it is ready, or how much it has loaded.
pub(crate) async fn ask(client: &Client) -> Result<Startup, Failure> {
    match client.call(&[b"INFO", b"persistence"], INFO_BYTES_MAX).await {
        Ok(reply) => Ok(parse(&text(&reply))),
        Err(failure) if failure.code() == Some("LOADING") => Ok(Startup::Loading { percent: None, left: None }),
        Err(failure) => Err(failure),
    }
}

/// The reply to `INFO` as text.
pub(super) fn text(reply: &Reply) -> String {
    match reply {
        Reply::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        _ => String::new(),
    }
}

/// Parses the reply to `INFO persistence`.
pub(super) fn parse(info: &str) -> Startup {
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    if field("loading") != Some("1") {
        return Startup::Ready;
    }
    let percent = field("loading_loaded_perc").and_then(|text| text.parse().ok());
    // An estimate of -1, which the server sends if it has none, does not parse.
    let left = field("loading_eta_seconds").and_then(|text| text.parse().ok()).map(Duration::from_secs);
    Startup::Loading { percent, left }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_about_loading_are_parsed() {
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
