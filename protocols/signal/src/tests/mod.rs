//! The two machines against each other in virtual time.

mod abuse;
mod fleet;
mod golden;
mod large;
mod life;
mod limits;
mod mirror;
mod mistrust;
mod rogue;
mod settling;
mod witness;
mod world;
