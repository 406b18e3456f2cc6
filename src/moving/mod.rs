//! Moving a homeserver that exists already: what is to be done with each piece, and what is left to do.

pub mod backup;
pub mod media;
pub mod pace;
pub mod steps;
pub mod units;
