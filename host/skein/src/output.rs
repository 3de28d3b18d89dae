//! Output of a command: a bar on a terminal, plain lines elsewhere, one object as JSON.
//!
//! A reader may close its pipe at any time. If results are no longer read, the command ends quietly and with success.
//! If progress is no longer read, training continues.

mod line;
pub(crate) mod summary;

use std::io::{ErrorKind, IsTerminal, Write};
use std::pin::pin;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use skein_peer::events::{Event, Waiting};
use skein_types::{Digest, PeerId, Status, counted};

use self::line::{COLUMNS, Round};

/// Shortest time between two plain lines.
const LINE_EVERY: Duration = Duration::from_secs(2);
/// Shortest time between two plain lines about a wait for the same peers.
const SAME_WAIT_EVERY: Duration = Duration::from_secs(60);
/// Columns of a plain line that names peers.
const LINE_COLUMNS: usize = 200;
/// Time between two frames of a spinner.
const TURN_EVERY: Duration = Duration::from_millis(100);
const SPINNER: [char; 4] = ['|', '/', '-', '\\'];

/// Format of results on standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Tables and sentences for people.
    #[value(alias = "text")]
    Human,
    /// Exactly one JSON object.
    Json,
}

/// The output of a command. Progress goes to standard error, results to standard output.
pub struct Output {
    format: Format,
    progress: Progress,
    /// The last round that was shown.
    round: Option<Round>,
    /// What JSON has beside an error: an object or nothing.
    beside_error: Value,
}

enum Progress {
    Terminal(Terminal),
    Lines(Lines),
    Silent,
}

/// One line of a terminal, overwritten with each update.
struct Terminal {
    target: Box<dyn Fn() -> ProgressDrawTarget + Send>,
    bar: Option<ProgressBar>,
    turns: usize,
}

/// Lines written to a file or a pipe.
struct Lines {
    writer: Box<dyn Write + Send>,
    /// Earliest time of the next line.
    next: Instant,
    /// The last status that was written.
    status: Option<String>,
    /// The wait that was last written, if no round was written since.
    wait: Option<Wait>,
}

/// A wait as it was last written.
struct Wait {
    peers: Vec<PeerId>,
    /// Earliest time of the next line about the same peers.
    next: Instant,
}

impl Output {
    /// An output with a bar if standard error is a terminal, and with plain lines otherwise.
    pub fn new(format: Format, quiet: bool) -> Output {
        let progress = if quiet {
            Progress::Silent
        } else if std::io::stderr().is_terminal() {
            Progress::Terminal(Terminal::new(Box::new(ProgressDrawTarget::stderr)))
        } else {
            Progress::Lines(Lines::new(Box::new(std::io::stderr())))
        };
        Output { format, progress, round: None, beside_error: Value::Null }
    }

    /// Prints a note, such as what is about to happen before the first round.
    pub fn info(&mut self, text: &str) {
        match &mut self.progress {
            Progress::Terminal(terminal) => {
                terminal.clear();
                complain(text);
            }
            Progress::Lines(lines) => lines.write(text),
            Progress::Silent => {}
        }
    }

    /// Shows the status of `work` until it is done: a spinner on a terminal, a line elsewhere.
    pub async fn during<T>(&mut self, status: &Status, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let mut turns = tokio::time::interval(TURN_EVERY);
        let done = loop {
            tokio::select! {
                biased;
                done = &mut work => break done,
                _ = turns.tick() => self.busy(status, Instant::now()),
            }
        };
        self.finish();
        done
    }

    fn busy(&mut self, status: &Status, now: Instant) {
        match &mut self.progress {
            Progress::Terminal(terminal) => match status.timed_text(now) {
                Some(text) => terminal.spin(&text),
                None => terminal.clear(),
            },
            Progress::Lines(lines) => lines.busy(status.text(now), now),
            Progress::Silent => {}
        }
    }

    /// Shows an event of a run.
    pub fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Started { job, run, peer, peers, round, parameters, in_database } => {
                let short = |digest: Digest| digest.to_string()[..12].to_owned();
                self.info(&format!("job {}, run {}: the same on all hosts", short(job), short(run)));
                let place = if in_database { "the database" } else { "the host" };
                self.info(&format!(
                    "peer {peer:?} of {peers}: round {round}, {}, computing in {place}",
                    counted(parameters, "parameter")
                ));
            }
            Event::Round { summary, rounds, per_second } => {
                let report = summary.report;
                self.show_round(Round {
                    round: report.round(),
                    rounds,
                    loss: report.loss,
                    accuracy: report.evaluation.and_then(|evaluation| evaluation.accuracy()),
                    present: report.present,
                    expected: summary.expected,
                    per_second,
                });
            }
            Event::NothingLeft { round, rounds } => self.info(&format!(
                "nothing is left to do: the run has reached round {round}, and `train.rounds` is {rounds}, which counts \
                 from its first round; to train on, set more than {round} in the manifest of every host, or \
                 `--rounds {}` for `train` and `up`",
                round.saturating_add(round.max(1))
            )),
            Event::Waiting(waiting) => self.waiting(waiting.as_ref()),
            Event::Ended(ended) => self.info(&ended.to_string()),
            Event::Differs { peer, differences } => self.info(&format!(
                "warning: peer {peer:?} does something else than this host:{differences}the run goes on without it"
            )),
            Event::RoundsEnded => self.finish(),
        }
    }

    fn show_round(&mut self, round: Round) {
        match &mut self.progress {
            Progress::Terminal(terminal) => {
                // Not every round is evaluated.
                let accuracy = round.accuracy.or(self.round.and_then(|last| last.accuracy));
                let round = Round { accuracy, ..round };
                terminal.show(round.bar());
                self.round = Some(round);
            }
            Progress::Lines(lines) => lines.round(&round, Instant::now()),
            Progress::Silent => {}
        }
    }

    /// Shows which peers the run waits for, in place of the last round; `None` ends the wait.
    ///
    /// Call it repeatedly to update the times. A terminal shows every call. A plain line is written if other peers are
    /// awaited than before, at most as often as those of rounds, and otherwise rarely.
    fn waiting(&mut self, waiting: Option<&Waiting>) {
        match (&mut self.progress, waiting) {
            (Progress::Terminal(terminal), Some(waiting)) => {
                let head = self.round.map_or_else(String::new, |round| round.head() + "  ");
                let columns = COLUMNS.saturating_sub(head.chars().count());
                terminal.show(head + &line::waiting(waiting, columns));
            }
            (Progress::Terminal(terminal), None) => match &self.round {
                Some(round) => terminal.show(round.bar()),
                None => terminal.clear(),
            },
            (Progress::Lines(lines), Some(waiting)) => lines.waiting(waiting, Instant::now()),
            (Progress::Lines(_), None) | (Progress::Silent, _) => {}
        }
    }

    /// Clears the bar from the terminal; lines in a file or a pipe stay.
    pub fn finish(&mut self) {
        if let Progress::Terminal(terminal) = &mut self.progress {
            terminal.clear();
        }
    }

    /// Writes the result, for people or as a JSON object.
    ///
    /// # Errors
    /// As [`Output::print`].
    pub fn result(&mut self, text: impl FnOnce() -> String, json: impl FnOnce() -> Value) -> std::io::Result<()> {
        let result = match self.format {
            Format::Human => text(),
            Format::Json => format!("{}\n", json()),
        };
        self.print(result.as_bytes())
    }

    /// Writes bytes that are the same in every format.
    ///
    /// # Errors
    /// Standard output cannot be written. A reader that stops early, as `head` does, is not an error.
    pub fn print(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.finish();
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            written => written,
        }
    }

    /// Writes what is known although the command fails: for people at once, as JSON in the object of the error.
    ///
    /// # Errors
    /// As [`Output::print`].
    pub fn before_error(&mut self, text: impl FnOnce() -> String, json: impl FnOnce() -> Value) -> std::io::Result<()> {
        match self.format {
            Format::Human => self.print(text().as_bytes()),
            Format::Json => {
                self.beside_error = json();
                Ok(())
            }
        }
    }

    /// Writes the error with all its causes.
    pub fn error(&mut self, error: &anyhow::Error) {
        self.finish();
        match self.format {
            Format::Human => complain(&format!("error: {error:#}")),
            Format::Json => {
                let mut object = self.beside_error.take();
                object["error"] = json!(format!("{error:#}"));
                // If the reader is gone, the exit status still reports the failure.
                let _ = self.print(format!("{object}\n").as_bytes());
            }
        }
    }
}

/// Writes a line to standard error, and ignores an error if it is closed.
pub(crate) fn complain(text: &str) {
    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

impl Terminal {
    fn new(target: Box<dyn Fn() -> ProgressDrawTarget + Send>) -> Terminal {
        Terminal { target, bar: None, turns: 0 }
    }

    /// Replaces the line; text wider than the terminal is cut.
    fn show(&mut self, text: String) {
        let bar = self.bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{wide_msg}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::with_draw_target(None, (self.target)()).with_style(style)
        });
        bar.set_message(text);
    }

    fn spin(&mut self, text: &str) {
        self.turns += 1;
        self.show(format!("{} {text}", SPINNER[self.turns % SPINNER.len()]));
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Lines {
    fn new(writer: Box<dyn Write + Send>) -> Lines {
        Lines { writer, next: Instant::now(), status: None, wait: None }
    }

    fn busy(&mut self, text: Option<String>, now: Instant) {
        if text.is_none() {
            self.status = None;
        } else if text != self.status && now >= self.next {
            self.write_at(now, text.as_deref().unwrap_or_default());
            self.status = text;
        }
    }

    fn round(&mut self, round: &Round, now: Instant) {
        if now >= self.next || round.round == round.rounds {
            self.wait = None;
            self.write_at(now, &round.plain());
        }
    }

    fn waiting(&mut self, waiting: &Waiting, now: Instant) {
        let is_told = self.wait.as_ref().is_some_and(|wait| wait.peers == waiting.peers && now < wait.next);
        if now >= self.next && !is_told {
            self.wait = Some(Wait { peers: waiting.peers.clone(), next: now + SAME_WAIT_EVERY });
            self.write_at(now, &line::waiting(waiting, LINE_COLUMNS));
        }
    }

    fn write_at(&mut self, now: Instant, text: &str) {
        self.next = now + LINE_EVERY;
        self.write(text);
    }

    /// Ignores errors: the run continues if the reader is gone.
    fn write(&mut self, text: &str) {
        let _ = self.writer.write_all(format!("{text}\n").as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use skein_peer::events::Until;
    use std::sync::{Arc, Mutex};

    use indicatif::TermLike;

    use super::*;

    /// Everything written, one entry per write.
    #[derive(Debug, Clone, Default)]
    struct Written(Arc<Mutex<Vec<String>>>);

    impl Written {
        fn take(&self) -> Vec<String> {
            std::mem::take(&mut self.0.lock().expect("no test panics while it writes"))
        }

        fn add(&self, text: &str) -> std::io::Result<()> {
            if !text.trim().is_empty() {
                self.0.lock().expect("no test panics while it writes").push(text.to_owned());
            }
            Ok(())
        }
    }

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.add(&String::from_utf8_lossy(bytes))?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// A terminal with this many columns, and everything written to it.
    #[derive(Debug)]
    struct Screen(u16, Written);

    impl TermLike for Screen {
        fn width(&self) -> u16 {
            self.0
        }

        fn move_cursor_up(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> std::io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> std::io::Result<()> {
            self.1.add(text)
        }

        fn write_str(&self, text: &str) -> std::io::Result<()> {
            self.1.add(text)
        }

        fn clear_line(&self) -> std::io::Result<()> {
            Ok(())
        }

        fn flush(&self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn on_a_terminal(columns: u16) -> (Output, Written) {
        let written = Written::default();
        let screen = written.clone();
        // The highest refresh rate, so that no update is dropped.
        let target = move || ProgressDrawTarget::term_like_with_hz(Box::new(Screen(columns, screen.clone())), u8::MAX);
        let progress = Progress::Terminal(Terminal::new(Box::new(target)));
        (Output { format: Format::Human, progress, round: None, beside_error: Value::Null }, written)
    }

    fn into_a_pipe() -> (Output, Written) {
        let written = Written::default();
        let progress = Progress::Lines(Lines::new(Box::new(written.clone())));
        (Output { format: Format::Human, progress, round: None, beside_error: Value::Null }, written)
    }

    const ROUND: Round =
        Round { round: 12, rounds: 100, loss: 0.25, accuracy: Some(0.5), present: 3, expected: 4, per_second: 8.0 };

    fn peer() -> PeerId {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&[0xc3, 0xe7, 0xa1, 0xb2]);
        PeerId(key)
    }

    fn waiting() -> Waiting {
        let since = Duration::from_secs(12);
        let until = Until::AtMost(Duration::from_secs(48));
        Waiting { peers: vec![peer()], of: 4, since, until }
    }

    #[test]
    fn a_line_wider_than_the_terminal_is_cut_and_never_wrapped() {
        let whole = "█░░░░░░░░░ 12/100  loss 0.2500  accuracy 0.500  8.0/s  11 s left";
        for columns in [10, 40, 64, 80, 200] {
            let (mut output, written) = on_a_terminal(columns);
            output.show_round(ROUND);
            output.waiting(Some(&waiting()));
            let lines = written.take();
            let cut: String = whole.chars().take(columns.into()).collect();
            assert_eq!(lines.first().map(|line| line.trim_end()), Some(cut.trim_end()), "{lines:?}");
            assert!(lines.iter().all(|line| line.chars().count() <= columns.into()), "{columns}: {lines:?}");
        }
    }

    #[test]
    fn a_terminal_shows_the_wait_and_then_the_last_round_again() {
        let (mut output, written) = on_a_terminal(80);
        output.waiting(Some(&waiting()));
        assert_eq!(written.take(), ["waiting for 1 of 4: c3e7a1b2 (12 s, at most 48 s more)"]);
        output.waiting(None);
        output.show_round(ROUND);
        output.waiting(Some(&waiting()));
        output.waiting(None);
        let lines = written.take();
        let wait = "█░░░░░░░░░ 12/100  waiting for 1 of 4: c3e7a1b2 (12 s, at most 48 s more)";
        assert_eq!(lines, [ROUND.bar(), wait.to_owned(), ROUND.bar()]);
    }

    #[test]
    fn a_terminal_keeps_the_accuracy_of_the_last_evaluation() {
        let (mut output, written) = on_a_terminal(80);
        output.show_round(ROUND);
        output.show_round(Round { round: 13, accuracy: None, ..ROUND });
        assert!(written.take().iter().all(|line| line.contains("accuracy 0.500")));
    }

    #[test]
    fn a_log_is_not_flooded_with_rounds_and_waits() {
        let (mut output, written) = into_a_pipe();
        output.show_round(ROUND);
        for _ in 0..100 {
            output.waiting(Some(&waiting()));
            output.waiting(None);
            output.show_round(ROUND);
        }
        assert_eq!(written.take(), [ROUND.plain() + "\n"]);
        output.show_round(Round { round: 100, ..ROUND });
        assert_eq!(written.take().len(), 1, "the last round is always shown");
        let Progress::Lines(lines) = &mut output.progress else { panic!("it writes lines") };
        let later = Instant::now() + LINE_EVERY;
        lines.waiting(&waiting(), later);
        lines.waiting(&waiting(), later);
        assert_eq!(written.take(), ["waiting for 1 of 4: c3e7a1b2 (12 s, at most 48 s more)\n"]);
    }

    #[test]
    fn a_log_of_a_long_wait_has_a_line_for_each_change_and_one_a_minute() {
        let (mut output, written) = into_a_pipe();
        let Progress::Lines(lines) = &mut output.progress else { panic!("it writes lines") };
        let begin = Instant::now() + LINE_EVERY;
        let wait = |second: u64| {
            let peers = if second < 150 { vec![peer(), PeerId([7; 32])] } else { vec![peer()] };
            Waiting { peers, since: Duration::from_secs(second), ..waiting() }
        };
        for second in 0..200 {
            lines.waiting(&wait(second), begin + Duration::from_secs(second));
        }
        let shown = |second: u64| line::waiting(&wait(second), LINE_COLUMNS) + "\n";
        assert_eq!(written.take(), [0, 60, 120, 150].map(shown));
        lines.round(&ROUND, begin + Duration::from_secs(200));
        lines.waiting(&wait(202), begin + Duration::from_secs(202));
        assert_eq!(written.take(), [ROUND.plain() + "\n", shown(202)], "after a round, it is another wait");
    }

    #[test]
    fn the_status_of_a_command_is_a_spinner_or_one_line() {
        let status = Status::default();
        let busy = status.begin("compiling `mine`");
        let now = Instant::now();
        let seconds = |seconds| now + Duration::from_secs(seconds);
        let (mut terminal, shown) = on_a_terminal(80);
        terminal.busy(&status, now);
        assert_eq!(shown.take(), [""; 0], "it has only begun");
        terminal.busy(&status, seconds(1));
        terminal.busy(&status, seconds(2));
        assert_eq!(shown.take(), ["/ compiling `mine` (1 s)", "- compiling `mine` (2 s)"]);

        let (mut pipe, lines) = into_a_pipe();
        for second in 0..9 {
            pipe.busy(&status, seconds(second));
        }
        assert_eq!(lines.take(), ["compiling `mine`\n"]);
        drop(busy);
        pipe.busy(&status, seconds(9));
        let again = status.begin("compiling `mine`");
        pipe.busy(&status, seconds(10));
        again.detail("43 %");
        pipe.busy(&status, seconds(11));
        pipe.busy(&status, seconds(12));
        assert_eq!(lines.take(), ["compiling `mine`\n", "compiling `mine`: 43 %\n"]);
    }

    /// A writer whose reader is gone, like a pipe to `head`.
    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Err(ErrorKind::BrokenPipe.into())
        }
    }

    #[test]
    fn unread_progress_is_not_a_failure() {
        let progress = Progress::Lines(Lines::new(Box::new(Closed)));
        let mut output = Output { format: Format::Human, progress, round: None, beside_error: Value::Null };
        output.info("a note");
        output.show_round(ROUND);
        output.waiting(Some(&waiting()));
    }
}
