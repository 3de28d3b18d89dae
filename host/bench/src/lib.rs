//! The measurements of `skein bench`. No crate that trains depends on this one.
//!
//! | module | measures |
//! |---|---|
//! | [`gradient`] | one gradient call: batch, function, engine, checked gradients |
//! | [`store`] | averaging and updating in a database, against clients and scripts that do the same |

pub mod gradient;
pub mod store;

mod paths;
