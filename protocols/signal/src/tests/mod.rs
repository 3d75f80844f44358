//! The two machines against each other in virtual time.

mod abuse;
mod golden;
mod life;
mod rogue;
mod world;
