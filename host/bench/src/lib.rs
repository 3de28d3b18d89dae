//! What the commands of `skein bench` measure. Nothing that trains links it.
//!
//! | module | what |
//! |---|---|
//! | [`gradient`] | one gradient call: batch, function, engine, checked gradients |
//! | [`store`] | averaging and updating in a database, against every way around it |

pub mod gradient;
pub mod store;

mod paths;
