//! Records of every kind: their bytes, which no later version may change without its number, and what is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use skein_protocol::agreement::{BallotKind, Certificate};
use skein_protocol::certificate::CertifiedState;
use skein_protocol::decision::Decision;
use skein_protocol::identity::Identity;
use skein_protocol::keys::{Ed25519, Signer};
use skein_protocol::node::{Entry, KeptLog};
use skein_protocol::proof::{Proof, Said};
use skein_protocol::record::payload::{
    Announcement, Answer, Body, Check, Evaluation, Opening, ProposedSelection, Reached, Selection, Sum,
};
use skein_protocol::record::{
    HEADER_BYTES, Kind, PAYLOAD_BYTES_MAX, Position, Record, RecordError, Slot, Statement, Unverified,
};
use skein_types::{Digest, PeerId};

const RUN: Digest = Digest([1; 32]);
const AT: Position = Position { era: 2, round: 7 };

fn identity(index: u32) -> Identity {
    Identity::derived(5, index)
}

fn slot(kind: Kind, view: u32, index: u32) -> Slot {
    Slot { run: RUN, position: AT, view, kind, peer: Signer::id(&identity(index)) }
}

fn record(slot: Slot, body: Body, index: u32) -> Record {
    Statement { slot, body }.sign(&identity(index))
}

fn read(bytes: &[u8]) -> Result<Record, RecordError> {
    Unverified::decode(bytes)?.verify(&Ed25519)
}

/// Votes of the first three members for a value.
fn certificate(kind: BallotKind, view: u32, value: Digest) -> Certificate {
    let votes = (0..3).map(|index| {
        let vote = record(slot(kind.into(), view, index), Body::Vote(Some(value)), index);
        (vote.peer(), vote.signature())
    });
    Certificate { kind, view, value, votes: votes.collect() }
}

fn selection() -> Selection {
    let mut announcements: Vec<(PeerId, Digest)> =
        (0..3).map(|index| (Signer::id(&identity(index)), Digest([index as u8; 32]))).collect();
    announcements.sort();
    Selection { view: 0, announcements, proofs: vec![proof()] }
}

fn proof() -> Proof {
    let [one, other] =
        [None, Some(Digest([3; 32]))].map(|value| record(slot(Kind::Prevote, 1, 3), Body::Vote(value), 3));
    one.contradicts(&other).expect("two votes in one slot")
}

fn decision() -> Decision {
    let selection = selection();
    let certificate = certificate(BallotKind::Precommit, 1, selection.digest());
    Decision { position: AT, selection, certificate }
}

fn decided() -> Reached {
    let Decision { position, certificate, .. } = decision();
    Reached::Decided(position, certificate)
}

/// Checks of the first two members.
fn certified(check: Check) -> CertifiedState {
    let checks = (0..2).map(|index| {
        let record = record(slot(Kind::Check, 0, index), Body::Check(check), index);
        (record.peer(), record.signature())
    });
    CertifiedState { position: AT, check, checks: checks.collect() }
}

fn announcement() -> Announcement {
    let sums = BTreeMap::from([
        ("accuracy".to_owned(), Sum { sum: 20.0, weight: 30.0 }),
        ("loss".to_owned(), Sum { sum: 12.5, weight: 30.0 }),
    ]);
    let evaluation = Some(Evaluation { samples: 30, sums });
    Announcement { state: Digest([4; 32]), values: Digest([5; 32]), samples: 64, loss: 0.25, evaluation }
}

/// A record of every kind, by the file-like name of its vector.
fn every() -> Vec<(&'static str, Record)> {
    let selection = selection();
    let value = selection.digest();
    let earlier = Some(certificate(BallotKind::Prevote, 1, value));
    let state = Check { state: Digest([6; 32]), standing: Digest([7; 32]) };
    let met = Some(record(slot(Kind::Check, 0, 1), Body::Check(state), 1).said());
    let answer = |met: Option<Said>, reached: Option<Reached>| {
        let is_recovering = met.is_none() && reached.is_none();
        let answer = Answer { to: (Signer::id(&identity(1)), [9; 16]), met, reached, is_recovering };
        record(slot(Kind::Answer, 0, 0), Body::Answer(Box::new(answer)), 0)
    };
    let opening = Slot { position: Position { era: 3, round: 0 }, ..slot(Kind::Announcement, 0, 0) };
    let proposal = |earlier| Body::Proposal(ProposedSelection { selection: selection.clone(), earlier });
    vec![
        ("announcement", record(slot(Kind::Announcement, 0, 0), Body::Announcement(announcement()), 0)),
        ("opening", record(opening, Body::Opening(Opening { round: 6, state }), 0)),
        ("proposal", record(slot(Kind::Proposal, 0, 0), proposal(None), 0)),
        ("proposal again", record(slot(Kind::Proposal, 2, 0), proposal(earlier), 0)),
        ("prevote", record(slot(Kind::Prevote, 1, 0), Body::Vote(Some(value)), 0)),
        ("precommit against", record(slot(Kind::Precommit, 1, 0), Body::Vote(None), 0)),
        ("lock", record(slot(Kind::Lock, 1, 0), Body::Lock(certificate(BallotKind::Prevote, 1, value)), 0)),
        ("check", record(slot(Kind::Check, 0, 0), Body::Check(state), 0)),
        ("inquiry", record(slot(Kind::Inquiry, 0, 0), Body::Inquiry([8; 16]), 0)),
        ("answer to a first start", answer(None, None)),
        ("answer with a decision", answer(met, Some(decided()))),
        ("answer with a state", answer(None, Some(Reached::Certified(certified(state))))),
    ]
}

/// Length and BLAKE3 of each vector. If you change the format, raise `VERSION` and write them anew.
#[test]
fn the_bytes_of_every_kind_are_what_they_were() {
    let expected = [
        ("announcement", 313, "94bb98603840e92b"),
        ("opening", 250, "d35198d6370ba374"),
        ("proposal", 652, "e0d2f2865b82f480"),
        ("proposal again", 978, "2cd59e6ee1e35d99"),
        ("prevote", 210, "4ce6d5ac12bd447d"),
        ("precommit against", 178, "9d54908de9ae012b"),
        ("lock", 504, "cac9e3474318c367"),
        ("check", 242, "ffaf7ef0293b7a60"),
        ("inquiry", 194, "913cb0a7f781c05b"),
        ("answer to a first start", 227, "90bf80e4b972a4e4"),
        ("answer with a decision", 744, "db9646bd58a29e4f"),
        ("answer with a state", 498, "f994e1efe1414a02"),
    ];
    let found: Vec<(&str, usize, String)> = every()
        .into_iter()
        .map(|(name, record)| {
            let bytes = record.encode();
            (name, bytes.len(), blake3::hash(&bytes).to_hex()[..16].to_owned())
        })
        .collect();
    let found: Vec<(&str, usize, &str)> = found.iter().map(|(name, len, hash)| (*name, *len, hash.as_str())).collect();
    assert_eq!(found, expected);
}

/// The layout that the documentation of the module gives, field by field.
#[test]
fn a_vote_lies_on_the_wire_as_documented() {
    let value = Digest([9; 32]);
    let vote = record(slot(Kind::Prevote, 1, 0), Body::Vote(Some(value)), 0);
    let payload = blake3::hash(&value.0);
    let signed = [
        &[4][..],
        &RUN.0,
        &2u32.to_le_bytes(),
        &7u64.to_le_bytes(),
        &1u32.to_le_bytes(),
        &[3],
        &vote.peer().0,
        payload.as_bytes(),
    ];
    let signed = signed.concat();
    let message = [&b"skein record 4\0"[..], &signed].concat();
    let signature = Signer::sign(&identity(0), &message);
    assert_eq!(vote.encode(), [&signed[..], &signature, &value.0].concat());
    assert_eq!(vote.hash(), Digest(*blake3::hash(&message).as_bytes()));
}

#[test]
fn every_kind_is_read_as_it_was_written() {
    for (name, record) in every() {
        let read = read(&record.encode()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((read.slot(), read.body(), read.hash()), (record.slot(), record.body(), record.hash()), "{name}");
        assert_eq!(read.encode(), record.encode(), "{name}");
        assert_eq!(record.len(), record.encode().len(), "{name}");
    }
    let decision = decision();
    assert_eq!(Decision::decode(&decision.encode(), RUN, &Ed25519), Ok(decision));
    let proof = proof();
    assert_eq!(Proof::decode(&proof.encode(), RUN, &Ed25519), Ok(proof));
}

#[test]
fn one_flipped_bit_or_missing_byte_anywhere_is_noticed() {
    for (name, record) in every() {
        let bytes = record.encode();
        for at in (0..bytes.len() * 8).step_by(5) {
            let mut flipped = bytes.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            assert!(read(&flipped).is_err(), "{name}, bit {at}");
        }
        for keep in (0..bytes.len()).step_by(3) {
            assert!(read(&bytes[..keep]).is_err(), "{name}, {keep} bytes");
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), code in 0u8..12) {
        let _ = read(&bytes);
        let _ = Decision::decode(&bytes, RUN, &Ed25519);
        let _ = Proof::decode(&bytes, RUN, &Ed25519);
        // Past the version, so that the payloads are reached.
        let mut framed = vec![4];
        framed.extend_from_slice(&[1; 44]);
        framed.extend_from_slice(&[0, 0, 0, 0, code]);
        framed.extend_from_slice(&bytes);
        let _ = read(&framed);
    }

    #[test]
    fn payloads_of_arbitrary_bytes_never_panic(payload in prop::collection::vec(any::<u8>(), 0..400), kind in 0usize..8, round in 0u64..2) {
        let kinds = [Kind::Announcement, Kind::Proposal, Kind::Prevote, Kind::Precommit, Kind::Lock, Kind::Check, Kind::Inquiry, Kind::Answer];
        let slot = Slot { position: Position { era: 0, round }, ..slot(kinds[kind], 0, 0) };
        if let Some(body) = Body::decode(&slot, &payload) {
            prop_assert_eq!(body.encode(), payload, "a body has one form");
        }
    }
}

#[test]
fn what_no_honest_member_writes_is_refused_although_it_is_signed() {
    let good = announcement();
    let evaluation = |samples, sum| {
        let sums = BTreeMap::from([("loss".to_owned(), sum)]);
        Some(Evaluation { samples, sums })
    };
    let of = |sum, weight| Sum { sum, weight };
    let long = "x".repeat(65);
    let announcements = [
        Announcement { samples: 0, ..good.clone() },
        Announcement { samples: u64::MAX, ..good.clone() },
        Announcement { loss: f64::NAN, ..good.clone() },
        Announcement { evaluation: evaluation(0, of(1.0, 1.0)), ..good.clone() },
        Announcement { evaluation: evaluation(3, of(f64::INFINITY, 1.0)), ..good.clone() },
        Announcement { evaluation: evaluation(3, of(1.0, 0.0)), ..good.clone() },
        Announcement { evaluation: evaluation(3, of(1.0, -1.0)), ..good.clone() },
        Announcement { evaluation: evaluation(3, of(1e300, 1e-300)), ..good.clone() },
        Announcement {
            evaluation: Some(Evaluation { samples: 3, sums: BTreeMap::from([(long, of(1.0, 1.0))]) }),
            ..good
        },
    ];
    let mut bodies: Vec<(Slot, Body)> =
        announcements.map(|bad| (slot(Kind::Announcement, 0, 0), Body::Announcement(bad))).into();
    let mut twice = selection();
    twice.announcements.push(twice.announcements[2]);
    let mut unsorted = selection();
    unsorted.announcements.swap(0, 1);
    for selection in [twice, unsorted] {
        let body = Body::Proposal(ProposedSelection { selection, earlier: None });
        bodies.push((slot(Kind::Proposal, 0, 0), body));
    }
    // Claimed to be first proposed in a view that was another's turn, or after those who prevoted it.
    let proposal = slot(Kind::Proposal, 2, 0);
    let first_in = |view| Selection { view, ..selection() };
    let earlier = |of: &Selection| Some(certificate(BallotKind::Prevote, 1, of.digest()));
    for (selection, earlier) in [(first_in(1), None), (first_in(2), earlier(&first_in(2)))] {
        bodies.push((proposal, Body::Proposal(ProposedSelection { selection, earlier })));
    }
    // A view where there is none, and a lock of another view.
    bodies.push((slot(Kind::Announcement, 1, 0), Body::Announcement(announcement())));
    bodies.push((slot(Kind::Lock, 2, 0), Body::Lock(certificate(BallotKind::Prevote, 1, Digest([1; 32])))));
    for (slot, body) in bodies {
        let record = record(slot, body, 0);
        assert_eq!(read(&record.encode()), Err(RecordError::Malformed), "{record:?}");
    }
}

/// A proposal with votes that nobody cast; a lock, a decision and an answer with them.
#[test]
fn forged_votes_inside_are_refused() {
    let value = selection().digest();
    let mut forged = certificate(BallotKind::Prevote, 1, value);
    forged.votes.values_mut().next().expect("a vote")[0] ^= 1;
    // Votes of another view, round or run are not votes of this one either.
    let moved = Certificate { view: 0, ..certificate(BallotKind::Prevote, 1, value) };
    for earlier in [forged.clone(), moved] {
        let body = Body::Proposal(ProposedSelection { selection: selection(), earlier: Some(earlier) });
        let record = record(slot(Kind::Proposal, 2, 0), body, 0);
        assert_eq!(read(&record.encode()), Err(RecordError::Signature));
    }
    let lock = record(slot(Kind::Lock, 1, 0), Body::Lock(forged), 0);
    assert_eq!(read(&lock.encode()), Err(RecordError::Signature));
    let mut decision = decision();
    assert_eq!(
        Decision::decode(&decision.encode(), Digest([2; 32]), &Ed25519),
        Err(RecordError::Signature),
        "another run"
    );
    decision.position.round += 1;
    assert_eq!(Decision::decode(&decision.encode(), RUN, &Ed25519), Err(RecordError::Signature), "another round");
    let state = Check { state: Digest([6; 32]), standing: Digest([7; 32]) };
    let mut other_state = certified(state);
    other_state.check.standing = Digest([8; 32]);
    let mut later = certified(state);
    later.position.round += 1;
    for reached in [
        Reached::Decided(decision.position, decision.certificate),
        Reached::Certified(other_state),
        Reached::Certified(later),
    ] {
        let to = (Signer::id(&identity(1)), [9; 16]);
        let answer = Answer { to, met: None, reached: Some(reached), is_recovering: true };
        let answer = record(slot(Kind::Answer, 0, 0), Body::Answer(Box::new(answer)), 0);
        assert_eq!(read(&answer.encode()), Err(RecordError::Signature));
    }
}

#[test]
fn only_two_records_of_one_slot_are_a_proof() {
    let vote = |value: Option<u8>, view, index| {
        record(slot(Kind::Prevote, view, index), Body::Vote(value.map(|value| Digest([value; 32]))), index)
    };
    let one = vote(Some(1), 0, 0);
    for (other, proves) in [
        (vote(Some(2), 0, 0), true),
        (vote(None, 0, 0), true),
        (vote(Some(1), 0, 0), false),
        (vote(Some(2), 1, 0), false),
        (vote(Some(2), 0, 1), false),
    ] {
        let proof = one.contradicts(&other);
        assert_eq!(proof.is_some(), proves, "{other:?}");
        assert_eq!(proof, other.contradicts(&one), "in either order");
    }
    let [first, second] = [1, 2].map(|number| record(slot(Kind::Inquiry, 0, 0), Body::Inquiry([number; 16]), 0));
    assert_eq!(first.contradicts(&second), None, "one may ask twice");
    let mut forged = proof().encode();
    *forged.last_mut().expect("bytes") ^= 1;
    assert_eq!(Proof::decode(&forged, RUN, &Ed25519), Err(RecordError::Signature));
    assert_eq!(Proof::decode(&proof().encode(), Digest([2; 32]), &Ed25519), Err(RecordError::Signature), "another run");
}

#[test]
fn another_version_and_too_many_bytes_are_refused_with_their_reason() {
    let vote = record(slot(Kind::Prevote, 0, 0), Body::Vote(None), 0);
    let mut bytes = vote.encode();
    bytes[0] = 5;
    let error = read(&bytes).expect_err("another version");
    assert_eq!(error, RecordError::Version(5));
    assert!(error.to_string().contains("has version 5, this program reads version 4"), "{error}");
    bytes[0] = 200;
    assert_eq!(read(&bytes), Err(RecordError::Malformed), "no version of an honest peer");
    let mut bytes = vote.encode();
    bytes.resize(HEADER_BYTES + PAYLOAD_BYTES_MAX + 1, 0);
    assert_eq!(read(&bytes), Err(RecordError::Malformed));
}

/// A member that read back less than it kept might contradict itself, and one that kept everything would fill its disk.
#[test]
fn a_log_is_read_back_as_it_was_kept_without_what_is_past() {
    let [_, (_, first), ..] = &every()[..] else { panic!("there are many kinds") };
    let at = |round: u64| {
        let slot = Slot { position: Position { era: 2, round }, ..slot(Kind::Prevote, 0, 0) };
        Entry::Signed(Arc::new(record(slot, Body::Vote(None), 0)))
    };
    let kept = vec![
        at(7),
        at(8),
        Entry::Lock(AT, certificate(BallotKind::Prevote, 1, Digest([3; 32]))),
        Entry::Selection(AT, selection()),
        Entry::Decision(Arc::new(decision())),
        Entry::Certified(certified(Check { state: Digest([6; 32]), standing: Digest([7; 32]) })),
        Entry::Met(Arc::new(first.clone())),
        Entry::Proof(proof()),
        Entry::Lost(AT),
    ];
    let mut log = KeptLog::default();
    for entry in [at(1), at(3)].iter().chain(&kept) {
        let bytes = entry.encode();
        assert_eq!(Entry::decode(&bytes).as_ref(), Some(entry));
        assert_eq!(Entry::decode(&bytes[..bytes.len() - 1]), None, "{entry:?}");
        assert_eq!(Entry::decode(&[&bytes[..], b"x"].concat()), None, "{entry:?}");
        log.keep(entry.clone());
    }
    assert_eq!(log.entries(), kept, "votes of rounds that are long past are dropped");
    let next_era = Slot { position: Position { era: 3, round: 0 }, ..slot(Kind::Prevote, 0, 0) };
    log.keep(Entry::Signed(Arc::new(record(next_era, Body::Vote(None), 0))));
    assert_eq!(log.records.len(), 3, "in the era before, members may still go on");
}
