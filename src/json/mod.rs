//! JSON as text: what was sent, byte for byte, and where in it something stands.
//!
//! [`structure`] looks at a whole body before anything reads it. [`scan`] is the cursor by which all that read JSON text walk over it, [`tree`] a body
//! that is read in many places, [`mod@pointer`] a place in either. [`surrogates`] mends what JSON may hold and text may not; [`fault`] says what is wrong, and where.

pub mod structure;
pub mod scan;
pub mod pointer;
pub mod tree;
pub mod surrogates;
pub mod fault;
