//! The two machines against each other in virtual time.

mod abuse;
mod fleet;
mod golden;
mod life;
mod mirror;
mod rogue;
mod world;
