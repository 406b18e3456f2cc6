//! The operating system, one concern a file; everything `unsafe` of synvisor is in here.

pub mod clock;
pub mod descriptors;
pub mod fork;
pub mod fs;
pub mod handle;
pub mod lines;
pub mod lock;
pub mod names;
pub mod notify;
pub mod packet;
pub mod pidfd;
pub mod process;
pub mod record;
pub mod socket;
pub mod users;
