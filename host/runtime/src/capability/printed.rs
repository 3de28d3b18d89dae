//! What a guest prints: the end of its standard output and standard error, in the order of its writes.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

/// Bytes that are kept of a call. The end is kept, since a traceback or a panic is what a guest prints last.
const BYTES_MAX: usize = 64 << 10;

/// The text that a call has printed so far. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Printed(Arc<Mutex<VecDeque<u8>>>);

impl Printed {
    fn bytes(&self) -> MutexGuard<'_, VecDeque<u8>> {
        // Bytes are whole at every point where a panic could release the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, written: &[u8]) {
        let mut bytes = self.bytes();
        let kept = &written[written.len().saturating_sub(BYTES_MAX)..];
        let excess = (bytes.len() + kept.len()).saturating_sub(BYTES_MAX);
        bytes.drain(..excess);
        bytes.extend(kept);
    }

    /// The text without control characters, which could change what a terminal shows around it.
    pub(crate) fn text(&self) -> String {
        let bytes: Vec<u8> = self.bytes().iter().copied().collect();
        // The first character may have lost its beginning.
        let text = String::from_utf8_lossy(&bytes);
        text.trim_start_matches(char::REPLACEMENT_CHARACTER)
            .chars()
            .map(|c| if c.is_control() && c != '\n' { ' ' } else { c })
            .collect()
    }
}

impl IsTerminal for Printed {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Printed {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    // Without a task in between, so that nothing is lost when the guest traps right after it wrote.
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for Printed {
    async fn ready(&mut self) {}
}

impl OutputStream for Printed {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.push(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(BYTES_MAX)
    }
}

impl AsyncWrite for Printed {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.push(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_kept_as_printable_text() {
        let printed = Printed::default();
        printed.push("é".repeat(BYTES_MAX).as_bytes());
        printed.push(b"one\x1b[31m\n\ttwo");
        let text = printed.text();
        assert!(text.ends_with("ééone [31m\n two") && text.starts_with('é'), "{}", &text[text.len() - 40..]);
        assert!(text.len() <= BYTES_MAX && text.len() > BYTES_MAX - 4, "{}", text.len());
        assert_eq!(printed.bytes().len(), BYTES_MAX);
    }
}
