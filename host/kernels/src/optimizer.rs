//! Optimizers: one step over flat vectors, in the conventions of PyTorch's `torch.optim`.
//!
//! A new optimizer needs a step function, an [`OptimizerKind`] with its name and constants, and an entry in
//! [`OPTIMIZERS`].

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use crate::text::{self, TextError};

/// Most constants that an optimizer has.
const CONSTANTS_MAX: usize = 4;

/// All optimizers: the manifest, database commands and text forms are derived from this table.
pub static OPTIMIZERS: [&OptimizerKind; 5] = [&SGD, &MOMENTUM, &NESTEROV, &ADAM, &ADAMW];

/// `p -= lr · (g + weight_decay · p)`
pub static SGD: OptimizerKind =
    OptimizerKind { name: "sgd", about: "Stochastic gradient descent.", constants: &[L2_PENALTY], slots: 0, step: sgd };

/// Sutskever et al., ICML 2013, as PyTorch writes it: `v = momentum · v + g; p -= lr · v`.
pub static MOMENTUM: OptimizerKind = OptimizerKind {
    name: "momentum",
    about: "Stochastic gradient descent with a velocity.",
    constants: &[VELOCITY_DECAY, L2_PENALTY],
    slots: 1,
    step: momentum,
};

/// As [`MOMENTUM`], but `p -= lr · (g + momentum · v)`.
pub static NESTEROV: OptimizerKind = OptimizerKind {
    name: "nesterov",
    about: "Momentum that looks ahead.",
    constants: &[VELOCITY_DECAY, L2_PENALTY],
    slots: 1,
    step: nesterov,
};

/// Kingma and Ba, ICLR 2015.
pub static ADAM: OptimizerKind = OptimizerKind {
    name: "adam",
    about: "Adam with an L2 penalty.",
    constants: &[BETA1, BETA2, EPSILON, L2_PENALTY],
    slots: 2,
    step: adam,
};

/// Loshchilov and Hutter, ICLR 2019: the decay acts on the parameters and not on the gradient.
pub static ADAMW: OptimizerKind = OptimizerKind {
    name: "adamw",
    about: "Adam with decoupled weight decay.",
    constants: &[BETA1, BETA2, EPSILON, DECOUPLED_DECAY],
    slots: 2,
    step: adamw,
};

const L2_PENALTY: Constant =
    Constant { name: "weight_decay", about: "L2 penalty.", default: 0.0, range: 0.0..f32::INFINITY };
const DECOUPLED_DECAY: Constant = Constant {
    name: "weight_decay",
    about: "Share of the parameters that a step takes away, times the learning rate.",
    default: 0.01,
    range: 0.0..f32::INFINITY,
};
const VELOCITY_DECAY: Constant =
    Constant { name: "momentum", about: "Decay of the velocity.", default: 0.9, range: 0.0..1.0 };
const BETA1: Constant =
    Constant { name: "beta1", about: "Decay of the mean of gradients.", default: 0.9, range: 0.0..1.0 };
const BETA2: Constant =
    Constant { name: "beta2", about: "Decay of the mean of squared gradients.", default: 0.999, range: 0.0..1.0 };
const EPSILON: Constant =
    Constant { name: "epsilon", about: "Added to the denominator.", default: 1e-8, range: 0.0..f32::INFINITY };

/// An optimizer's name, constants, state and step.
#[derive(Debug)]
pub struct OptimizerKind {
    /// Name in manifests, commands and text forms.
    pub name: &'static str,
    /// One sentence for the JSON schema of manifests.
    pub about: &'static str,
    /// The constants that it takes.
    pub constants: &'static [Constant],
    /// Vectors of optimizer state, each as long as the parameters and initially zero.
    pub slots: usize,
    step: StepFunction,
}

/// A numeric constant of an optimizer.
#[derive(Debug)]
pub struct Constant {
    /// Name in manifests, commands and text forms.
    pub name: &'static str,
    /// One sentence for the JSON schema of manifests.
    pub about: &'static str,
    /// Value if it is not set: PyTorch's, except for the decay of the velocity, which is 0 there.
    pub default: f32,
    /// Valid values; the end is the first that is too large.
    pub range: Range<f32>,
}

impl Constant {
    /// The valid values, in words for a message.
    fn takes(&self) -> String {
        match self.range.end {
            f32::INFINITY => format!("a number from {} up", self.range.start),
            end => format!("a number from {} to below {end}", self.range.start),
        }
    }
}

/// Moves parameters against a gradient and updates the slots.
type StepFunction = fn(&[f32; CONSTANTS_MAX], Step, Vectors<'_, '_>);

/// The vectors of a step: all of one length, with as many slots as the optimizer has.
struct Vectors<'a, 's> {
    gradient: &'a [f32],
    parameters: &'a mut [f32],
    slots: &'a mut [&'s mut [f32]],
}

/// An optimizer with its constants.
///
/// ```
/// use skein_kernels::optimizer::{ADAM, Optimizer};
///
/// let optimizer: Optimizer = "adam(beta1=0.8)".parse()?;
/// assert_eq!(optimizer, Optimizer::new(&ADAM).with("beta1", 0.8)?);
/// assert_eq!(optimizer.to_string(), "adam(beta1=0.8,beta2=0.999,epsilon=0.00000001,weight_decay=0)");
/// # Ok::<(), skein_kernels::TextError>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Optimizer {
    kind: &'static OptimizerKind,
    /// In the order of [`OptimizerKind::constants`]; the rest is 0.
    constants: [f32; CONSTANTS_MAX],
}

/// Number and learning rate of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Number of this step, from 1; Adam's bias correction depends on it.
    pub number: u64,
    /// Learning rate of this step.
    pub learning_rate: f32,
}

/// The optimizer of that name.
///
/// # Errors
/// No optimizer has that name.
pub fn named(name: &str) -> Result<&'static OptimizerKind, TextError> {
    let found = OPTIMIZERS.into_iter().find(|kind| kind.name == name);
    found.ok_or_else(|| text::unknown("optimizer", name, OPTIMIZERS.into_iter().map(|kind| kind.name)))
}

impl Optimizer {
    /// An optimizer with the constants' defaults.
    pub fn new(kind: &'static OptimizerKind) -> Optimizer {
        let mut constants = [0.0; CONSTANTS_MAX];
        for (value, constant) in constants.iter_mut().zip(kind.constants) {
            *value = constant.default;
        }
        Optimizer { kind, constants }
    }

    /// The same optimizer with one constant set to `value`.
    ///
    /// # Errors
    /// It has no such constant, or the value is out of range.
    pub fn with(mut self, constant: &str, value: f32) -> Result<Optimizer, TextError> {
        let names: Vec<&str> = self.constants().map(|(name, _)| name).collect();
        let index = text::position(self.kind.name, &names, constant)?;
        let known = &self.kind.constants[index];
        if !known.range.contains(&value) {
            return Err(text::unfit(self.kind.name, constant, known.takes(), &value.to_string()));
        }
        self.constants[index] = value;
        Ok(self)
    }

    /// Its name, constants, state and step.
    pub fn kind(&self) -> &'static OptimizerKind {
        self.kind
    }

    /// Names and values of its constants.
    pub fn constants(&self) -> impl ExactSizeIterator<Item = (&'static str, f32)> {
        self.kind.constants.iter().zip(self.constants).map(|(constant, value)| (constant.name, value))
    }

    /// Takes one step: moves `parameters` against `gradient` and updates `slots`.
    ///
    /// # Panics
    /// If the lengths differ or there are not [`OptimizerKind::slots`] slots: the owner of the state ensures both.
    pub fn step(&self, step: Step, gradient: &[f32], parameters: &mut [f32], slots: &mut [impl AsMut<[f32]>]) {
        let mut slots: Vec<&mut [f32]> = slots.iter_mut().map(AsMut::as_mut).collect();
        assert_eq!(slots.len(), self.kind.slots, "slots of the optimizer");
        assert!(slots.iter().all(|slot| slot.len() == parameters.len()), "length of the slots");
        assert_eq!(gradient.len(), parameters.len(), "length of the gradient");
        (self.kind.step)(&self.constants, step, Vectors { gradient, parameters, slots: &mut slots });
    }
}

impl PartialEq for Optimizer {
    fn eq(&self, other: &Optimizer) -> bool {
        (self.kind.name, self.constants) == (other.kind.name, other.constants)
    }
}

impl fmt::Display for Optimizer {
    /// The text form with all constants. Numbers are as short as possible and are read back as the same bits.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        text::write(f, self.kind.name, self.constants())
    }
}

impl FromStr for Optimizer {
    type Err = TextError;

    /// Parses the text form; constants that it leaves out have their defaults.
    fn from_str(text: &str) -> Result<Optimizer, TextError> {
        let (name, list) = text::split(text)?;
        let optimizer = Optimizer::new(named(name)?);
        let names: Vec<&str> = optimizer.constants().map(|(name, _)| name).collect();
        let given = names.iter().zip(text::values(name, &names, list)?);
        let mut set = given.filter_map(|(constant, value)| Some((constant, value?)));
        set.try_fold(optimizer, |optimizer, (constant, value)| {
            let number = value.parse().map_err(|_| text::unfit(name, constant, "a number", value))?;
            optimizer.with(constant, number)
        })
    }
}

fn sgd(constants: &[f32; CONSTANTS_MAX], step: Step, vectors: Vectors<'_, '_>) {
    let [weight_decay, ..] = *constants;
    for (p, g) in vectors.parameters.iter_mut().zip(vectors.gradient) {
        *p -= step.learning_rate * (g + weight_decay * *p);
    }
}

fn momentum(constants: &[f32; CONSTANTS_MAX], step: Step, vectors: Vectors<'_, '_>) {
    let [momentum, weight_decay, ..] = *constants;
    let Vectors { gradient, parameters, slots } = vectors;
    for ((p, g), v) in parameters.iter_mut().zip(gradient).zip(&mut *slots[0]) {
        let g = g + weight_decay * *p;
        *v = momentum * *v + g;
        *p -= step.learning_rate * *v;
    }
}

fn nesterov(constants: &[f32; CONSTANTS_MAX], step: Step, vectors: Vectors<'_, '_>) {
    let [momentum, weight_decay, ..] = *constants;
    let Vectors { gradient, parameters, slots } = vectors;
    for ((p, g), v) in parameters.iter_mut().zip(gradient).zip(&mut *slots[0]) {
        let g = g + weight_decay * *p;
        *v = momentum * *v + g;
        *p -= step.learning_rate * (g + momentum * *v);
    }
}

fn adam(constants: &[f32; CONSTANTS_MAX], step: Step, vectors: Vectors<'_, '_>) {
    let [_, _, _, weight_decay] = *constants;
    moments(constants, step, Decay { gradient: weight_decay, parameters: 1.0 }, vectors);
}

fn adamw(constants: &[f32; CONSTANTS_MAX], step: Step, vectors: Vectors<'_, '_>) {
    let [_, _, _, weight_decay] = *constants;
    let decay = Decay { gradient: 0.0, parameters: 1.0 - step.learning_rate * weight_decay };
    moments(constants, step, decay, vectors);
}

/// Where weight decay acts: added to the gradient, or as a factor on the parameters.
struct Decay {
    gradient: f32,
    parameters: f32,
}

/// The step that [`ADAM`] and [`ADAMW`] share.
fn moments(constants: &[f32; CONSTANTS_MAX], step: Step, decay: Decay, vectors: Vectors<'_, '_>) {
    let [beta1, beta2, epsilon, _] = *constants;
    let Vectors { gradient, parameters, slots } = vectors;
    let [mean, square] = slots else { unreachable!("the number of slots was checked") };
    let bias1 = 1.0 - power(f64::from(beta1), step.number);
    let bias2 = 1.0 - power(f64::from(beta2), step.number);
    let rate = (f64::from(step.learning_rate) / bias1) as f32;
    let scale = bias2.sqrt() as f32;
    for (((p, g), m), s) in parameters.iter_mut().zip(gradient).zip(&mut **mean).zip(&mut **square) {
        let g = g + decay.gradient * *p;
        *m = beta1 * *m + (1.0 - beta1) * g;
        *s = beta2 * *s + (1.0 - beta2) * g * g;
        *p = *p * decay.parameters - rate * *m / (s.sqrt() / scale + epsilon);
    }
}

/// `base` to the power of `exponent` by squaring: multiplications only, since `powf` differs between platforms.
fn power(mut base: f64, mut exponent: u64) -> f64 {
    let mut result = 1.0;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result *= base;
        }
        base *= base;
        exponent >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three steps of `optimizer` on one parameter against `reference`, written in `f64` as in the paper.
    #[track_caller]
    fn check(optimizer: &str, mut reference: impl FnMut(i32, f64, f64) -> f64) {
        let optimizer: Optimizer = optimizer.parse().expect("an optimizer");
        let mut p = [0.5f32; 9];
        let mut expected = 0.5f64;
        let mut slots = vec![vec![0.0; 9]; optimizer.kind().slots];
        for (number, gradient) in (1..).zip([0.3f32, -0.2, 0.7, 0.0]) {
            optimizer.step(Step { number, learning_rate: 0.1 }, &[gradient; 9], &mut p, &mut slots);
            expected = reference(number as i32, expected, f64::from(gradient));
            assert!(p.iter().all(|p| (f64::from(*p) - expected).abs() < 1e-6), "step {number}: {p:?} {expected}");
        }
    }

    #[test]
    fn sgd() {
        check("sgd(weight_decay=0.01)", |_, p, g| p - 0.1 * (g + 0.01 * p));
    }

    #[test]
    fn momentum() {
        for (name, nesterov) in [("momentum", false), ("nesterov", true)] {
            let mut v = 0.0;
            check(&format!("{name}(momentum=0.9,weight_decay=0.01)"), |_, p, g| {
                let g = g + 0.01 * p;
                v = 0.9 * v + g;
                p - 0.1 * if nesterov { g + 0.9 * v } else { v }
            });
        }
    }

    #[test]
    fn adam_and_adamw() {
        for decoupled in [false, true] {
            let optimizer = if decoupled { "adamw" } else { "adam(weight_decay=0.01)" };
            let mut m = 0.0;
            let mut s = 0.0;
            check(optimizer, |t, p, g| {
                let g = if decoupled { g } else { g + 0.01 * p };
                let p = if decoupled { p * (1.0 - 0.1 * 0.01) } else { p };
                m = 0.9 * m + 0.1 * g;
                s = 0.999 * s + 0.001 * g * g;
                let m = m / (1.0 - 0.9f64.powi(t));
                let s = s / (1.0 - 0.999f64.powi(t));
                p - 0.1 * m / (s.sqrt() + 1e-8)
            });
        }
    }

    #[test]
    fn powers_by_squaring() {
        for (exponent, expected) in [(0, 1.0), (1, 0.9), (2, 0.81), (10, 0.9f64.powi(10)), (1000, 0.9f64.powi(1000))] {
            assert!((power(0.9, exponent) / expected - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn every_optimizer_has_a_name_and_a_text_form() {
        for kind in OPTIMIZERS {
            assert!(std::ptr::eq(named(kind.name).expect("it is known"), kind), "`{}` is the name of two", kind.name);
            assert!(kind.constants.len() <= CONSTANTS_MAX);
            let mut optimizer = Optimizer::new(kind);
            assert_eq!(kind.name.parse(), Ok(optimizer));
            for (index, (name, _)) in Optimizer::new(kind).constants().enumerate() {
                // Neither has a short decimal form.
                optimizer = optimizer.with(name, [1.0 / 3.0, 1e-20 / 7.0][index % 2]).expect("it fits");
            }
            assert_eq!(optimizer.to_string().parse(), Ok(optimizer), "{optimizer}");
        }
    }

    #[test]
    fn constants_that_do_not_fit_are_refused() {
        for (text, message) in [
            ("lion", "there is no optimizer `lion`: choose one of `sgd`, `momentum`, `nesterov`, `adam`, `adamw`"),
            ("sgd(momentum=0.9)", "`sgd` has no parameter `momentum`: it takes `weight_decay`"),
            ("sgd(weight_decay=-1)", "`weight_decay` of `sgd` must be a number from 0 up, got `-1`"),
            ("sgd(weight_decay=inf)", "`weight_decay` of `sgd` must be a number from 0 up, got `inf`"),
            ("sgd(weight_decay=much)", "`weight_decay` of `sgd` must be a number, got `much`"),
            ("sgd(lion=much)", "`sgd` has no parameter `lion`: it takes `weight_decay`"),
            ("sgd(a\0b=x)", "`sgd` has no parameter `a\\0b`: it takes `weight_decay`"),
            ("sgd(weight_decay=1,weight_decay=1)", "`weight_decay` of `sgd` is given twice"),
            ("adam(beta2=1)", "`beta2` of `adam` must be a number from 0 to below 1, got `1`"),
            ("momentum(momentum=NaN)", "`momentum` of `momentum` must be a number from 0 to below 1, got `NaN`"),
        ] {
            assert_eq!(text.parse::<Optimizer>().expect_err("it is refused").to_string(), message);
        }
    }
}
