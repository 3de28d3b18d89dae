//! Sums of batches: any order, duplicates, concurrent workers.

use skein_kernels::mean::weighted_mean;
use skein_kernels::tree::{Placed, Position, Tree, add};

use crate::client::{Client, Random, blob, noise, same_bits};
use crate::server::{Server, on_each};

fn accumulate(client: &mut Client, round: u64, leaf: usize, leaves: usize, len: usize) -> crate::client::Answer {
    let words = format!("SKEIN.ACC sum parameters {round} {leaf} {leaves} {} {}", leaf + 1, leaf as f32 * 0.1);
    let values = blob(&noise(leaf as u64, len));
    client.call(&words.split(' ').map(str::as_bytes).chain([values.as_slice()]).collect::<Vec<_>>())
}

/// The expected average of the batches that [`accumulate`] sends, with its samples and mean loss.
fn average(leaves: usize, len: usize) -> (Vec<f32>, i64, f64) {
    let rows: Vec<Vec<f32>> = (0..leaves).map(|leaf| noise(leaf as u64, len)).collect();
    let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
    let weights: Vec<f32> = (1..=leaves).map(|samples| samples as f32).collect();
    let mut expected = vec![0.0; len];
    weighted_mean(&rows, &weights, &mut expected).unwrap();
    let samples: u64 = (1..=leaves as u64).sum();
    let loss: f64 = (0..leaves).map(|leaf| (leaf + 1) as f64 * f64::from(leaf as f32 * 0.1)).sum();
    (expected, samples as i64, loss / samples as f64)
}

#[track_caller]
fn check_average(client: &mut Client, round: u64, leaves: usize, len: usize) {
    let (expected, samples, loss) = average(leaves, len);
    for again in [false, true] {
        let answer = client.say(&format!("SKEIN.AVERAGE average sum {round}"));
        assert_eq!(answer.array()[0].integer(), samples);
        assert_eq!(answer.array()[1].text().parse::<f64>().unwrap().to_bits(), loss.to_bits());
        if again {
            assert_eq!(client.say("EXISTS average").integer(), 0, "a second call changes nothing");
        } else {
            same_bits(&client.get("average"), &expected);
            assert_eq!(client.say("SKEIN.META average").array()[0].integer(), round as i64);
            client.say("DEL average");
        }
    }
}

#[test]
fn batches_count_once_in_any_order() {
    on_each("", |server| {
        let mut client = server.client();
        let mut random = Random(7);
        for (round, leaves) in (1u64..).zip([1, 2, 3, 5, 8, 13, 33]) {
            let len = if leaves % 2 == 0 { 70_000 } else { 7 };
            client.say("DEL sum");
            client.set("parameters", round - 1, &vec![0.0; len]);
            let mut order: Vec<usize> = (0..leaves).collect();
            (1..leaves).rev().for_each(|i| order.swap(i, random.below(i as u64 + 1) as usize));
            for leaf in order {
                client.say(&format!("SKEIN.AVERAGE average sum {round}")).fails(&format!("INCOMPLETE {round}"));
                assert_eq!(accumulate(&mut client, round, leaf, leaves, len).integer(), 1);
                assert_eq!(accumulate(&mut client, round, leaf, leaves, len).integer(), 0);
            }
            check_average(&mut client, round, leaves, len);
            assert_eq!(accumulate(&mut client, round, 0, leaves, len).integer(), 0);
        }
    });
}

/// Has eight clients add batches at the same time, each leaf by two of them, five times over.
fn check_concurrent(server: &Server, len: usize, leaves: usize) {
    server.client().set("parameters", 0, &vec![0.0; len]);
    for _ in 0..5 {
        server.client().say("DEL sum");
        let counted: i64 = std::thread::scope(|scope| {
            let clients = (0..8).map(|number| {
                let mut client = server.client();
                scope.spawn(move || {
                    let mine = (0..leaves).filter(move |leaf| leaf % 4 == number % 4);
                    mine.map(|leaf| accumulate(&mut client, 1, leaf, leaves, len).integer()).sum::<i64>()
                })
            });
            clients.collect::<Vec<_>>().into_iter().map(|client| client.join().unwrap()).sum()
        });
        assert_eq!(counted, leaves as i64);
        check_average(&mut server.client(), 1, leaves, len);
    }
}

/// The module adds outside the tree, then places each leaf with the sums that result.
#[test]
fn adding_outside_the_tree_has_the_same_bits() {
    let mut random = Random(3);
    for leaves in 1..40usize {
        let mut tree: Tree = Tree::new(leaves as u32);
        let mut order: Vec<u32> = (0..leaves as u32).collect();
        (1..leaves).rev().for_each(|i| order.swap(i, random.below(i as u64 + 1) as usize));
        for leaf in order {
            let mut values: Vec<f32> = noise(u64::from(leaf), 3).iter().map(|v| v * (leaf + 1) as f32).collect();
            let mut at = Position::leaf(leaf);
            while let Some((sibling, parent)) = tree.sibling(at) {
                add(&mut values, sibling);
                at = parent;
            }
            assert!(!tree.has(leaf) && tree.claim(leaf) && tree.has(leaf));
            at = Position::leaf(leaf);
            while let Placed::Join { parent, .. } = tree.place(at, values.clone()) {
                at = parent;
            }
            let mut restored = Tree::new(leaves as u32);
            tree.parts().for_each(|(at, part)| _ = restored.place(Position::new(at.level(), at.index()), part.clone()));
            assert!(tree.parts().eq(restored.parts()));
        }
        same_bits(tree.root().unwrap(), &average_sum(leaves));
    }
}

/// The weighted sum of the same batches, added by the tree.
fn average_sum(leaves: usize) -> Vec<f32> {
    let mut tree = Tree::new(leaves as u32);
    for leaf in 0..leaves as u32 {
        let mut at = Position::leaf(leaf);
        let mut values = noise(u64::from(leaf), 3);
        values.iter_mut().for_each(|value| *value *= (leaf + 1) as f32);
        while let Placed::Join { parent, mut left, right } = tree.place(at, values) {
            add(&mut left, &right);
            (at, values) = (parent, left);
        }
    }
    tree.take().unwrap()
}

#[test]
fn concurrent_batches_have_the_same_bits() {
    on_each("threads 4", |server| {
        check_concurrent(server, 40_000, 21);
        check_concurrent(server, 100, 64);
    });
}

#[test]
fn a_batch_of_another_round_or_size_is_refused() {
    on_each("", |server| {
        let mut client = server.client();
        accumulate(&mut client, 1, 0, 2, 3).fails("NOSTATE");
        client.set("parameters", 3, &[0.0; 3]);
        assert_eq!(accumulate(&mut client, 3, 0, 2, 3).integer(), 0, "the round was applied");
        assert_eq!(client.say("EXISTS sum").integer(), 0);
        accumulate(&mut client, 4, 0, 2, 4).fails("LENGTH 3 4");
        accumulate(&mut client, 4, 2, 2, 3).fails("LEAF 2 2");
        accumulate(&mut client, 4, 0, 0, 3).fails("LEAF 0 0");
        accumulate(&mut client, 4, 0, 65_537, 3).fails("LEAF 0 65537");
        assert_eq!(accumulate(&mut client, 4, 0, 2, 3).integer(), 1);
        accumulate(&mut client, 4, 0, 3, 3).fails("LEAF 0 3");
        accumulate(&mut client, 5, 1, 2, 3).fails("LEAF 1 2");
        client.say("SKEIN.AVERAGE average sum 5").fails("INCOMPLETE 5");
        client.say("SKEIN.AVERAGE average nothing 4").fails("INCOMPLETE 4");
        client.set("parameters", 3, &[0.0; 4]);
        accumulate(&mut client, 4, 1, 2, 4).fails("LENGTH 3 4");
        client.set("parameters", 3, &[0.0; 3]);
        assert_eq!(accumulate(&mut client, 4, 1, 2, 3).integer(), 1);
        check_average(&mut client, 4, 2, 3);
    });
}
