//! Every kernel over seeded input, hashed into one number that must be the same natively and in Wasm.
//!
//! Not part of the product: a test runs it on both sides. Anything that makes a kernel depend on its target (a fused
//! multiply-add, another order of a sum, a math function of the platform) changes the digest on one side.

use skein_kernels::norm::{clip_by_norm, clip_by_value, l2_norm};
use skein_kernels::optimizer::{Constant, OPTIMIZERS, Optimizer, Step};
use skein_kernels::rule::{Rule, RuleKind};
use skein_kernels::rules::RULES;

/// More than one chunk of the reduction tree and not a multiple of any vector width.
const LEN: usize = 2 * 1024 + 37;

/// FNV-1a over the bits of every kernel's results.
#[cfg_attr(target_arch = "wasm32", expect(unsafe_code, reason = "an export by name"), unsafe(no_mangle))]
pub extern "C" fn digest() -> u64 {
    let mut hash = Hash(0xcbf2_9ce4_8422_2325);
    for count in [1usize, 2, 3, 8, 13] {
        let rows: Vec<Vec<f32>> = (0..count).map(|row| noise(row as u32 + 1)).collect();
        let rows: Vec<&[f32]> = rows.iter().map(Vec::as_slice).collect();
        let weights: Vec<f32> = (0..count).map(|row| 1.5 + row as f32).collect();
        for rule in RULES.into_iter().filter_map(|kind| strictest(kind, count)) {
            let rule = if rule.kind().takes_weights { rule.weighted(weights.clone()) } else { rule };
            let mut out = vec![0.0; LEN];
            rule.apply(&rows, &mut out).expect("enough valid rows");
            hash.add(&out);
        }
    }
    for kind in OPTIMIZERS {
        let other = |optimizer: Optimizer, constant: &Constant| optimizer.with(constant.name, 0.01).expect("it fits");
        let optimizer = kind.constants.iter().fold(Optimizer::new(kind), other);
        let mut parameters = noise(99);
        let mut slots = vec![vec![0.0; LEN]; kind.slots];
        for number in 1..=7 {
            let step = Step { number, learning_rate: 0.01 / number as f32 };
            optimizer.step(step, &noise(number as u32), &mut parameters, &mut slots);
        }
        hash.add(&parameters);
    }
    let mut values = noise(5);
    hash.add(&[clip_by_norm(&mut values, 3.0) as f32, l2_norm(&values) as f32]);
    clip_by_value(&mut values, 0.01);
    hash.add(&values);
    hash.0
}

/// The rule for the most Byzantine peers that so many rows allow; `None` if there are too few rows.
fn strictest(kind: &'static RuleKind, rows: usize) -> Option<Rule> {
    let rules = (0..rows as u32).rev().map(|faults| Rule::new(kind, faults));
    { rules }.find(|rule| rule.rows_min() <= rows)
}

/// Values of many magnitudes and both signs, from a linear congruential generator.
fn noise(seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9) | 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..LEN).map(|_| next() * next() * 10.0 + next()).collect()
}

struct Hash(u64);

impl Hash {
    fn add(&mut self, values: &[f32]) {
        for value in values {
            self.0 = (self.0 ^ u64::from(value.to_bits())).wrapping_mul(0x100_0000_01b3);
        }
    }
}
