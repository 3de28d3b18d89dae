//! Agreement under random schedules: messages that are lost, late and twice, members that crash and come back, and liars
//! that show each reader something else.

use std::collections::{BTreeMap, BTreeSet};

use skein_protocol::agreement::{
    Action, Ballot, BallotKind, Certificate, Decider, Input, Proposal, Signed, View, ViewStep,
};
use skein_protocol::fault_model::FaultModel;
use skein_protocol::random::Stream;
use skein_types::{Digest, PeerId};

/// Random events before messages arrive in time.
const EVENTS: usize = 400;
/// Times that everything is delivered after that, or all timers run out, within which all have to decide.
const PASSES: usize = 100;

/// An honest member.
struct Node {
    agreement: Decider,
    /// What it has signed, which no crash loses.
    kept: Signed,
    /// The first proposal that it was shown in each view.
    shown: BTreeMap<View, Digest>,
    timer: Option<(View, ViewStep)>,
    /// How many of all messages it has got in order, once all arrive.
    read: usize,
}

/// Members, and the network between them.
struct World {
    random: Stream,
    model: FaultModel,
    members: Vec<PeerId>,
    /// Honest members that are not silent, by their index.
    nodes: BTreeMap<usize, Node>,
    liars: Vec<usize>,
    /// Whether liars always vote for what the reader was shown, each reader something else; otherwise for anything.
    is_helpful: bool,
    /// Links that carry nothing at the moment: from, to.
    cut: BTreeSet<(usize, usize)>,
    /// Messages on their way.
    queue: Vec<(usize, Input)>,
    /// All that honest members have sent, and all that liars have shown to one of them.
    sent: Vec<Input>,
    /// Honest votes, each slot once.
    votes: BTreeMap<(usize, BallotKind, View), Option<Digest>>,
    /// Values that can be fetched from somebody.
    fetchable: BTreeSet<Digest>,
    /// Values that an honest member holds.
    held: BTreeSet<Digest>,
    decided: BTreeMap<usize, Digest>,
}

/// How a schedule ended.
#[derive(Debug, Default)]
struct Ending {
    /// Whether all honest members that answer have decided.
    is_live: bool,
    /// The values that were decided: more than one breaks the agreement.
    values: BTreeSet<Digest>,
    view_max: View,
    equivocations: usize,
    crashes: usize,
}

impl World {
    /// A schedule with `liars` liars and `silent` silent members, run under a model that need not expect them.
    fn new(seed: u64, model: FaultModel, liars: usize, silent: usize) -> World {
        let mut random = Stream::new("skein 2026-11 test of the agreement", seed, &[]);
        let members: Vec<PeerId> = (0..model.members()).map(|index| PeerId([index as u8; 32])).collect();
        let mut order: Vec<usize> = (0..members.len()).collect();
        random.shuffle(&mut order);
        let mut proposers = members.clone();
        random.shuffle(&mut proposers);
        let nodes = order[liars + silent..].iter().map(|index| {
            let agreement = Decider::new(model, members[*index], proposers.clone());
            let (kept, shown) = (Signed::default(), BTreeMap::new());
            (*index, Node { agreement, kept, shown, timer: None, read: 0 })
        });
        let nodes = nodes.collect();
        let is_helpful = random.next_u64().is_multiple_of(2);
        World {
            random,
            model,
            members,
            nodes,
            liars: order[..liars].to_vec(),
            is_helpful,
            cut: BTreeSet::new(),
            queue: Vec::new(),
            sent: Vec::new(),
            votes: BTreeMap::new(),
            fetchable: BTreeSet::new(),
            held: BTreeSet::new(),
            decided: BTreeMap::new(),
        }
    }

    fn run(mut self) -> Ending {
        let mut ending = Ending::default();
        let all: Vec<usize> = self.nodes.keys().copied().collect();
        for index in &all {
            let actions = self.nodes.get_mut(index).expect("a node").agreement.begin();
            self.carry_out(*index, actions, &mut ending);
        }
        for event in 0..EVENTS {
            if event.is_multiple_of(40) {
                self.cut_links(&all);
            }
            self.event(&mut ending);
        }
        for _ in 0..PASSES {
            if self.decided.len() == all.len() {
                break;
            }
            self.pass(&mut ending);
        }
        ending.is_live = self.decided.len() == all.len();
        ending.values = self.decided.values().copied().collect();
        ending.view_max = self.nodes.values().map(|node| node.agreement.view()).max().unwrap_or(0);
        ending
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.random.next_u64() % bound as u64) as usize
    }

    /// Cuts the network into two halves, or other links, or none.
    fn cut_links(&mut self, all: &[usize]) {
        let way = self.below(3);
        let links = all.iter().flat_map(|from| all.iter().map(|to| (*from, *to))).filter(|(from, to)| from != to);
        let mut cut = BTreeSet::new();
        for (from, to) in links {
            let is_cut = match way {
                0 => false,
                1 => from % 2 != to % 2,
                _ => self.below(3) == 0,
            };
            if is_cut {
                cut.insert((from, to));
            }
        }
        self.cut = cut;
    }

    fn any_node(&mut self) -> usize {
        let index = self.below(self.nodes.len());
        *self.nodes.keys().nth(index).expect("a node")
    }

    /// One random event, while anything may be late.
    fn event(&mut self, ending: &mut Ending) {
        match self.below(100) {
            0..45 if !self.queue.is_empty() => {
                let index = self.below(self.queue.len());
                let (to, input) = self.queue.swap_remove(index);
                // Some messages arrive twice.
                if self.below(10) == 0 {
                    self.queue.push((to, input.clone()));
                }
                self.deliver(to, input, ending);
            }
            45..75 if !self.liars.is_empty() => {
                let to = self.any_node();
                if let Some(input) = self.lie(to) {
                    self.sent.push(input.clone());
                    self.deliver(to, input, ending);
                }
            }
            75..90 => {
                let to = self.any_node();
                self.time_out(to, ending);
            }
            90..93 => {
                let index = self.any_node();
                self.crash(index, ending);
            }
            _ => {}
        }
    }

    /// Everything arrives everywhere; if that changes nothing, all timers run out.
    fn pass(&mut self, ending: &mut Ending) {
        let all: Vec<usize> = self.nodes.keys().copied().collect();
        self.queue.clear();
        let mut is_still = true;
        for index in &all {
            // Liars still show each reader something else before it hears the others.
            for _ in 0..self.liars.len() {
                if let Some(input) = self.lie(*index) {
                    self.sent.push(input.clone());
                    self.deliver(*index, input, ending);
                }
            }
            for value in self.fetchable.clone() {
                self.deliver(*index, Input::Held(value), ending);
            }
            while let Some(input) = self.sent.get(self.nodes[index].read).cloned() {
                is_still &= self.is_lie(&input);
                self.nodes.get_mut(index).expect("a node").read += 1;
                self.deliver(*index, input, ending);
            }
        }
        if is_still {
            all.iter().for_each(|index| self.time_out(*index, ending));
        }
    }

    fn is_lie(&self, input: &Input) -> bool {
        let from = match input {
            Input::Proposal(proposal) => proposal.from,
            Input::Vote(vote) => vote.from,
            _ => return false,
        };
        self.liars.iter().any(|liar| self.members[*liar] == from)
    }

    fn time_out(&mut self, index: usize, ending: &mut Ending) {
        if let Some((view, step)) = self.nodes[&index].timer {
            self.deliver(index, Input::Timeout(view, step), ending);
        }
    }

    fn deliver(&mut self, to: usize, input: Input, ending: &mut Ending) {
        let node = self.nodes.get_mut(&to).expect("a node");
        match &input {
            Input::Proposal(proposal) => {
                node.shown.entry(proposal.view).or_insert(proposal.value);
            }
            Input::Held(value) => {
                self.held.insert(*value);
            }
            _ => {}
        }
        let actions = node.agreement.handle(input);
        self.carry_out(to, actions, ending);
    }

    /// The member loses all but what it has signed, and begins again.
    fn crash(&mut self, index: usize, ending: &mut Ending) {
        if self.decided.contains_key(&index) {
            return;
        }
        ending.crashes += 1;
        let node = self.nodes.get_mut(&index).expect("a node");
        let proposers = (0..self.model.members()).map(|view| node.agreement.proposer(view)).collect();
        node.agreement = Decider::resume(self.model, self.members[index], proposers, node.kept.clone());
        node.read = 0;
        let actions = node.agreement.begin();
        self.carry_out(index, actions, ending);
        let member = self.members[index];
        for ((kind, view), value) in self.nodes[&index].kept.votes.clone() {
            self.deliver(index, Input::Vote(Ballot { kind, view, value, from: member, signature: [0; 64] }), ending);
        }
    }

    fn carry_out(&mut self, index: usize, actions: Vec<Action>, ending: &mut Ending) {
        let from = self.members[index];
        for action in actions {
            match action {
                Action::Propose(view, earlier) => {
                    let own = Digest(*blake3_of(&[index as u8, view as u8]));
                    let value = earlier.as_ref().map_or(own, |certificate| certificate.value);
                    if earlier.is_none() {
                        self.fetchable.insert(value);
                        self.queue.push((index, Input::Held(value)));
                    }
                    assert!(self.nodes.get_mut(&index).expect("a node").kept.proposals.insert(view), "proposed twice");
                    self.send(index, Input::Proposal(Proposal { view, value, earlier, from }));
                }
                Action::Lock(certificate) => {
                    self.nodes.get_mut(&index).expect("a node").kept.lock = Some(certificate.clone());
                    self.send(index, Input::Certificate(certificate));
                }
                Action::Vote(kind, view, value) => {
                    let before = self.votes.insert((index, kind, view), value);
                    assert!(before.is_none(), "{index} signs a slot twice");
                    self.nodes.get_mut(&index).expect("a node").kept.votes.insert((kind, view), value);
                    self.send(index, Input::Vote(Ballot { kind, view, value, from, signature: [0; 64] }));
                }
                Action::Fetch(value) => {
                    if self.fetchable.contains(&value) {
                        self.queue.push((index, Input::Held(value)));
                    }
                }
                Action::Wait(view, step) => self.nodes.get_mut(&index).expect("a node").timer = Some((view, step)),
                Action::Equivocation(who, ..) => {
                    let liar = self.members.iter().position(|member| *member == who).expect("a member");
                    assert!(self.liars.contains(&liar), "an honest member is accused");
                    ending.equivocations += 1;
                }
                Action::Decide(certificate) => {
                    assert_eq!(certificate.kind, BallotKind::Precommit);
                    assert!(self.held.contains(&certificate.value), "nobody holds what was decided");
                    self.decided.insert(index, certificate.value);
                    // The others get it as late as can be.
                    self.sent.push(Input::Decision(certificate));
                }
            }
        }
    }

    fn send(&mut self, from: usize, input: Input) {
        let all: Vec<usize> = self.nodes.keys().copied().collect();
        for to in all {
            if !self.cut.contains(&(from, to)) {
                self.queue.push((to, input.clone()));
            }
        }
        self.sent.push(input);
    }

    /// What a liar shows this one reader: mostly what fits its half of the network, else anything.
    fn lie(&mut self, to: usize) -> Option<Input> {
        let liar = self.below(self.liars.len());
        let from = self.members[self.liars[liar]];
        let view = self.nodes[&to].agreement.view() + View::from(self.below(4) == 0);
        let shown = self.nodes[&to].shown.get(&view).copied();
        let half = Digest(*blake3_of(&[255, to as u8 % 2]));
        // Some of a liar's values nobody can ever fetch.
        if self.below(2) == 0 {
            self.fetchable.insert(half);
        }
        let known: Vec<Digest> = self.fetchable.iter().copied().chain([half]).collect();
        let value = match self.below(3) {
            0 if !self.is_helpful => known[self.below(known.len())],
            _ => shown.unwrap_or(half),
        };
        if self.nodes[&to].agreement.proposer(view) == from && shown.is_none() {
            let earlier = (self.below(3) == 0 && view > 0).then(|| self.earlier(view - 1, value));
            return Some(Input::Proposal(Proposal { view, value, earlier, from }));
        }
        if self.is_helpful && shown.is_none() {
            return None;
        }
        let kind = [BallotKind::Prevote, BallotKind::Precommit][self.below(2)];
        let value = (self.is_helpful || self.below(8) > 0).then_some(value);
        Some(Input::Vote(Ballot { kind, view, value, from, signature: [0; 64] }))
    }

    /// The strongest certificate that liars can show: they sign anything, and honest votes cannot be forged.
    fn earlier(&self, view: View, value: Digest) -> Certificate {
        let honest = self
            .votes
            .iter()
            .filter(|((_, kind, voted), vote)| (*kind, *voted, **vote) == (BallotKind::Prevote, view, Some(value)));
        let voters = honest.map(|((index, ..), _)| *index).chain(self.liars.iter().copied());
        let votes = voters.map(|index| (self.members[index], [0; 64])).collect();
        Certificate { kind: BallotKind::Prevote, view, value, votes }
    }
}

fn blake3_of(bytes: &[u8]) -> Box<[u8; 32]> {
    let mut stream = Stream::new("skein 2026-11 test values", 0, &[bytes]);
    let mut digest = Box::new([0; 32]);
    digest.chunks_exact_mut(8).for_each(|part| part.copy_from_slice(&stream.next_u64().to_le_bytes()));
    digest
}

/// Runs schedules of so many members; returns those in which members disagree, and those in which one never decides.
fn check(model: FaultModel, liars: usize, silent: usize, seeds: u64) -> (Vec<u64>, Vec<u64>) {
    let (mut disagree, mut stuck) = (Vec::new(), Vec::new());
    let (mut views, mut equivocations, mut crashes) = (0, 0, 0);
    for seed in 0..seeds {
        let ending = World::new(seed, model, liars, silent).run();
        if ending.values.len() > 1 {
            disagree.push(seed);
        } else if !ending.is_live {
            stuck.push(seed);
        }
        views += usize::from(ending.view_max > 0);
        equivocations += ending.equivocations;
        crashes += ending.crashes;
    }
    println!("{model:?}: {seeds} schedules, {views} beyond view 0, {equivocations} equivocations, {crashes} crashes");
    assert!(views > 0 && crashes > 0 && (liars == 0 || equivocations > 0), "an empty run shows nothing");
    (disagree, stuck)
}

#[test]
fn members_agree_and_decide_whatever_liars_and_the_network_do() {
    for (members, liars, silent, seeds) in [
        (4, 1, 0, 1500),
        (4, 0, 1, 500),
        (5, 1, 0, 500),
        (5, 0, 2, 300),
        (6, 1, 1, 400),
        (7, 2, 0, 300),
        (10, 3, 0, 60),
    ] {
        let model = FaultModel::new(members, liars, silent).expect("enough members");
        let (disagree, stuck) = check(model, liars as usize, silent as usize, seeds);
        assert!(disagree.is_empty() && stuck.is_empty(), "{model:?}: disagree {disagree:?}, stuck {stuck:?}");
    }
}

/// With the quorum of a model that expects no liar, ⌊n/2⌋ + 1, one liar divides the members: the schedules are hard enough.
#[test]
fn a_smaller_quorum_is_found_out() {
    let model = FaultModel::new(5, 0, 2).expect("enough members");
    let (disagree, _) = check(model, 1, 0, 500);
    assert!(!disagree.is_empty());
}

/// One of four members, of which one may lie. The first of them proposes in view 0, this one last.
struct Member {
    agreement: Decider,
    kept: Signed,
}

/// Two values that every member holds.
const VALUES: [Digest; 2] = [Digest([1; 32]), Digest([2; 32])];

fn member(index: u8) -> PeerId {
    PeerId([index; 32])
}

fn votes<const N: usize>(of: [u8; N]) -> BTreeMap<PeerId, [u8; 64]> {
    of.map(|index| (member(index), [0; 64])).into()
}

fn vote(kind: BallotKind, view: View, value: Option<Digest>, from: u8) -> Input {
    Input::Vote(Ballot { kind, view, value, from: member(from), signature: [0; 64] })
}

fn proposal(view: View, value: Digest, earlier: Option<Certificate>) -> Input {
    Input::Proposal(Proposal { view, value, earlier, from: member(view as u8 % 4) })
}

/// Prevotes of the members 0 to 2.
fn prevotes(view: View, value: Digest) -> Certificate {
    Certificate { kind: BallotKind::Prevote, view, value, votes: votes([0, 1, 2]) }
}

impl Member {
    fn new() -> Member {
        let model = FaultModel::new(4, 1, 0).expect("enough members");
        let mut agreement = Decider::new(model, member(3), (0..4).map(member).collect());
        agreement.begin();
        let mut new = Member { agreement, kept: Signed::default() };
        VALUES.iter().for_each(|value| assert_eq!(new.gets(Input::Held(*value)), []));
        new
    }

    /// Its votes after an input, each of which is kept and counted.
    fn gets(&mut self, input: Input) -> Vec<(BallotKind, View, Option<Digest>)> {
        let mut votes = Vec::new();
        for action in self.agreement.handle(input) {
            match action {
                Action::Vote(kind, view, value) => {
                    self.kept.votes.insert((kind, view), value);
                    votes.push((kind, view, value));
                }
                Action::Lock(certificate) => self.kept.lock = Some(certificate),
                _ => {}
            }
        }
        for (kind, view, value) in votes.clone() {
            votes.extend(self.gets(vote(kind, view, value, 3)));
        }
        votes
    }

    /// Its prevote on a proposal.
    fn judges(&mut self, proposal: Input) -> Option<Digest> {
        let votes = self.gets(proposal);
        assert_eq!(votes[0].0, BallotKind::Prevote, "{votes:?}");
        votes[0].2
    }

    /// Goes to a view after the two others that are honest.
    fn goes_to(&mut self, view: View) {
        for from in [0, 1] {
            self.gets(vote(BallotKind::Prevote, view, None, from));
        }
        assert_eq!((self.agreement.view(), self.agreement.step()), (view, ViewStep::Propose));
    }

    /// A member that has locked itself on the first value in view 0.
    fn locked() -> Member {
        let mut locked = Member::new();
        locked.gets(proposal(0, VALUES[0], None));
        for from in [1, 2] {
            locked.gets(vote(BallotKind::Prevote, 0, Some(VALUES[0]), from));
        }
        assert_eq!(locked.agreement.step(), ViewStep::Precommit);
        locked
    }
}

#[test]
fn a_locked_member_votes_for_nothing_else_unless_a_later_quorum_did() {
    let mut locked = Member::locked();
    assert_eq!(locked.kept.lock.as_ref().map(|lock| (lock.view, lock.value)), Some((0, VALUES[0])));
    locked.goes_to(1);
    assert_eq!(locked.judges(proposal(1, VALUES[1], None)), None, "a new value");
    locked.goes_to(2);
    assert_eq!(locked.judges(proposal(2, VALUES[0], None)), Some(VALUES[0]), "its own value");
    locked.goes_to(4);
    let earlier = Some(prevotes(3, VALUES[1]));
    assert_eq!(locked.judges(proposal(4, VALUES[1], earlier)), Some(VALUES[1]), "prevoted after its lock");
    locked.goes_to(5);
    let few = Certificate { votes: votes([0, 1]), ..prevotes(3, VALUES[1]) };
    assert_eq!(locked.judges(proposal(5, VALUES[1], Some(few))), None, "two are no quorum");
    locked.goes_to(6);
    let strangers = Certificate { votes: votes([7, 8, 9]), ..prevotes(3, VALUES[1]) };
    assert_eq!(locked.judges(proposal(6, VALUES[1], Some(strangers))), None, "no members");
    locked.goes_to(7);
    let earlier = Some(prevotes(7, VALUES[1]));
    assert_eq!(locked.judges(proposal(7, VALUES[1], earlier)), None, "not earlier");
}

#[test]
fn a_view_in_which_a_quorum_precommitted_nothing_ends_at_once() {
    let mut member = Member::new();
    member.gets(Input::Timeout(0, ViewStep::Propose));
    [0, 1].into_iter().for_each(|from| drop(member.gets(vote(BallotKind::Prevote, 0, None, from))));
    member.gets(vote(BallotKind::Precommit, 0, None, 0));
    assert_eq!(member.agreement.view(), 0, "two are no quorum");
    member.gets(vote(BallotKind::Precommit, 0, None, 1));
    assert_eq!(member.agreement.view(), 1);
}

#[test]
fn prevotes_before_the_lock_do_not_release_it() {
    let mut locked = Member::new();
    locked.gets(vote(BallotKind::Prevote, 3, Some(VALUES[0]), 0));
    locked.gets(vote(BallotKind::Prevote, 3, Some(VALUES[0]), 1));
    locked.gets(Input::Timeout(3, ViewStep::Propose));
    locked.gets(vote(BallotKind::Prevote, 3, Some(VALUES[0]), 2));
    assert_eq!(locked.kept.lock.as_ref().map(|lock| lock.view), Some(3));
    locked.goes_to(4);
    assert_eq!(locked.judges(proposal(4, VALUES[1], Some(prevotes(2, VALUES[1])))), None);
}

#[test]
fn one_member_ahead_may_lie_and_two_do_not() {
    let mut behind = Member::new();
    behind.gets(vote(BallotKind::Prevote, View::MAX, None, 0));
    assert_eq!(behind.agreement.view(), 0);
    behind.gets(vote(BallotKind::Prevote, 40, None, 1));
    assert_eq!(behind.agreement.view(), 40, "the lesser of their views");
}

#[test]
fn a_member_that_comes_back_knows_its_lock_and_can_prove_it() {
    let Member { kept, .. } = Member::locked();
    let model = FaultModel::new(4, 1, 0).expect("enough members");
    let mut back = Decider::resume(model, member(3), (0..4).map(member).collect(), kept.clone());
    assert_eq!(back.begin(), [Action::Wait(0, ViewStep::Precommit)], "it signs nothing again");
    let mut back = Member { agreement: back, kept };
    back.goes_to(1);
    assert_eq!(back.judges(proposal(1, VALUES[1], None)), None);
    // It proposes in view 3.
    back.agreement.handle(vote(BallotKind::Prevote, 3, None, 0));
    let actions = back.agreement.handle(vote(BallotKind::Prevote, 3, None, 1));
    assert!(actions.contains(&Action::Propose(3, back.kept.lock.clone())), "{actions:?}");
    assert_eq!(back.kept.lock.map(|lock| lock.votes), Some(votes([1, 2, 3])));
}

/// A liar once could move some members far ahead of one that then never heard what they had signed there.
#[test]
fn what_members_far_ahead_have_signed_counts_once_this_one_follows() {
    let mut behind = Member::new();
    behind.gets(vote(BallotKind::Prevote, 40, Some(VALUES[0]), 0));
    behind.gets(vote(BallotKind::Precommit, 40, Some(VALUES[0]), 0));
    assert_eq!(behind.agreement.view(), 0);
    let votes = behind.gets(vote(BallotKind::Prevote, 40, Some(VALUES[0]), 1));
    assert_eq!((behind.agreement.view(), votes), (40, vec![]));
    behind.gets(vote(BallotKind::Precommit, 40, Some(VALUES[0]), 1));
    behind.gets(vote(BallotKind::Precommit, 40, Some(VALUES[0]), 2));
    assert_eq!(behind.agreement.decided().map(|decision| decision.value), Some(VALUES[0]));
}

/// A record for the last view there is once was a panic.
#[test]
fn nothing_follows_the_last_view() {
    let mut last = Member::new();
    for from in [0, 1] {
        last.gets(vote(BallotKind::Precommit, View::MAX, None, from));
    }
    assert_eq!(last.agreement.view(), View::MAX);
    for step in [ViewStep::Propose, ViewStep::Prevote, ViewStep::Precommit] {
        last.gets(Input::Timeout(View::MAX, step));
    }
    assert_eq!(last.agreement.view(), View::MAX);
}

/// Two members that a liar had locked on different values in turn once outbid each other for ever.
#[test]
fn a_lock_of_another_member_shows_which_value_to_propose() {
    let mut proposer = Member::new();
    proposer.goes_to(2);
    proposer.gets(Input::Certificate(prevotes(1, VALUES[1])));
    proposer.gets(Input::Certificate(Certificate { votes: votes([0]), ..prevotes(2, VALUES[0]) }));
    proposer.agreement.handle(vote(BallotKind::Prevote, 3, None, 0));
    let actions = proposer.agreement.handle(vote(BallotKind::Prevote, 3, None, 1));
    assert!(actions.contains(&Action::Propose(3, Some(prevotes(1, VALUES[1])))), "{actions:?}");
}
