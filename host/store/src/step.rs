//! The state after a round, computed in this process, for every store that does not run the kernels itself.

use skein_kernels::mean::MEAN;
use skein_kernels::rule::Rule;
use skein_kernels::update::{After, Before};

use crate::{Aggregate, State, StoreError, Update, Values};

/// Returns the state that follows `before`; `rows` are the aggregate alone, or the contributions to aggregate.
pub fn next_state(before: &State, update: &Update, rows: &[Values]) -> Result<State, StoreError> {
    let expected = before.parameters().len();
    if before.round() + 1 != update.round {
        return Err(StoreError::OutOfOrder { round: update.round, state: before.round() });
    }
    let lengths = rows.iter().map(|row| row.len()).chain([update.change.trained.max(expected)]);
    if let Some(actual) = { lengths }.find(|actual| *actual != expected) {
        return Err(StoreError::Length { expected, actual });
    }
    let alone = Rule::new(&MEAN, 0);
    let rule = match &update.aggregate {
        Aggregate::Values(_) => &alone,
        Aggregate::Contributions { rule, .. } => rule,
    };
    let rows: Vec<&[f32]> = rows.iter().map(|row| &**row).collect();
    let slots: Vec<&[f32]> = before.slots().iter().map(|slot| &**slot).collect();
    let mut parameters = vec![0.0; expected];
    let mut after: Vec<Vec<f32>> = slots.iter().map(|_| vec![0.0; expected]).collect();
    let written = After { parameters: &mut parameters, slots: after.iter_mut().map(Vec::as_mut_slice).collect() };
    let before = Before { parameters: before.parameters(), slots: &slots };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let applied = update.change.apply(threads, rule, &rows, before, written);
    applied.map_err(|source| StoreError::Rule { round: update.round, source })?;
    Ok(State::new(update.round, parameters.into(), after.into_iter().map(Values::from).collect()))
}
