//! What a member that lost its log may sign, by what the others can show.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use skein_protocol::certificate::CertifiedState;
use skein_protocol::convergence;
use skein_protocol::fault_model::FaultModel;
use skein_protocol::identity::Identity;
use skein_protocol::keys::Signer;
use skein_protocol::node::{Action, Entry, Event, Found, Kept, KeptLog, Node, Report, RunTerms, Want};
use skein_protocol::pace::PaceOptions;
use skein_protocol::record::payload::{Answer, Body, Reached};
use skein_protocol::record::{Kind, Position, Record, Slot, Statement};
use skein_protocol::standing::{Head, Standing};
use skein_types::{Digest, PeerId};

const RUN: Digest = Digest([1; 32]);
const MEMBERS: u32 = 6;
const NOW: Duration = Duration::from_secs(1);
const PACE: PaceOptions =
    PaceOptions { silent: None, wait_min: Duration::from_secs(1), wait_max: Duration::from_secs(60) };

fn identity(index: u32) -> Identity {
    Identity::derived(9, index)
}

fn peer(index: u32) -> PeerId {
    Signer::id(&identity(index))
}

fn sign(kind: Kind, position: Position, body: Body, by: u32) -> Arc<Record> {
    let slot = Slot { run: RUN, position, view: 0, kind, peer: peer(by) };
    Arc::new(Statement { slot, body }.sign(&identity(by)))
}

/// Six members, of which one may lie and one may crash.
fn terms(me: u32) -> RunTerms {
    RunTerms {
        run: RUN,
        me: peer(me),
        members: (0..MEMBERS).map(peer).collect(),
        model: FaultModel::new(MEMBERS, 1, 1).expect("enough members"),
        rounds: 100,
        samples_max: 8,
        evaluate_every: 1,
        validation: BTreeMap::new(),
        convergence: convergence::Options::default(),
    }
}

fn head(round: u64, state: Digest) -> Head {
    Head { position: Position { era: 0, round }, state, standing: Standing::new(0.1) }
}

fn node(me: u32, head: Head, log: KeptLog, inquiry: Option<[u8; 16]>) -> (Node, Vec<Action>) {
    let saved = head.position;
    let mut node = Node::new(terms(me), PACE, Kept { head, saved, log, inquiry }, NOW);
    let actions = node.start(NOW);
    (node, actions)
}

fn answers(actions: &[Action]) -> Vec<&Answer> {
    let statements = actions.iter().filter_map(|action| match action {
        Action::Sign(Statement { body: Body::Answer(answer), .. }) => Some(&**answer),
        _ => None,
    });
    statements.collect()
}

/// The number of the inquiry among what a member does.
fn inquiry(actions: &[Action]) -> [u8; 16] {
    let number = actions.iter().find_map(|action| match action {
        Action::Sign(Statement { body: Body::Inquiry(number), .. }) => Some(*number),
        _ => None,
    });
    number.expect("it asks")
}

fn reads(node: &mut Node, records: impl IntoIterator<Item = Arc<Record>>) -> Vec<Action> {
    node.handle_all(NOW, records.into_iter().map(|record| Event::Read { owner: record.peer(), record }))
}

/// It has no decision that led to its state, but the signatures under it, and keeps them.
#[test]
fn a_member_that_took_a_state_over_can_show_it_even_after_a_restart() {
    let ahead = head(5, Digest([7; 32]));
    let check = ahead.check();
    let (mut member, _) = node(1, head(0, Digest([2; 32])), KeptLog::default(), None);
    let checks = [2, 3].map(|by| sign(Kind::Check, ahead.position, Body::Check(check), by));
    let mut actions = reads(&mut member, checks.clone());
    let is_kept = |action: &Action| matches!(action, Action::Keep(Entry::Certified(_)));
    assert!(actions.iter().any(is_kept), "before the store has the state: {actions:?}");
    let found = Event::Fetched(Want::State(ahead.position, check), Found::State(ahead.standing.clone()));
    actions.extend(member.handle(NOW, found));
    actions.extend(member.handle(NOW, Event::Saved(ahead.position)));
    assert_eq!(member.head(), &ahead);
    let mut log = KeptLog::default();
    for action in actions {
        if let Action::Keep(entry) = action {
            log.keep(entry);
        }
    }

    let expected = CertifiedState {
        position: ahead.position,
        check,
        checks: checks.iter().map(|check| (check.peer(), check.signature())).collect(),
    };
    let inquiry = sign(Kind::Inquiry, Position::default(), Body::Inquiry([3; 16]), 0);
    let (mut restarted, _) = node(1, ahead, log, None);
    for member in [&mut member, &mut restarted] {
        let actions = reads(member, [inquiry.clone()]);
        let [answer] = &answers(&actions)[..] else { panic!("one answer: {actions:?}") };
        assert_eq!(answer.to, (peer(0), [3; 16]));
        assert_eq!(answer.reached, Some(Reached::Certified(expected.clone())));
    }
}

/// What one member answers: the round that it can show to be over, and whether it is recovering too.
type Told = (Option<Reached>, bool);

const NOTHING: Told = (None, false);
const RECOVERING: Told = (None, true);

/// What the answers of others lead to: the round that the member has to wait for, if it lost anything.
fn waits_for(told: [Told; 4]) -> Option<Position> {
    let (member, found) = asks(told.into());
    assert_eq!(member.is_silent(), found.is_some());
    found
}

fn asks(told: Vec<Told>) -> (Node, Option<Position>) {
    let (mut member, actions) = node(0, head(0, Digest([2; 32])), KeptLog::default(), Some([4; 16]));
    let to = (peer(0), inquiry(&actions));
    let mut found = None;
    for (by, (reached, is_recovering)) in (1..).zip(told) {
        assert!(member.is_silent(), "before {by} have answered");
        let answer = Body::Answer(Box::new(Answer { to, met: None, reached, is_recovering }));
        for action in reads(&mut member, [sign(Kind::Answer, Position::default(), answer, by)]) {
            if let Action::Keep(Entry::Lost(position)) = action {
                found = Some(position);
            }
        }
    }
    (member, found)
}

#[test]
fn a_member_that_lost_its_log_believes_signatures_and_nothing_else() {
    let certified = |round, signers: &[u32]| {
        let ahead = head(round, Digest([7; 32]));
        let record = |by: &u32| sign(Kind::Check, ahead.position, Body::Check(ahead.check()), *by);
        let checks = signers.iter().map(|by| (peer(*by), record(by).signature())).collect();
        (Some(Reached::Certified(CertifiedState { position: ahead.position, check: ahead.check(), checks })), false)
    };
    let at = |round| Some(Position { era: 0, round });
    assert_eq!(waits_for([NOTHING, NOTHING, NOTHING, NOTHING]), None, "it starts for the first time");
    assert_eq!(waits_for([NOTHING, NOTHING, NOTHING, certified(5, &[2, 3])]), at(5), "one honest member is enough");
    assert_eq!(waits_for([certified(9, &[4, 5]), NOTHING, NOTHING, certified(5, &[2, 3])]), at(9), "the latest counts");
    let forged = [certified(1_000, &[1]), certified(1_000, &[1, MEMBERS]), NOTHING, NOTHING];
    assert_eq!(waits_for(forged), None, "one liar and a stranger are not enough");
}

/// One that lost its log may have been the only honest one that could have told. More than may fail never began.
#[test]
fn an_answer_of_a_member_that_is_recovering_counts_at_a_first_start_only() {
    let (member, found) = asks(vec![RECOVERING, NOTHING, NOTHING, NOTHING]);
    assert_eq!((member.is_silent(), found), (true, None), "it waits for another answer");
    let (member, _) = asks(vec![RECOVERING, RECOVERING, NOTHING, NOTHING]);
    assert!(!member.is_silent(), "with this one, more than two have no log");
    assert_eq!(waits_for([RECOVERING, RECOVERING, RECOVERING, RECOVERING]), None);
}

/// A member that is behind the others' next era may have voted in the agreement on it.
#[test]
fn it_signs_nothing_at_the_beginning_of_the_next_era() {
    let begin = Position { era: 1, round: 4 };
    let kept = |lost: Position, records: &[Arc<Record>]| {
        let mut log = KeptLog::default();
        log.keep(Entry::Lost(lost));
        records.iter().for_each(|record| log.keep(Entry::Signed(record.clone())));
        log
    };
    let at = |log| {
        let head = Head { position: begin, ..head(4, Digest([7; 32])) };
        let (member, _) = node(0, head, log, Some([4; 16]));
        member.is_silent()
    };
    let lost = Position { era: 0, round: 9 };
    assert!(at(kept(lost, &[])), "it may have signed the first round of the era");
    let old = sign(Kind::Prevote, Position { era: 0, round: 13 }, Body::Vote(None), 0);
    assert!(at(kept(lost, &[old])), "although it went on in the era before");
    let new = sign(Kind::Prevote, Position { era: 1, round: 5 }, Body::Vote(None), 0);
    assert!(!at(kept(lost, &[new])), "it has gone on here already");
}

/// Seven members need five. Two that lie fell silent after a round that began without one that started late: it once was
/// silent too, for fear that it had lost its log, and nobody went on.
#[test]
fn a_member_that_starts_late_takes_part_if_none_may_crash() {
    let members = (0..7).map(peer).collect();
    let model = FaultModel::new(7, 2, 0).expect("enough members");
    let terms = RunTerms { members, model, ..terms(0) };
    let kept = Kept {
        head: head(0, Digest([2; 32])),
        saved: Position::default(),
        log: KeptLog::default(),
        inquiry: Some([4; 16]),
    };
    let mut member = Node::new(terms, PACE, kept, NOW);
    let to = (peer(0), inquiry(&member.start(NOW)));
    let ahead = head(1, Digest([7; 32]));
    let record = |by| sign(Kind::Check, ahead.position, Body::Check(ahead.check()), by);
    let checks = (1..4).map(|by| (peer(by), record(by).signature())).collect();
    let reached = Reached::Certified(CertifiedState { position: ahead.position, check: ahead.check(), checks });
    let answer = Body::Answer(Box::new(Answer { to, met: None, reached: Some(reached), is_recovering: false }));
    reads(&mut member, (1..5).map(|by| sign(Kind::Answer, Position::default(), answer.clone(), by)));
    assert!(!member.is_silent(), "nobody has ever read anything of it");
}

#[test]
fn it_is_silent_until_it_is_past_all_that_it_may_have_signed() {
    let ahead = head(5, Digest([7; 32]));
    let check = ahead.check();
    let mut log = KeptLog::default();
    log.keep(Entry::Lost(ahead.position));
    let (mut member, _) = node(0, head(0, Digest([2; 32])), log, Some([4; 16]));
    assert!(member.is_silent());
    reads(&mut member, [2, 3].map(|by| sign(Kind::Check, ahead.position, Body::Check(check), by)));
    member.handle(NOW, Event::Fetched(Want::State(ahead.position, check), Found::State(ahead.standing)));
    let actions = member.handle_all(NOW, [Event::Saved(ahead.position)]);
    assert!(member.is_silent(), "{actions:?}");
    let actions = member.handle(NOW, Event::Tick);
    let until = actions.iter().find_map(|action| match action {
        Action::Report(Report::Silent(until)) => Some(*until),
        _ => None,
    });
    assert_eq!(until, Some(Position { era: 0, round: 8 }), "two rounds after the state may hold its signatures");
    assert!(member.is_silent());
}
