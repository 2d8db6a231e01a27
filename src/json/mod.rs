//! JSON as text: the received bytes, and the position of each value in them.
//!
//! [`structure`] checks a whole body before anything reads it. [`scan`] is the cursor that all readers of JSON text use,
//! [`tree`] a body that is read in many places, [`mod@pointer`] a position in either. [`surrogates`] replaces what JSON may
//! hold and text may not; [`fault`] says what is wrong, and where.

pub mod structure;
pub mod scan;
pub mod pointer;
pub mod tree;
pub mod surrogates;
pub mod fault;
