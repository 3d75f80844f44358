//! Two data planes back to back, in virtual time.

mod data;
mod halves;
mod hostile;
mod path;
mod random;
mod session;
mod world;
