//! Client and server against each other in virtual time, over a network that loses what a test wants lost.

mod exchange;
mod hostile;
mod lifetime;
mod limits;
mod world;
