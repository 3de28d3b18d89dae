//! Optimizers: one step over flat vectors, in the conventions of PyTorch's `torch.optim`.

/// An optimizer with its constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Optimizer {
    /// `p -= lr · (g + weight_decay · p)`
    Sgd {
        /// L2 penalty.
        weight_decay: f32,
    },
    /// Sutskever et al., ICML 2013, as PyTorch writes it: `v = momentum · v + g; p -= lr · v`, or with
    /// `nesterov` `p -= lr · (g + momentum · v)`.
    Momentum {
        /// Decay of the velocity.
        momentum: f32,
        /// Look ahead along the velocity.
        nesterov: bool,
        /// L2 penalty, added to the gradient.
        weight_decay: f32,
    },
    /// Kingma and Ba, ICLR 2015.
    Adam(Moments),
    /// Loshchilov and Hutter, ICLR 2019: the decay acts on the parameters and not on the gradient.
    AdamW(Moments),
}

/// Constants of [`Optimizer::Adam`] and [`Optimizer::AdamW`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moments {
    /// Decay of the mean of gradients.
    pub beta1: f32,
    /// Decay of the mean of squared gradients.
    pub beta2: f32,
    /// Added to the denominator.
    pub epsilon: f32,
    /// Weight decay.
    pub weight_decay: f32,
}

/// When a step is taken and how far.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// Number of this step, from 1; Adam's bias correction depends on it.
    pub number: u64,
    /// Learning rate of this step.
    pub learning_rate: f32,
}

impl Optimizer {
    /// Vectors of optimizer state, each as long as the parameters and zero at first.
    pub fn slots(&self) -> usize {
        match self {
            Optimizer::Sgd { .. } => 0,
            Optimizer::Momentum { .. } => 1,
            Optimizer::Adam(_) | Optimizer::AdamW(_) => 2,
        }
    }

    /// Takes one step: moves `parameters` against `gradient` and updates `slots`.
    ///
    /// # Panics
    /// When the lengths differ or `slots` does not number [`Optimizer::slots`]: the owner of the state keeps both.
    pub fn step(&self, step: Step, gradient: &[f32], parameters: &mut [f32], slots: &mut [impl AsMut<[f32]>]) {
        assert_eq!(slots.len(), self.slots(), "slots of the optimizer");
        assert!(slots.iter_mut().all(|slot| slot.as_mut().len() == parameters.len()), "length of the slots");
        assert_eq!(gradient.len(), parameters.len(), "length of the gradient");
        match (*self, slots) {
            (Optimizer::Sgd { weight_decay }, _) => {
                for (p, g) in parameters.iter_mut().zip(gradient) {
                    *p -= step.learning_rate * (g + weight_decay * *p);
                }
            }
            (Optimizer::Momentum { momentum, nesterov, weight_decay }, [velocity]) => {
                for ((p, g), v) in parameters.iter_mut().zip(gradient).zip(velocity.as_mut()) {
                    let g = g + weight_decay * *p;
                    *v = momentum * *v + g;
                    *p -= step.learning_rate * if nesterov { g + momentum * *v } else { *v };
                }
            }
            (Optimizer::Adam(moments), [mean, square]) => {
                let decay = Decay { gradient: moments.weight_decay, parameters: 1.0 };
                moments.step(step, decay, gradient, (parameters, mean.as_mut(), square.as_mut()));
            }
            (Optimizer::AdamW(moments), [mean, square]) => {
                let decay = Decay { gradient: 0.0, parameters: 1.0 - step.learning_rate * moments.weight_decay };
                moments.step(step, decay, gradient, (parameters, mean.as_mut(), square.as_mut()));
            }
            _ => unreachable!("the number of slots was checked above"),
        }
    }
}

/// Where weight decay acts: added to the gradient, or as a factor on the parameters.
struct Decay {
    gradient: f32,
    parameters: f32,
}

impl Moments {
    fn step(
        &self,
        step: Step,
        decay: Decay,
        gradient: &[f32],
        (parameters, mean, square): (&mut [f32], &mut [f32], &mut [f32]),
    ) {
        let bias1 = 1.0 - power(f64::from(self.beta1), step.number);
        let bias2 = 1.0 - power(f64::from(self.beta2), step.number);
        let rate = (f64::from(step.learning_rate) / bias1) as f32;
        let scale = bias2.sqrt() as f32;
        for (((p, g), m), s) in parameters.iter_mut().zip(gradient).zip(mean).zip(square) {
            let g = g + decay.gradient * *p;
            *m = self.beta1 * *m + (1.0 - self.beta1) * g;
            *s = self.beta2 * *s + (1.0 - self.beta2) * g * g;
            *p = *p * decay.parameters - rate * *m / (s.sqrt() / scale + self.epsilon);
        }
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

    const MOMENTS: Moments = Moments { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };

    /// Three steps of `optimizer` on one parameter against `reference`, written in `f64` as in the paper.
    #[track_caller]
    fn check(optimizer: Optimizer, mut reference: impl FnMut(i32, f64, f64) -> f64) {
        let (mut p, mut expected) = ([0.5f32; 9], 0.5f64);
        let mut slots = vec![vec![0.0; 9]; optimizer.slots()];
        for (number, gradient) in (1..).zip([0.3f32, -0.2, 0.7, 0.0]) {
            optimizer.step(Step { number, learning_rate: 0.1 }, &[gradient; 9], &mut p, &mut slots);
            expected = reference(number as i32, expected, f64::from(gradient));
            assert!(p.iter().all(|p| (f64::from(*p) - expected).abs() < 1e-6), "step {number}: {p:?} {expected}");
        }
    }

    #[test]
    fn sgd() {
        check(Optimizer::Sgd { weight_decay: 0.01 }, |_, p, g| p - 0.1 * (g + 0.01 * p));
    }

    #[test]
    fn momentum() {
        for nesterov in [false, true] {
            let mut v = 0.0;
            check(Optimizer::Momentum { momentum: 0.9, nesterov, weight_decay: 0.01 }, |_, p, g| {
                let g = g + 0.01 * p;
                v = 0.9 * v + g;
                p - 0.1 * if nesterov { g + 0.9 * v } else { v }
            });
        }
    }

    #[test]
    fn adam_and_adamw() {
        for decoupled in [false, true] {
            let optimizer = if decoupled { Optimizer::AdamW(MOMENTS) } else { Optimizer::Adam(MOMENTS) };
            let (mut m, mut s) = (0.0, 0.0);
            check(optimizer, |t, p, g| {
                let g = if decoupled { g } else { g + 0.01 * p };
                let p = if decoupled { p * (1.0 - 0.1 * 0.01) } else { p };
                m = 0.9 * m + 0.1 * g;
                s = 0.999 * s + 0.001 * g * g;
                let (m, s) = (m / (1.0 - 0.9f64.powi(t)), s / (1.0 - 0.999f64.powi(t)));
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
}
